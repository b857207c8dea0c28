//! Who serves a service, kept fresh from the two directories that say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    client::{Client, Failure},
    nodes::{self, Reading},
};
use crate::registry::{Endpoint, ServiceName, Snapshot};

/// One service that somebody calls.
pub(super) struct View {
    pub(super) service: ServiceName,
    /// When there is something to read, if there is.
    pub(super) due: Option<Instant>,
    instances: Directory,
    legacy: Directory,
}

#[derive(Default)]
struct Directory {
    path: String,
    listed: bool,
    /// The entries; those that changed are to be read.
    nodes: BTreeMap<String, Option<Reading>>,
    /// Whose rubbish the log has named.
    named: BTreeSet<String>,
}

impl View {
    pub(super) fn new(service: ServiceName) -> Self {
        Self {
            due: Some(Instant::now()),
            instances: Directory::new(nodes::instances_dir(&service)),
            legacy: Directory::new(nodes::legacy_dir(&service)),
            service,
        }
    }

    /// Has everything read again.
    pub(super) fn recheck(&mut self) {
        for dir in [&mut self.instances, &mut self.legacy] {
            dir.listed = false;
            dir.nodes.values_mut().for_each(|reading| *reading = None);
        }
        self.due = Some(Instant::now());
    }

    /// Takes news of a node.
    pub(super) fn changed(&mut self, path: &str, gone: bool) {
        if self.instances.changed(path, gone) | self.legacy.changed(path, gone) {
            self.due = Some(Instant::now());
        }
    }

    /// Reads what is not fresh and gives the whole.
    pub(super) fn refresh(&mut self, client: &Client) -> Result<Snapshot, Failure> {
        self.due = Some(Instant::now() + Duration::from_secs(1)); // unless all goes well
        let address = |name: &String| nodes::address(name).is_some();
        self.instances.refresh(client, address, nodes::read_instance)?;
        let methods = &self.service.methods;
        let ours = |name: &String| methods.is_empty() || methods.contains(name);
        self.legacy.nodes.retain(|name, _| ours(name));
        self.legacy.refresh(client, ours, nodes::read_legacy)?;
        self.due = None;

        let mut all = BTreeMap::<SocketAddr, Endpoint>::new();
        for endpoint in self.instances.endpoints().chain(self.legacy.endpoints()) {
            let known = all.entry(endpoint.addr).or_insert_with(|| endpoint.clone());
            // An instance, which comes first, knows better than a bare address.
            if let (Some(known), Some(more)) = (&mut known.methods, &endpoint.methods) {
                known.extend(more.iter().cloned());
            }
        }
        Ok(Snapshot { endpoints: all.into_values().collect() })
    }
}

impl Directory {
    fn new(path: String) -> Self {
        Self { path, ..Self::default() }
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.nodes.values().flatten().filter_map(|reading| reading.as_ref().ok()?.as_ref())
    }

    /// Takes news of a node; says whether it is one of this directory.
    fn changed(&mut self, path: &str, gone: bool) -> bool {
        let Some(rest) = path.strip_prefix(&self.path) else {
            return false;
        };
        if rest.is_empty() {
            self.listed = false;
            return true;
        }
        let Some(reading) = rest.strip_prefix('/').and_then(|name| self.nodes.get_mut(name)) else {
            return false;
        };
        *reading = None;
        if gone {
            // At once; if a successor has the name already, the list will tell.
            self.nodes.remove(&rest[1..]);
        }
        true
    }

    fn refresh(
        &mut self,
        client: &Client,
        wanted: impl Fn(&String) -> bool,
        read: fn(&str, &[u8]) -> Reading,
    ) -> Result<(), Failure> {
        if !self.listed {
            let mut names = client.list(&self.path)?;
            names.sort();
            // Rubbish must not crowd a provider out.
            let (mut good, mut bad): (Vec<_>, Vec<_>) = names.into_iter().partition(wanted);
            bad.extend(good.drain(MAX_PROVIDERS.min(good.len())..));
            bad.truncate(MAX_NAMED);
            let mut old = std::mem::take(&mut self.nodes);
            for name in good {
                let reading = old.remove(&name).flatten();
                self.nodes.insert(name, reading);
            }
            let no = || Some(Err("no address, or one too many"));
            self.nodes.extend(bad.into_iter().map(|name| (name, no())));
            self.listed = true;
        }
        let stale = self.nodes.iter().filter(|(_, reading)| reading.is_none());
        for name in stale.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let reading = match client.read(&format!("{}/{name}", self.path)) {
                Ok(Some(found)) => read(&name, &found.data),
                Err(Failure::Refused(_)) => Err("not readable"),
                Err(failure) => return Err(failure),
                Ok(None) => {
                    self.nodes.remove(&name); // it went while we read
                    continue;
                }
            };
            self.nodes.insert(name, Some(reading));
        }
        self.complain();
        Ok(())
    }

    /// Names rubbish when there is new rubbish, all of it in one line.
    fn complain(&mut self) {
        let mut bad = BTreeMap::new();
        for (name, reading) in &self.nodes {
            if let Some(Err(why)) = reading {
                bad.insert(name.clone(), why);
            }
        }
        if bad.keys().any(|name| !self.named.contains(name)) {
            let some: Vec<_> = bad.iter().take(3).collect();
            log::warn!("{}: {} bad entries, such as {some:?}", self.path, bad.len());
        }
        self.named = bad.into_keys().collect();
    }
}

/// More than anybody needs. Without a bound, whoever can write to ZooKeeper decides how much memory
/// every caller uses.
const MAX_PROVIDERS: usize = 1024;
/// Of the rest, this many are remembered to be named in the log.
const MAX_NAMED: usize = 64;
