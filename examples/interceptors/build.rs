//! Makes the messages, traits and stubs of what lies in `proto/`.

fn main() {
    protoc_gen_mprpc::build::compile(&["proto/user.proto"], &["proto"]).expect("proto/ should compile");
}
