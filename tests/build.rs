//! Generates the messages and services that the tests use.

use std::{env, path::Path};

use protoc_gen_mprpc::build::{self, Config};

fn main() {
    build::compile(
        &["../proto/user.proto", "../proto/friend.proto", "proto/echo.proto"],
        &["../proto", "proto"],
    )
    .expect("the tests' protos");
    let out = env::var_os("OUT_DIR").expect("cargo sets it");
    let shared = Config::new().out_dir(Path::new(&out).join("bytes")).tokio_bytes(true);
    shared.compile(&["proto/echo.proto"], &["../proto", "proto"]).expect("the same with other fields");
}
