//! Several providers, some of which stop, hang, restart or leave: which of them get calls, and what callers see.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    CallOptions, Code, Controller, Error, MprpcApplication, MprpcChannel, RpcProvider, Status,
    balance::Policy,
    registry::{Endpoint, Publication, Registry, ServiceName, Snapshot},
    wire::{
        Wire,
        mux::{self, END, HEADER_LEN, Header, Hello, Kind},
    },
};
use mprpc_tests::{
    Process, address_in,
    echo::{app, serve},
    proto::{
        echo::{Blob, Nap, Nothing, Text},
        echo_mprpc::{EchoServiceRpc, EchoServiceRpc_Stub},
    },
};
use rustix::process::{Resource, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

const LONG: Duration = Duration::from_secs(20);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn text(text: &str) -> Text {
    Text { text: text.into(), ..Default::default() }
}

fn nap(ms: u32) -> Nap {
    Nap { ms, ..Default::default() }
}

/// Runs an ignored test of this file as a process of its own.
fn process(test: &str, set: &[(&str, String)]) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", test, "--ignored", "--nocapture"]).envs(set.iter().cloned());
    Process::start(command)
}

/// A provider in a process of its own, whose answers say which one it is.
fn provider(port: u16) -> (Process, SocketAddr) {
    let mut process = process("a_provider", &[("MPRPC_TEST_PORT", port.to_string())]);
    let addr = address_in(&process.wait_line("RpcProvider start service at", LONG));
    (process, addr)
}

/// Answers with its port.
struct Named(u16);

impl EchoServiceRpc for Named {
    fn echo(&self, _: &Controller, _: Text) -> Result<Text, Status> {
        Ok(text(&self.0.to_string()))
    }

    fn sleep(&self, _: &Controller, request: Nap) -> Result<Nothing, Status> {
        thread::sleep(ms(request.ms.into()));
        Ok(Nothing::new())
    }
}

#[test]
#[ignore = "a process that other tests start"]
fn a_provider() {
    let Ok(port) = std::env::var("MPRPC_TEST_PORT") else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).expect("a Linux");
    let (app, port) = (app(&[]), port.parse().expect("a port"));
    // The port is to be known before the service is made.
    let free = |port| TcpListener::bind(("127.0.0.1", port)).and_then(|listener| listener.local_addr());
    let addr = if port == 0 { free(0).expect("a free port") } else { ([127, 0, 0, 1], port).into() };
    let mut provider = RpcProvider::new(&app);
    provider.bind(addr);
    provider.notify_service(EchoServiceRpc::service(Named(addr.port()))).expect("a new service");
    provider.run().expect("nothing is cut");
}

/// A call as its caller saw it.
#[derive(Clone, Debug)]
struct Seen {
    began: Instant,
    ended: Instant,
    result: Result<String, String>,
}

/// Callers that call until they are told to end, half of them blocking, half asynchronous.
struct Callers {
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Vec<Seen>>>,
}

impl Callers {
    fn start(stub: &EchoServiceRpc_Stub, threads: usize) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let caller = |n: usize| {
            let (stub, end) = (stub.clone(), end.clone());
            thread::spawn(move || {
                let mut seen = Vec::new();
                while !end.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let reply = if n.is_multiple_of(2) {
                        stub.echo(&text("x"))
                    } else {
                        stub.echo_start(&text("x")).wait()
                    };
                    let result = reply.map(|reply| reply.text).map_err(|error| error.to_string());
                    seen.push(Seen { began, ended: Instant::now(), result });
                    thread::sleep(ms(2));
                }
                seen
            })
        };
        Self { end: end.clone(), threads: (0..threads).map(caller).collect() }
    }

    fn end(self) -> Vec<Seen> {
        self.end.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a caller")).collect()
    }
}

fn failures(seen: &[Seen]) -> Vec<&Seen> {
    seen.iter().filter(|seen| seen.result.is_err()).collect()
}

