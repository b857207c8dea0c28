//! The door: what everybody who accepts shares. Who comes is counted here, let in or refused, and sent to a reactor.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use mio::{Interest, Poll, Token, Waker, net::TcpListener, net::TcpStream};
use rustix::io::Errno;

use super::{Accept, Handle, LogLimit, Pool, event_loop::MAX_LINGERING, handle::Order, reset};
use crate::connection::Mailbox;

/// The listener, the limits, and who may be sent where.
pub(super) struct Door {
    /// Gone once nobody shall be accepted any more.
    pub(super) listener: RwLock<Option<TcpListener>>,
    pub(super) handles: Vec<Handle>,
    accept: Arc<dyn Accept>,
    addresses: Arc<Addresses>,
    waker: Waker,
    pub(super) stop: AtomicBool,
    /// Only the thread accepts, until nobody waits: there are too many connections, or too few descriptors. Whoever
    /// is served shall not wait for reactors that turn others away.
    pub(super) alone: AtomicBool,
    pub(super) refused: AtomicU64,
    pub(super) max_connections: AtomicUsize,
    /// Of one address; 0 is no limit.
    pub(super) max_of_address: AtomicUsize,
    /// Held from the accept until one is let in or not: the limits are exact, and who came first is in.
    refusals: Mutex<LogLimit>,
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

impl Door {
    pub(super) fn new(
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
    pub(super) fn open(self: &Arc<Self>, poll: &Poll) -> io::Result<()> {
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

    /// Accepts one who waits; `here` is the reactor that asks, which does not wait for others to have done so.
    fn next(&self, here: Option<&Arc<Mailbox>>) -> Next<'_> {
        let mut refusals = match here.map(|_| self.refusals.try_lock()) {
            None => self.refusals.lock().unwrap_or_else(PoisonError::into_inner),
            Some(Ok(refusals)) => refusals,
            Some(Err(TryLockError::Poisoned(error))) => error.into_inner(),
            Some(Err(TryLockError::WouldBlock)) => return Next::Busy,
        };
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = &*listener else { return Next::Nobody };
        for _ in 0..BATCH {
            match listener.accept() {
                Ok((stream, peer)) => return self.admit(stream, peer, here, &mut refusals),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Nobody,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                        return Next::Short(error);
                    }
                    // An error of the connection that waited, says accept(2). Others wait.
                    _ => log::debug!("a connection failed before it was accepted: {error}"),
                },
            }
        }
        Next::Busy
    }

    /// What the thread does: accepts some, whatever comes.
    pub(super) fn batch(&self) -> Backlog {
        for _ in 0..BATCH {
            match self.next(None) {
                Next::Stream(handle, order) => handle.order(order),
                Next::Refused | Next::Busy => {}
                Next::Nobody => return Backlog::Empty,
                Next::Short(error) => return Backlog::Short(error),
            }
        }
        Backlog::More
    }

    /// What the reactor of `here` does when a connect woke it: `place` gets each stream, with the reactor that it is
    /// for. What is left is for the thread.
    pub(super) fn answer(&self, here: &Arc<Mailbox>, mut place: impl FnMut(&Handle, Order)) {
        if self.alone.load(Ordering::Relaxed) {
            return;
        }
        for _ in 0..BATCH {
            match self.next(Some(here)) {
                Next::Stream(handle, order) => place(handle, order),
                Next::Nobody => return,
                Next::Short(_) | Next::Busy => break,
                Next::Refused => {
                    self.alone.store(true, Ordering::Relaxed);
                    break;
                }
            }
        }
        self.wake();
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        here: Option<&Arc<Mailbox>>,
        refusals: &mut LogLimit,
    ) -> Next<'_> {
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
            let fewest = |handle: &&Handle| (handle.staying(), elsewhere(handle));
            // A reactor that has stopped has none, and would get them all.
            let running = self.handles.iter().filter(|handle| !handle.mailbox().is_closed());
            let Some(handle) = running.min_by_key(fewest) else {
                reset(&stream);
                return Next::Refused;
            };
            // Those that linger count: nobody may be refused because of them.
            let spare = self.handles.len() * MAX_LINGERING;
            let roomy = live + spare < max && (max_of_address == 0 || of_address + spare < max_of_address);
            let place = handle.place(Some(visit), roomy);
            return Next::Stream(handle, Order::Adopt(stream.into(), peer, self.accept.clone(), place));
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(others) = refusals.pass(Instant::now()) {
            log::warn!("{peer} is refused: {reason}{others}");
        }
        reset(&stream);
        Next::Refused
    }

    pub(super) fn wake(&self) {
        // Fails only if the thread has ended.
        let _ = self.waker.wake();
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

/// What became of one accept.
enum Next<'a> {
    Stream(&'a Handle, Order),
    Refused,
    Nobody,
    /// Another thread accepts one at this moment, or many failed.
    Busy,
    /// Descriptors or memory are short.
    Short(io::Error),
}

/// What one batch of accepts says about the next.
pub(super) enum Backlog {
    Empty,
    More,
    /// Descriptors or memory are short.
    Short(io::Error),
}

const BATCH: usize = 64;
/// Names a listener among events.
pub(super) const DOOR: Token = Token(usize::MAX);
