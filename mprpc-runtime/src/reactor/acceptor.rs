//! The listening side: whoever sleeps accepts, and deals the streams out to the reactors.
//!
//! A connect wakes one sleeper: a reactor if there is one, which keeps the stream unless others have fewer, so that it
//! changes no thread. A thread of its own comes last in that row. It accepts while all reactors are busy, whatever
//! they do, refuses, looks after shortages, and takes in those who wait at the end. Only who woke a reactor
//! waits for that reactor's turn to end: one more reason for handlers that run there not to block.

use std::{
    fs::File,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{Events, Poll, Token, Waker, net::TcpListener};
use socket2::{Domain, SockRef, Socket, Type};

use super::{
    Accept, LogLimit, Pool,
    door::{Backlog, Door},
    pool::join,
    reset,
};
use crate::error::Error;

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

/// What the thread has.
struct Porter {
    door: Arc<Door>,
    poll: Poll,
    /// Given up for a moment when descriptors run out, so that a waiting peer can be turned away.
    spare: Option<File>,
    shortages: LogLimit,
}

impl Acceptor {
    /// Binds `addr`; port 0 takes any. The system queues up to `backlog` connects, or its own limit.
    ///
    /// # Errors
    /// The address is in use or not ours; the text names the settings to change.
    pub fn bind(addr: SocketAddr, backlog: u32) -> Result<Self, Error> {
        Self::listen(addr, backlog).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::AddrInUse => "; port 0 takes any free one",
                ErrorKind::AddrNotAvailable => "; want an address of this machine, or 0.0.0.0 for all",
                _ => "",
            };
            Error::Io(format!("cannot listen on {addr} (rpcserverip, rpcserverport{hint})"), error)
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
    /// The system gives no thread, or refuses a setting of the listener.
    pub fn run(
        self,
        pool: &Pool,
        accept: Arc<dyn Accept>,
        max_connections: usize,
    ) -> Result<Accepting, Error> {
        let addr = self.addr;
        let failed = |error| Error::Io("cannot start to accept".into(), error);
        #[cfg(target_os = "linux")]
        SockRef::from(&self.listener).set_tcp_user_timeout(Some(pool.user_timeout)).map_err(failed)?;
        let door = Arc::new(Door::new(self.listener, self.waker, pool, accept, max_connections));
        door.open(&self.poll).map_err(failed)?;
        let porter =
            Porter { door: door.clone(), poll: self.poll, spare: self.spare, shortages: LogLimit::default() };
        let thread = thread::Builder::new().name("mprpc-accept".into());
        let thread = thread.spawn(|| porter.run()).map_err(failed)?;
        Ok(Accepting { addr, door, thread: Some(thread) })
    }
}

impl Porter {
    fn run(mut self) {
        let mut events = Events::with_capacity(2);
        while !self.door.stop.load(Ordering::Acquire) {
            match self.door.batch() {
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
            if !matches!(self.door.batch(), Backlog::More) {
                break;
            }
        }
        *self.door.listener.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Accepts one connection with the descriptor kept for that, only to close it: its peer learns
    /// that it is not served, and the queue moves.
    fn turn_away(&mut self, error: &io::Error) {
        if let Some(others) = self.shortages.pass(Instant::now()) {
            log::error!("cannot accept: {error}; raise the limit of open files{others}");
        }
        // Locked for writing, or a reactor that accepts at this moment would get the descriptor, and keep it.
        let listener = self.door.listener.write().unwrap_or_else(PoisonError::into_inner);
        if self.spare.take().is_some()
            && let Some(Ok((stream, _))) = listener.as_ref().map(TcpListener::accept)
        {
            reset(&stream);
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

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{io::Read, net};

    use super::*;
    use crate::{
        connection::{ConnId, Connection, Mailbox},
        reactor::{Handle, ReactorOptions, handle::Order},
    };

    struct Nobody;

    impl Accept for Nobody {
        fn accept(&self, _: ConnId, _: &Arc<Mailbox>, _: SocketAddr, _: Instant) -> Box<dyn Connection> {
            unreachable!("nobody is let in")
        }
    }

    #[test]
    fn who_is_turned_away_is_reset() {
        let pool = Pool::start("io", 1, &ReactorOptions::default()).unwrap();
        let Acceptor { listener, addr, poll, waker, spare } =
            Acceptor::bind(([127, 0, 0, 1], 0).into(), 16).unwrap();
        let mut waits = net::TcpStream::connect(addr).unwrap();
        waits.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let door = Arc::new(Door::new(listener, waker, &pool, Arc::new(Nobody), 1));
        let mut porter = Porter { door, poll, spare, shortages: LogLimit::default() };
        porter.turn_away(&io::Error::other("planted"));
        let error = waits.read(&mut [0]).expect_err("a legacy caller takes an empty answer for a success");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn without_exclusive_events_the_thread_is_woken() {
        let pool = Pool::start("io", 1, &ReactorOptions::default()).unwrap();
        let acceptor = Acceptor::bind(([127, 0, 0, 1], 0).into(), 16).unwrap();
        #[cfg(target_os = "linux")]
        {
            // What is there already cannot be added.
            use rustix::event::epoll::{EventData, EventFlags, add};
            let (reactor, data) = (pool.handles()[0].registry(), EventData::new_u64(0));
            add(reactor, &acceptor.listener, data, EventFlags::empty()).unwrap();
        }
        let accepting = acceptor.run(&pool, Arc::new(Nobody), 0).unwrap();
        for n in 1..=5 {
            let mut stream = net::TcpStream::connect(accepting.addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert_eq!(accepting.refused(), n);
        }
        assert!(accepting.stop(Duration::from_secs(10)));
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
        door.answer(here, none);
        door.answer(here, none);
        assert_eq!(door.refused.load(Ordering::Relaxed), 1);
        assert!(matches!(door.batch(), Backlog::Empty));
        assert_eq!(door.refused.load(Ordering::Relaxed), 3);
        drop(waiting);
    }
}