#[test]
fn a_killed_provider_costs_the_calls_in_flight_there_and_no_others() {
    let app = app(&[]);
    let mut three: Vec<_> = (0..3).map(|_| provider(0)).collect();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, three.iter().map(|(_, addr)| *addr)));
    let callers = Callers::start(&stub, 8);
    thread::sleep(ms(500));
    let killed = Instant::now();
    three.pop().expect("one of three").0.signal(Signal::KILL);
    thread::sleep(ms(1500));
    let seen = callers.end();
    for failed in failures(&seen) {
        assert!(failed.began <= killed + ms(200), "{failed:?}");
        assert!(failed.ended <= killed + ms(1000), "{failed:?}");
    }
    let after = seen.iter().filter(|seen| seen.began > killed + ms(200) && seen.result.is_ok()).count();
    assert!(after > 200, "{after} calls");
}

#[test]
fn a_stopped_provider_is_left_alone_and_taken_back() {
    let app = app(&[("timeout", "20s")]);
    let three: Vec<_> = (0..3).map(|_| provider(0)).collect();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, three.iter().map(|(_, addr)| *addr)));
    let callers = Callers::start(&stub, 8);
    thread::sleep(ms(500));
    let (stopped, name) = (Instant::now(), three[0].1.port().to_string());
    three[0].0.signal(Signal::STOP);
    thread::sleep(ms(4000));
    let continued = Instant::now();
    three[0].0.signal(Signal::CONT);
    thread::sleep(ms(6000));
    let seen = callers.end();
    // Calls that the stopped process got say so by how long they took; on a busy machine others may, too.
    let there = |seen: &&Seen| seen.result.as_ref().map_or(true, |by| *by == name);
    let stuck = seen.iter().filter(there);
    let stuck = stuck
        .filter(|seen| seen.began > stopped && seen.began < continued && seen.ended - seen.began > ms(500));
    let last = stuck.map(|seen| seen.began - stopped).max().unwrap_or_default();
    assert!(last < ms(3000), "a call went there after {last:?}");
    let back = seen.iter().filter(|seen| seen.began > continued && seen.result.as_ref() == Ok(&name));
    let first = back.map(|seen| seen.ended - continued).min().expect("it is called again");
    assert!(first < ms(5000), "after {first:?}");
    // A new connection to it opens, but nobody says Hello there, which costs the call that needed one; none of
    // these began after the others had stayed away, as was checked above.
    let no_hello =
        |error: &str| error.contains(&format!(":{name}, ")) && error.contains("no Hello came in time");
    let early = |seen: &&Seen| seen.ended - stopped <= ms(4000);
    let failed = seen.iter().filter(|seen| seen.result.as_ref().is_err_and(|error| !no_hello(error)));
    let failed = failed.filter(early).collect::<Vec<_>>();
    assert!(failed.is_empty(), "nobody else fails: {failed:?}");
}

#[test]
fn a_rolling_restart_loses_no_call() {
    let app = app(&[]);
    let mut three: Vec<_> = (0..3).map(|_| provider(0)).collect();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, three.iter().map(|(_, addr)| *addr)));
    let callers = Callers::start(&stub, 12);
    let mut names = Vec::new();
    for _ in 0..2 {
        for at in 0..3 {
            thread::sleep(ms(200));
            let (old, addr) = three.remove(at);
            old.terminate();
            old.succeed(LONG);
            three.insert(at, provider(addr.port()));
            names.push(addr.port().to_string());
        }
    }
    thread::sleep(ms(4000));
    let end = Instant::now();
    thread::sleep(ms(300));
    let seen = callers.end();
    assert!(failures(&seen).is_empty(), "{:?} of {}", failures(&seen), seen.len());
    assert!(seen.len() > 1000, "{}", seen.len());
    for name in names {
        let late = seen.iter().any(|seen| seen.began > end - ms(1000) && seen.result.as_ref() == Ok(&name));
        assert!(late, "{name} is called again");
    }
}

/// A mux server that answers with nothing in particular and tells when its callers leave.
fn answering(answers: usize) -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("bound");
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            thread::spawn(move || {
                answer(stream, answers);
                let _ = tell.send(());
            });
        }
    });
    (addr, told)
}

