//! Generates the messages.

fn main() {
    println!("cargo::rerun-if-changed=../proto/bench.proto");
    protobuf_codegen::Codegen::new()
        .protoc()
        .protoc_path(&protoc_bin_vendored::protoc_bin_path().expect("protoc for this platform"))
        .include("../proto")
        .input("../proto/bench.proto")
        .cargo_out_dir("messages")
        .run_from_script();
}
