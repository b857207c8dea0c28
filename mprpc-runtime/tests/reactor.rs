//! Reactors over real sockets on loopback: what the loop promises to connections of any protocol.
#![allow(
    clippy::unwrap_used,
    reason = "clippy knows only functions marked #[test]; in their helpers a panic is a report too"
)]

use std::{
    env,
    fs::{self, File},
    io,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::FileExt,
    process::Command as Process,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    Ran,
    connection::{
        Command, ConnId, Connection, Intent, Mailbox,
        call::{Completion, Outcome},
    },
    reactor::{Accept, Accepting, Acceptor, Handle, Pool, ReactorOptions, on_reactor_thread},
    wire::buf::Output,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a connection saw, in order.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Connected,
    Eof,
    Lost(io::ErrorKind),
    Timeout,
    Said,
    OnReactor(bool),
}

/// Sends back what it gets. Bytes that begin with a capital letter are orders, see `receive`.
struct Echo {
    output: Output,
    intent: Intent,
    timer: Option<Instant>,
    paused: bool,
    /// Offered to be read into, once it is there.
    /// The way back to this very connection, if it was accepted.
    home: Option<(ConnId, Arc<Mailbox>)>,
    seen: Sender<Seen>,
}

impl Echo {
    fn new(seen: Sender<Seen>, home: Option<(ConnId, Arc<Mailbox>)>) -> Self {
        Self { output: Output::default(), intent: Intent::Open, timer: None, paused: false, home, seen }
    }

    fn say(&self, seen: Seen) {
        // Nobody may be listening any more.
        let _ = self.seen.send(seen);
    }
}

impl Connection for Echo {
    fn connected(&mut self, _now: Instant) {
        self.say(Seen::Connected);
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        match bytes.first() {
            Some(b'P') => {
                let (id, mailbox) = self.home.as_ref().unwrap();
                mailbox.lend(*id, 0);
                mailbox.answer(*id, 1, false, |out| out.extend_from_slice(b"secret"));
                panic!("as the test wants it");
            }
            Some(b'A') => {
                let (id, mailbox) = self.home.as_ref().unwrap();
                mailbox.lend(*id, 0);
                mailbox.reclaim(&mut self.output, |_, _| {});
            }
            Some(b'R') => self.intent = Intent::Reset,
            Some(b'W') => self.paused = true,
            Some(b'T') => self.timer = Some(now + Duration::from_millis(50)),
            Some(b'S') => self.say(Seen::Said),
            Some(b'F') => (self.intent, self.timer) = (Intent::ShutDown, Some(now + LEAVE)),
            // Each into a buffer of its own.
            Some(b'C') => (0..CHAIN).for_each(|_| self.output.buffer().extend_from_slice(&link())),
            Some(b'O') => self.say(Seen::OnReactor(on_reactor_thread())),
            _ => {}
        }
        self.output.buffer().extend_from_slice(bytes);
    }

    fn eof(&mut self, _now: Instant) {
        self.say(Seen::Eof);
        self.intent = Intent::Close;
    }

    fn lost(&mut self, error: &io::Error, _now: Instant) {
        self.say(Seen::Lost(error.kind()));
    }

    fn post(&mut self, command: Command, bytes: &[u8], _now: Instant) {
        match command {
            Command::Custom(gate) => {
                if let Ok(gate) = gate.downcast::<Receiver<()>>() {
                    gate.recv_timeout(LONG).unwrap();
                }
                self.output.buffer().extend_from_slice(bytes);
            }
            Command::Close(_) | Command::Drain => self.intent = Intent::Close,
            other => other.undeliverable(),
        }
    }

    fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn wants_read(&self) -> bool {
        !self.paused && self.output.len() < 256 << 10
    }

    fn intent(&self) -> Intent {
        self.intent
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.timer
    }

    fn timeout(&mut self, now: Instant) {
        assert!(self.timer.take().is_some_and(|at| at <= now));
        if self.intent == Intent::ShutDown {
            self.intent = Intent::Close;
        } else {
            self.output.buffer().extend_from_slice(b"tick");
        }
        self.say(Seen::Timeout);
    }

