//! A provider at its limits: what is refused, who is not affected, what the log says.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    CallOptions, Code, Error, MprpcApplication, MprpcChannel, RpcProvider, RunningProvider,
    wire::mux::{END, Hello, Kind, RequestMeta, finish_frame, start_frame},
};
use mprpc_tests::{
    Process, TempDir, address_in,
    echo::{Echo, app, serve},
    proto::{
        echo::{Nap, Nothing, Text},
        echo_mprpc::{EchoServiceRpc, EchoServiceRpc_Stub},
    },
};
use rustix::process::Signal;

const LONG: Duration = Duration::from_secs(30);

fn stub(app: &MprpcApplication, addr: SocketAddr) -> EchoServiceRpc_Stub {
    EchoServiceRpc_Stub::new(MprpcChannel::to(app, [addr]))
}

fn text() -> Text {
    Text { text: "x".into(), ..Default::default() }
}

fn nap(ms: u32) -> Nap {
    Nap { ms, ..Default::default() }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LONG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_capped_method_refuses_what_is_too_much_and_a_deferred_answer_counts() {
    let app = app(&[("max_concurrency", "mprpc.tests.EchoService/Forget:2"), ("drain_timeout", "100ms")]);
    let (provider, echo) = serve(&app);
    let stub = stub(&app, provider.addr());
    let held: Vec<_> = (0..2).map(|_| stub.forget_start(&Nothing::new())).collect();
    until("both run", || echo.ran.load(Ordering::SeqCst) == 2);
    let error = stub.forget(&Nothing::new()).unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.did_not_run() && error.to_string().contains("max_concurrency"), "{error}");
    assert!(stub.echo(&text()).is_ok(), "the other methods are not affected");
    // They are answered when their callers give up, but hold their place: handlers have them.
    drop(held);
    assert!(stub.echo(&text()).is_ok());
    assert_eq!(stub.forget(&Nothing::new()).unwrap_err().code(), Code::ResourceExhausted);
    drop(provider);
}

#[test]
fn a_cap_of_a_service_counts_all_its_methods_and_unknown_names_are_errors() {
    let app = app(&[]);
    let mut provider = RpcProvider::new(&app);
    provider.bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    provider.notify_service(EchoServiceRpc::service(Echo::default())).unwrap();
    for name in ["EchoService", "mprpc.tests.EchoService/echo", ""] {
        assert!(matches!(provider.limit_concurrency(name, 1), Err(Error::Config(_))), "{name}");
    }
    provider.limit_concurrency("mprpc.tests.EchoService", 1).unwrap();
    let provider = provider.start().unwrap();
    let stub = stub(&app, provider.addr());
    let pending = stub.sleep_start(&nap(300));
    until("the slot is taken", || stub.echo_inline(&text()).is_err());
    pending.wait().unwrap();
    until("it is free again", || stub.echo_inline(&text()).is_ok());
    provider.stop().unwrap();
}

#[test]
fn max_total_calls_holds_across_connections() {
    let app = app(&[("max_total_calls", "3"), ("drain_timeout", "100ms")]);
    let (provider, echo) = serve(&app);
    let stubs: Vec<_> = (0..4).map(|_| stub(&app, provider.addr())).collect();
    let _held: Vec<_> = stubs[..3].iter().map(|stub| stub.forget_start(&Nothing::new())).collect();
    until("three run", || echo.ran.load(Ordering::SeqCst) == 3);
    until("the fourth is refused", || match stubs[3].echo(&text()) {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
            assert!(error.did_not_run() && error.to_string().contains("max_total_calls"), "{error}");
            true
        }
    });
    let error = provider.stop().unwrap_err().to_string();
    assert!(error.starts_with("3 calls were cut"), "deferred answers are owed: {error}");
}

