//! Where callers and keeper meet: what is asked for, and how far it has come.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    MirrorPolicy,
    claim::{Claim, Role},
    nodes,
};
use crate::{
    error::Error,
    registry::{Publication, ServiceName, Snapshot},
};

/// What callers and keeper share. No lock is held while ZooKeeper is asked.
#[derive(Default)]
pub(super) struct Shared {
    snapshots: RwLock<HashMap<String, Arc<Snapshot>>>,
    /// How many snapshots there ever were.
    edition: AtomicU64,
    desk: Mutex<Desk>,
    news: Condvar,
}

/// What callers ask for, and the answers.
#[derive(Default)]
pub(super) struct Desk {
    /// Services to be looked up from now on, taken away by the keeper.
    asked: Vec<ServiceName>,
    looked_up: HashSet<String>,
    wanted: Wanted,
    /// How often `wanted` changed; which change was tried, and whether all of it is carried out.
    changes: u64,
    tried: u64,
    settled: bool,
    /// Why things are not as they should be.
    trouble: Option<String>,
    pub(super) stopped: bool,
}

/// What is to be published.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) publications: Vec<Publication>,
    /// Addresses that take no new calls.
    pub(super) draining: Vec<SocketAddr>,
    /// Other nodes that are to last as long as this: paths and data.
    pub(super) kept: Vec<(String, Vec<u8>)>,
    pub(super) mirror: MirrorPolicy,
    pub(super) app: String,
    /// Milliseconds since 1970 at which this registry began.
    pub(super) start: u128,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest snapshot of a service, if there ever was one.
    pub(super) fn known(&self, service: &str) -> Option<Arc<Snapshot>> {
        let snapshots = self.snapshots.read().unwrap_or_else(PoisonError::into_inner);
        snapshots.get(service).cloned()
    }

    pub(super) fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    /// Has the service looked up from now on; false if that is so already.
    pub(super) fn ask(&self, service: &ServiceName) -> bool {
        let mut desk = self.desk();
        let new = desk.looked_up.insert(service.full.clone());
        desk.asked.extend(new.then(|| service.clone()));
        new
    }

    /// Waits for the first snapshot of a service that was asked for.
    pub(super) fn first(&self, service: &str, deadline: Instant) -> Result<Arc<Snapshot>, Error> {
        let known = |desk: &Desk| desk.stopped || self.known(service).is_some();
        // An outage may end in this moment, but nobody should wait long for it.
        self.wait(deadline.min(Instant::now() + Duration::from_secs(1)), known);
        self.wait(deadline, |desk| known(desk) || desk.trouble.is_some());
        self.known(service).ok_or_else(|| {
            let trouble = self.desk().trouble.clone();
            let why = trouble.unwrap_or_else(|| "ZooKeeper did not answer in time".into());
            Error::Registry(format!("{service} cannot be looked up: {why}"))
        })
    }

    /// Puts a new snapshot in the place of the old one, if they differ, and says so.
    pub(super) fn deliver(&self, service: &str, snapshot: Snapshot) -> bool {
        let new = self.known(service).is_none_or(|old| *old != snapshot);
        if new {
            let mut snapshots = self.snapshots.write().unwrap_or_else(PoisonError::into_inner);
            snapshots.insert(service.to_owned(), Arc::new(snapshot));
            // Whoever sees it finds the snapshot.
            self.edition.fetch_add(1, Ordering::Release);
        }
        let _desk = self.desk(); // or somebody could fall asleep between look and wait
        self.news.notify_all();
        new
    }

    /// Changes what is wanted and gives the change's number.
    pub(super) fn change(&self, edit: impl FnOnce(&mut Wanted)) -> u64 {
        let mut desk = self.desk();
        edit(&mut desk.wanted);
        desk.changes += 1;
        desk.changes
    }

    /// Gives the keeper what was asked for, and what is wanted if that changed since `seen`.
    pub(super) fn read(
        &self,
        seen: &mut u64,
        take: impl FnOnce(std::vec::Drain<'_, ServiceName>, Option<&Wanted>),
    ) {
        let desk = &mut *self.desk();
        let changed = std::mem::replace(seen, desk.changes) != desk.changes;
        take(desk.asked.drain(..), changed.then_some(&desk.wanted));
    }

    /// The keeper's report: how far it has come, and why no further.
    pub(super) fn report(&self, tried: u64, settled: bool, trouble: Option<String>) {
        let mut desk = self.desk();
        (desk.tried, desk.settled, desk.trouble) = (tried, settled, trouble);
        self.news.notify_all();
    }

    /// Why nothing goes on for the moment.
    pub(super) fn trouble(&self, why: String) {
        self.desk().trouble = Some(why);
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
        let why = desk.trouble.as_deref().or(late);
        why.map_or(Ok(()), |why| Err(Error::Registry(why.to_owned())))
    }

    /// Waits until the change is carried out, or cannot be in any foreseeable time.
    pub(super) fn done(&self, change: u64, deadline: Instant) {
        let carried_out = |desk: &Desk| desk.settled || desk.trouble.is_some();
        self.wait(deadline, |desk| desk.stopped || desk.tried >= change && carried_out(desk));
    }
}

impl Wanted {
    /// Publishes nothing more at `addr`.
    pub(super) fn forget(&mut self, addr: SocketAddr) {
        self.publications.retain(|old| old.addr != addr);
        self.draining.retain(|old| *old != addr);
    }

    /// Keeps an ephemeral node.
    pub(super) fn keep(&mut self, path: &str, data: &[u8]) {
        self.give_up(path);
        self.kept.push((path.to_owned(), data.to_vec()));
    }

    /// Keeps a node no longer; false if it was not kept.
    pub(super) fn give_up(&mut self, path: &str) -> bool {
        let before = self.kept.len();
        self.kept.retain(|(kept, _)| kept != path);
        self.kept.len() < before
    }

    /// All nodes that this makes, with their paths.
    pub(super) fn claims(&self) -> Vec<(String, Claim)> {
        let kept = |(path, data): &(String, Vec<u8>)| {
            let (addr, id, data) = (([0; 4], 0).into(), 0, data.clone());
            (path.clone(), Claim { role: Role::Kept, addr, id, data })
        };
        let mut claims: Vec<_> = self.kept.iter().map(kept).collect();
        for one in &self.publications {
            let (addr, id) = (one.addr, one.instance);
            let draining = self.draining.contains(&addr);
            let text = nodes::instance_text(one, draining, &self.app, self.start);
            let mirrored = one.legacy && !draining && self.mirror != MirrorPolicy::Off;
            for service in &one.services {
                let (role, data) = (Role::Instance, text.clone().into_bytes());
                let path = format!("{}/{addr}", nodes::instances_dir(service));
                claims.push((path, Claim { role, addr, id, data }));
                let mirrored = mirrored && !self.is_ambiguous(service);
                let Some(text) = nodes::mirror_text(addr).filter(|_| mirrored) else {
                    continue;
                };
                for method in &service.methods {
                    let (role, data) = (Role::Mirror, text.clone());
                    let path = format!("{}/{method}", nodes::legacy_dir(service));
                    claims.push((path, Claim { role, addr, id, data }));
                }
            }
        }
        claims
    }

    /// Whether C++ callers could mean another service by the short name.
    fn is_ambiguous(&self, service: &ServiceName) -> bool {
        let mut all = self.publications.iter().flat_map(|one| &one.services);
        all.any(|other| other.short == service.short && other.full != service.full)
    }
}
