//! The way to a reactor from other threads. Orders travel in its mailbox, so they keep their place
//! among the posts: what is posted after `connect` returned finds the connection.

use std::{
    mem,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use mio::Registry;

use super::{
    Accept,
    door::{Door, Visit},
};
use crate::connection::{Command, ConnId, Connection, Mailbox};

/// Makes the state machine of an outgoing connection, on the reactor's thread.
pub type Make = Box<dyn FnOnce(ConnId, Arc<Mailbox>, Instant) -> Box<dyn Connection> + Send>;

/// Reaches one reactor, from any thread. After the reactor has stopped everything posted through
/// it is dropped, except that calls to start end as calls that did not run.
#[derive(Clone)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
    counts: Arc<Counts>,
    registry: Arc<Registry>,
}

/// What the reactor itself is told, as a post to `REACTOR`.
pub(super) enum Order {
    Adopt(TcpStream, SocketAddr, Arc<dyn Accept>, Place),
    Listen(Weak<Door>),
    Connect(ConnId, SocketAddr, Make, Place),
    Broadcast(Box<dyn Fn() -> Command + Send>),
    Stop,
}

#[derive(Default)]
struct Counts {
    connections: AtomicUsize,
    /// Of these, those that only wait for the peer's FIN.
    leaving: AtomicUsize,
}

/// Counts one connection for as long as it exists, wherever it is on its way.
pub(super) struct Place {
    counts: Arc<Counts>,
    pub(super) visit: Option<Visit>,
    /// There is room for many more, so it need not make room at once when it leaves.
    pub(super) roomy: bool,
    leaves: bool,
}

impl Handle {
    pub(super) fn new(mailbox: Arc<Mailbox>, registry: Registry) -> Self {
        Self { mailbox, counts: Arc::default(), registry: Arc::new(registry) }
    }

    /// Where the reactor's events are ordered.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where to post to connections of this reactor.
    pub fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Connections of this reactor, those on their way to it included.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::Relaxed)
    }

    /// Those of them with something to come.
    pub(super) fn staying(&self) -> usize {
        self.connections().saturating_sub(self.counts.leaving.load(Ordering::Relaxed))
    }

    /// Hands over a connected stream; `accept` makes its state machine, on the reactor's thread.
    pub fn adopt(&self, stream: TcpStream, peer: SocketAddr, accept: Arc<dyn Accept>) {
        // Cannot fail on an open descriptor; a stream that blocks must not reach a reactor.
        if stream.set_nonblocking(true).is_ok() {
            self.order(Order::Adopt(stream, peer, accept, self.place(None, false)));
        }
    }

    /// Begins to connect to `peer` and returns at once. The connection that `make` makes learns of
    /// success by `connected`, of failure by `lost`.
    pub fn connect(&self, peer: SocketAddr, make: Make) -> ConnId {
        let id = next_id();
        self.order(Order::Connect(id, peer, make, self.place(None, false)));
        id
    }

    /// Posts a command of `make`'s to every connection that the reactor has by then.
    pub fn broadcast(&self, make: impl Fn() -> Command + Send + 'static) {
        self.order(Order::Broadcast(Box::new(make)));
    }

    /// Asks every connection to take no new calls, finish the running ones and close.
    pub fn drain_all(&self) {
        self.broadcast(|| Command::Drain);
    }

    /// Stops the reactor: its connections are lost, its thread ends. Does not wait for that.
    pub fn stop(&self) {
        self.order(Order::Stop);
    }

    pub(super) fn order(&self, order: Order) {
        self.mailbox.post(REACTOR, Command::Custom(Box::new(order)), |_| {});
    }

    /// A place for one more. One of a visit inherited its listener's settings.
    pub(super) fn place(&self, visit: Option<Visit>, roomy: bool) -> Place {
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        Place { counts: self.counts.clone(), visit, roomy, leaves: false }
    }
}

impl Place {
    /// Counts as one that only waits for the peer's FIN.
    pub(super) fn leave(&mut self) {
        if !mem::replace(&mut self.leaves, true) {
            self.counts.leaving.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.leaves {
            self.counts.leaving.fetch_sub(1, Ordering::Relaxed);
        }
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A new id, of which there is one in the process: an id is of no use at the wrong reactor either.
pub(super) fn next_id() -> ConnId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ConnId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Names the reactor itself in its mailbox, and its waker among the events.
pub(super) const REACTOR: ConnId = ConnId(0);
