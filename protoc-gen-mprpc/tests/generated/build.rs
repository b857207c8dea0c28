//! Three roots in one call: `user.proto` and `friend.proto` define the same names, `tricky.proto` imports and nests.

fn main() {
    let (golden, proto) = ("../golden", "../../../proto");
    let roots = ["../golden/tricky.proto", "../../../proto/user.proto", "../../../proto/friend.proto"];
    protoc_gen_mprpc::build::compile(&roots, &[golden, proto]).expect("protos");
}