/// Answers so many requests of a connection; at one more it closes, as a process that dies.
fn answer(mut stream: TcpStream, mut answers: usize) {
    let (mut inbox, mut bytes, mut out) = (Vec::new(), [0; 4096], Vec::new());
    Hello { version: 1, max_body: 10_000, ..Default::default() }.write(&mut out);
    loop {
        while let Ok(Some(header)) = Header::decode(&inbox) {
            let len = HEADER_LEN + usize::from(header.meta_len) + header.body_len as usize;
            if inbox.len() < len {
                break;
            }
            inbox.drain(..len);
            match Kind::from_wire(header.kind) {
                Some(Kind::Request) if answers == 0 => return,
                Some(Kind::Request) => {
                    answers -= 1;
                    let start = mux::start_frame(&mut out, Kind::Response, END, header.call_id, |_| ());
                    mux::finish_frame(&mut out, start);
                }
                Some(Kind::Ping) => mux::write_control(&mut out, Kind::Pong, 0, &[]),
                _ => {}
            }
        }
        if stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
        match stream.read(&mut bytes) {
            Ok(n) if n > 0 => inbox.extend_from_slice(&bytes[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// Both forms of a call.
fn both(stub: &EchoServiceRpc_Stub, request: &Text) -> [Result<Text, Error>; 2] {
    [stub.echo(request), stub.echo_start(request).wait()]
}

#[test]
fn only_what_is_idempotent_is_repeated_after_it_may_have_run() {
    let app = app(&[]);
    let (dying, _) = answering(0);
    let (real, echo) = serve(&app);
    let channel = MprpcChannel::to(&app, [dying, real.addr()]).with_balance(Policy::RoundRobin);
    let stub = EchoServiceRpc_Stub::new(channel);
    let failed: Vec<Error> = (0..2).flat_map(|_| both(&stub, &text("x"))).filter_map(Result::err).collect();
    assert!(!failed.is_empty());
    for error in failed {
        assert!(error.code() == Code::Unavailable && !error.did_not_run(), "{error}");
        assert!(error.to_string().contains(&dying.to_string()), "{error}");
    }
    let again = stub.with(CallOptions::new().idempotent(true));
    for reply in (0..3).flat_map(|_| both(&again, &text("x"))) {
        assert_eq!(reply.expect("elsewhere").text, "x");
    }
    assert!((0..4).all(|_| stub.sleep(&nap(0)).is_ok()), "the .proto file says idempotent");
    // On a new channel, which has not ejected it yet.
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [dying, real.addr()]));
    let never = stub.with(CallOptions::new().idempotent(false));
    assert!((0..8).any(|_| never.sleep(&nap(0)).is_err()), "the caller knows better");
    assert!(echo.ran.load(Ordering::SeqCst) > 0);
}

#[test]
fn retries_for_overload_have_a_budget() {
    /// Refuses everything, and counts.
    struct Full(Arc<Mutex<u32>>);
    impl EchoServiceRpc for Full {
        fn echo(&self, _: &Controller, _: Text) -> Result<Text, Status> {
            *self.0.lock().unwrap() += 1;
            Err(Status::resource_exhausted("full").with_retryable(true))
        }
    }
    let app = app(&[]);
    let calls = Arc::new(Mutex::new(0));
    let running: Vec<_> = (0..3)
        .map(|_| {
            let mut provider = RpcProvider::new(&app);
            provider.bind(([127, 0, 0, 1], 0).into());
            provider.notify_service(EchoServiceRpc::service(Full(calls.clone()))).unwrap();
            provider.start().unwrap()
        })
        .collect();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, running.iter().map(|one| one.addr())));
    for reply in (0..100).flat_map(|_| both(&stub, &text("x"))) {
        assert_eq!(reply.unwrap_err().code(), Code::ResourceExhausted);
    }
    let ran = *calls.lock().unwrap();
    assert!((205..=231).contains(&ran), "200 calls were made {ran} times");
}

#[test]
fn calls_inside_a_handler_have_no_more_time_than_the_handler() {
    /// Calls on, and notes how long that took and might have taken.
    struct Relay(EchoServiceRpc_Stub, mpsc::Sender<(Duration, Result<Nothing, Error>)>);
    impl EchoServiceRpc for Relay {
        fn echo(&self, _: &Controller, request: Text) -> Result<Text, Status> {
            let began = Instant::now();
            let options = if request.text == "detached" {
                CallOptions::new().detached().timeout(ms(600))
            } else {
                CallOptions::new()
            };
            let result = self.0.with(options).sleep(&nap(3000));
            self.1.send((began.elapsed(), result)).unwrap();
            Ok(request)
        }
    }
    let app = app(&[("timeout", "2s")]);
    let (behind, _) = serve(&app);
    let (tell, told) = mpsc::channel();
    let mut relay = RpcProvider::new(&app);
    relay.bind(([127, 0, 0, 1], 0).into());
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [behind.addr()]));
    relay.notify_service(EchoServiceRpc::service(Relay(stub, tell))).unwrap();
    let relay = relay.start().unwrap();
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [relay.addr()]));
    let hasty = stub.with(CallOptions::new().timeout(ms(300)));
    for (said, least, most) in [("", 0, 550), ("detached", 590, 1900), ("", 0, 550)] {
        // It may just come in time: that the inner call failed is its answer.
        drop(hasty.echo(&text(said)));
        let (took, result) = told.recv_timeout(LONG).unwrap();
        assert!(took >= ms(least) && took < ms(most), "{said:?} took {took:?}");
        assert_eq!(result.unwrap_err().code(), Code::DeadlineExceeded);
    }
}

