//! Runs protoc with the plugin.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The top folder of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Runs `protoc --mprpc_out=OUT FILE`; `parameter` is what `--mprpc_opt` gets.
pub(crate) fn protoc(includes: &[impl AsRef<Path>], file: &str, out: &Path, parameter: &str) -> Output {
    let mut command = Command::new(protoc_bin_vendored::protoc_bin_path().expect("protoc"));
    for include in includes {
        command.arg("-I").arg(include.as_ref());
    }
    let plugin = env!("CARGO_BIN_EXE_protoc-gen-mprpc");
    command.arg(format!("--plugin=protoc-gen-mprpc={plugin}"));
    command.arg(format!("--mprpc_out={}", out.display()));
    if !parameter.is_empty() {
        command.arg(format!("--mprpc_opt={parameter}"));
    }
    command.arg(file).output().expect("protoc runs")
}
