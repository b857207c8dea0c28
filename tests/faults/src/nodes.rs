//! The znodes as another program sees them, and what such a program can do to them.

use std::{fmt::Write, time::Duration};

use zookeeper::{Acl, CreateMode, Stat, ZooKeeper};

/// A connection of the harness's own. Not to be held over an outage: the crate does not take those well.
pub(crate) struct Nodes(ZooKeeper);

impl Nodes {
    pub(crate) fn at(hosts: &str) -> Self {
        Self(ZooKeeper::connect(hosts, Duration::from_secs(10), |_| {}).expect("a server"))
    }

    /// Names in a directory, in order; none if it is missing.
    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let mut names = self.0.get_children(path, false).unwrap_or_default();
        names.sort();
        names
    }

    pub(crate) fn get(&self, path: &str) -> Option<(Vec<u8>, Stat)> {
        self.0.get_data(path, false).ok()
    }

    /// The data as text, a NUL as a blank.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        self.get(path).map(|(data, _)| String::from_utf8_lossy(&data).replace('\0', " "))
    }

    /// Makes a node that goes with this connection, and what is above it.
    pub(crate) fn put(&self, path: &str, data: &[u8]) {
        for (end, _) in path.match_indices('/').skip(1) {
            let open = Acl::open_unsafe().clone();
            let _ = self.0.create(&path[..end], vec![], open, CreateMode::Persistent);
        }
        let made = self.0.create(path, data.to_vec(), Acl::open_unsafe().clone(), CreateMode::Ephemeral);
        made.unwrap_or_else(|error| panic!("cannot create {path}: {error:?}"));
    }

    /// Puts an own node into the place of another's, who may be quick to repair it.
    pub(crate) fn usurp(&self, path: &str, data: &[u8]) {
        let create = || {
            self.delete(path);
            self.0.create(path, data.to_vec(), Acl::open_unsafe().clone(), CreateMode::Ephemeral).is_ok()
        };
        assert!((0..100).any(|_| create()), "the owner of {path} is always quicker");
    }

    /// Overwrites a node.
    pub(crate) fn set(&self, path: &str, data: &[u8]) {
        self.0.set_data(path, data.to_vec(), None).unwrap_or_else(|e| panic!("cannot set {path}: {e:?}"));
    }

    /// Deletes a node, which may be missing.
    pub(crate) fn delete(&self, path: &str) {
        let _ = self.0.delete(path, None);
    }

    /// The nodes in these directories, one line each: owner, version and data.
    pub(crate) fn table(&self, directories: &[&str]) -> String {
        let mut lines = String::new();
        for directory in directories {
            let names = self.children(directory);
            if names.is_empty() {
                let _ = writeln!(lines, "{directory}: empty");
            }
            for path in names.iter().map(|name| format!("{directory}/{name}")) {
                let Some((data, stat)) = self.get(&path) else { continue };
                let text = String::from_utf8_lossy(&data).replace('\0', "\\0");
                let text = text.trim_end().replace('\n', " ");
                let _ = writeln!(
                    lines,
                    "{path}  owner={:x} version={}  {text}",
                    stat.ephemeral_owner, stat.version
                );
            }
        }
        lines
    }
}
