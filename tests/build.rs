//! Generates the messages and services that the tests use.

fn main() {
    protoc_gen_mprpc::build::compile(
        &["../proto/user.proto", "../proto/friend.proto", "proto/echo.proto"],
        &["../proto", "proto"],
    )
    .expect("the tests' protos");
}
