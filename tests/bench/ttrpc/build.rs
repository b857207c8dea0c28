//! Generates messages and service twice: for the blocking and for the asynchronous interface.

use std::{env, error::Error, fs, path::Path};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../proto/bench.proto");
    for (name, async_all) in [("blocking", false), ("asynchronous", true)] {
        let folder = Path::new(&env::var("OUT_DIR")?).join(name);
        fs::create_dir_all(&folder)?;
        Codegen::new()
            .out_dir(&folder)
            .input("../proto/bench.proto")
            .include("../proto")
            .rust_protobuf()
            .customize(Customize { async_all, gen_mod: true, ..Default::default() })
            .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(true))
            .run()?;
        // An included file may not begin with inner attributes, and this workspace forbids what one of them allows.
        for entry in fs::read_dir(&folder)? {
            let file = entry?.path();
            let text = fs::read_to_string(&file)?;
            let is_list = file.ends_with("mod.rs");
            let stays =
                |line: &&str| *line != "#![allow(unsafe_code)]" && !(is_list && line.starts_with("#!"));
            fs::write(&file, text.lines().filter(stays).collect::<Vec<_>>().join("\n"))?;
        }
    }
    Ok(())
}
