//! The hostile server: a client calls one after the other, on both wires, and a good one beside them.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    CallOptions, Error, MprpcChannel,
    wire::mux::{Kind, ResponseMeta},
};
use mprpc_tests::proto::{echo::Text, echo_mprpc::EchoServiceRpc_Stub};

use super::{
    peer::{self, control, deep, header, hello, raw, request, response_of, text},
    watch::{Provider, Watch, client},
};
use crate::{row::Outcome, stage::Stage};

/// What a server does with a connection that has sent its request, and what the caller should read.
struct Evil {
    name: &'static str,
    /// The stream is closed afterwards, or reset if it says so.
    run: fn(&mut TcpStream) -> Close,
    /// One of these must stand in the error's text; none: the call must succeed.
    tells: &'static [&'static str],
}

enum Close {
    Fin,
    Reset,
    /// Not before the caller has had enough.
    Late,
}

/// Each call's time.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) fn both(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[]);
    let watch = Watch::start(stage, &provider);
    let mut outcome = Outcome::default();
    for (wire, table) in [("mux", MUX), ("legacy", LEGACY)] {
        let mut worst = Duration::ZERO;
        // All at once: most of them are a matter of waiting.
        let results = thread::scope(|scope| {
            let calls: Vec<_> =
                table.iter().map(|evil| (evil, scope.spawn(move || call(wire, evil)))).collect();
            calls.into_iter().map(|(evil, call)| (evil, call.join())).collect::<Vec<_>>()
        });
        for (evil, result) in results {
            let Ok((result, took)) = result else {
                outcome.check(false, format!("{wire}: {}: a panic", evil.name));
                continue;
            };
            worst = worst.max(took);
            let good = match &result {
                Ok(()) => evil.tells.is_empty(),
                Err(error) => evil.tells.iter().any(|part| error.to_string().contains(part)),
            };
            let in_time = took <= TIMEOUT + Duration::from_millis(250);
            stage.say(format!("{wire}: {}: {:.2} s: {result:?}", evil.name, took.as_secs_f64()));
            if !good || !in_time {
                let told = format!("{wire}: {}: {result:?} after {took:?}, not {:?}", evil.name, evil.tells);
                outcome.check(false, told);
            }
        }
        let figure =
            format!("{wire}: {} behaviours, the longest call {:.2} s", table.len(), worst.as_secs_f64());
        outcome.check(table.len() >= 14, figure);
    }
    watch.end(&mut outcome, &provider);
    outcome
}

/// One call to one such server.
fn call(wire: &str, evil: &Evil) -> (Result<(), Error>, Duration) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let addr: SocketAddr = listener.local_addr().expect("a bound port");
    let run = evil.run;
    thread::spawn(move || {
        // A client may come again; each time it meets the same.
        for stream in listener.incoming().take(8).flatten() {
            thread::spawn(move || serve(stream, run));
        }
    });
    let peers = addr.to_string();
    let settings =
        [("connect_timeout", "500ms"), ("request_timeout", "3s"), ("protocol", wire), ("peers", &peers)];
    let app = client(&settings);
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::new(&app).expect("direct mode"));
    let stub = stub.with(CallOptions::new().timeout(TIMEOUT));
    let began = Instant::now();
    let result = stub.echo(&Text { text: "hello".into(), ..Default::default() });
    (result.map(drop), began.elapsed())
}

fn serve(mut stream: TcpStream, run: fn(&mut TcpStream) -> Close) {
    let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
    match run(&mut stream) {
        Close::Fin => {}
        Close::Reset => peer::reset(stream),
        Close::Late => thread::sleep(2 * TIMEOUT),
    }
}

/// Reads what the client says first, which is its Hello and its request, or a legacy request.
fn request_of(stream: &mut TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
}

/// Exchanges Hellos and reads the request; then says `bytes`.
fn greet(stream: &mut TcpStream, bytes: &[u8]) {
    request_of(stream);
    let _ = stream.write_all(&[&hello(1), bytes].concat());
}

/// The same on the legacy wire.
fn reply(stream: &mut TcpStream, bytes: &[u8]) {
    request_of(stream);
    let _ = stream.write_all(bytes);
}

fn response(call: u64, body: &[u8]) -> Vec<u8> {
    response_of(call, &ResponseMeta::default(), body)
}

/// A table of servers: name, what it does, what the caller reads.
macro_rules! evil {
    ($($name:literal, $tells:expr, |$stream:ident| $run:expr;)*) => {
        &[$(Evil { name: $name, tells: &$tells, run: |$stream| $run },)*]
    };
}

