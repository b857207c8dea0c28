//! A peer: one address as this channel knows it, with its connections and its health.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::blocking::Blocking;
use crate::{
    balance::{Health, Standing, Verdict, mix},
    connection::{
        Command, ConnId,
        client::{ClientConnection, ClientSettings, Link, Observer},
    },
    reactor,
    wire::Wire,
};

/// Shared by all services of the channel that are served there. When the last of them drops it, because
/// the registry no longer lists it, its connections close.
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) wire: Wire,
    pub(super) health: Arc<Health>,
    /// Blocking callers' connections that wait for their next call.
    #[expect(clippy::vec_box, reason = "each call moves one out and in again")]
    idle: Mutex<Vec<Box<Blocking>>>,
    max_idle: usize,
    /// The connection of asynchronous callers.
    shared: Mutex<Option<Arc<Shared>>>,
    checked: Mutex<Checked>,
}

/// How it was last asked for a sign of life.
#[derive(Default)]
struct Checked {
    at: Option<Instant>,
    /// The connection that was dialled to find out whether new ones can be made.
    probe: Option<Arc<Shared>>,
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
            health: Arc::new(Health::new(reactor::now())),
            idle: Mutex::default(),
            max_idle,
            shared: Mutex::default(),
            checked: Mutex::default(),
        }
    }

    /// The connection used last, which is the likeliest to be alive.
    pub(super) fn take_idle(&self) -> Option<Box<Blocking>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn give_back(&self, connection: Box<Blocking>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(connection);
        }
    }

    /// Closes the connections that wait for blocking callers, if the peer is known not to answer.
    pub(super) fn discard_idle(&self, now: Instant) {
        if matches!(self.health.standing(now), Standing::Silent | Standing::Down | Standing::Draining) {
            drop(std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner)));
        }
    }

    /// A link for a connection to this peer.
    pub(super) fn link(&self) -> Arc<Link> {
        Arc::new(Link::observed(self.health.clone()))
    }

    /// The shared connection, dialled anew if there is none that takes calls. On the legacy wire
    /// every call gets its own.
    pub(super) fn shared(&self, reactor: &reactor::Handle, settings: &Arc<ClientSettings>) -> Arc<Shared> {
        let mut slot = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = slot.as_ref().filter(|shared| shared.link.takes_calls()) {
            return shared.clone();
        }
        let shared = self.dial(reactor, settings);
        if self.wire == Wire::Mux {
            *slot = Some(shared.clone());
        }
        shared
    }

    fn dial(&self, reactor: &reactor::Handle, settings: &Arc<ClientSettings>) -> Arc<Shared> {
        let link = self.link();
        let (wire, settings, state) = (self.wire, settings.clone(), link.clone());
        let conn = reactor.connect(
            self.addr,
            Box::new(move |_, _, now| Box::new(ClientConnection::new(wire, settings, now).linked(state))),
        );
        Arc::new(Shared { reactor: reactor.clone(), conn, link })
    }

    /// Finds out in the background whether the peer lives: the shared connection is dialled if there
    /// is none, else pinged; the health hears of it. That an old connection lives does not say that
    /// one can be made, so if that is the question, one is; on the legacy wire nothing else can be asked
    /// without making a call. Seldom, whoever asks.
    pub(super) fn check(&self, reactor: &reactor::Handle, settings: &Arc<ClientSettings>, now: Instant) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.at.is_some_and(|at| now.saturating_duration_since(at) < CHECK_PAUSE) {
            return;
        }
        checked.at = Some(now);
        let refuses = matches!(self.health.standing(now), Standing::Down | Standing::Draining);
        if self.wire == Wire::Mux {
            let shared = self.shared(reactor, settings);
            shared.reactor.mailbox().post(shared.conn, Command::Ping, |_| ());
            if !refuses || !shared.link.was_open() {
                return checked.probe = None;
            }
        }
        let undecided = |probe: &Arc<Shared>| probe.link.takes_calls() && !probe.link.was_open();
        if !checked.probe.as_ref().is_some_and(undecided) {
            let probe = self.dial(reactor, settings);
            probe.reactor.mailbox().post(probe.conn, Command::Ping, |_| ());
            checked.probe = Some(probe);
        }
    }
}

/// A call at a peer; it counts as in flight there until this ends.
pub(super) struct Placed {
    pub(super) peer: Arc<Peer>,
    since: Instant,
    /// There are others to compare it with.
    measured: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    InFlight,
    /// Answered, and still counted: the next call to the same peer may take over the place.
    Answered,
    Ended,
}

impl Placed {
    pub(super) fn new(peer: Arc<Peer>, now: Instant, measured: bool) -> Self {
        peer.health.begin();
        Self { peer, since: now, measured, state: State::InFlight }
    }

    /// The call was answered, and another one goes to the same peer.
    pub(super) fn again(&mut self, now: Instant, measured: bool) {
        if self.state != State::Answered {
            self.peer.health.begin();
        }
        (self.since, self.measured, self.state) = (now, measured, State::InFlight);
    }

