//! The listening side: whoever sleeps accepts, and deals the streams out to the reactors.
//!
//! A connect wakes one sleeper: a reactor if there is one, which keeps the stream unless others have fewer, so that it
//! changes no thread. A thread of its own comes last in that row. It accepts while all reactors are busy, whatever
//! they do, refuses, looks after shortages, and takes in those who wait at the end. Only who woke a reactor
//! waits for that reactor's turn to end: one more reason for handlers that run there not to block.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpListener, net::TcpStream};
use rustix::io::Errno;
use socket2::{Domain, SockRef, Socket, Type};

use super::{Accept, Handle, LogLimit, Pool, handle::Order, pool::join};
use crate::{connection::Mailbox, error::Error};

/// A bound address: connects are queued by the system, but not accepted before `run`.
pub struct Acceptor {
    listener: TcpListener,
    addr: SocketAddr,
    poll: Poll,
    waker: Waker,
    spare: Option<File>,
}

/// An acceptor that runs. Dropping it stops it, without waiting.
pub struct Accepting {
    addr: SocketAddr,
    door: Arc<Door>,
    thread: Option<JoinHandle<()>>,
}

/// What everybody who accepts shares.
pub(super) struct Door {
    /// Gone once nobody shall be accepted any more.
    listener: RwLock<Option<TcpListener>>,
    handles: Vec<Handle>,
    accept: Arc<dyn Accept>,
    addresses: Arc<Addresses>,
    waker: Waker,
    stop: AtomicBool,
    /// Only the thread accepts, until nobody waits: there are too many connections, or too few descriptors. Whoever
    /// is served shall not wait for reactors that turn others away.
    alone: AtomicBool,
    refused: AtomicU64,
    max_connections: AtomicUsize,
    /// Of one address; 0 is no limit.
    max_of_address: AtomicUsize,
    /// Held while one is let in or not, so that the limits are exact.
    refusals: Mutex<LogLimit>,
}

/// What the thread has.
struct Porter {
    door: Arc<Door>,
    poll: Poll,
    /// Given up for a moment when descriptors run out, so that a waiting peer can be turned away.
    spare: Option<File>,
    shortages: LogLimit,
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
        let listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Token(0))?;
        Ok(Self { addr: listener.local_addr()?, listener, poll, waker, spare: spare() })
    }

    /// The address, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to accept, on the reactors of `pool` and on the thread `mprpc-accept`. A stream goes to the
    /// reactor that has the fewest; while they have `max_connections` or more, further ones are reset.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn run(
        self,
        pool: &Pool,
        accept: Arc<dyn Accept>,
        max_connections: usize,
    ) -> Result<Accepting, Error> {
        let addr = self.addr;
        let door = Arc::new(Door::new(self.listener, self.waker, pool, accept, max_connections));
        let failed = |error| Error::Io("cannot start to accept".into(), error);
        door.open(&self.poll).map_err(failed)?;
        let porter =
            Porter { door: door.clone(), poll: self.poll, spare: self.spare, shortages: LogLimit::default() };
        let thread = thread::Builder::new().name("mprpc-accept".into());
        let thread = thread.spawn(|| porter.run()).map_err(failed)?;
        Ok(Accepting { addr, door, thread: Some(thread) })
    }
}

impl Door {
    fn new(
        listener: TcpListener,
        waker: Waker,
        pool: &Pool,
        accept: Arc<dyn Accept>,
        max_connections: usize,
    ) -> Self {
        Self {
            listener: RwLock::new(Some(listener)),
            handles: pool.handles().to_vec(),
            accept,
            addresses: Arc::default(),
            waker,
            stop: AtomicBool::new(false),
            alone: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            max_connections: AtomicUsize::new(max_connections),
            max_of_address: AtomicUsize::new(0),
            refusals: Mutex::default(),
        }
    }

