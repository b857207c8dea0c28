//! The listening side: accepts on a thread of its own and deals the streams out to the reactors.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{
    Events, Interest, Poll, Token, Waker,
    net::{TcpListener, TcpStream},
};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Accept, Handle, LogLimit, Pool, pool::join};
use crate::error::Error;

/// A bound address: connects are queued by the system, but not accepted before `run`.
pub struct Acceptor {
    listener: TcpListener,
    addr: SocketAddr,
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
}

impl Acceptor {
    /// Binds `addr`; port 0 takes any. The system queues up to `backlog` connects, or its own limit.
    ///
    /// # Errors
    /// The address is in use or not ours; the text names the setting to change.
    pub fn bind(addr: SocketAddr, backlog: u32) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            let what = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "the port is in use; stop the other program or change rpcserverport (0 takes any free port)"
                }
                io::ErrorKind::AddrNotAvailable => {
                    "the address is none of this machine's; change rpcserverip"
                }
                _ => "see rpcserverip and rpcserverport",
            };
            Error::Io(format!("cannot listen on {addr}: {what}"), error)
        };
        let listener = listen(addr, backlog).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, addr })
    }

    /// The address with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to accept, on the thread `mprpc-accept`. Streams go to the reactors of `pool` in turn;
    /// while these have `max_connections` or more, further ones are reset.
    ///
    /// # Errors
    /// The system gives no thread or no descriptor.
    pub fn run(
        mut self,
        pool: &Pool,
        accept: Arc<dyn Accept>,
        max_connections: usize,
    ) -> Result<Accepting, Error> {
        let addr = self.addr;
        let start = || {
            let poll = Poll::new()?;
            let waker = Waker::new(poll.registry(), WAKER)?;
            let registry = poll.registry();
            registry.register(&mut self.listener, LISTENER, Interest::READABLE)?;
            let shared = Arc::new(Shared { waker, stop: AtomicBool::new(false), refused: AtomicU64::new(0) });
            let listening = Listening {
                listener: self.listener,
                poll,
                shared: shared.clone(),
                handles: pool.handles().to_vec(),
                accept,
                max_connections,
                next: 0,
                spare: spare(),
                shortages: LogLimit::default(),
                refusals: LogLimit::default(),
            };
            let thread = thread::Builder::new().name("mprpc-accept".into());
            let thread = Some(thread.spawn(|| listening.run())?);
            Ok(Accepting { addr, shared, thread })
        };
        start().map_err(|e| Error::Io("cannot start the thread mprpc-accept".into(), e))
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

    /// Accepts what waits, then listens no longer. Waits for that at most for `limit` and returns
    /// whether it came about.
    pub fn stop(mut self, limit: Duration) -> bool {
        self.signal();
        let deadline = Instant::now() + limit;
        self.thread.take().is_none_or(|thread| join(thread, deadline))
    }

    fn signal(&self) {
        self.shared.stop.store(true, Ordering::Release);
        // An eventfd that is full is signalled already.
        let _ = self.shared.waker.wake();
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.signal();
    }
}

/// What the thread owns.
struct Listening {
    listener: TcpListener,
    poll: Poll,
    shared: Arc<Shared>,
    handles: Vec<Handle>,
    accept: Arc<dyn Accept>,
    max_connections: usize,
    next: usize,
    /// Given up for a moment when descriptors run out, so that a waiting peer can be turned away.
    spare: Option<File>,
    shortages: LogLimit,
    refusals: LogLimit,
}

/// What a batch of accepts says about the next.
enum Backlog {
    Empty,
    More,
    /// Descriptors or memory are short.
    Shortage,
}

impl Listening {
    fn run(mut self) {
        let mut events = Events::with_capacity(8);
        let mut backlog = Backlog::More;
        while !self.shared.stop.load(Ordering::Acquire) {
            backlog = match backlog {
                Backlog::Empty => self.wait(&mut events, None),
                Backlog::More => self.batch(),
                Backlog::Shortage => self.pause(&mut events),
            };
        }
        // Whoever is connected already gets an orderly goodbye from its reactor.
        while let Backlog::More = self.batch() {}
    }

    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> Backlog {
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            log::error!("the acceptor cannot wait for connections: {error}");
            return Backlog::Shortage;
        }
        Backlog::More
    }

    /// Listens to nobody for a while, then looks again: no new event need come.
    fn pause(&mut self, events: &mut Events) -> Backlog {
        // The listener is off, or every connect would wake us for nothing.
        let registry = self.poll.registry();
        let _ = registry.deregister(&mut self.listener);
        self.wait(events, Some(PAUSE));
        let registry = self.poll.registry();
        match registry.register(&mut self.listener, LISTENER, Interest::READABLE) {
            Ok(()) => Backlog::More,
            Err(_) => Backlog::Shortage,
        }
    }

    fn batch(&mut self) -> Backlog {
        for _ in 0..BATCH {
            match self.listener.accept() {
                Ok((stream, peer)) => self.hand_over(stream, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Backlog::Empty,
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                        self.turn_away(&error);
                        return Backlog::Shortage;
                    }
                    // accept(2): errors of the connection that waited. It is gone, others wait.
                    _ => log::debug!("a connection failed before it was accepted: {error}"),
                },
            }
        }
        Backlog::More
    }

    fn hand_over(&mut self, stream: TcpStream, peer: SocketAddr) {
        let live: usize = self.handles.iter().map(Handle::connections).sum();
        if live >= self.max_connections {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(others) = self.refusals.pass(Instant::now()) {
                let max = self.max_connections;
                log::warn!("{peer} is refused: {live} connections (max_connections = {max}){others}");
            }
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        }
        self.next = (self.next + 1) % self.handles.len();
        self.handles[self.next].adopt(stream.into(), peer, self.accept.clone());
    }

    /// Accepts one connection with the descriptor kept for that, only to close it: its peer learns
    /// that it is not served, and the queue moves.
    fn turn_away(&mut self, error: &io::Error) {
        if let Some(others) = self.shortages.pass(Instant::now()) {
            log::error!("cannot accept a connection: {error}; raise the limit of open files{others}");
        }
        if self.spare.take().is_some() {
            drop(self.listener.accept());
        }
        self.spare = spare();
    }
}

fn listen(addr: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(addr), kind, Some(Protocol::TCP))?;
    // A port is free again as soon as its listener is gone, whatever connections linger.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(TcpListener::from_std(socket.into()))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
