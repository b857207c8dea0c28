//! Fuzz targets: functions of arbitrary bytes that must neither panic nor hang, and that check what
//! they see on the way. `cargo test` replays the corpus of each; see the README for longer runs.

pub mod frames;
pub mod inputs;
pub mod random;
mod targets;

// `targets/znode.rs` compiles the runtime's own reader of znodes, whose paths begin with `crate`.
use mprpc_runtime::{error, registry, wire};

use std::{fs, io, path::PathBuf};

/// A function that takes anything, and what its inputs look like.
pub struct Target {
    /// The name of the target and of its directory in `corpus`.
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// An input that may be right, or nearly.
    pub likely: fn(&mut random::Random) -> Vec<u8>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "server", run: targets::server::run, likely: inputs::connection },
    Target { name: "client", run: targets::client::run, likely: inputs::connection },
    Target { name: "metas", run: targets::metas::run, likely: inputs::meta },
    Target { name: "sniff", run: targets::sniff::run, likely: inputs::first_bytes },
    Target { name: "legacy", run: targets::legacy::run, likely: inputs::legacy },
    Target { name: "config", run: targets::config::run, likely: inputs::config },
    Target { name: "znode", run: targets::znode::run, likely: inputs::znode },
    Target { name: "generator", run: targets::generator::run, likely: inputs::generator },
];

impl Target {
    /// The target with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Where its corpus lies.
    pub fn corpus_dir(&self) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Every file of its corpus, by name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn corpus(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut paths: Vec<_> =
            fs::read_dir(self.corpus_dir())?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        paths.sort();
        paths.into_iter().map(|path| fs::read(&path).map(|bytes| (path, bytes))).collect()
    }
}