    /// Has connects wake a reactor that sleeps, else the thread, whose `poll` this is. The system wakes in the
    /// order in which they are told, and only one, where it can.
    fn open(self: &Arc<Self>, poll: &Poll) -> io::Result<()> {
        let mut listener = self.listener.write().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = &mut *listener else { return Ok(()) };
        #[cfg(target_os = "linux")]
        {
            use rustix::event::epoll::{EventData, EventFlags, add};
            let (door, flags) = (DOOR.0 as u64, EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE);
            let mut all = Ok(());
            for handle in &self.handles {
                handle.order(Order::Listen(Arc::downgrade(self)));
                all = all.and_then(|()| add(handle.registry(), &*listener, EventData::new_u64(door), flags));
            }
            if all.is_ok() {
                return Ok(add(poll.registry(), &*listener, EventData::new_u64(door), flags)?);
            }
        }
        poll.registry().register(listener, DOOR, Interest::READABLE)
    }

    /// Accepts who waits. `place` gets each stream with the reactor that it is for; `here` is the one that asks.
    pub(super) fn batch(
        &self,
        here: Option<&Arc<Mailbox>>,
        mut place: impl FnMut(&Handle, Order),
    ) -> Backlog {
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = &*listener else { return Backlog::Empty };
        for _ in 0..BATCH {
            match listener.accept() {
                Ok((stream, peer)) => match self.admit(stream, peer, here) {
                    Some((handle, order)) => place(handle, order),
                    None if here.is_some() => {
                        self.alone.store(true, Ordering::Relaxed);
                        return Backlog::More;
                    }
                    None => {}
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Backlog::Empty,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                        return Backlog::Short(error);
                    }
                    // An error of the connection that waited, says accept(2). Others wait.
                    _ => log::debug!("a connection failed before it was accepted: {error}"),
                },
            }
        }
        Backlog::More
    }

    /// What a reactor does when a connect woke it. What it leaves is for the thread.
    pub(super) fn answer(&self, here: &Arc<Mailbox>, place: impl FnMut(&Handle, Order)) {
        let alone = self.alone.load(Ordering::Relaxed);
        if !alone && !matches!(self.batch(Some(here), place), Backlog::Empty) {
            self.wake();
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        here: Option<&Arc<Mailbox>>,
    ) -> Option<(&Handle, Order)> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let live: usize = self.handles.iter().map(Handle::connections).sum();
        let max = self.max_connections.load(Ordering::Relaxed);
        let max_of_address = self.max_of_address.load(Ordering::Relaxed);
        let (visit, of_address) = self.addresses.enter(peer.ip());
        let reason = if live >= max {
            format!("{live} connections (max_connections = {max})")
        } else if max_of_address > 0 && of_address > max_of_address {
            format!("more of that address (max_address_connections = {max_of_address})")
        } else {
            let elsewhere = |handle: &Handle| here.is_none_or(|here| !Arc::ptr_eq(here, handle.mailbox()));
            let fewest = |handle: &&Handle| (handle.connections(), elsewhere(handle));
            // A reactor that has stopped has none, and would get them all.
            let running = self.handles.iter().filter(|handle| !handle.mailbox().is_closed());
            let handle = running.min_by_key(fewest)?;
            return Some((handle, handle.adoption(stream.into(), peer, self.accept.clone(), Some(visit))));
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(others) = refusals.pass(Instant::now()) {
            log::warn!("{peer} is refused: {reason}{others}");
        }
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        None
    }

    fn wake(&self) {
        // Fails only if the thread has ended.
        let _ = self.waker.wake();
    }
}

