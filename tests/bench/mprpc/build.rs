//! Generates messages and stubs twice: with `Vec<u8>` fields and with `Bytes` fields.

use std::{env, error::Error, path::Path};

use protoc_gen_mprpc::build::Config;

fn main() -> Result<(), Box<dyn Error>> {
    let out = env::var("OUT_DIR")?;
    for (folder, tokio_bytes) in [("vec", false), ("bytes", true)] {
        let config = Config::new().out_dir(Path::new(&out).join(folder)).tokio_bytes(tokio_bytes);
        config.compile(&["../proto/bench.proto"], &["../proto"])?;
    }
    Ok(())
}