    fn reason(&self) -> Option<&str> {
        (self.intent == Intent::Reset).then_some("an order to reset")
    }
}

struct EchoServer {
    seen: Sender<Seen>,
    made: Mutex<Vec<(ConnId, Arc<Mailbox>)>>,
    turns: AtomicU64,
    closed: Mutex<Vec<Option<String>>>,
}

impl Accept for EchoServer {
    fn accept(
        &self,
        id: ConnId,
        mailbox: &Arc<Mailbox>,
        _peer: SocketAddr,
        _now: Instant,
    ) -> Box<dyn Connection> {
        self.made.lock().unwrap().push((id, mailbox.clone()));
        let home = Some((id, mailbox.clone()));
        Box::new(Echo::new(self.seen.clone(), home))
    }

    fn end_turn(&self, _: Instant) -> Option<Instant> {
        self.turns.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn closed(&self, _peer: SocketAddr, reason: Option<&str>) {
        self.closed.lock().unwrap().push(reason.map(str::to_owned));
    }
}

struct Server {
    pool: Pool,
    accepting: Option<Accepting>,
    accept: Arc<EchoServer>,
    seen: Receiver<Seen>,
}

impl Server {
    fn start(reactors: usize) -> Self {
        Self::limited(reactors, 100_000)
    }

    fn limited(reactors: usize, max_connections: usize) -> Self {
        Self::with(reactors, max_connections, &ReactorOptions::default())
    }

    fn with(reactors: usize, max_connections: usize, options: &ReactorOptions) -> Self {
        let pool = Pool::start("test-io", reactors, options).unwrap();
        let acceptor = Acceptor::bind(any_port(), 4096).unwrap();
        let (accept, seen) = echo_server();
        let accepting = acceptor.run(&pool, accept.clone(), max_connections);
        Self { pool, accepting: Some(accepting.unwrap()), accept, seen }
    }

    fn addr(&self) -> SocketAddr {
        self.accepting.as_ref().unwrap().local_addr()
    }

    fn client(&self) -> TcpStream {
        connect(self.addr())
    }

