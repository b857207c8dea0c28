//! A TCP proxy that can do to its connections what networks do: cut, stall, delay and reset them.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

/// Listens on loopback and hands each connection on. Ends, with its connections, on drop.
pub(crate) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// What happens to connections, old and new ones, from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Bytes pass.
    Pass,
    /// Bytes pass so much later; those that come meanwhile follow together, up to twice as late.
    Delay(Duration),
    /// Connections are accepted and stay; no byte passes, and none is lost.
    Stall,
    /// Connections are closed in order; new ones at once.
    Cut,
    /// The same with a reset.
    Reset,
}

struct Shared {
    to: SocketAddr,
    mode: Mutex<Mode>,
    over: AtomicBool,
    open: AtomicUsize,
    /// What clients sent, connection by connection, if it is to be kept.
    tap: Option<Mutex<Vec<Vec<u8>>>>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn to(to: SocketAddr) -> Self {
        Self::start("127.0.0.1", to, None)
    }

    /// Listens on a free port of this address of ours.
    pub(crate) fn on(ip: &str, to: SocketAddr) -> Self {
        Self::start(ip, to, None)
    }

    /// One that keeps what clients send, up to 16 MiB a connection.
    pub(crate) fn tapped(to: SocketAddr) -> Self {
        Self::start("127.0.0.1", to, Some(Mutex::default()))
    }

    fn start(ip: &str, to: SocketAddr, tap: Option<Mutex<Vec<Vec<u8>>>>) -> Self {
        let listener = TcpListener::bind((ip, 0)).expect("a free port");
        let addr = listener.local_addr().expect("a bound port");
        let (over, open) = (AtomicBool::new(false), AtomicUsize::new(0));
        let shared = Arc::new(Shared { to, mode: Mutex::new(Mode::Pass), over, open, tap });
        let of = shared.clone();
        thread::spawn(move || of.accept(&listener));
        Self { addr, shared }
    }

    /// Where to connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what happens. After [`Mode::Cut`] and [`Mode::Reset`] returns when no connection is left.
    pub(crate) fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
        while matches!(mode, Mode::Cut | Mode::Reset) && self.open() > 0 {
            thread::sleep(POLL);
        }
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// What clients sent so far, connection by connection.
    pub(crate) fn tap(&self) -> Vec<Vec<u8>> {
        self.shared.tap.as_ref().map_or_else(Vec::new, |tap| lock(tap).clone())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr); // wakes the acceptor
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(client) = client else { continue };
            if self.open.load(Ordering::SeqCst) >= MAX_CONNECTIONS || self.ended(&client) {
                continue;
            }
            let Ok(server) = TcpStream::connect_timeout(&self.to, Duration::from_secs(1)) else { continue };
            self.open.fetch_add(1, Ordering::SeqCst);
            let shared = self.clone();
            thread::spawn(move || {
                shared.carry(&client, &server);
                drop((client, server));
                shared.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn carry(&self, client: &TcpStream, server: &TcpStream) {
        let tap = self.tap.as_ref().map(|tap| {
            let mut taps = lock(tap);
            taps.push(Vec::new());
            taps.len() - 1
        });
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.pump(client, server, tap, &done));
            self.pump(server, client, None, &done);
        });
        // Whichever way noticed it: both ends are closed as the mode wants it.
        let _ = (self.ended(client), self.ended(server));
    }

    /// Carries bytes one way until both ways are over.
    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, tap: Option<usize>, done: &AtomicBool) {
        let _ = from.set_nodelay(true).and_then(|()| from.set_read_timeout(Some(POLL)));
        let mut buf = [0; 65536];
        while !done.load(Ordering::SeqCst) && !self.over.load(Ordering::SeqCst) && !self.ended(from) {
            if self.mode() == Mode::Stall {
                thread::sleep(POLL);
                continue;
            }
            let n = match from.read(&mut buf) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Ok(0) => {
                    // The other way may go on: a half-closed connection stays one.
                    if to.shutdown(Shutdown::Write).is_ok() {
                        return;
                    }
                    break;
                }
                Ok(n) => n,
                Err(_) => break,
            };
            if let (Some(tap), Some(at)) = (&self.tap, tap) {
                let mut taps = lock(tap);
                let room = MAX_TAP.saturating_sub(taps[at].len());
                taps[at].extend_from_slice(&buf[..n.min(room)]);
            }
            if let Mode::Delay(time) = self.mode() {
                thread::sleep(time);
            }
            // What was read before a stall began waits, too.
            while self.mode() == Mode::Stall && !self.over.load(Ordering::SeqCst) {
                thread::sleep(POLL);
            }
            if to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        done.store(true, Ordering::SeqCst);
    }

    fn mode(&self) -> Mode {
        *lock(&self.mode)
    }

    /// Whether connections are to end; if so, prepares this one for it.
    fn ended(&self, stream: &TcpStream) -> bool {
        let mode = self.mode();
        if mode == Mode::Reset {
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
        matches!(mode, Mode::Cut | Mode::Reset)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const POLL: Duration = Duration::from_millis(5);
const MAX_CONNECTIONS: usize = 256;
const MAX_TAP: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A server that echoes, and a connection to it through a proxy.
    fn through(tapped: bool) -> (Proxy, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let to = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        let proxy = if tapped { Proxy::tapped(to) } else { Proxy::to(to) };
        let stream = TcpStream::connect(proxy.addr()).expect("a proxy");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        (proxy, stream)
    }

    fn echo(mut stream: &TcpStream) -> std::io::Result<Duration> {
        let (began, mut reply) = (Instant::now(), [0; 4]);
        stream.write_all(b"ping")?;
        stream.read_exact(&mut reply)?;
        assert_eq!(&reply, b"ping");
        Ok(began.elapsed())
    }

    #[test]
    fn bytes_pass_are_tapped_and_may_be_late() {
        let (proxy, stream) = through(true);
        echo(&stream).expect("an echo");
        assert_eq!(proxy.tap(), [b"ping"]);
        proxy.set(Mode::Delay(Duration::from_millis(60)));
        assert!(echo(&stream).expect("an echo") >= Duration::from_millis(120), "both ways are late");
    }

    #[test]
    fn a_stall_keeps_the_connection_and_loses_nothing() {
        let (proxy, mut stream) = through(false);
        echo(&stream).expect("an echo");
        proxy.set(Mode::Stall);
        stream.write_all(b"ping").expect("a connection");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a socket");
        let kind = stream.read(&mut [0; 4]).expect_err("nothing passes").kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{kind:?}");
        proxy.set(Mode::Pass);
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        stream.read_exact(&mut [0; 4]).expect("what waited");
    }

    #[test]
    fn a_cut_ends_in_order_a_reset_does_not_and_new_ones_fare_the_same() {
        let (proxy, mut stream) = through(false);
        echo(&stream).expect("an echo");
        proxy.set(Mode::Cut);
        assert_eq!(stream.read(&mut [0; 4]).expect("an end in order"), 0);
        let mut new = TcpStream::connect(proxy.addr()).expect("it listens still");
        assert_eq!(new.read(&mut [0; 4]).expect("an end in order"), 0);

        let (proxy, mut stream) = through(false);
        echo(&stream).expect("an echo");
        proxy.set(Mode::Reset);
        assert_eq!(stream.read(&mut [0; 4]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
        proxy.set(Mode::Pass);
        let new = TcpStream::connect(proxy.addr()).expect("it listens still");
        echo(&new).expect("an echo");
    }
}