const MUX: &[Evil] = evil![
    "accepts and is silent", ["no Hello"], |stream| { request_of(stream); Close::Late };
    "closes at once", ["closed the connection", "lost"], |_s| Close::Fin;
    "resets at once", ["lost", "closed the connection"], |_s| Close::Reset;
    "speaks noise", ["MRPC"], |stream| { reply(stream, &[0xEE; 100]); Close::Late };
    "speaks HTTP", ["MRPC"], |stream| { reply(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n"); Close::Fin };
    "says version 0", ["version"], |stream| { reply(stream, &hello(0)); Close::Late };
    "dribbles its Hello", ["Hello"], |stream| {
        request_of(stream);
        for byte in hello(1) {
            let _ = stream.write_all(&[byte]);
            thread::sleep(Duration::from_millis(100));
        }
        Close::Late
    };
    "answers before it greets", ["Hello"], |stream| { reply(stream, &response(1, &text(b"x"))); Close::Late };
    "greets and is silent", ["DEADLINE_EXCEEDED"], |stream| { greet(stream, &[]); Close::Late };
    "greets twice", ["Hello"], |stream| { greet(stream, &hello(1)); Close::Late };
    "answers a call that was never made", ["never made"], |stream| {
        greet(stream, &response(99, &text(b"x")));
        Close::Late
    };
    "answers twice", [], |stream| {
        greet(stream, &response(1, &text(b"hello")).repeat(2));
        Close::Late
    };
    "announces 4 GiB", ["max_body"], |stream| { greet(stream, &header(Kind::Response, 1, 0, u32::MAX)); Close::Late };
    "announces more than max_body", ["max_body"], |stream| {
        greet(stream, &header(Kind::Response, 1, 0, 5 << 20));
        Close::Late
    };
    "cuts its answer short", ["closed the connection"], |stream| {
        greet(stream, &response(1, &text(&[b'x'; 1000]))[..500]);
        Close::Fin
    };
    "resets in the middle of its answer", ["lost", "closed the connection"], |stream| {
        greet(stream, &response(1, &text(&[b'x'; 1000]))[..500]);
        Close::Reset
    };
    "stalls in the middle of its answer", ["DEADLINE_EXCEEDED"], |stream| {
        greet(stream, &response(1, &text(&[b'x'; 1000]))[..500]);
        Close::Late
    };
    "answers with a meta that is none", ["header of the response"], |stream| {
        greet(stream, &raw(Kind::Response as u8, 1, 1, &[0xFF; 40], &[]));
        Close::Late
    };
    "answers with no message", ["response"], |stream| { greet(stream, &response(1, &[0xFF; 40])); Close::Late };
    "nests its message 100,000 deep", ["response"], |stream| { greet(stream, &response(1, &deep(100_000))); Close::Late };
    "streams its answer", ["streams"], |stream| {
        greet(stream, &raw(Kind::Response as u8, 0, 1, &[], &text(b"x")));
        Close::Late
    };
    "attaches more than it sends", ["attachment_size"], |stream| {
        greet(stream, &response_of(1, &ResponseMeta { attachment_size: 999, ..Default::default() }, &text(b"x")));
        Close::Late
    };
    "compresses in a way of its own", ["compression"], |stream| {
        greet(stream, &response_of(1, &ResponseMeta { compression: 7, ..Default::default() }, &[0; 100]));
        Close::Late
    };
    "fails with a code of its own and an escape", ["no such code"], |stream| {
        let meta = ResponseMeta { code: 999, message: "no such code \u{1b}[2J", ..Default::default() };
        greet(stream, &response_of(1, &meta, &[]));
        Close::Late
    };
    "calls its caller", ["Request to a client"], |stream| { greet(stream, &request(1, "Echo", &text(b"x"))); Close::Late };
    "goes away at once", ["went away"], |stream| { greet(stream, &control(Kind::GoAway, 0, b"not today")); Close::Late };
    "pings without end", ["DEADLINE_EXCEEDED"], |stream| {
        greet(stream, &[]);
        for _ in 0..200 {
            let _ = stream.write_all(&control(Kind::Ping, 0, &[0; 1000]));
            thread::sleep(Duration::from_millis(5));
        }
        Close::Late
    };
];

const LEGACY: &[Evil] = evil![
    "accepts and is silent", ["DEADLINE_EXCEEDED"], |stream| { request_of(stream); Close::Late };
    "closes at once", ["legacy_empty"], |stream| { request_of(stream); Close::Fin };
    "resets at once", ["lost"], |stream| { request_of(stream); Close::Reset };
    "closes before it reads", ["lost", "legacy_empty"], |_s| Close::Fin;
    "resets in the middle of its reply", ["lost"], |stream| {
        reply(stream, &text(&[b'x'; 1000])[..500]);
        thread::sleep(Duration::from_millis(50));
        Close::Reset
    };
    "cuts its reply short", ["response"], |stream| { reply(stream, &text(&[b'x'; 1000])[..500]); Close::Fin };
    "speaks noise", ["response"], |stream| { reply(stream, &[0xFF; 100]); Close::Fin };
    "speaks mux", ["response"], |stream| { reply(stream, &hello(1)); Close::Fin };
    "speaks HTTP", ["response"], |stream| { reply(stream, b"HTTP/1.1 400 Bad Request\r\n\r\n"); Close::Fin };
    "replies without end", ["max_body"], |stream| {
        request_of(stream);
        let chunk = vec![b'x'; 64 << 10];
        while stream.write_all(&chunk).is_ok() {}
        Close::Fin
    };
    "dribbles without end", ["DEADLINE_EXCEEDED"], |stream| {
        request_of(stream);
        for _ in 0..40 {
            let _ = stream.write_all(b"x");
            thread::sleep(Duration::from_millis(50));
        }
        Close::Late
    };
    "replies and never closes", ["DEADLINE_EXCEEDED"], |stream| { reply(stream, &text(b"hello")); Close::Late };
    "nests its message 100,000 deep", ["response"], |stream| { reply(stream, &deep(100_000)); Close::Fin };
    "sends text that is not UTF-8", ["response"], |stream| { reply(stream, &text(&[0xFF, 0xFE])); Close::Fin };
    "sends an overlong varint", ["response"], |stream| {
        reply(stream, &[&[0x0A][..], &[0x80; 12], &[1]].concat());
        Close::Fin
    };
    "sends a length over the end", ["response"], |stream| { reply(stream, &[0x0A, 0x7F, b'x']); Close::Fin };
    "sends a field that nobody knows beside the reply", [], |stream| {
        reply(stream, &[&text(b"hello")[..], &[0x78, 0x05]].concat());
        Close::Fin
    };
    "replies as it should", [], |stream| { reply(stream, &text(b"hello")); Close::Fin };
];