impl Porter {
    fn run(mut self) {
        let mut events = Events::with_capacity(2);
        while !self.door.stop.load(Ordering::Acquire) {
            match self.batch() {
                Backlog::More => {}
                // Nobody polls, or every connect would wake us for nothing.
                Backlog::Short(error) => {
                    self.door.alone.store(true, Ordering::Relaxed);
                    self.turn_away(&error);
                    thread::sleep(PAUSE);
                }
                Backlog::Empty => {
                    // Before the wait, or who came in between would be seen by nobody.
                    if self.door.alone.swap(false, Ordering::Relaxed) {
                        continue;
                    }
                    if let Err(error) = self.poll.poll(&mut events, None)
                        && error.kind() != ErrorKind::Interrupted
                    {
                        log::error!("the acceptor stops, it cannot wait: {error}");
                        break;
                    }
                }
            }
        }
        // Who is connected by now gets an orderly goodbye from a reactor.
        for _ in 0..BATCH {
            if !matches!(self.batch(), Backlog::More) {
                break;
            }
        }
        *self.door.listener.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn batch(&self) -> Backlog {
        self.door.batch(None, Handle::order)
    }

    /// Accepts one connection with the descriptor kept for that, only to close it: its peer learns
    /// that it is not served, and the queue moves.
    fn turn_away(&mut self, error: &io::Error) {
        if let Some(others) = self.shortages.pass(Instant::now()) {
            log::error!("cannot accept: {error}; raise the limit of open files{others}");
        }
        // Locked for writing, or a reactor that accepts at this moment would get the descriptor, and keep it.
        let listener = self.door.listener.write().unwrap_or_else(PoisonError::into_inner);
        if self.spare.take().is_some() {
            drop(listener.as_ref().map(TcpListener::accept));
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
        self.door.refused.load(Ordering::Relaxed)
    }

    /// Changes how many connections there may be, in all and, unless it is 0, of one address (of IPv6
    /// one network of 64 bits). Those that are there stay.
    pub fn set_limits(&self, max_connections: usize, max_of_address: usize) {
        self.door.max_connections.store(max_connections, Ordering::Relaxed);
        self.door.max_of_address.store(max_of_address, Ordering::Relaxed);
    }

    /// Accepts what waits, then listens no longer. Waits for that at most for `limit` and returns
    /// whether it came about.
    pub fn stop(mut self, limit: Duration) -> bool {
        self.signal();
        let deadline = Instant::now() + limit;
        self.thread.take().is_none_or(|thread| join(thread, deadline))
    }

    fn signal(&self) {
        self.door.stop.store(true, Ordering::Release);
        self.door.wake();
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
pub(super) enum Backlog {
    Empty,
    More,
    /// Descriptors or memory are short.
    Short(io::Error),
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
/// Names a listener among events.
pub(super) const DOOR: Token = Token(usize::MAX);

#[cfg(test)]
mod tests {
    use std::net;

    use super::*;
    use crate::{
        connection::{ConnId, Connection},
        reactor::ReactorOptions,
    };

    struct Nobody;

    impl Accept for Nobody {
        fn accept(&self, _: ConnId, _: &Arc<Mailbox>, _: SocketAddr, _: Instant) -> Box<dyn Connection> {
            unreachable!("nobody is let in")
        }
    }

    #[test]
    fn a_reactor_that_refuses_one_leaves_the_others_to_the_thread() {
        let pool = Pool::start("io", 1, &ReactorOptions::default()).unwrap();
        let acceptor = Acceptor::bind(([127, 0, 0, 1], 0).into(), 16).unwrap();
        let dial = |_| net::TcpStream::connect(acceptor.addr).unwrap();
        let waiting: Vec<_> = (0..3).map(dial).collect();
        let door = Door::new(acceptor.listener, acceptor.waker, &pool, Arc::new(Nobody), 0);
        let here = door.handles[0].mailbox();
        let none = |_: &Handle, _: Order| unreachable!("nobody is let in");
        assert!(matches!(door.batch(Some(here), none), Backlog::More));
        door.answer(here, none);
        assert_eq!(door.refused.load(Ordering::Relaxed), 1);
        assert!(matches!(door.batch(None, none), Backlog::Empty));
        assert_eq!(door.refused.load(Ordering::Relaxed), 3);
        drop(waiting);
    }
}
