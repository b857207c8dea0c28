//! Makes the messages, traits and stubs of the files in `proto/`.

fn main() {
    protoc_gen_mprpc::build::compile(&["proto/user.proto", "proto/friend.proto"], &["proto"])
        .expect("proto/ should compile");
}
