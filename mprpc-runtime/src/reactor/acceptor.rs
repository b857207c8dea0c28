//! The listening side: accepts on a thread of its own and deals the streams out to the reactors.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener, net::TcpStream};
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};

use super::{Accept, Handle, LogLimit, Pool, pool::join};
use crate::error::Error;

/// A bound address: connects are queued by the system, but not accepted before `run`.
pub struct Acceptor {
    listener: TcpListener,
    addr: SocketAddr,
    poll: Poll,
    shared: Arc<Shared>,
    /// Given up for a moment when descriptors run out, so that a waiting peer can be turned away.
    spare: Option<File>,
    shortages: LogLimit,
    refusals: LogLimit,
}

/// An acceptor that runs. Dropping it stops it, without waiting.
pub struct Accepting {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    waker: Waker,
    stop: AtomicBool,
    refused: AtomicU64,
    max_connections: AtomicUsize,
    /// Of one address; 0 is no limit.
    max_of_address: AtomicUsize,
}

/// The addresses that have connections.
#[derive(Default)]
struct Addresses(Mutex<HashMap<IpAddr, Weak<Address>>>);

/// One address, for as long as it has connections. Each holds it, so they are counted by themselves.
struct Address {
    addresses: Arc<Addresses>,
    ip: IpAddr,
}

/// A connection counted towards its address, for as long as it exists.
pub(super) struct Visit(#[expect(dead_code, reason = "held, to be counted")] Arc<Address>);

/// Who gets the streams.
struct Deal {
    handles: Vec<Handle>,
    next: usize,
    accept: Arc<dyn Accept>,
    addresses: Arc<Addresses>,
}

impl Acceptor {
    /// Binds `addr`; port 0 takes any. The system queues up to `backlog` connects, or its own limit.
    ///
    /// # Errors
    /// The address is in use or not ours; the text names the settings to change.
    pub fn bind(addr: SocketAddr, backlog: u32) -> Result<Self, Error> {
        Self::listen(addr, backlog).map_err(|error| {
            let settings = "rpcserverip, rpcserverport; port 0 takes any free one";
            Error::Io(format!("cannot listen on {addr} ({settings})"), error)
        })
    }

    fn listen(addr: SocketAddr, backlog: u32) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(addr), kind, None)?;
        // A port is free again once its listener is gone, whatever connections linger there.
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        // Accepted sockets are copies of this one: on Linux they inherit it, which spares a call for each.
        socket.set_tcp_nodelay(true)?;
        socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut listener, Token(0), Interest::READABLE)?;
        let shared = Shared {
            waker: Waker::new(registry, Token(1))?,
            stop: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            max_connections: AtomicUsize::new(usize::MAX),
            max_of_address: AtomicUsize::new(0),
        };
        Ok(Self {
            addr: listener.local_addr()?,
            listener,
            poll,
            shared: Arc::new(shared),
            spare: spare(),
            shortages: LogLimit::default(),
            refusals: LogLimit::default(),
        })
    }

    /// The address, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to accept, on the thread `mprpc-accept`. Streams go to the reactors of `pool` in turn;
    /// while these have `max_connections` or more, further ones are reset.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn run(
        self,
        pool: &Pool,
        accept: Arc<dyn Accept>,
        max_connections: usize,
    ) -> Result<Accepting, Error> {
        let (addr, shared) = (self.addr, self.shared.clone());
        shared.max_connections.store(max_connections, Ordering::Relaxed);
        let (handles, addresses) = (pool.handles().to_vec(), Arc::default());
        let deal = Deal { handles, next: 0, accept, addresses };
        let thread = thread::Builder::new().name("mprpc-accept".into());
        let thread = thread.spawn(|| self.accept_all(deal));
        let thread = thread.map_err(|e| Error::Io("cannot start to accept".into(), e))?;
        Ok(Accepting { addr, shared, thread: Some(thread) })
    }

    fn accept_all(mut self, mut deal: Deal) {
        let mut events = Events::with_capacity(2);
        while !self.shared.stop.load(Ordering::Acquire) {
            match self.batch(&mut deal) {
                Backlog::More => {}
                // Not polled, or every connect would wake us for nothing.
                Backlog::Short => thread::sleep(PAUSE),
                Backlog::Empty => {
                    if let Err(error) = self.poll.poll(&mut events, None)
                        && error.kind() != ErrorKind::Interrupted
                    {
                        return log::error!("the acceptor stops, it cannot wait: {error}");
                    }
                }
            }
        }
        // Who is connected by now gets an orderly goodbye from a reactor.
        for _ in 0..BATCH {
            if !matches!(self.batch(&mut deal), Backlog::More) {
                break;
            }
        }
    }

    fn batch(&mut self, deal: &mut Deal) -> Backlog {
        for _ in 0..BATCH {
            match self.listener.accept() {
                Ok((stream, peer)) => self.hand_over(stream, peer, deal),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Backlog::Empty,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                        self.turn_away(&error);
                        return Backlog::Short;
                    }
                    // An error of the connection that waited, says accept(2). Others wait.
                    _ => log::debug!("a connection failed before it was accepted: {error}"),
                },
            }
        }
        Backlog::More
    }

    fn hand_over(&mut self, stream: TcpStream, peer: SocketAddr, deal: &mut Deal) {
        let live: usize = deal.handles.iter().map(Handle::connections).sum();
        let max = self.shared.max_connections.load(Ordering::Relaxed);
        let max_of_address = self.shared.max_of_address.load(Ordering::Relaxed);
        let (visit, of_address) = deal.addresses.enter(peer.ip());
        let reason = if live >= max {
            format!("{live} connections (max_connections = {max})")
        } else if max_of_address > 0 && of_address > max_of_address {
            format!("more of that address (max_address_connections = {max_of_address})")
        } else {
            deal.next = (deal.next + 1) % deal.handles.len();
            let accept = deal.accept.clone();
            return deal.handles[deal.next].adopt_visit(stream.into(), peer, accept, Some(visit));
        };
        self.shared.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(others) = self.refusals.pass(Instant::now()) {
            log::warn!("{peer} is refused: {reason}{others}");
        }
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }

    /// Accepts one connection with the descriptor kept for that, only to close it: its peer learns
    /// that it is not served, and the queue moves.
    fn turn_away(&mut self, error: &io::Error) {
        if let Some(others) = self.shortages.pass(Instant::now()) {
            log::error!("cannot accept: {error}; raise the limit of open files{others}");
        }
        if self.spare.take().is_some() {
            drop(self.listener.accept());
        }
        self.spare = spare();
    }
}

