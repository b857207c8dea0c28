//! Who serves a service, kept fresh from two directories.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Change,
    client::{Client, Failure, Watch},
    nodes::{self, Reading},
};
use crate::registry::{Endpoint, ServiceName, Snapshot};

/// One service that somebody calls.
pub(super) struct View {
    pub(super) service: String,
    dirs: [Directory; 2],
    stale: bool,
    /// Not before this; set when ZooKeeper refused.
    due: Instant,
}

struct Directory {
    path: String,
    /// `Some`: where C++ nodes register methods, and these are the service's.
    methods: Option<BTreeSet<String>>,
    nodes: BTreeMap<String, Known>,
    listed: bool,
    /// Its making or end will be told.
    awaited: bool,
    /// The coming and going of its nodes will be told.
    watched: bool,
    /// What was complained about already.
    named: BTreeSet<String>,
}

#[derive(Default)]
struct Known {
    reading: Option<Reading>,
    watched: bool,
}

impl View {
    pub(super) fn new(service: &ServiceName, now: Instant) -> Self {
        let methods = service.methods.iter().cloned().collect();
        let dirs = [
            Directory::new(nodes::instances_dir(&service.full), None),
            Directory::new(nodes::legacy_dir(&service.short), Some(methods)),
        ];
        Self {
            service: service.full.clone(),
            dirs,
            stale: true,
            due: now,
        }
    }

    /// Reads everything again. With a new connection the watches are gone, too.
    pub(super) fn recheck(&mut self, watches_lost: bool) {
        self.stale = true;
        for dir in &mut self.dirs {
            dir.listed = false;
            dir.awaited &= !watches_lost;
            dir.watched &= !watches_lost;
            for known in dir.nodes.values_mut() {
                known.reading = None;
                known.watched &= !watches_lost;
            }
        }
    }

    /// Takes news of a node.
    pub(super) fn changed(&mut self, path: &str, change: Change) {
        for dir in &mut self.dirs {
            self.stale |= dir.changed(path, change);
        }
    }

    /// When there is something to read next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.stale.then_some(self.due)
    }

    /// Reads what is not fresh and gives the whole.
    pub(super) fn refresh(&mut self, client: &Client, watch: &Watch) -> Result<Snapshot, Failure> {
        for dir in &mut self.dirs {
            let read = dir.refresh(client, watch);
            if let Err(Failure::Refused(_)) = read {
                self.due = Instant::now() + Duration::from_secs(1);
            }
            read?;
        }
        self.stale = false;
        Ok(self.snapshot())
    }

    fn snapshot(&self) -> Snapshot {
        let mut endpoints = BTreeMap::<SocketAddr, Endpoint>::new();
        let readings = self.dirs.iter().flat_map(|dir| dir.nodes.values());
        for endpoint in readings.filter_map(|known| known.reading.as_ref()?.as_ref().ok()?.as_ref())
        {
            match endpoints.entry(endpoint.addr) {
                Entry::Vacant(entry) => drop(entry.insert(endpoint.clone())),
                // Instances come first, and one that says what it is knows better than a bare address.
                Entry::Occupied(mut entry) => {
                    if let (Some(known), Some(more)) =
                        (&mut entry.get_mut().methods, &endpoint.methods)
                    {
                        known.extend(more.iter().cloned());
                    }
                }
            }
        }
        Snapshot {
            endpoints: endpoints.into_values().collect(),
        }
    }
}

impl Directory {
    fn new(path: String, methods: Option<BTreeSet<String>>) -> Self {
        let (nodes, named) = (BTreeMap::new(), BTreeSet::new());
        Self {
            path,
            methods,
            nodes,
            listed: false,
            awaited: false,
            watched: false,
            named,
        }
    }

