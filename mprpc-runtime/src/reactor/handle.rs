//! The way to a reactor from other threads. Orders travel in its mailbox, so they keep their place
//! among the posts: what is posted after `connect` returned finds the connection.

use std::{
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
    acceptor::{Door, Visit},
};
use crate::connection::{Command, ConnId, Connection, Mailbox};

/// Makes the state machine of an outgoing connection, on the reactor's thread.
pub type Make = Box<dyn FnOnce(ConnId, Arc<Mailbox>, Instant) -> Box<dyn Connection> + Send>;

/// Reaches one reactor, from any thread. After the reactor has stopped everything posted through
/// it is dropped, except that calls to start end as calls that did not run.
#[derive(Clone)]
pub struct Handle {
    mailbox: Arc<Mailbox>,
    connections: Arc<AtomicUsize>,
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

/// Counts one connection for as long as it exists, wherever it is on its way.
pub(super) struct Place {
    connections: Arc<AtomicUsize>,
    pub(super) visit: Option<Visit>,
}

impl Handle {
    pub(super) fn new(mailbox: Arc<Mailbox>, registry: Registry) -> Self {
        Self { mailbox, connections: Arc::default(), registry: Arc::new(registry) }
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
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands over a connected stream; `accept` makes its state machine, on the reactor's thread.
    pub fn adopt(&self, stream: TcpStream, peer: SocketAddr, accept: Arc<dyn Accept>) {
        // Cannot fail on an open descriptor; a stream that blocks must not reach a reactor.
        if stream.set_nonblocking(true).is_ok() {
            self.order(self.adoption(stream, peer, accept, None));
        }
    }

    /// The order to take a stream that does not block; one of a visit inherited its listener's settings.
    pub(super) fn adoption(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        accept: Arc<dyn Accept>,
        visit: Option<Visit>,
    ) -> Order {
        Order::Adopt(stream, peer, accept, self.place(visit))
    }

    /// Begins to connect to `peer` and returns at once. The connection that `make` makes learns of
    /// success by `connected`, of failure by `lost`.
    pub fn connect(&self, peer: SocketAddr, make: Make) -> ConnId {
        let id = next_id();
        self.order(Order::Connect(id, peer, make, self.place(None)));
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

    fn place(&self, visit: Option<Visit>) -> Place {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Place { connections: self.connections.clone(), visit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A new id, of which there is one in the process: an id is of no use at the wrong reactor either.
pub(super) fn next_id() -> ConnId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ConnId(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Names the reactor itself in its mailbox, and its waker among the events.
pub(super) const REACTOR: ConnId = ConnId(0);