#[test]
fn the_time_of_a_call_comes_from_it_then_its_method_then_its_channel() {
    let app = app(&[]);
    let (provider, _) = serve(&app);
    let channel = MprpcChannel::to(&app, [provider.addr()]).with_timeout(ms(400));
    let stub = EchoServiceRpc_Stub::new(channel);
    let after = |error: Error| error.to_string();
    assert!(after(stub.sleep(&nap(2000)).unwrap_err()).contains("of 400 ms"));
    assert!(after(stub.sleep_start(&nap(2000)).wait().unwrap_err()).contains("of 400 ms"));
    assert!(after(stub.hasty(&nap(2000)).unwrap_err()).contains("of 200 ms"));
    let given = stub.with(CallOptions::new().timeout(ms(100)));
    assert!(after(given.hasty(&nap(2000)).unwrap_err()).contains("of 100 ms"));
}

#[test]
fn what_cannot_be_sent_says_why_and_costs_no_connection() {
    let app = app(&[("max_body", "1k")]);
    let (provider, echo) = serve(&app);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr()]));
    stub.echo(&text("x")).unwrap();
    stub.echo_start(&text("x")).wait().unwrap();
    let options = CallOptions::new;
    let long = "k".repeat(200);
    for (options, request, wanted) in [
        (options().timeout(Duration::ZERO), "x", &["timeout of 0", "CallOptions::timeout"][..]),
        (options().metadata("no spaces", "x"), "x", &["no spaces", "letters"]),
        (options().metadata("", "x"), "x", &["0 bytes", "128"]),
        (options().metadata(long, "x"), "x", &["200 bytes", "128"]),
        (options().metadata("k", vec![0; 70_000]), "x", &["70017", "60000", "max_header"]),
        (options(), &*"x".repeat(2000), &["2003", "1024", "max_body"]),
        (options().attachment(vec![0; 2000]), "x", &["2003", "1024", "max_body"]),
    ] {
        for reply in both(&stub.with(options), &text(request)) {
            let error = reply.unwrap_err();
            assert!(error.did_not_run(), "{error}");
            assert!(wanted.iter().all(|part| error.to_string().contains(part)), "{error}");
        }
    }
    stub.echo(&text("x")).unwrap();
    stub.echo_start(&text("x")).wait().unwrap();
    assert_eq!(echo.ran.load(Ordering::SeqCst), 4);
}

