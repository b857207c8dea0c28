//! Where callers and keeper meet: what is asked for, and how far it has come.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use super::{MirrorPolicy, ZooKeeperOptions, nodes, publisher::Role};
use crate::{
    error::Error,
    registry::{Publication, ServiceName, Snapshot},
};

/// What callers and keeper share. No lock is held while ZooKeeper is asked.
pub(super) struct Shared {
    snapshots: RwLock<HashMap<String, Arc<Snapshot>>>,
    desk: Mutex<Desk>,
    news: Condvar,
}

/// What callers ask for, and the answers.
pub(super) struct Desk {
    /// Services to be looked up from now on, taken away by the keeper.
    pub(super) asked: Vec<ServiceName>,
    looked_up: HashSet<String>,
    pub(super) wanted: Wanted,
    /// How often `wanted` changed, from 1; which of these was tried, and which is carried out.
    pub(super) changes: u64,
    tried: u64,
    settled: u64,
    /// Why ZooKeeper cannot be asked.
    outage: Option<String>,
    /// Why something is not published.
    refusal: Option<String>,
    pub(super) stopped: bool,
}

/// What is to be published.
pub(super) struct Wanted {
    publications: Vec<Publication>,
    pub(super) draining: bool,
    pub(super) mirror: MirrorPolicy,
    app: String,
    zone: String,
    /// Milliseconds since 1970 at which this registry began.
    start: u128,
}

impl Shared {
    pub(super) fn new(options: &ZooKeeperOptions) -> Self {
        let start = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let wanted = Wanted {
            publications: Vec::new(),
            draining: false,
            mirror: options.mirror,
            app: options.app.clone(),
            zone: options.zone.clone(),
            start,
        };
        let desk = Desk {
            asked: Vec::new(),
            looked_up: HashSet::new(),
            wanted,
            changes: 1,
            tried: 0,
            settled: 0,
            outage: None,
            refusal: None,
            stopped: false,
        };
        Self {
            snapshots: RwLock::default(),
            desk: Mutex::new(desk),
            news: Condvar::new(),
        }
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot of a service, if there ever was one.
    pub(super) fn known(&self, service: &str) -> Option<Arc<Snapshot>> {
        self.snapshots
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(service)
            .cloned()
    }

    /// Has the service looked up from now on; false if that is so already.
    pub(super) fn ask(&self, service: &ServiceName) -> bool {
        let mut desk = self.desk();
        let new = desk.looked_up.insert(service.full.clone());
        if new {
            desk.asked.push(service.clone());
        }
        new
    }

    /// Waits for the first snapshot of a service that was asked for.
    pub(super) fn first(&self, service: &str, deadline: Instant) -> Result<Arc<Snapshot>, Error> {
        // An outage may be over in this moment, but nobody should wait long to learn of it.
        let patience = deadline.min(Instant::now() + Duration::from_secs(1));
        let known = |_: &Desk| self.known(service).is_some();
        self.wait(patience, known);
        if self.desk().outage.is_none() {
            self.wait(deadline, |desk| {
                known(desk) || desk.outage.is_some() || desk.stopped
            });
        }
        self.known(service).ok_or_else(|| {
            let desk = self.desk();
            let why = desk.outage.as_deref().unwrap_or(if desk.stopped {
                "the registry was stopped"
            } else {
                "ZooKeeper has not answered yet"
            });
            Error::Registry(format!("{service} is not known: {why}"))
        })
    }

    /// Puts a new snapshot in the place of the old one, if they differ.
    pub(super) fn deliver(&self, service: &str, snapshot: Snapshot) {
        if self.known(service).is_none_or(|old| *old != snapshot) {
            let mut snapshots = self
                .snapshots
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            snapshots.insert(service.to_owned(), Arc::new(snapshot));
        }
        let _desk = self.desk(); // so that nobody falls asleep between look and wait
        self.news.notify_all();
    }

    /// Changes what is wanted and gives the change's number.
    pub(super) fn change(&self, edit: impl FnOnce(&mut Wanted)) -> u64 {
        let mut desk = self.desk();
        edit(&mut desk.wanted);
        desk.changes += 1;
        desk.changes
    }

    /// The keeper's report: how far it has come, and why no further.
    pub(super) fn report(
        &self,
        tried: u64,
        settled: bool,
        outage: Option<String>,
        refusal: Option<String>,
    ) {
        let mut desk = self.desk();
        desk.tried = tried;
        if settled {
            desk.settled = tried;
        }
        (desk.outage, desk.refusal) = (outage, refusal);
        self.news.notify_all();
    }

    pub(super) fn stopped(&self) {
        self.desk().stopped = true;
        self.news.notify_all();
    }

    /// Waits until `done`, or `deadline`.
    pub(super) fn wait(&self, deadline: Instant, done: impl Fn(&Desk) -> bool) {
        let mut desk = self.desk();
        while !done(&desk) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            let woken = self.news.wait_timeout(desk, left);
            desk = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the change was tried once, and says how that went.
    pub(super) fn tried(&self, change: u64, deadline: Instant) -> Result<(), Error> {
        self.wait(deadline, |desk| desk.tried >= change || desk.stopped);
        let desk = self.desk();
        let late = (desk.tried < change).then_some("ZooKeeper did not answer in time");
        match desk.outage.as_deref().or(desk.refusal.as_deref()).or(late) {
            Some(why) => Err(Error::Registry(format!("{why} (require_registry = true)"))),
            None => Ok(()),
        }
    }
}

impl Desk {
    /// Whether the change is carried out, or cannot be in any foreseeable time.
    pub(super) fn is_done(&self, change: u64) -> bool {
        self.settled >= change || self.stopped || (self.tried >= change && self.outage.is_some())
    }
}

impl Wanted {
    /// Adds a publication, or replaces that of the same address.
    pub(super) fn publish(&mut self, publication: Publication) {
        self.publications.retain(|old| old.addr != publication.addr);
        self.publications.push(publication);
    }

    /// Nothing is to be published any more.
    pub(super) fn clear(&mut self) {
        self.publications.clear();
        self.draining = false;
    }

    /// All nodes that this makes: path, role, address, process and data.
    pub(super) fn nodes(&self) -> Vec<(String, Role, SocketAddr, u64, Vec<u8>)> {
        let mut nodes = Vec::new();
        for one in &self.publications {
            let text = nodes::instance_text(one, self.draining, &self.app, &self.zone, self.start);
            for service in &one.services {
                let path = format!("{}/{}", nodes::instances_dir(&service.full), one.addr);
                nodes.push((
                    path,
                    Role::Instance,
                    one.addr,
                    one.instance,
                    text.clone().into_bytes(),
                ));
                let mirrored = one.legacy
                    && !self.draining
                    && self.mirror != MirrorPolicy::Off
                    && !self.is_ambiguous(service);
                let mirror = nodes::mirror_text(one.addr).filter(|_| mirrored);
                for (method, text) in service.methods.iter().zip(std::iter::repeat(mirror)) {
                    let path = format!("{}/{method}", nodes::legacy_dir(&service.short));
                    nodes.extend(
                        text.map(|text| (path, Role::Mirror, one.addr, one.instance, text)),
                    );
                }
            }
        }
        nodes
    }

    /// Whether C++ callers could mean another service by the short name.
    fn is_ambiguous(&self, service: &ServiceName) -> bool {
        let mut all = self.publications.iter().flat_map(|one| &one.services);
        all.any(|other| other.short == service.short && other.full != service.full)
    }
}
