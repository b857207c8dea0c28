//! The output for each `.proto` file in `golden/`, byte for byte, as protoc gets it from the plugin.
//!
//! `MPRPC_BLESS=1 cargo test -p protoc-gen-mprpc` writes the expected files anew; read the difference before you commit it.

mod common;

use common::{protoc, repository};
use std::fs;

#[test]
fn the_plugin_writes_the_expected_files() {
    let golden = repository().join("protoc-gen-mprpc/tests/golden");
    let cases = [
        (repository().join("proto"), "user"),
        (repository().join("proto"), "friend"),
    ];
    for (folder, stem) in cases {
        let out = tempfile::tempdir().expect("a folder");
        let run = protoc(&[&folder], &format!("{stem}.proto"), out.path(), "");
        assert!(
            run.status.success(),
            "{stem}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
        let made =
            fs::read_to_string(out.path().join(format!("{stem}_mprpc.rs"))).expect("an output");
        syn::parse_file(&made).expect("Rust");
        let expected = golden.join(format!("{stem}_mprpc.rs"));
        if std::env::var_os("MPRPC_BLESS").is_some() {
            fs::write(&expected, &made).expect("bless");
        }
        let expected = fs::read_to_string(expected).expect("an expected file");
        assert!(
            made == expected,
            "{stem}_mprpc.rs differs from tests/golden/{stem}_mprpc.rs:\n{made}"
        );
    }
}
