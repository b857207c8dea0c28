//! Copies the parts of the runtime that hand work from thread to thread, with shuttle's locks,
//! atomics and threads in the place of std's: what is tested is the code that runs.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What the hand-overs are made of, and everything below them.
const PARTS: [&str; 7] =
    ["stages.rs", "error.rs", "status.rs", "wire", "connection", "lanes.rs", "worker.rs"];

fn main() {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../mprpc-runtime/src");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("runtime");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out).expect("OUT_DIR can be written");
    let mut root = String::new();
    for part in PARTS {
        println!("cargo::rerun-if-changed={}", runtime.join(part).display());
        copy(&runtime.join(part), &out.join(part));
        root += &format!("pub mod {};\n", part.trim_end_matches(".rs"));
    }
    fs::write(out.join("mod.rs"), root).expect("OUT_DIR can be written");
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("OUT_DIR can be written");
        for entry in fs::read_dir(from).expect("the runtime's sources") {
            let name = entry.expect("an entry").file_name();
            copy(&from.join(&name), &to.join(&name));
        }
        return;
    }
    let text = fs::read_to_string(from).expect("a source of the runtime");
    let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Its unit tests stay at home.
    let text = text.replace("#[cfg(test)]", "#[cfg(any())]");
    let text = match &*name {
        "worker.rs" | "mailbox.rs" | "cancel.rs" | "quota.rs" => {
            text.replace("use std::", "use crate::modelled::")
        }
        "lent.rs" => text.replace("thread_local!", "shuttle::thread_local!"),
        _ => text,
    };
    fs::write(to, text).expect("OUT_DIR can be written");
}