    pub(super) fn answered(&mut self, now: Instant) {
        if self.measured {
            self.end(Verdict::Answered, now.saturating_duration_since(self.since), now);
        } else {
            self.state = State::Answered;
            self.peer.health.answered(now);
        }
    }

    /// The call failed. Unless that is its own fault, it counts as if it had taken all the time that
    /// it was allowed. Returns whether the peer should be ejected.
    pub(super) fn failed(mut self, verdict: Verdict, allowed: Duration, now: Instant) -> bool {
        let took = now.saturating_duration_since(self.since);
        self.end(verdict, if verdict == Verdict::Answered { took } else { allowed }, now)
    }

    fn end(&mut self, verdict: Verdict, took: Duration, now: Instant) -> bool {
        self.state = State::Ended;
        self.peer.health.end(verdict, took, now)
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        match self.state {
            State::InFlight => _ = self.end(Verdict::Nothing, Duration::ZERO, self.since),
            State::Answered => self.peer.health.leave(),
            State::Ended => {}
        }
    }
}

impl Observer for Health {
    fn opened(&self, now: Instant) {
        self.opened(now);
    }

    fn connect_failed(&self, now: Instant) {
        self.connect_failed(now, random());
    }

    fn drains(&self, now: Instant) {
        self.drains(now, random());
    }

    fn fell_silent(&self, now: Instant) {
        self.fell_silent(now, random());
    }

    fn heard(&self, now: Instant) {
        self.heard(now);
    }
}

/// A random number that differs from process to process.
pub(super) fn random() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static TURN: AtomicU64 = AtomicU64::new(0);
    mix(SEED.wrapping_add(TURN.fetch_add(1, Ordering::Relaxed)))
}

/// A peer is asked for a sign of life no more often.
const CHECK_PAUSE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;
    use crate::{
        reactor::{Pool, ReactorOptions},
        wire::{
            Dialect,
            mux::{self, Kind},
        },
    };

    /// Somebody who says Hello, and Pong to all that it hears after that, to as many as connect.
    fn lively() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let serve = |mut stream: TcpStream| {
            let mut word = Vec::new();
            mux::Hello { version: 1, ..Default::default() }.write(&mut word);
            while stream.read(&mut [0; 1024]).is_ok_and(|n| n > 0) && stream.write_all(&word).is_ok() {
                word.clear();
                mux::write_control(&mut word, Kind::Pong, 0, &[]);
            }
        };
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok).take(10) {
                thread::spawn(move || serve(stream));
            }
        });
        addr
    }

    fn settings() -> Arc<ClientSettings> {
        let second = Duration::from_secs(1);
        Arc::new(ClientSettings {
            instance: 1,
            max_header: 1000,
            max_body: 1000,
            max_output: 1000,
            connect_timeout: 10 * second,
            request_timeout: 10 * second,
            ping_interval: 30 * second,
            legacy_quiet: false,
            legacy_empty: false,
        })
    }

    fn wait_for(what: &str, is: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_legacy_peer_is_back_when_it_can_be_connected_and_is_not_kept_waiting() {
        let pool = Pool::start("test", 1, &ReactorOptions::default()).expect("a thread");
        let (settings, taken) = (settings(), TcpListener::bind("127.0.0.1:0").expect("a port"));
        let addr = taken.local_addr().expect("bound");
        drop(taken);
        let peer = Peer::new(addr, Wire::Legacy(Dialect::LittleEndian), 1);
        peer.health.connect_failed(Instant::now(), 1);
        peer.check(pool.next(), &settings, Instant::now());
        let refused = || peer.checked.lock().unwrap().probe.as_ref().is_some_and(|p| !p.link.takes_calls());
        wait_for("the connect to fail", refused);
        assert_eq!(peer.health.standing(Instant::now()), Standing::Down);
        let listener = TcpListener::bind(addr).expect("the same port");
        wait_for("the next check", || {
            peer.check(pool.next(), &settings, Instant::now());
            peer.health.standing(Instant::now()) == Standing::Returning
        });
        let (mut stream, _) = listener.accept().expect("it was connected");
        assert_eq!(stream.read(&mut [0]).expect("its end"), 0, "it says nothing");
    }

    #[test]
    fn one_that_was_taken_for_dead_comes_back_although_the_shared_connection_lived() {
        let pool = Pool::start("test", 1, &ReactorOptions::default()).expect("a thread");
        let settings = settings();
        let said: [fn(&Health, Instant); 3] = [
            |health, now| health.fell_silent(now, 1),
            |health, now| health.connect_failed(now, 1),
            |health, now| health.drains(now, 1),
        ];
        for (n, said) in said.into_iter().enumerate() {
            let peer = Peer::new(lively(), Wire::Mux, 1);
            let shared = peer.shared(pool.next(), &settings);
            wait_for("a connection", || shared.link.was_open());
            // Another connection found this out, perhaps wrongly.
            said(&peer.health, Instant::now());
            peer.check(pool.next(), &settings, Instant::now());
            let back = || peer.health.standing(Instant::now()) == Standing::Returning;
            wait_for(&format!("case {n} to come back"), back);
            assert!(shared.link.takes_calls(), "its calls were not disturbed");
        }
    }
}