    fn sees(&self, what: Seen) {
        assert_eq!(self.seen.recv_timeout(LONG), Ok(what));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.accepting.take().is_none_or(|a| a.stop(LONG)) && self.pool.stop(LONG);
        assert!(stopped || thread::panicking(), "threads end when told to");
    }
}

fn echo_server() -> (Arc<EchoServer>, Receiver<Seen>) {
    let (seen, receiver) = mpsc::channel();
    let server =
        EchoServer { seen, made: Mutex::default(), turns: AtomicU64::new(0), closed: Mutex::default() };
    (Arc::new(server), receiver)
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.set_write_timeout(Some(LONG)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn round_trip(mut stream: &TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut reply = vec![0; text.len()];
    stream.read_exact(&mut reply)?;
    assert_eq!(reply, text);
    Ok(())
}

fn reset(stream: TcpStream) {
    let socket = socket2::SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Waits until `what` holds.
fn until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !what() {
        assert!(Instant::now() < deadline, "it never came to that");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A call to start whose outcome goes to a channel.
struct Done(Sender<Ran>);

impl Completion for Done {
    fn frame(&self) -> &[u8] {
        &[]
    }

    fn complete(self: Box<Self>, outcome: Outcome<'_>) {
        self.0.send(outcome.expect_err("nobody answers").ran).unwrap();
    }
}

fn start_call() -> (Command, Receiver<Ran>) {
    let (sender, receiver) = mpsc::channel();
    let command = Command::Start {
        tag: 0,
        deadline: Instant::now() + LONG,
        empty_ok: false,
        done: Box::new(Done(sender)),
    };
    (command, receiver)
}

fn did_not_run(outcome: &Receiver<Ran>) {
    assert_eq!(outcome.recv_timeout(LONG), Ok(Ran::No));
}

fn dial(handle: &Handle, addr: SocketAddr) -> (ConnId, Receiver<Seen>) {
    let (seen, receiver) = mpsc::channel();
    let id = handle.connect(addr, Box::new(|_, _, _| Box::new(Echo::new(seen, None))));
    (id, receiver)
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Runs the test of this name once more, alone in a process of its own, for tests that count what
/// belongs to the process. True in that process.
fn alone(name: &str) -> bool {
    if env::var_os("REACTOR_TEST_ALONE").is_some() {
        return true;
    }
    let output = Process::new(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env("REACTOR_TEST_ALONE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    false
}

fn descriptors() -> Vec<u64> {
    let names = fs::read_dir("/proc/self/fd").unwrap();
    let number = |name: String| name.parse().unwrap();
    names.map(|entry| number(entry.unwrap().file_name().into_string().unwrap())).collect()
}

/// Processor time of this process, in clock ticks (10 ms).
struct Ticks(File);

impl Ticks {
    fn new() -> Self {
        Self(File::open("/proc/self/stat").unwrap())
    }

    fn read(&self) -> u64 {
        let mut bytes = [0; 1024];
        let n = self.0.read_at(&mut bytes, 0).unwrap();
        let stat = String::from_utf8_lossy(&bytes[..n]);
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let times = fields.skip(11).take(2);
        times.map(|n| n.parse::<u64>().unwrap()).sum()
    }
}

/// How often the reactors of this process went to sleep.
fn sleeps() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let sleeps = |status: String| {
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        line.unwrap().rsplit('\t').next().unwrap().parse::<u64>().unwrap()
    };
    status.filter(|status| status.contains("test-io")).map(sleeps).sum()
}

const LONG: Duration = Duration::from_secs(20);
/// How long a connection waits that was told to take leave.
const LEAVE: Duration = Duration::from_secs(2);

#[test]
fn many_small_messages_come_back_in_order() {
    let server = Server::start(2);
    thread::scope(|scope| {
        for client in 0..8 {
            let stream = server.client();
            scope.spawn(move || {
                for i in 0..300 {
                    round_trip(&stream, format!("{client}:{i}").as_bytes()).unwrap();
                }
            });
        }
    });
    assert!(server.accept.turns.load(Ordering::Relaxed) > 0);
    assert_eq!(server.accept.made.lock().unwrap().len(), 8);
}

#[test]
fn eight_mebibytes_pass_a_connection_that_holds_little() {
    let server = Server::start(1);
    let stream = server.client();
    let sent: Vec<u8> = (0..8 << 20).map(|i: u32| (i / 7) as u8 | 0x80).collect();
    thread::scope(|scope| {
        let (mut writer, bytes) = (&stream, &sent);
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        // Until the peer's buffers are full and the connection must stop reading.
        thread::sleep(Duration::from_millis(200));
        let mut got = Vec::new();
        (&stream).read_to_end(&mut got).unwrap();
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    });
    server.sees(Seen::Eof);
}

#[test]
fn what_waits_in_many_buffers_leaves_in_order_to_a_peer_that_reads_little_at_a_time() {
    let server = Server::start(1);
    let mut stream = server.client();
    stream.write_all(b"C").unwrap();
    let (mut all, mut bytes) = (Vec::new(), [0; 77_777]);
    while all.len() < CHAIN * link().len() + 1 {
        // Now and then there is no room at all for the next bytes.
        if all.len() % 10 == 3 {
            thread::sleep(Duration::from_millis(1));
        }
        let n = stream.read(&mut bytes).unwrap();
        assert_ne!(n, 0);
        all.extend_from_slice(&bytes[..n]);
    }
    assert_eq!(all.pop(), Some(b'C'));
    assert!(all.chunks(link().len()).all(|chunk| chunk == link()));
    round_trip(&stream, b"and on").unwrap();
}

/// What a connection appends that is ordered to.
const CHAIN: usize = 150;

fn link() -> Vec<u8> {
    (0..70_001).map(|n| (n % 251) as u8).collect()
}

#[test]
fn bytes_that_came_together_with_fin_are_answered() {
    let acceptor = Acceptor::bind(any_port(), 64).unwrap();
    let mut streams: Vec<TcpStream> = (0..50).map(|_| connect(acceptor.local_addr())).collect();
    for stream in &mut streams {
        stream.write_all(b"abc").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    let pool = Pool::start("test-io", 1, &ReactorOptions::default()).unwrap();
    let (accept, seen) = echo_server();
    let accepting = acceptor.run(&pool, accept, 1000).unwrap();
    for mut stream in streams {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"abc");
        assert_eq!(seen.recv_timeout(LONG), Ok(Seen::Eof));
    }
    assert!(accepting.stop(LONG) && pool.stop(LONG));
}

#[test]
fn a_reset_is_seen_by_readers_and_by_those_who_pause() {
    let server = Server::start(1);
    for first in [b"a", b"W"] {
        let stream = server.client();
        round_trip(&stream, first).unwrap();
        (&stream).write_all(b"b").unwrap();
        reset(stream);
        server.sees(Seen::Lost(io::ErrorKind::ConnectionReset));
    }
    until(|| server.pool.connections() == 0);
}

#[test]
fn a_connection_that_wants_a_reset_resets_and_says_why() {
    let server = Server::start(1);
    let mut stream = server.client();
    stream.write_all(b"R").unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    until(|| server.pool.connections() == 0);
    let closed = server.accept.closed.lock().unwrap();
    assert_eq!(*closed, [Some("an order to reset".to_owned())]);
}

#[test]
fn a_timer_fires_without_any_traffic() {
    let server = Server::start(1);
    let mut stream = server.client();
    round_trip(&stream, b"T").unwrap();
    server.sees(Seen::Timeout);
    let mut tick = [0; 4];
    stream.read_exact(&mut tick).unwrap();
    assert_eq!(&tick, b"tick");
}

#[test]
fn outgoing_connections_meet_accepted_ones() {
    let server = Server::start(2);
    let (id, seen) = dial(server.pool.next(), server.addr());
    assert_eq!(seen.recv_timeout(LONG), Ok(Seen::Connected));
    // Both sides echo, so what is posted comes round for ever: an order is seen.
    for handle in server.pool.handles() {
        let custom = Command::Custom(Box::new(()));
        handle.mailbox().post(id, custom, |out| out.extend_from_slice(b"O"));
    }
    server.sees(Seen::OnReactor(true));
    assert!(!on_reactor_thread());
    server.pool.handles().iter().for_each(Handle::drain_all);
    until(|| server.pool.connections() == 0);
}

#[test]
fn a_refused_connect_is_lost_and_no_call_posted_to_it_either() {
    let port = TcpListener::bind(any_port()).unwrap().local_addr().unwrap();
    let pool = Pool::start("test-io", 1, &ReactorOptions::default()).unwrap();
    // The connect to the second fails before it begins: that is a broadcast address.
    let nowhere = SocketAddr::from(([255, 255, 255, 255], 1));
    for addr in [port, nowhere] {
        let handle = pool.next();
        let (id, seen) = dial(handle, addr);
        let (command, at_once) = start_call();
        handle.mailbox().post(id, command, |_| {});
        did_not_run(&at_once);
        assert!(matches!(seen.recv_timeout(LONG), Ok(Seen::Lost(_))));
        let (command, later) = start_call();
        assert!(handle.mailbox().try_post(id, command).is_ok());
        did_not_run(&later);
        // Lost was the last call: the connection is gone.
        assert_eq!(seen.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
    }
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_call_posted_to_a_closed_connection_or_a_stopped_reactor_ends() {
    let server = Server::start(1);
    let handle = server.pool.next().clone();
    let (id, seen) = dial(&handle, server.addr());
    assert_eq!(seen.recv_timeout(LONG), Ok(Seen::Connected));
    handle.broadcast(|| Command::Close("the test ends"));
    let (command, outcome) = start_call();
    handle.mailbox().post(id, command, |_| {});
    did_not_run(&outcome);

    // Some of these come before the reactor's end and some after.
    let outcomes: Vec<_> = (0..200)
        .map(|i| {
            if i == 50 {
                handle.stop();
            }
            let (command, outcome) = start_call();
            handle.mailbox().post(id, command, |_| {});
            outcome
        })
        .collect();
    outcomes.iter().for_each(did_not_run);
    assert!(server.pool.stop(LONG));
    let (command, outcome) = start_call();
    assert!(handle.mailbox().try_post(id, command).is_err());
    assert!(outcome.try_recv().is_err(), "given back, not ended");
}

#[test]
fn what_the_peer_said_is_read_before_a_failed_write_counts() {
    let pool = Pool::start("test-io", 1, &ReactorOptions::default()).unwrap();
    let listener = TcpListener::bind(any_port()).unwrap();
    let (id, seen) = dial(pool.next(), listener.local_addr().unwrap());
    let mut peer = listener.accept().unwrap().0;
    assert_eq!(seen.recv_timeout(LONG), Ok(Seen::Connected));
    let post = |command| {
        let mailbox = pool.next().mailbox();
        mailbox.post(id, command, |out| out.extend_from_slice(b"request"));
    };
    post(Command::Custom(Box::new(())));
    peer.peek(&mut [0; 8]).unwrap();
    // While the reactor is held up the peer answers, and closes without reading: that is a reset.
    let (open, gate) = mpsc::channel::<()>();
    post(Command::Custom(Box::new(gate)));
    peer.write_all(b"S").unwrap();
    drop(peer);
    open.send(()).unwrap();
    assert_eq!(seen.recv_timeout(LONG), Ok(Seen::Said));
    // And not Eof, which would make half an answer a whole one.
    assert!(matches!(seen.recv_timeout(LONG), Ok(Seen::Lost(_))));
    assert!(pool.stop(LONG));
}

#[test]
fn stopping_loses_the_connections() {
    let server = Server::start(1);
    let mut stream = server.client();
    round_trip(&stream, b"a").unwrap();
    assert!(server.pool.stop(LONG));
    server.sees(Seen::Lost(io::ErrorKind::Other));
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(server.pool.connections(), 0);
    // What is accepted for a stopped reactor is closed, not forgotten.
    assert!(matches!(server.client().read(&mut [0; 8]), Ok(0) | Err(_)));
    until(|| server.pool.connections() == 0);
}

#[test]
fn a_panic_in_a_connection_costs_only_that_connection() {
    let server = Server::start(1);
    let (healthy, mut sick) = (server.client(), server.client());
    round_trip(&healthy, b"a").unwrap();
    sick.write_all(b"P").unwrap();
    assert_eq!(sick.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    server.sees(Seen::Lost(io::ErrorKind::Other));
    // Not with an answer that was meant for the other.
    round_trip(&healthy, b"A").unwrap();
    round_trip(&server.client(), b"c").unwrap();
}

#[test]
fn of_many_with_something_to_do_in_one_turn_all_are_served_whatever_becomes_of_some() {
    let server = Server::start(1);
    let mut streams: Vec<TcpStream> = (0..60).map(|_| server.client()).collect();
    streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
    let (id, mailbox) = server.accept.made.lock().unwrap()[0].clone();
    let (open, gate) = mpsc::channel::<()>();
    mailbox.post(id, Command::Custom(Box::new(gate)), |_| ());
    let word = |n: usize| [b"x", b"P", b"R"][[0, 1, 2].into_iter().find(|k| n % 20 == 4 + k).unwrap_or(0)];
    for (n, stream) in streams.iter_mut().enumerate() {
        stream.write_all(word(n)).unwrap();
    }
    open.send(()).unwrap();
    for (n, stream) in streams.iter_mut().enumerate() {
        let mut got = [0; 8];
        match stream.read(&mut got) {
            Ok(len) => assert_eq!((&got[..len], word(n)), (&b"x"[..], b"x")),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                assert_ne!(word(n), b"x");
            }
        }
    }
}

#[test]
fn posts_from_other_threads_and_broadcasts_arrive() {
    let server = Server::start(2);
    let streams: Vec<TcpStream> = (0..6).map(|_| server.client()).collect();
    streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
    let made = server.accept.made.lock().unwrap().clone();
    for _ in 0..100 {
        for (id, mailbox) in &made {
            let custom = Command::Custom(Box::new(()));
            mailbox.post(*id, custom, |out| out.extend_from_slice(b"posted"));
        }
    }
    server.pool.handles().iter().for_each(Handle::drain_all);
    for mut stream in streams {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"posted".repeat(100));
    }
}

#[test]
fn no_post_is_overlooked_by_a_reactor_that_goes_to_sleep() {
    for spin in [0, 20] {
        let options = ReactorOptions { spin: Duration::from_micros(spin), ..ReactorOptions::default() };
        let server = Server::with(1, 10, &options);
        let mut stream = server.client();
        round_trip(&stream, b"a").unwrap();
        let (id, mailbox) = server.accept.made.lock().unwrap()[0].clone();
        for i in 0..3000_u32 {
            let custom = Command::Custom(Box::new(()));
            mailbox.post(id, custom, |out| out.extend_from_slice(&i.to_be_bytes()));
            let mut got = [0; 4];
            stream.read_exact(&mut got).unwrap();
            assert_eq!(u32::from_be_bytes(got), i);
        }
    }
}

#[test]
fn connections_beyond_the_limit_are_reset() {
    let server = Server::limited(2, 3);
    let mut served: Vec<TcpStream> = (0..3).map(|_| server.client()).collect();
    served.iter().for_each(|s| round_trip(s, b"a").unwrap());
    let error = round_trip(&server.client(), b"a").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(server.accepting.as_ref().unwrap().refused(), 1);
    served.pop();
    until(|| server.pool.connections() == 2);
    round_trip(&server.client(), b"a").unwrap();
}

/// A client whose connection took leave of it, and waits for its FIN.
fn leave(server: &Server) -> TcpStream {
    let mut stream = server.client();
    round_trip(&stream, b"F").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    stream
}

#[test]
fn the_fin_of_who_lingers_is_seen_in_a_later_turn() {
    let server = Server::start(1);
    let (slow, fast) = (leave(&server), leave(&server));
    let turns = || server.accept.turns.load(Ordering::Relaxed);
    thread::sleep(Duration::from_millis(50));
    let before = turns();
    drop(fast);
    thread::sleep(Duration::from_millis(50));
    assert_eq!((turns(), server.pool.connections()), (before, 2), "nobody was woken");
    drop(slow);
    round_trip(&server.client(), b"a").unwrap();
    until(|| server.pool.connections() < 2);
    server.sees(Seen::Eof);
    server.sees(Seen::Eof);
}

#[test]
fn who_is_worked_on_twice_before_it_lingers_wakes_nobody() {
    let server = Server::start(1);
    let held = server.client();
    round_trip(&held, b"a").unwrap();
    let (id, mailbox) = server.accept.made.lock().unwrap()[0].clone();
    let hold = || {
        let (open, gate) = mpsc::channel::<()>();
        mailbox.post(id, Command::Custom(Box::new(gate)), |_| {});
        open
    };
    // The second is come to late in the same turn, so the connection, at the beginning of the next one.
    let first = hold();
    thread::sleep(Duration::from_millis(20));
    let second = hold();
    first.send(()).unwrap();
    thread::sleep(Duration::from_millis(20));
    let mut client = server.client();
    // As much as is read in one go: there may be more, and the turn is long enough to look.
    client.write_all(&[b'F'; 64 << 10]).unwrap();
    thread::sleep(Duration::from_millis(20));
    second.send(()).unwrap();
    client.read_exact(&mut [0; 64 << 10]).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    thread::sleep(Duration::from_millis(50));
    let turns = || server.accept.turns.load(Ordering::Relaxed);
    let before = turns();
    drop(client);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(turns(), before, "nobody was woken");
}

#[test]
fn who_lingers_ends_in_its_own_time_and_is_not_reset() {
    let server = Server::start(1);
    let say = |stream: &mut TcpStream, text: &[u8]| stream.write_all(text).unwrap();
    let mut streams: Vec<TcpStream> = (0..100).map(|_| server.client()).collect();
    streams.iter_mut().for_each(|stream| say(stream, b"F"));
    thread::sleep(Duration::from_millis(100));
    streams.iter_mut().for_each(|stream| say(stream, &[b'x'; 100_000]));
    until(|| server.pool.connections() == 0);
    for mut stream in streams {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"F");
        assert!(stream.take_error().unwrap().is_none(), "elsewhere a reset may take the answer along");
    }
}

#[test]
fn nobody_lingers_after_a_drain_or_where_room_is_short() {
    let (drained, small) = (Server::start(1), Server::limited(1, 20));
    let streams = [leave(&drained), leave(&small)];
    drained.pool.handles()[0].broadcast(|| Command::Custom(Box::new(())));
    let began = Instant::now();
    drop(streams);
    until(|| drained.pool.connections() + small.pool.connections() == 0);
    drop(leave(&drained));
    until(|| drained.pool.connections() == 0);
    assert!(began.elapsed() < LEAVE, "the FINs were seen");
}

#[test]
fn a_burst_of_connections_is_spread_evenly() {
    let server = Server::start(4);
    let addr = server.addr();
    let dial = || (0..16).map(|_| connect(addr)).collect::<Vec<_>>();
    let streams: Vec<TcpStream> = thread::scope(|scope| {
        let dialling: Vec<_> = (0..4).map(|_| scope.spawn(dial)).collect();
        dialling.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
    let spread: Vec<_> = server.pool.handles().iter().map(Handle::connections).collect();
    assert_eq!(spread, [16; 4]);
}

#[test]
fn a_reactor_that_has_stopped_gets_no_connections() {
    let server = Server::start(2);
    let lost = server.client();
    round_trip(&lost, b"a").unwrap();
    server.pool.handles().iter().find(|handle| handle.connections() == 1).unwrap().stop();
    server.sees(Seen::Lost(io::ErrorKind::Other));
    let streams: Vec<TcpStream> = (0..4).map(|_| server.client()).collect();
    streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
}

#[test]
fn connects_are_accepted_while_a_reactor_is_stuck() {
    let server = Server::start(2);
    let (stuck, free) = (server.client(), server.client());
    [&stuck, &free].iter().for_each(|s| round_trip(s, b"a").unwrap());
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    server.pool.handles()[0].broadcast(move || {
        let _ = wait.lock().unwrap().recv_timeout(LONG);
        Command::Custom(Box::new(()))
    });
    // Of these the stuck reactor gets its share, and no more.
    let streams: Vec<TcpStream> = (0..8).map(|_| server.client()).collect();
    until(|| server.pool.connections() == 10);
    let spread: Vec<_> = server.pool.handles().iter().map(Handle::connections).collect();
    assert_eq!(spread, [5; 2]);
    drop(release);
    streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
}

#[test]
fn a_port_in_use_is_told_with_the_setting_to_change() {
    let first = Acceptor::bind(any_port(), 16).unwrap();
    let second = Acceptor::bind(first.local_addr(), 16);
    let text = second.err().expect("the port is taken").to_string();
    assert!(text.contains("in use") && text.contains("rpcserverport"), "{text}");
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let text = Acceptor::bind(foreign, 16).err().expect("not ours").to_string();
    assert!(text.contains("rpcserverip"), "{text}");
}

#[test]
fn who_is_in_the_queue_when_accepting_stops_is_served() {
    let pool = Pool::start("test-io", 1, &ReactorOptions::default()).unwrap();
    for _ in 0..20 {
        let acceptor = Acceptor::bind(any_port(), 64).unwrap();
        let streams: Vec<_> = (0..10).map(|_| connect(acceptor.local_addr())).collect();
        let accepting = acceptor.run(&pool, echo_server().0, 100).unwrap();
        let addr = accepting.local_addr();
        assert!(accepting.stop(LONG));
        streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
        assert!(TcpStream::connect(addr).is_err(), "nobody listens");
    }
}

#[test]
fn one_busy_connection_does_not_starve_the_light_ones() {
    let server = Server::start(1);
    let (busy, light) = (server.client(), server.client());
    let worst = thread::scope(|scope| {
        let (mut writer, mut reader) = (&busy, &busy);
        scope.spawn(move || {
            let chunk = vec![b'x'; 256 << 10];
            while writer.write_all(&chunk).is_ok() {}
        });
        scope.spawn(move || {
            let mut chunk = vec![0; 256 << 10];
            while reader.read(&mut chunk).is_ok_and(|n| n > 0) {}
        });
        let mut worst = Duration::ZERO;
        for stream in (0..19).map(|_| server.client()).chain([light]) {
            for _ in 0..10 {
                let start = Instant::now();
                round_trip(&stream, b"light").unwrap();
                worst = worst.max(start.elapsed());
            }
        }
        busy.shutdown(Shutdown::Both).unwrap();
        worst
    });
    // Milliseconds in truth; a starved connection would wait for ever.
    assert!(worst < Duration::from_secs(2), "{worst:?}");
}

#[test]
fn a_thousand_connections_leave_no_descriptor_behind() {
    if !alone("a_thousand_connections_leave_no_descriptor_behind") {
        return;
    }
    let server = Server::start(2);
    round_trip(&server.client(), b"a").unwrap();
    until(|| server.pool.connections() == 0);
    let before = descriptors().len();
    for round in 0..20 {
        let streams: Vec<_> = (0..50).map(|_| server.client()).collect();
        streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
        if round % 2 == 0 {
            streams.into_iter().for_each(reset);
        }
    }
    until(|| server.pool.connections() == 0 && descriptors().len() == before);
}

#[test]
fn idle_reactors_use_no_processor_time() {
    if !alone("idle_reactors_use_no_processor_time") {
        return;
    }
    let server = Server::start(2);
    let streams: Vec<_> = (0..100).map(|_| server.client()).collect();
    streams.iter().for_each(|s| round_trip(s, b"a").unwrap());
    thread::sleep(Duration::from_millis(100));
    let ticks = Ticks::new();
    let before = (ticks.read(), sleeps());
    thread::sleep(Duration::from_secs(1));
    assert!(ticks.read() - before.0 <= 1);
    assert!(before.1 > 0);
    assert_eq!(sleeps(), before.1, "nobody woke up only to sleep again");
}

#[test]
fn running_out_of_descriptors_neither_spins_nor_deafens() {
    if !alone("running_out_of_descriptors_neither_spins_nor_deafens") {
        return;
    }
    let pool = Pool::start("test-io", 1, &ReactorOptions::default()).unwrap();
    let acceptor = Acceptor::bind(any_port(), 128).unwrap();
    let mut streams: Vec<_> = (0..40).map(|_| connect(acceptor.local_addr())).collect();
    let (limit, ticks) = (getrlimit(Resource::Nofile), Ticks::new());
    // The lowest 16 free numbers are left, and one that was open for the look at them. Inherited
    // descriptors may have high numbers.
    let open = descriptors();
    let current = (0..).filter(|n| !open.contains(n)).nth(16);
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
    let accepting = acceptor.run(&pool, echo_server().0, 1000).unwrap();
    until(|| pool.connections() >= 8);
    let before = ticks.read();
    thread::sleep(Duration::from_millis(500));
    let (used, served) = (ticks.read() - before, pool.connections());
    assert!(used <= 10, "{used} ticks in half a second");
    assert!(served <= 20, "{served} connections are served");

    setrlimit(Resource::Nofile, limit).unwrap();
    let turned_away = streams.len();
    streams.retain(|stream| round_trip(stream, b"a").is_ok());
    let turned_away = turned_away - streams.len();
    assert!((1..20).contains(&turned_away), "{turned_away} were turned away");
    assert_eq!(pool.connections(), streams.len());
    round_trip(&connect(accepting.local_addr()), b"a").unwrap();
    assert!(accepting.stop(LONG) && pool.stop(LONG));
}