#[test]
fn one_address_may_hold_only_so_many_connections() {
    let app = app(&[("max_address_connections", "2")]);
    let (provider, _) = serve(&app);
    let mut held: Vec<_> = (0..2).map(|_| TcpStream::connect(provider.addr()).unwrap()).collect();
    let refused = |addr| {
        let mut third = TcpStream::connect(addr).unwrap();
        third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        match third.read(&mut [0]) {
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
            Ok(n) => n == 0,
        }
    };
    until("the third is reset", || refused(provider.addr()));
    held.pop();
    until("there is room again", || !refused(provider.addr()));
}

#[test]
fn reactors_answer_while_all_workers_sleep() {
    let app = app(&[("worker_threads", "2"), ("max_queue", "2")]);
    let (provider, echo) = serve(&app);
    let (busy, other) = (stub(&app, provider.addr()), stub(&app, provider.addr()));
    let mut naps: Vec<_> = (0..2).map(|_| busy.sleep_start(&nap(3000))).collect();
    until("both workers sleep", || echo.ran.load(Ordering::SeqCst) == 2);
    naps.extend((0..2).map(|_| busy.sleep_start(&nap(3000))));
    // On the same connection, so the queue is full by then.
    assert!(busy.echo_inline_start(&text()).wait().is_ok());
    let began = Instant::now();
    assert!(other.echo_inline(&text()).is_ok());
    // The light client's call takes the place of the busy one's newest, which is told so at once.
    let light = other.with(CallOptions::new().timeout(LONG)).sleep_start(&nap(0));
    let error = naps.pop().unwrap().wait().unwrap_err();
    assert!(began.elapsed() < Duration::from_millis(2000), "{:?}", began.elapsed());
    assert!(error.did_not_run() && error.to_string().contains("max_queue"), "{error}");
    light.wait().unwrap();
}

