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
    pub(super) service: String,
    /// When there is something to read, if there is.
    pub(super) due: Option<Instant>,
    /// Instances come first: what they say counts.
    dirs: [Directory; 2],
}

#[derive(Default)]
struct Directory {
    path: String,
    /// Where C++ nodes register methods, those of the service; none: any of them.
    methods: Option<Vec<String>>,
    listed: bool,
    /// The entries; those that changed are to be read.
    nodes: BTreeMap<String, Option<Reading>>,
    /// Whose rubbish the log has named.
    named: BTreeSet<String>,
}

impl View {
    pub(super) fn new(of: ServiceName) -> Self {
        let (instances, legacy) = (nodes::instances_dir(&of), nodes::legacy_dir(&of));
        let instances = Directory { path: instances, ..Directory::default() };
        let legacy = Directory { path: legacy, methods: Some(of.methods), ..Directory::default() };
        Self { service: of.full, due: Some(Instant::now()), dirs: [instances, legacy] }
    }

    /// Has everything read again.
    pub(super) fn recheck(&mut self) {
        for dir in &mut self.dirs {
            dir.listed = false;
            dir.nodes.values_mut().for_each(|reading| *reading = None);
        }
        self.due = Some(Instant::now());
    }

    /// Takes news of a node, in a moment, because news seldom comes alone: the end of a node is
    /// told twice, and a process that starts has several.
    pub(super) fn changed(&mut self, path: &str) {
        for dir in &mut self.dirs {
            let Some(rest) = path.strip_prefix(&dir.path) else { continue };
            let reading = rest.strip_prefix('/').and_then(|name| dir.nodes.get_mut(name));
            if !rest.is_empty() && reading.is_none() {
                continue;
            }
            dir.listed &= !rest.is_empty();
            reading.into_iter().for_each(|reading| *reading = None);
            let moment = Instant::now() + Duration::from_millis(10);
            self.due = Some(self.due.map_or(moment, |due| due.min(moment)));
        }
    }

    /// Reads what is not fresh and gives the whole.
    pub(super) fn refresh(&mut self, client: &Client) -> Result<Snapshot, Failure> {
        self.dirs.iter_mut().try_for_each(|dir| dir.refresh(client))?;
        self.due = None;
        let mut all = BTreeMap::<SocketAddr, Endpoint>::new();
        let readings = self.dirs.iter().flat_map(|dir| dir.nodes.values().flatten());
        for endpoint in readings.filter_map(|reading| reading.as_ref().ok()?.as_ref()) {
            let known = all.entry(endpoint.addr).or_insert_with(|| endpoint.clone());
            if let (Some(known), Some(more)) = (&mut known.methods, &endpoint.methods) {
                known.extend(more.iter().cloned());
            }
        }
        Ok(Snapshot { endpoints: all.into_values().collect() })
    }
}

impl Directory {
    fn refresh(&mut self, client: &Client) -> Result<(), Failure> {
        if !self.listed {
            let mut names = client.list(&self.path)?;
            names.sort();
            // Rubbish must not crowd a provider out.
            let (mut good, mut bad): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| {
                let methods = self.methods.as_ref();
                let ours = |methods: &Vec<_>| methods.is_empty() || methods.contains(name);
                methods.map_or_else(|| nodes::address(name).is_some(), ours)
            });
            bad.extend(good.drain(MAX_PROVIDERS.min(good.len())..));
            bad.truncate(if self.methods.is_none() { MAX_NAMED } else { 0 });
            let mut old = std::mem::take(&mut self.nodes);
            let good = good.into_iter().map(|name| (old.remove(&name).flatten(), name));
            self.nodes.extend(good.map(|(reading, name)| (name, reading)));
            let no = Some(Err("no address, or one too many"));
            self.nodes.extend(bad.into_iter().map(|name| (name, no.clone())));
            self.listed = true;
        }
        let stale = self.nodes.iter().filter(|(_, reading)| reading.is_none());
        for name in stale.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let reading = match client.read(&format!("{}/{name}", self.path)) {
                Ok(Some(found)) if self.methods.is_some() => nodes::read_legacy(&name, &found.data),
                Ok(Some(found)) => nodes::read_instance(&name, &found.data),
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
