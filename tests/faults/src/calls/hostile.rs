//! Peers that break the rules: each costs the calls that it was asked, with a status that says so, and nobody else's.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    Code, Error, MprpcApplication, MprpcChannel,
    wire::mux::{END, HEADER_LEN, Header, Hello, Kind},
};
use mprpc_tests::{
    echo,
    proto::{echo::Text, echo_mprpc::EchoServiceRpc_Stub},
};

use crate::{
    row::{Outcome, Row},
    stage::Stage,
};

pub(crate) const ROW: Row = Row {
    name: "hostile-peer",
    wanted: "12 misbehaviours, blocking and asynchronous: the right status in time; all calls to others answered",
    limit: Duration::from_secs(60),
    run,
};

const TIMEOUT: Duration = Duration::from_millis(500);

/// What the peer does with a Request.
#[derive(Clone, Copy, Debug)]
enum Deed {
    AnswersTwice,
    AnswersUnknownCall,
    AnswersWithRequest,
    SaysHelloAgain,
    SendsGarbage,
    SendsHugeFrame,
    SendsLargeBody,
    SendsBadMeta,
    SendsHalf,
    SaysNothing,
    Closes,
    Resets,
}

/// The deed, what its call ends with (a code and a part of the text), and whether the connection goes on.
const DEEDS: [(Deed, Code, &str, bool); 12] = [
    (Deed::AnswersTwice, Code::Ok, "", true),
    (Deed::AnswersUnknownCall, Code::Unavailable, "never made", false),
    (Deed::AnswersWithRequest, Code::Unavailable, "a Request to a client", false),
    (Deed::SaysHelloAgain, Code::Unavailable, "Hello", false),
    (Deed::SendsGarbage, Code::Unavailable, "MRPC", false),
    (Deed::SendsHugeFrame, Code::Unavailable, "max_body", false),
    (Deed::SendsLargeBody, Code::ResourceExhausted, "max_body", true),
    (Deed::SendsBadMeta, Code::Internal, "header of the response", true),
    (Deed::SendsHalf, Code::DeadlineExceeded, "", false),
    (Deed::SaysNothing, Code::DeadlineExceeded, "", true),
    (Deed::Closes, Code::Unavailable, "closed", false),
    (Deed::Resets, Code::Unavailable, "", false),
];

fn run(stage: &Stage) -> Outcome {
    let app = echo::app(&[("max_body", "64k"), ("log_level", "off")]);
    let (good, _) = echo::serve(&app);
    let (over, mut outcome) = (AtomicBool::new(false), Outcome::default());
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [good.addr()]));
            let (mut n, mut failed) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                (n, failed) = (n + 1, failed + usize::from(stub.echo(&text("good")).is_err()));
            }
            (n, failed)
        });
        for (deed, code, words, lives) in DEEDS {
            for blocking in [true, false] {
                let wrong = play(stage, &app, deed, blocking, (code, words, lives));
                if let Err(wrong) = wrong {
                    outcome.check(false, format!("{deed:?}, {}: {wrong}", mode(blocking)));
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        let (n, failed) = others.join().expect("calls return");
        outcome.check(failed == 0 && n > 100, format!("{failed} of {n} calls to others failed"));
    });
    outcome.check(true, format!("{} misbehaviours", DEEDS.len()));
    outcome
}

/// One misbehaviour. What is wrong with how the call ended, if anything is.
fn play(
    stage: &Stage,
    app: &MprpcApplication,
    deed: Deed,
    blocking: bool,
    (code, words, lives): (Code, &str, bool),
) -> Result<(), String> {
    stage.say(format!("a peer that does this: {deed:?}, {}", mode(blocking)));
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    // Ends with the row's process: nothing waits for it.
    thread::spawn(move || serve(&listener, deed));
    let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(app, [addr]).with_timeout(TIMEOUT));
    let began = Instant::now();
    let result = ask(&stub, "bad", blocking);
    let took = began.elapsed();
    let (got, said) = match &result {
        Ok(reply) if reply.text == "bad" => (Code::Ok, String::new()),
        Ok(reply) => return Err(format!("the reply {:?}", reply.text)),
        Err(error) => (error.code(), error.to_string()),
    };
    if got != code || !said.contains(words) {
        return Err(format!("{code} with {words:?} is wanted, not {got}: {said}"));
    }
    if result.as_ref().is_err_and(Error::did_not_run) {
        return Err(format!("it is said not to have run: {said}"));
    }
    if took > TIMEOUT + Duration::from_millis(250) {
        return Err(format!("took {took:?}"));
    }
    thread::sleep(Duration::from_millis(50)); // a connection that ends has ended by now
    // What is still to come of a refused body makes a connection unfit for the pool.
    let lives = lives && !(blocking && matches!(deed, Deed::SendsLargeBody));
    // The peer answers the second request properly.
    let again = ask(&stub, "again", blocking);
    match again {
        Ok(reply) if reply.text == "again" || reply.text == "new" => {
            let same = reply.text == "again";
            (same || !lives).then_some(()).ok_or_else(|| "the connection does not go on".into())
        }
        Ok(reply) => Err(format!("then the reply {:?}", reply.text)),
        Err(error) => Err(format!("the call after it: {error}")),
    }
}

