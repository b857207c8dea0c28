//! A peer: one address as this channel knows it, with its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::blocking::Blocking;
use crate::{
    connection::{
        Command, ConnId,
        client::{ClientConnection, ClientSettings, Link},
    },
    reactor,
    wire::Wire,
};

/// Shared by all services of the channel that are served there.
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) wire: Wire,
    /// Blocking callers' connections that wait for their next call.
    idle: Mutex<Vec<Blocking>>,
    max_idle: usize,
    /// The connection of asynchronous callers.
    shared: Mutex<Option<Arc<Shared>>>,
    /// Milliseconds since `epoch` until which the peer counts as bad; 0 if it does not.
    bad_until: AtomicU64,
    failures: AtomicU32,
    epoch: Instant,
}

/// Where to post asynchronous calls.
pub(super) struct Shared {
    pub(super) reactor: reactor::Handle,
    pub(super) conn: ConnId,
    pub(super) link: Arc<Link>,
}

impl Drop for Shared {
    /// The last who could post is gone: the connection ends once its calls have.
    fn drop(&mut self) {
        self.reactor.mailbox().post(self.conn, Command::Drain, |_| ());
    }
}

impl Peer {
    pub(super) fn new(addr: SocketAddr, wire: Wire, max_idle: usize) -> Self {
        Self {
            addr,
            wire,
            idle: Mutex::default(),
            max_idle,
            shared: Mutex::default(),
            bad_until: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            epoch: Instant::now(),
        }
    }

    /// The connection used last, which is the likeliest to be alive.
    pub(super) fn take_idle(&self) -> Option<Blocking> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn give_back(&self, connection: Blocking) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(connection);
        }
    }

    /// The shared connection, dialled anew if there is none that takes calls. On the legacy wire
    /// every call gets its own.
    pub(super) fn shared(&self, pool: &reactor::Pool, settings: &Arc<ClientSettings>) -> Arc<Shared> {
        let mut slot = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = slot.as_ref().filter(|shared| shared.link.takes_calls()) {
            return shared.clone();
        }
        let reactor = pool.next().clone();
        let link = Arc::new(Link::default());
        let (wire, settings, state) = (self.wire, settings.clone(), link.clone());
        let conn = reactor.connect(
            self.addr,
            Box::new(move |_, _, now| Box::new(ClientConnection::new(wire, settings, now).linked(state))),
        );
        let shared = Arc::new(Shared { reactor, conn, link });
        if self.wire == Wire::Mux {
            *slot = Some(shared.clone());
        }
        shared
    }

    /// Whether a connect failed lately.
    pub(super) fn is_bad(&self, now: Instant) -> bool {
        let until = self.bad_until.load(Ordering::Relaxed);
        until != 0 && self.millis(now) < until
    }

    /// A connect failed: avoid the peer for a while that doubles from 100 ms to 5 s.
    /// Every call that waited for the connect says so; the first counts.
    pub(super) fn failed(&self, now: Instant) {
        if self.is_bad(now) {
            return;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(6);
        let pause = (FIRST_PAUSE * (1 << failures)).min(LONGEST_PAUSE);
        self.bad_until.store(self.millis(now + pause).max(1), Ordering::Relaxed);
    }

    /// The peer answered.
    pub(super) fn succeeded(&self) {
        if self.bad_until.load(Ordering::Relaxed) != 0 {
            self.bad_until.store(0, Ordering::Relaxed);
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