#[test]
fn calls_of_a_peer_that_takes_no_answers_do_not_begin_and_others_do() {
    let app = app(&[("worker_threads", "1"), ("max_output", "64k"), ("request_timeout", "60s")]);
    let (provider, echo) = serve(&app);
    let mut bytes = Vec::new();
    Hello { version: 1, instance: 42, ..Default::default() }.write(&mut bytes);
    // Replies of 25 MiB in all; 2 s of work, in which to notice that they are not taken; calls that count.
    let blobs = (0..400).map(|_| ("EchoBlob", &[0x10, 0x80, 0x80, 4][..]));
    let naps = (0..100).map(|_| ("Hasty", &[8, 20][..])).chain((0..5).map(|_| ("Sleep", &[][..])));
    for (call, (method, body)) in (1..).zip(blobs.chain(naps)) {
        let meta = RequestMeta { service: "mprpc.tests.EchoService", method, ..Default::default() };
        let start = start_frame(&mut bytes, Kind::Request, END, call, |out| meta.encode(out));
        bytes.extend_from_slice(body);
        finish_frame(&mut bytes, start);
    }
    let mut peer = TcpStream::connect(provider.addr()).unwrap();
    peer.write_all(&bytes).unwrap();
    let (honest, mut calls) = (stub(&app, provider.addr()), 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        honest.echo(&text()).unwrap();
        calls += 1;
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(echo.ran.load(Ordering::SeqCst), calls, "of the peer's calls that count none began");
    let reader = thread::spawn(move || std::io::copy(&mut peer, &mut std::io::sink()));
    until("they run once it reads", || echo.ran.load(Ordering::SeqCst) == calls + 5);
    provider.stop().unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn a_slow_handler_and_one_that_blocks_its_reactor_are_named() {
    let dir = TempDir::new();
    let (callee, addr) = callee(&dir, &[("slow_handler", "100ms")]);
    let (mut log, config) = (String::new(), dir.conf("caller.conf", &[]));
    let app = MprpcApplication::from_file(config).unwrap();
    let stub = stub(&app, addr);
    stub.sleep(&nap(400)).unwrap();
    // Long enough for the watchdog to sleep: a handler that blocks its reactor has to wake it before.
    thread::sleep(Duration::from_millis(500));
    stub.block(&nap(400)).unwrap();
    until("the log names both", || {
        log = read_log(&dir);
        log.contains("mprpc.tests.EchoService/Sleep has been running on mprpc-worker-")
            && log.contains("mprpc.tests.EchoService/Block runs inline and has blocked the reactor mprpc-io-")
    });
    assert!(log.contains("limits: at most "), "{log}");
    drop(callee);
}

#[test]
fn a_drain_with_a_stuck_handler_ends_in_time_with_an_account_and_a_status() {
    let dir = TempDir::new();
    let (callee, addr) = callee(&dir, &[("drain_timeout", "500ms")]);
    let app = app(&[]);
    let stub = stub(&app, addr);
    let stuck = stub.with(CallOptions::new().timeout(LONG)).stick_start(&Nothing::new());
    let deferred = stub.with(CallOptions::new().timeout(LONG)).forget_start(&Nothing::new());
    // One worker is stuck; the other has taken up what came before this on the same connection.
    assert!(stub.echo_start(&text()).wait().is_ok());
    let began = Instant::now();
    callee.terminate();
    let (status, lines) = callee.finish(LONG);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(stuck.wait().is_err() && deferred.wait().is_err());
    let log = read_log(&dir);
    let account = log.lines().find(|line| line.contains("drained: ")).expect("an account");
    assert!(account.contains(" 2 cut, "), "{account}");
}

#[test]
fn a_drain_counts_every_call_that_it_cuts_whoever_has_it() {
    let limited = app(&[("drain_timeout", "500ms"), ("io_threads", "1"), ("worker_threads", "2")]);
    let patient = CallOptions::new().timeout(LONG);
    let cut = |provider: RunningProvider| provider.stop().unwrap_err().to_string();

    let (provider, echo) = serve(&limited);
    let leaver = app(&[]);
    let left = stub(&leaver, provider.addr()).with(patient.clone()).stick_start(&Nothing::new());
    until("it runs", || echo.ran.load(Ordering::SeqCst) == 1);
    drop((left, leaver));
    let other = stub(&limited, provider.addr()).with(patient.clone());
    let _held = [other.forget_start(&Nothing::new()), other.forget_start(&Nothing::new())];
    until("all run", || echo.ran.load(Ordering::SeqCst) == 3);
    let error = cut(provider);
    assert!(
        error.starts_with("3 calls were cut"),
        "one whose caller has left, and two without an answer: {error}"
    );

    let (provider, echo) = serve(&limited);
    let stub = stub(&limited, provider.addr()).with(patient);
    let _held = stub.forget_start(&Nothing::new());
    until("one runs", || echo.ran.load(Ordering::SeqCst) == 1);
    let _blocked = stub.block_start(&nap(4000));
    let hasty = CallOptions::new().timeout(Duration::from_millis(50));
    until("blocked", || stub.with(hasty.clone()).echo_inline(&text()).is_err());
    let error = cut(provider);
    assert!(
        error.starts_with("2 calls were cut"),
        "one that blocks its reactor, and one that was there: {error}"
    );
}

#[test]
fn sighup_takes_over_what_can_change_and_leaves_everything_when_the_file_is_bad() {
    let dir = TempDir::new();
    let (callee, addr) = callee(&dir, &[("max_queue", "7"), ("max_address_connections", "1000")]);
    let says = |text: &str| {
        callee.signal(Signal::HUP);
        until(text, || read_log(&dir).contains(text));
    };
    dir.conf("callee.conf", &[("max_queue", "many")]);
    says("max_queue = many: want a whole number");
    dir.conf(
        "callee.conf",
        &[("max_queue", "9"), ("max_address_connections", "1"), ("worker_threads", "3"), ("max_bodi", "5")],
    );
    says("max_bodi");
    says("reload: max_queue = 9, was 7: takes effect");
    says("worker_threads = 3, was 2: needs a restart");
    let _held = TcpStream::connect(addr).unwrap();
    let mut second = TcpStream::connect(addr).unwrap();
    second.set_read_timeout(Some(LONG)).unwrap();
    let _ = second.write_all(b"MRPC");
    assert!(matches!(second.read(&mut [0; 9]), Ok(0) | Err(_)), "the new limit holds");
    callee.terminate();
    callee.succeed(LONG);
}

#[test]
fn a_cap_that_a_reload_no_longer_finds_gives_way_to_the_programs_own() {
    let dir = TempDir::new();
    let (forget, sleep) = ("mprpc.tests.EchoService/Forget", "mprpc.tests.EchoService/Sleep");
    let both = format!("{forget}:1, {sleep}:1");
    let config = dir.conf("reloads.conf", &[("max_concurrency", &both), ("drain_timeout", "100ms")]);
    let app = MprpcApplication::from_file(config).unwrap();
    let mut provider = RpcProvider::new(&app);
    let echo = Arc::new(Echo::default());
    provider.bind(SocketAddr::from(([127, 0, 0, 1], 0)));
    provider.notify_service(EchoServiceRpc::service(echo.clone())).unwrap();
    provider.limit_concurrency(forget, 2).unwrap();
    let mut provider = provider.start().unwrap();
    let stub = stub(&app, provider.addr());
    let hasty = stub.with(CallOptions::new().timeout(Duration::from_millis(200)));
    let refused = || hasty.forget(&Nothing::new()).unwrap_err().did_not_run();
    let mut held = vec![stub.forget_start(&Nothing::new())];
    until("one runs", || echo.ran.load(Ordering::SeqCst) == 1);
    let _nap = stub.sleep_start(&nap(4000));
    until("one sleeps", || echo.ran.load(Ordering::SeqCst) == 2);
    assert!(refused() && stub.sleep(&Nap::new()).is_err());
    dir.conf("reloads.conf", &[("drain_timeout", "200ms")]);
    provider.reload().unwrap();
    stub.sleep(&Nap::new()).unwrap();
    held.push(stub.forget_start(&Nothing::new()));
    until("two run, as the program has it", || echo.ran.load(Ordering::SeqCst) == 4);
    assert!(refused());
}

#[test]
fn lowered_connections_are_a_warning_where_somebody_asked_for_them() {
    for (settings, level) in [(&[("max_connections", "20000")][..], " WARN "), (&[], " INFO ")] {
        let dir = TempDir::new();
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 1000 && exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "callee_process", "--nocapture"]);
        command.env("MPRPC_LIMITS_CALLEE", dir.conf("callee.conf", settings));
        let mut callee = Process::start(command);
        callee.wait_line("RpcProvider start service at", LONG);
        callee.terminate();
        callee.succeed(LONG);
        let log = read_log(&dir);
        let line = log.lines().find(|line| line.contains("max_connections = 20000 is lowered to 900"));
        assert!(line.is_some_and(|line| line.contains(level)), "{line:?}");
    }
}