    /// Takes news of a node; says whether it is one of this directory.
    fn changed(&mut self, path: &str, change: Change) -> bool {
        if path == self.path {
            self.listed = false;
            self.watched &= change == Change::Data;
            self.awaited &= change == Change::Children;
            return true;
        }
        if let Some(name) = path
            .strip_prefix(&self.path)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            match change {
                // Gone for picking at once; if a successor has the name already, the list tells.
                Change::Gone => drop(self.nodes.remove(name)),
                Change::Children | Change::Data => {
                    if let Some(known) = self.nodes.get_mut(name) {
                        *known = Known::default();
                    }
                }
            }
            return true;
        }
        false
    }

    fn refresh(&mut self, client: &Client, watch: &Watch) -> Result<(), Failure> {
        if !self.listed {
            self.list(client, watch)?;
        }
        for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
            let Some(known) = self
                .nodes
                .get_mut(&name)
                .filter(|known| known.reading.is_none())
            else {
                continue;
            };
            let tell = (!known.watched).then(|| watch.clone());
            match client.read(&format!("{}/{name}", self.path), tell) {
                Ok(Some(found)) => {
                    known.watched = true;
                    known.reading = Some(match self.methods {
                        None => nodes::read_instance(&name, &found.data),
                        Some(_) => nodes::read_legacy(&name, &found.data),
                    });
                }
                Ok(None) => drop(self.nodes.remove(&name)), // went while we read
                Err(Failure::Refused(_)) => known.reading = Some(Err("not readable")),
                Err(failure) => return Err(failure),
            }
        }
        self.complain();
        Ok(())
    }

    fn list(&mut self, client: &Client, watch: &Watch) -> Result<(), Failure> {
        let mut names = Vec::new();
        if !self.watched {
            let tell = (!self.awaited).then(|| watch.clone());
            let size = client.size(&self.path, tell)?;
            self.awaited = true;
            if size.is_some_and(|size| size > MAX_LISTED) {
                log::warn!(
                    "{} has {} entries and is not read",
                    self.path,
                    size.unwrap_or(0)
                );
                self.listed = true;
                return Ok(());
            }
            if size.is_none() {
                self.nodes.clear();
                self.listed = true;
                return Ok(());
            }
        }
        let tell = (!self.watched).then(|| watch.clone());
        if let Some(list) = client.children(&self.path, tell)? {
            self.watched = true;
            names = list;
        }
        names.sort();
        // Good names first: rubbish must not crowd a provider out.
        let (mut good, mut bad): (Vec<_>, Vec<_>) = match &self.methods {
            Some(methods) => (
                names
                    .into_iter()
                    .filter(|name| methods.contains(name))
                    .collect(),
                Vec::new(),
            ),
            None => names
                .into_iter()
                .partition(|name| nodes::address(name).is_some()),
        };
        bad.extend(good.drain(MAX_PROVIDERS.min(good.len())..));
        bad.truncate(MAX_NAMED);
        let mut known = std::mem::take(&mut self.nodes);
        for name in good {
            let known = known.remove(&name).unwrap_or_default();
            self.nodes.insert(name, known);
        }
        for name in bad {
            let reading = Some(Err("no address, or one of too many"));
            self.nodes.insert(
                name,
                Known {
                    reading,
                    watched: false,
                },
            );
        }
        self.listed = true;
        Ok(())
    }

    /// Names new rubbish, once and all of it in one line.
    fn complain(&mut self) {
        let bad: BTreeMap<_, _> = self
            .nodes
            .iter()
            .filter_map(|(name, known)| match known.reading {
                Some(Err(why)) => Some((name, why)),
                _ => None,
            })
            .collect();
        if bad.keys().any(|name| !self.named.contains(*name)) {
            let some: Vec<_> = bad
                .iter()
                .take(3)
                .map(|(name, why)| format!("{name:?} ({why})"))
                .collect();
            let more = bad.len() - some.len();
            log::warn!(
                "{}: {} entries are skipped: {} and {more} more",
                self.path,
                bad.len(),
                some.join(", ")
            );
        }
        self.named = bad.into_keys().cloned().collect();
    }
}

/// More than anybody needs; without a bound, whoever can write to ZooKeeper decides how much memory
/// every caller uses.
const MAX_PROVIDERS: usize = 1024;
/// Of the rest, this many are remembered to be named in the log.
const MAX_NAMED: usize = 64;
/// The crate cannot take a list of over 2 MiB: it loses the connection, again and again.
const MAX_LISTED: i32 = 8192;
