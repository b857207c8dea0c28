//! The output for the `.proto` files of the repository and of `golden/`, byte for byte, from the plugin and from the build helper.
//!
//! `MPRPC_BLESS=1 cargo test -p protoc-gen-mprpc` writes the expected files anew; read the difference before you commit it.

mod common;

use common::{protoc, repository};
use protoc_gen_mprpc::build::Config;
use std::fs;
use std::path::PathBuf;

#[test]
fn the_plugin_writes_the_expected_files() {
    for (stem, includes) in cases() {
        let out = tempfile::tempdir().expect("a folder");
        let run = protoc(&includes, &format!("{stem}.proto"), out.path(), "");
        assert!(run.status.success(), "{stem}: {}", String::from_utf8_lossy(&run.stderr));
        let made = fs::read_to_string(out.path().join(format!("{stem}_mprpc.rs"))).expect("an output");
        syn::parse_file(&made).expect("Rust");
        let expected = repository().join(format!("protoc-gen-mprpc/tests/golden/{stem}_mprpc.rs"));
        if std::env::var_os("MPRPC_BLESS").is_some() {
            fs::write(&expected, &made).expect("bless");
        }
        let expected = fs::read_to_string(expected).expect("an expected file");
        assert!(made == expected, "{stem}_mprpc.rs differs from tests/golden/{stem}_mprpc.rs:\n{made}");
    }
}

#[test]
fn the_build_helper_writes_the_same_bytes() {
    for (stem, includes) in cases() {
        let out = tempfile::tempdir().expect("a folder");
        let root = includes[0].join(format!("{stem}.proto"));
        Config::new().out_dir(out.path()).compile(&[root], &includes[..1]).expect(stem);
        let made = fs::read_to_string(out.path().join(format!("{stem}_mprpc.rs"))).expect("an output");
        let expected = repository().join(format!("protoc-gen-mprpc/tests/golden/{stem}_mprpc.rs"));
        assert!(made == fs::read_to_string(expected).expect("an expected file"), "{stem}_mprpc.rs differs");
    }
}

#[test]
fn no_output_depends_on_the_neighbours_of_a_file() {
    let (proto, golden) = (repository().join("proto"), repository().join("protoc-gen-mprpc/tests/golden"));
    let out = tempfile::tempdir().expect("a folder");
    let roots = [golden.join("tricky.proto"), proto.join("user.proto"), proto.join("friend.proto")];
    Config::new().out_dir(out.path()).compile(&roots, &[&golden, &proto]).expect("three files");
    for (stem, _) in cases() {
        let made = fs::read_to_string(out.path().join(format!("{stem}_mprpc.rs"))).expect("an output");
        assert!(
            made == fs::read_to_string(golden.join(format!("{stem}_mprpc.rs"))).expect("an expected file"),
            "{stem}"
        );
    }
}

/// File stems, with the folder of the file and what else it needs.
fn cases() -> [(&'static str, Vec<PathBuf>); 3] {
    let (proto, golden) = (repository().join("proto"), repository().join("protoc-gen-mprpc/tests/golden"));
    [("user", vec![proto.clone()]), ("friend", vec![proto.clone()]), ("tricky", vec![golden, proto])]
}