/// Not a test: the process that others start.
#[test]
fn callee_process() {
    let Some(config) = std::env::var_os("MPRPC_LIMITS_CALLEE") else { return };
    let app = MprpcApplication::from_file(config).unwrap();
    let mut provider = RpcProvider::new(&app);
    provider.notify_service(EchoServiceRpc::service(Echo::default())).unwrap();
    if let Err(error) = provider.run() {
        eprintln!("{error}");
        drop(app);
        std::process::exit(1);
    }
}

fn callee(dir: &TempDir, settings: &[(&str, &str)]) -> (Process, SocketAddr) {
    let all: Vec<_> = [("worker_threads", "2")].iter().chain(settings).copied().collect();
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(["--exact", "callee_process", "--nocapture"]);
    let mut callee = Process::start({
        command.env("MPRPC_LIMITS_CALLEE", dir.conf("callee.conf", &all));
        command
    });
    let addr = address_in(&callee.wait_line("RpcProvider start service at", LONG));
    (callee, addr)
}

fn read_log(dir: &TempDir) -> String {
    let files = fs::read_dir(dir.path()).expect("its directory").filter_map(Result::ok);
    let logs = files.filter(|file| file.file_name().to_string_lossy().ends_with("-log.txt"));
    logs.filter_map(|file| fs::read_to_string(file.path()).ok()).collect()
}
