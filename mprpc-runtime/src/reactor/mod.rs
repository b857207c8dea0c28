//! Reactors: the event loops that carry bytes between sockets and [`Connection`]s.
//!
//! A reactor is one thread with one loop. A connection belongs to one reactor for all its life, so it
//! needs no lock; other threads reach it by posts to the reactor's [`Mailbox`]. An [`Acceptor`]
//! has the reactors of a [`Pool`] accept and share the streams out among them; outgoing
//! connections begin with [`Handle::connect`]. An idle reactor sleeps, without a tick.
//!
//! # Examples
//! A protocol of your own is a [`Connection`] and an [`Accept`] that makes one for each peer:
//! ```
//! use std::{io, io::{Read, Write}, net::{SocketAddr, TcpStream}, sync::Arc, time::{Duration, Instant}};
//! use mprpc_runtime::connection::{Command, ConnId, Connection, Intent, Mailbox};
//! use mprpc_runtime::reactor::{Accept, Acceptor, Pool, ReactorOptions};
//! use mprpc_runtime::wire::buf::Output;
//!
//! #[derive(Default)]
//! struct Echo { output: Output, ended: bool }
//!
//! impl Connection for Echo {
//!     fn receive(&mut self, bytes: &[u8], _now: Instant) { self.output.buffer().extend_from_slice(bytes); }
//!     fn eof(&mut self, _now: Instant) { self.ended = true; }
//!     fn lost(&mut self, _error: &io::Error, _now: Instant) {}
//!     fn post(&mut self, command: Command, bytes: &[u8], _now: Instant) {
//!         match command {
//!             Command::Custom(_) => self.output.buffer().extend_from_slice(bytes),
//!             Command::Close(_) | Command::Drain => self.ended = true,
//!             other => other.undeliverable(),
//!         }
//!     }
//!     fn output(&mut self) -> &mut Output { &mut self.output }
//!     // A peer that takes nothing back is not read from, or its bytes would pile up here.
//!     fn wants_read(&self) -> bool { self.output.len() < 1 << 20 }
//!     fn intent(&self) -> Intent { if self.ended { Intent::Close } else { Intent::Open } }
//!     fn next_timeout(&self) -> Option<Instant> { None }
//!     fn timeout(&mut self, _now: Instant) {}
//! }
//!
//! struct EchoServer;
//!
//! impl Accept for EchoServer {
//!     fn accept(&self, _: ConnId, _: &Arc<Mailbox>, _: SocketAddr, _: Instant) -> Box<dyn Connection> {
//!         Box::new(Echo::default())
//!     }
//! }
//!
//! let pool = Pool::start("echo", 2, &ReactorOptions::default())?;
//! let acceptor = Acceptor::bind("127.0.0.1:0".parse()?, 128)?;
//! let accepting = acceptor.run(&pool, Arc::new(EchoServer), 1000)?;
//!
//! let mut client = TcpStream::connect(accepting.local_addr())?;
//! client.write_all(b"hello")?;
//! let mut reply = [0; 5];
//! client.read_exact(&mut reply)?;
//! assert_eq!(&reply, b"hello");
//!
//! assert!(accepting.stop(Duration::from_secs(5)) && pool.stop(Duration::from_secs(5)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::{
    cell::Cell,
    io,
    net::SocketAddr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mio::{Poll, Token, Waker, net::TcpStream};
use socket2::SockRef;

use crate::{
    connection::{ConnId, Connection, Mailbox},
    wire::spare,
};
use event_loop::EventLoop;

mod acceptor;
mod door;
mod event_loop;
mod handle;
mod pool;
mod slot;
mod timers;
mod turn;

pub use acceptor::{Accepting, Acceptor};
pub use handle::{Handle, Make};
pub use pool::Pool;

/// What the connections of one server have in common. Called on reactor threads; must not block.
pub trait Accept: Send + Sync {
    /// Makes the state machine of a connection that was just accepted. Posts to `mailbox` for
    /// `id` reach it.
    fn accept(
        &self,
        id: ConnId,
        mailbox: &Arc<Mailbox>,
        peer: SocketAddr,
        now: Instant,
    ) -> Box<dyn Connection>;

    /// A turn of a reactor that holds connections of this server ends: what was gathered can be
    /// handed over. The time it gives, if any, is when it wants to be called again at the latest.
    fn end_turn(&self, _now: Instant) -> Option<Instant> {
        None
    }

    /// A connection of this server is gone; `reason` is what it said of that.
    fn closed(&self, _peer: SocketAddr, _reason: Option<&str>) {}
}

/// How a reactor runs.
#[derive(Clone)]
pub struct ReactorOptions {
    /// How long to poll before sleeping: faster answers for a busy core. Zero by default.
    pub spin: Duration,
    /// Posts that may wait before calls to start are refused. 65,536 by default.
    pub max_posts: usize,
    /// How long a peer may leave what it was sent unacknowledged. 10 seconds by default.
    pub user_timeout: Duration,
}

impl Default for ReactorOptions {
    fn default() -> Self {
        Self { spin: Duration::ZERO, max_posts: 1 << 16, user_timeout: Duration::from_secs(10) }
    }
}

/// One event loop and its thread.
pub struct Reactor;

impl Reactor {
    /// Starts a reactor on a thread of this name. It runs until [`Handle::stop`].
    ///
    /// # Errors
    /// The system gives no thread or no descriptor.
    pub fn start(name: &str, options: ReactorOptions) -> io::Result<(Handle, JoinHandle<()>)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Token(handle::REACTOR.0 as usize))?;
        let mailbox = Arc::new(Mailbox::new(options.max_posts, move || {
            // Fails only if the descriptor is gone, and with it the reactor.
            let _ = waker.wake();
        }));
        let handle = Handle::new(mailbox.clone(), poll.registry().try_clone()?);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            TURN.set(Some(Instant::now()));
            mailbox.own();
            spare::begin();
            EventLoop::new(poll, mailbox, options).run();
        })?;
        Ok((handle, thread))
    }
}

/// Whether the calling thread is a reactor's, on which nothing may block.
pub fn on_reactor_thread() -> bool {
    TURN.get().is_some()
}

/// The current time: on a reactor's thread the beginning of its turn, which spares reading the clock.
pub fn now() -> Instant {
    TURN.get().unwrap_or_else(Instant::now)
}

thread_local! {
    /// On a reactor's thread the beginning of its turn.
    static TURN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Makes the close that follows a reset: a legacy caller takes an empty answer for a success.
fn reset(stream: &TcpStream) {
    // To linger for no time does it. Fails only on a socket that is dead.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Lets one line in ten seconds into the log, and counts the others.
#[derive(Default)]
pub(crate) struct LogLimit {
    next: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// Whether a line may be written now: what to append to it, which tells of those suppressed.
    pub(crate) fn pass(&mut self, now: Instant) -> Option<String> {
        if self.next.is_some_and(|next| now < next) {
            self.suppressed += 1;
            return None;
        }
        self.next = Some(now + Duration::from_secs(10));
        match std::mem::take(&mut self.suppressed) {
            0 => Some(String::new()),
            n => Some(format!(" ({n} more like this were not logged)")),
        }
    }
}
