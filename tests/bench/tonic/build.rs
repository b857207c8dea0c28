//! Generates messages, with `Bytes` fields, and both sides of the service.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut config = prost_build::Config::new();
    config.protoc_executable(protoc_bin_vendored::protoc_bin_path()?);
    let (protos, includes) = (&["../proto/bench.proto"], &["../proto"]);
    tonic_prost_build::configure().bytes(".").compile_with_config(config, protos, includes)?;
    Ok(())
}