#[test]
fn what_the_peer_does_not_take_is_not_sent_once_it_said_so() {
    let app = app(&[]);
    let (addr, left) = answering(100);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [addr]));
    both(&stub, &text("x")).into_iter().for_each(|reply| drop(reply.unwrap()));
    let big = Blob { data: vec![0; 20_000], ..Default::default() };
    for error in [stub.echo_blob(&big).unwrap_err(), stub.echo_blob_start(&big).wait().unwrap_err()] {
        assert!(error.did_not_run() && error.code() == Code::ResourceExhausted, "{error}");
        assert!(error.to_string().contains("10000") && error.to_string().contains("max_body"), "{error}");
    }
    both(&stub, &text("x")).into_iter().for_each(|reply| drop(reply.unwrap()));
    assert!(left.try_recv().is_err(), "the connections are still there");
}

/// A registry whose answer can be changed, and that counts how often it is asked for it.
#[derive(Default)]
struct Listed {
    snapshot: RwLock<Arc<Snapshot>>,
    asked: AtomicUsize,
    edition: AtomicU64,
    /// It says when its answer changes.
    tells: bool,
}

impl Listed {
    fn list(&self, addrs: &[SocketAddr]) {
        let endpoints = addrs.iter().map(|addr| Endpoint::new(*addr, Wire::Mux)).collect();
        *self.snapshot.write().expect("nobody panics with it") = Arc::new(Snapshot { endpoints });
        self.edition.fetch_add(1, Ordering::SeqCst);
    }
}

impl Registry for Listed {
    fn publish(&self, _: Publication) -> Result<(), Error> {
        Ok(())
    }
    fn drain(&self, _: SocketAddr, _: Instant) {}
    fn withdraw(&self, _: SocketAddr, _: Instant) {}
    fn lookup(&self, _: &ServiceName, _: Instant) -> Result<Arc<Snapshot>, Error> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.snapshot.read().expect("nobody panics with it").clone())
    }
    fn edition(&self) -> Option<u64> {
        self.tells.then(|| self.edition.load(Ordering::SeqCst))
    }
}

fn named(app: &MprpcApplication) -> mprpc_runtime::RunningProvider {
    let addr =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut provider = RpcProvider::new(app);
    provider.bind(addr);
    provider.notify_service(EchoServiceRpc::service(Named(addr.port()))).expect("a new service");
    provider.start().expect("a free port")
}

/// How often each answers.
fn answers(stub: &EchoServiceRpc_Stub, calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(stub.echo(&text("x")).expect("somebody answers").text).or_default() += 1;
    }
    counts
}

#[test]
fn a_registry_that_suddenly_lists_nobody_or_half_is_doubted_while_they_answer() {
    let app = app(&[]);
    let mut running: Vec<_> = (0..4).map(|_| named(&app)).collect();
    let addrs: Vec<_> = running.iter().map(|one| one.addr()).collect();
    let registry = Arc::new(Listed::default());
    registry.list(&addrs);
    let channel = MprpcChannel::on(&app, registry.clone()).with_balance(Policy::RoundRobin);
    let stub = EchoServiceRpc_Stub::new(channel);
    assert_eq!(answers(&stub, 200).len(), 4);
    registry.list(&[]);
    assert_eq!(answers(&stub, 200).len(), 4, "they answer, whatever it says");
    thread::sleep(ms(1100));
    assert_eq!(answers(&stub, 200).len(), 4, "also at the second look");
    registry.list(&addrs[..2]);
    assert_eq!(answers(&stub, 200).len(), 4);
    // Who says goodbye is believed.
    let gone = running.pop().expect("four");
    let name = gone.addr().port().to_string();
    gone.stop().unwrap();
    let counts = answers(&stub, 200);
    assert!(counts.len() == 3 && !counts.contains_key(&name), "{counts:?}");
    // One of four is no reason for doubt.
    registry.list(&addrs[..3]);
    assert_eq!(answers(&stub, 200).len(), 3);
    registry.list(&addrs[1..3]);
    let counts = answers(&stub, 200);
    assert!(counts.len() == 2, "{counts:?}");
}