fn ask(stub: &EchoServiceRpc_Stub, what: &str, blocking: bool) -> Result<Text, Error> {
    let request = text(what);
    if blocking { stub.echo(&request) } else { stub.echo_start(&request).wait() }
}

/// Does its deed at the first Request; answers others: with the same text on the first connection, with "new" on others.
fn serve(listener: &TcpListener, deed: Deed) {
    for (n, stream) in listener.incoming().flatten().enumerate().take(16) {
        thread::spawn(move || {
            let _ = converse(stream, (n == 0).then_some(deed)); // the other side may be gone
        });
    }
}

fn converse(mut stream: TcpStream, mut deed: Option<Deed>) -> std::io::Result<()> {
    let first = deed.is_some();
    let mut hello = Vec::new();
    Hello { version: 1, instance: 1, ..Default::default() }.write(&mut hello);
    stream.write_all(&hello)?;
    loop {
        let mut head = [0; HEADER_LEN];
        stream.read_exact(&mut head)?;
        let Ok(Some(header)) = Header::decode(&head) else { return Ok(()) };
        let mut rest = vec![0; header.meta_len as usize + header.body_len as usize];
        stream.read_exact(&mut rest)?;
        match Kind::from_wire(header.kind) {
            Some(Kind::Ping) => stream.write_all(&frame(Kind::Pong, 0, 0, &[], &rest))?,
            Some(Kind::Request) => {
                let body = &rest[header.meta_len as usize..];
                match deed.take() {
                    Some(deed) => misbehave(deed, &mut stream, header.call_id, body)?,
                    None => {
                        let other = [10, 3, b'n', b'e', b'w'];
                        let body = if first { body } else { &other };
                        stream.write_all(&frame(Kind::Response, END, header.call_id, &[], body))?;
                    }
                }
            }
            _ => {}
        }
    }
}

fn misbehave(deed: Deed, stream: &mut TcpStream, call: u64, body: &[u8]) -> std::io::Result<()> {
    let answer = frame(Kind::Response, END, call, &[], body);
    let announce = |body_len| {
        let header = Header { kind: Kind::Response as u8, flags: END, meta_len: 0, body_len, call_id: call };
        header.encode().to_vec()
    };
    let mut hello = Vec::new();
    Hello { version: 1, instance: 1, ..Default::default() }.write(&mut hello);
    let bytes = match deed {
        Deed::AnswersTwice => [&answer[..], &answer].concat(),
        Deed::AnswersUnknownCall => frame(Kind::Response, END, call + 1000, &[], body),
        Deed::AnswersWithRequest => frame(Kind::Request, END, call, &[], body),
        Deed::SaysHelloAgain => hello,
        Deed::SendsGarbage => b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        Deed::SendsHugeFrame => announce(u32::MAX),
        Deed::SendsLargeBody => [announce(100_000), vec![7; 100_000]].concat(),
        Deed::SendsBadMeta => frame(Kind::Response, END, call, &[0xff; 7], body),
        Deed::SendsHalf => {
            stream.write_all(&answer[..HEADER_LEN + 1])?;
            stream.read_exact(&mut [0])?; // the caller gives up
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        Deed::SaysNothing => Vec::new(),
        Deed::Closes => return stream.shutdown(std::net::Shutdown::Write),
        Deed::Resets => {
            rustix::net::sockopt::set_socket_linger(&*stream, Some(Duration::ZERO))?;
            return Err(std::io::ErrorKind::ConnectionReset.into()); // which drops it
        }
    };
    stream.write_all(&bytes)
}

fn frame(kind: Kind, flags: u8, call_id: u64, meta: &[u8], body: &[u8]) -> Vec<u8> {
    let (meta_len, body_len) = (meta.len() as u16, body.len() as u32);
    let header = Header { kind: kind as u8, flags, meta_len, body_len, call_id };
    [&header.encode(), meta, body].concat()
}

fn text(text: &str) -> Text {
    Text { text: text.into(), ..Default::default() }
}

fn mode(blocking: bool) -> &'static str {
    if blocking { "blocking" } else { "asynchronous" }
}
