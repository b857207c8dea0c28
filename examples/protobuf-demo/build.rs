//! Makes the messages of what lies in `proto/`.

fn main() {
    protoc_gen_mprpc::build::compile(&["proto/address_book.proto"], &["proto"])
        .expect("proto/ should compile");
}
