//! Helpers of the end-to-end tests: processes, their output, directories, addresses.
//!
//! The tests start real programs: the examples, built beforehand by `scripts/test.sh`, and the peers in
//! `tests/peers`. Everything that waits has a limit; every process ends with the value that started it.

/// Messages and services of the tests' protos.
#[allow(missing_docs, reason = "generated messages have none")]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/mprpc/mod.rs"));
}
/// Those of `echo.proto` with fields of type `Bytes`.
#[allow(missing_docs, reason = "generated messages have none")]
pub mod bytes_proto {
    include!(concat!(env!("OUT_DIR"), "/bytes/mod.rs"));
}
pub mod echo;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, id},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

mod process;

pub use process::Process;

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root")
}

/// A program of this workspace: in `MPRPC_BIN_DIR`, else beside the running test.
///
/// # Panics
/// It has not been built.
pub fn program(name: &str) -> Command {
    let dir = std::env::var_os("MPRPC_BIN_DIR").map_or_else(beside_the_test, PathBuf::from);
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace` first", path.display());
    Command::new(path)
}

/// A script of `tests/peers`, run by `python3`.
pub fn peer(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("tests/peers").join(script)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The ZooKeeper that the tests may use, `MPRPC_TEST_ZK` (`host:port`). Says so when there is none.
pub fn zookeeper() -> Option<String> {
    let found = std::env::var("MPRPC_TEST_ZK").ok().filter(|address| !address.is_empty());
    if found.is_none() {
        eprintln!("skipped: MPRPC_TEST_ZK does not name a ZooKeeper (scripts/test.sh starts one)");
    }
    found
}

/// The last `ip:port` in a line of output.
///
/// # Panics
/// There is none.
pub fn address_in(line: &str) -> SocketAddr {
    line.split(|c: char| c.is_whitespace() || c == ',')
        .filter_map(|word| word.trim_end_matches('.').parse().ok())
        .next_back()
        .unwrap_or_else(|| panic!("no ip:port in {line:?}"))
}

/// A directory of its own, removed on drop.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes an empty directory.
    ///
    /// # Panics
    /// The system's directory for such things cannot be written.
    #[expect(clippy::new_without_default, reason = "each value is another directory")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = std::env::temp_dir().join(format!("mprpc-tests-{}-{}", id(), NEXT.fetch_add(1, Relaxed)));
        fs::create_dir_all(&path).expect("a writable directory for temporary files");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a configuration file of `key = value` lines that keeps logs in this directory.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn conf(&self, name: &str, settings: &[(&str, &str)]) -> PathBuf {
        let mut text = format!("log_dir = {}\n", self.0.display());
        for (key, value) in settings {
            text += &format!("{key} = {value}\n");
        }
        let path = self.0.join(name);
        fs::write(&path, text).expect("a writable directory for temporary files");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("the running program has a path");
    test.ancestors().nth(2).expect("a test runs in target/PROFILE/deps").to_path_buf()
}