#[test]
fn a_registry_is_asked_again_only_when_its_edition_changes() {
    let app = app(&[]);
    let [one, two, three] = [0; 3].map(|_| named(&app));
    let registry = Arc::new(Listed { tells: true, ..Default::default() });
    registry.list(&[one.addr()]);
    let channel = MprpcChannel::on(&app, registry.clone()).with_balance(Policy::RoundRobin);
    let stub = EchoServiceRpc_Stub::new(channel);
    // A call, and another that its callback starts, with a change between the two.
    let chained = |change: Box<dyn FnOnce() + Send>| {
        let (told, names) = mpsc::channel();
        let (next, again) = (stub.clone(), told.clone());
        stub.echo_async(&text("x"), move |reply| {
            told.send(reply.expect("an answer").text).expect("the test waits");
            change();
            next.echo_async(&text("x"), move |reply| {
                again.send(reply.expect("an answer").text).expect("the test waits");
            });
        });
        names.iter().take(2).collect::<BTreeSet<String>>()
    };
    let asked = || registry.asked.load(Ordering::SeqCst);
    assert_eq!(answers(&stub, 20).len(), 1);
    assert_eq!((chained(Box::new(|| ())).len(), asked()), (1, 1));
    let (more, addrs) = (registry.clone(), [one.addr(), two.addr(), three.addr()]);
    chained(Box::new(move || more.list(&addrs)));
    assert_eq!(asked(), 2, "by the second call of the two");
    assert_eq!((answers(&stub, 30).len(), asked()), (3, 2));
    registry.list(&addrs[1..]);
    assert_eq!(chained(Box::new(|| ())), addrs[1..].iter().map(|addr| addr.port().to_string()).collect());
    assert_eq!((answers(&stub, 30).len(), asked()), (2, 3));
}

#[test]
fn connections_to_a_peer_that_left_the_registry_are_closed() {
    let app = app(&[]);
    let (real, _) = serve(&app);
    let (other, _echo) = serve(&app);
    let (leaving, closed) = answering(1000);
    let registry = Arc::new(Listed::default());
    registry.list(&[real.addr(), other.addr(), leaving]);
    let channel = MprpcChannel::on(&app, registry.clone()).with_balance(Policy::RoundRobin);
    let stub = EchoServiceRpc_Stub::new(channel);
    for reply in (0..3).flat_map(|_| both(&stub, &text("x"))) {
        reply.unwrap();
    }
    registry.list(&[real.addr(), other.addr()]);
    assert!(closed.try_recv().is_err());
    stub.echo(&text("x")).unwrap();
    for _ in 0..2 {
        closed.recv_timeout(LONG).expect("the pooled connection and the shared one");
    }
}

#[test]
fn a_lack_of_descriptors_is_called_by_its_name() {
    let app = app(&[]);
    let (provider, _) = serve(&app);
    let starving = process("a_starving_caller", &[("MPRPC_TEST_ADDR", provider.addr().to_string())]);
    let lines = starving.succeed(LONG);
    let told: Vec<_> = lines.iter().filter(|line| line.contains("Too many open files")).collect();
    assert_eq!(told.len(), 2, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("then: x")), "the peer was not blamed: {lines:#?}");
}

#[test]
#[ignore = "a process that another test starts"]
fn a_starving_caller() {
    let Ok(addr) = std::env::var("MPRPC_TEST_ADDR") else { return };
    let (app, addr) = (app(&[]), addr.parse().unwrap());
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [addr]));
    // Another address has the reactors started.
    let nowhere = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, ["127.0.0.1:9".parse().unwrap()]));
    drop(nowhere.echo_start(&text("x")).wait());
    let mut hoard = Vec::new();
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(64);
    setrlimit(Resource::Nofile, limit).unwrap();
    // What the reactor closes a moment after that call has ended is taken, too.
    let mut failures = 0;
    while failures < 50 {
        match std::fs::File::open("/dev/null") {
            Ok(file) => hoard.push(file),
            Err(_) => {
                failures += 1;
                thread::sleep(ms(10));
            }
        }
    }
    let errors = both(&stub, &text("x")).map(|reply| reply.unwrap_err().to_string());
    hoard.clear();
    println!("\n{}\n{}\nthen: {}", errors[0], errors[1], stub.echo(&text("x")).unwrap().text);
}