impl Accepting {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were reset because there were too many.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Changes how many connections there may be, in all and, unless it is 0, of one address (of IPv6
    /// one network of 64 bits). Those that are there stay.
    pub fn set_limits(&self, max_connections: usize, max_of_address: usize) {
        self.shared.max_connections.store(max_connections, Ordering::Relaxed);
        self.shared.max_of_address.store(max_of_address, Ordering::Relaxed);
    }

    /// Accepts what waits, then listens no longer. Waits for that at most for `limit` and returns
    /// whether it came about.
    pub fn stop(mut self, limit: Duration) -> bool {
        self.signal();
        let deadline = Instant::now() + limit;
        self.thread.take().is_none_or(|thread| join(thread, deadline))
    }

    fn signal(&self) {
        self.shared.stop.store(true, Ordering::Release);
        // Fails only if the thread has ended.
        let _ = self.shared.waker.wake();
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.signal();
    }
}

impl Addresses {
    /// Counts a connection, and tells how many there are of its address now.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> (Visit, usize) {
        let from = match ip.to_canonical() {
            // Whoever has one address of IPv6 has such a network.
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        };
        let mut known = self.lock();
        let address = known.get(&from).and_then(Weak::upgrade).unwrap_or_else(|| {
            let address = Arc::new(Address { addresses: self.clone(), ip: from });
            known.insert(from, Arc::downgrade(&address));
            address
        });
        let count = Arc::strong_count(&address);
        (Visit(address), count)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Weak<Address>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let mut known = self.addresses.lock();
        // By now there may be another under this address.
        if known.get(&self.ip).is_some_and(|address| address.strong_count() == 0) {
            known.remove(&self.ip);
        }
    }
}

/// What one batch of accepts says about the next.
enum Backlog {
    Empty,
    More,
    /// Descriptors or memory are short.
    Short,
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
