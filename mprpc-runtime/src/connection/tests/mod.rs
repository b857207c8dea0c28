//! Both connections against each other and against hand-made bytes, with time moved by hand.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use protobuf::{Message, well_known_types::wrappers::BytesValue};

use super::{
    CancelToken, Command, ConnId, Connection, Dispatch, Incoming, Intent, Mailbox, Quota, ReplyExtras,
    Ticket,
    call::{Failure, Outcome},
    client::{ClientConnection, ClientSettings, Start},
    mailbox::Posts,
    server::{ServerConnection, ServerSettings},
};
use crate::{
    status::{Code, Status},
    wire::{
        Dialect, Wire,
        buf::Output,
        legacy,
        mux::{END, HEADER_LEN, Header, Hello, Kind, RequestMeta, ResponseMeta},
    },
};

mod backpressure;
mod calls;
mod cancel;
mod closing;
mod drain;
mod frames_and_limits;
mod hostile;
mod legacy_client;
mod legacy_server;
mod memory;
mod observed;
mod opening;
mod posted;
mod timers;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// What a handler saw of a call.
#[derive(Clone)]
struct Seen {
    service: String,
    method: String,
    body: Vec<u8>,
    attachment: Vec<u8>,
    metadata: Vec<(String, Vec<u8>)>,
    deadline: Option<Instant>,
    cancel: CancelToken,
}

/// A service that answers as the method's name says, and remembers what it was asked.
#[derive(Default)]
struct Handlers {
    seen: Mutex<Vec<Seen>>,
    held: Mutex<Vec<Ticket>>,
    /// Every word on whether calls that wait are to go on waiting.
    holds: Mutex<Vec<bool>>,
}

impl Dispatch for Handlers {
    fn dispatch(&self, call: Incoming<'_>) {
        let seen = Seen {
            service: call.service.into(),
            method: call.method.into(),
            body: call.body.as_slice().to_vec(),
            attachment: call.attachment.to_vec(),
            metadata: pairs(call.metadata.iter()),
            deadline: call.deadline,
            cancel: CancelToken::new(),
        };
        if call.method != "Tie" {
            *call.cancel = Some(seen.cancel.clone());
            self.lock().push(seen.clone());
        }
        match call.method {
            "Echo" => {
                let extras = ReplyExtras {
                    metadata: call.metadata.clone(),
                    attachment: call.attachment.to_vec(),
                    stages: None,
                };
                let mut request = BytesValue::new();
                match call.body.parse_into(&mut request) {
                    Ok(()) => drop(call.ticket.answer(&request, &extras)),
                    Err(_) => call.ticket.fail(Status::invalid_argument("no BytesValue")),
                }
            }
            "Later" => self.held.lock().expect("held").push(call.ticket),
            "Drop" => drop(call.ticket),
            "Panic" => panic!("planted"),
            "Tie" => {
                // Ties the fate of a held call to this one's token.
                let other = self.ticket(0);
                seen.cancel.on_cancel(move || drop(other));
                *call.cancel = Some(seen.cancel);
                call.ticket.answer(&BytesValue::new(), &ReplyExtras::default());
            }
            _ => call.ticket.fail(Status::unimplemented("no such method")),
        }
    }

    fn hold(&self, client: u64, held: bool) {
        assert_eq!(client, 3);
        self.holds.lock().expect("holds").push(held);
    }
}

impl Handlers {
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().expect("seen")
    }

    fn methods(&self) -> Vec<String> {
        self.lock().iter().map(|seen| seen.method.clone()).collect()
    }

    fn last(&self) -> Seen {
        self.lock().last().expect("a call").clone()
    }

    /// Takes the ticket of the nth call that is held.
    fn ticket(&self, n: usize) -> Ticket {
        self.held.lock().expect("held").remove(n)
    }

    fn holds(&self) -> Vec<bool> {
        self.holds.lock().expect("holds").clone()
    }

    fn held(&self) -> usize {
        self.held.lock().expect("held").len()
    }
}

fn pairs<'a>(metadata: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, Vec<u8>)> {
    metadata.map(|(key, value)| (key.into(), value.into())).collect()
}

fn server_settings() -> ServerSettings {
    ServerSettings {
        instance: 7,
        legacy: true,
        legacy_keep: false,
        max_header: 1000,
        max_body: 4000,
        max_calls: 4,
        max_input: 100_000,
        max_output: 10_000,
        memory: Quota::new(1 << 20),
        request_timeout: 10 * SECOND,
        idle_timeout: 300 * SECOND,
        min_ping_interval: SECOND,
    }
}

fn client_settings() -> ClientSettings {
    ClientSettings {
        instance: 9,
        max_header: 1000,
        max_body: 4000,
        max_output: 10_000,
        connect_timeout: SECOND,
        request_timeout: 10 * SECOND,
        ping_interval: 30 * SECOND,
        legacy_quiet: false,
        legacy_empty: false,
    }
}

/// A server's connection; the test is the peer and the driver.
struct Server {
    conn: ServerConnection,
    handlers: Arc<Handlers>,
    mailbox: Arc<Mailbox>,
    now: Instant,
}

impl Server {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(set: impl FnOnce(&mut ServerSettings)) -> Self {
        let mut settings = server_settings();
        set(&mut settings);
        let (handlers, now) = (Arc::new(Handlers::default()), Instant::now());
        let mailbox = Arc::new(Mailbox::new(usize::MAX, || ()));
        let peer = Some(([127, 0, 0, 1], 5000).into());
        let conn = ServerConnection::new(
            ConnId(3),
            peer,
            Arc::new(settings),
            handlers.clone(),
            mailbox.clone(),
            now,
        );
        Self { conn, handlers, mailbox, now }
    }

    /// A mux connection on which Hellos were exchanged.
    fn mux() -> Self {
        Self::mux_with(|_| ())
    }

    fn mux_with(set: impl FnOnce(&mut ServerSettings)) -> Self {
        let mut server = Self::with(set);
        server.feed(&hello());
        assert_eq!(server.frames().len(), 1);
        server
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.conn.receive(bytes, self.now);
    }

    fn eof(&mut self) {
        self.conn.eof(self.now);
    }

    fn post(&mut self, command: Command) {
        self.conn.post(command, &[], self.now);
    }

    /// Delivers what was posted from "other threads".
    fn deliver(&mut self) {
        let mut posts = Posts::default();
        while self.mailbox.take(&mut posts, false) {
            posts.drain(|id, command, bytes| {
                assert_eq!(id, ConnId(3));
                self.conn.post(command, bytes, self.now);
            });
        }
    }

    /// Answers the nth held call.
    fn answer(&mut self, n: usize, text: &[u8]) {
        let ticket = self.handlers.ticket(n);
        ticket.answer(&message(text), &ReplyExtras::default());
        self.deliver();
    }

    /// Moves time on; runs the timers that pass.
    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..100 {
            match self.conn.next_timeout().filter(|at| *at <= until) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.conn.timeout(self.now);
                }
                None => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("the timers spin");
    }

    /// Takes all output.
    fn output(&mut self) -> Vec<u8> {
        let bytes = drain(self.conn.output(), usize::MAX);
        if !bytes.is_empty() {
            self.conn.written(self.now);
        }
        bytes
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let bytes = drain(self.conn.output(), n);
        self.conn.written(self.now);
        bytes
    }

    fn frames(&mut self) -> Vec<Frame> {
        parse(&self.output())
    }

    /// The only Response in the output, with its call.
    fn reply(&mut self) -> (u64, Reply) {
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    fn replies(&mut self) -> Vec<(u64, Reply)> {
        replies(&self.frames())
    }

    /// Says GoAway as its last frame, then FIN. Returns id and reason.
    #[track_caller]
    fn ends(&mut self) -> (u64, String) {
        let frames = self.frames();
        let last = frames.last().expect("a frame");
        assert_eq!(last.kind, Kind::GoAway as u8, "{frames:?}");
        assert!(matches!(self.conn.intent(), Intent::ShutDown | Intent::Close));
        let reason = String::from_utf8(last.body.clone()).expect("UTF-8");
        assert!(!reason.is_empty());
        (last.call, reason)
    }

    /// Still answers calls.
    #[track_caller]
    fn lives(&mut self, id: u64) {
        self.feed(&request(id, "Echo", b"alive"));
        let (call, reply) = self.reply();
        assert_eq!((call, reply.code, &*reply.body), (id, 0, &*wire(b"alive")));
        assert_eq!(self.conn.intent(), Intent::Open);
    }
}

/// A client's connection; the test is the peer and the driver. Calls are known by their tag.
struct Client {
    wire: Wire,
    conn: ClientConnection<u64>,
    ended: Ended,
    now: Instant,
}

/// A response as the caller got it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    body: Vec<u8>,
    attachment: Vec<u8>,
    metadata: Vec<(String, Vec<u8>)>,
}

type Ended = Vec<(u64, Result<Got, Failure>)>;

fn into(ended: &mut Ended) -> impl FnMut(u64, Outcome<'_>) {
    |tag, outcome| {
        let got = outcome.map(|received| Got {
            body: received.body.as_slice().to_vec(),
            attachment: received.attachment.to_vec(),
            metadata: pairs(received.metadata.iter()),
        });
        ended.push((tag, got));
    }
}

impl Client {
    fn new(wire: Wire) -> Self {
        Self::with(wire, |_| ())
    }

    fn with(wire: Wire, set: impl FnOnce(&mut ClientSettings)) -> Self {
        let mut settings = client_settings();
        set(&mut settings);
        let now = Instant::now();
        Self { wire, conn: ClientConnection::new(wire, Arc::new(settings), now), ended: Vec::new(), now }
    }

    /// A mux connection on which Hellos were exchanged.
    fn mux() -> Self {
        Self::mux_with(|_| ())
    }

    fn mux_with(set: impl FnOnce(&mut ClientSettings)) -> Self {
        let mut client = Self::with(Wire::Mux, set);
        client.conn.connected();
        client.output();
        client.feed(&hello());
        client
    }

    /// A connected legacy connection.
    fn legacy_with(set: impl FnOnce(&mut ClientSettings)) -> Self {
        let mut client = Self::with(Wire::Legacy(Dialect::LittleEndian), set);
        client.conn.connected();
        client
    }

    fn start(&mut self, tag: u64) {
        self.start_for(tag, 5 * SECOND, b"hello");
    }

    fn start_for(&mut self, tag: u64, time: Duration, text: &[u8]) {
        let start = Start { tag, deadline: self.now + time, empty_ok: false, done: tag };
        self.begin(start, text);
    }

    fn begin(&mut self, start: Start<u64>, text: &[u8]) {
        let legacy = self.wire != Wire::Mux;
        let write = |_: &u64, id: u64, out: &mut Vec<u8>| {
            if legacy {
                let body = wire(text);
                let dialect = Dialect::LittleEndian;
                legacy::write_request_head(out, dialect, "Svc", "Echo", body.len() as u32);
                out.extend_from_slice(&body);
            } else {
                out.extend_from_slice(&request(id, "Echo", text));
            }
        };
        self.conn.start(start, write, &mut into(&mut self.ended));
        self.conn.expect(self.now);
    }

    fn cancel(&mut self, tag: u64) {
        self.conn.cancel(tag, &mut into(&mut self.ended));
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.conn.receive(bytes, self.now, &mut into(&mut self.ended));
    }

    fn eof(&mut self) {
        self.conn.eof(&mut into(&mut self.ended));
    }

    fn lost(&mut self) {
        let error = io::Error::from(io::ErrorKind::ConnectionReset);
        self.conn.lost(&error, &mut into(&mut self.ended));
    }

    fn close(&mut self, reason: &str) {
        self.conn.close(reason, &mut into(&mut self.ended));
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        for _ in 0..100 {
            match self.conn.next_timeout().filter(|at| *at <= until) {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.conn.timeout(self.now, &mut into(&mut self.ended));
                }
                None => {
                    self.now = until;
                    return;
                }
            }
        }
        panic!("the timers spin");
    }

    fn take(&mut self, n: usize) -> Vec<u8> {
        let bytes = drain(self.conn.output(), n);
        self.conn.written(self.now);
        bytes
    }

    fn output(&mut self) -> Vec<u8> {
        self.take(usize::MAX)
    }

    fn frames(&mut self) -> Vec<Frame> {
        parse(&self.output())
    }

    /// What ended since the last look.
    fn ended(&mut self) -> Ended {
        std::mem::take(&mut self.ended)
    }

    /// The only call that ended, which must have failed.
    #[track_caller]
    fn failed(&mut self) -> Failure {
        let mut ended = self.ended();
        assert_eq!(ended.len(), 1, "{ended:?}");
        ended.remove(0).1.expect_err("a failure")
    }

    /// The only call that ended, which must have succeeded.
    #[track_caller]
    fn got(&mut self) -> Vec<u8> {
        let mut ended = self.ended();
        assert_eq!(ended.len(), 1, "{ended:?}");
        ended.remove(0).1.expect("a response").body
    }

    /// Says GoAway 0 as its last frame, then FIN.
    #[track_caller]
    fn says_goodbye(&mut self) -> String {
        let frames = self.frames();
        let last = frames.last().expect("a frame");
        assert_eq!((last.kind, last.call), (Kind::GoAway as u8, 0));
        assert_eq!(self.conn.intent(), Intent::ShutDown);
        String::from_utf8(last.body.clone()).expect("UTF-8")
    }
}

/// A client and a server joined in memory. `chunk` bytes at most pass at a time.
struct Pair {
    client: Client,
    server: Server,
    chunk: usize,
    ends: [bool; 2],
}

impl Pair {
    fn new(chunk: usize) -> Self {
        let mut client = Client::new(Wire::Mux);
        client.conn.connected();
        Self { client, server: Server::new(), chunk, ends: [false; 2] }
    }

    /// Carries bytes, FINs and posts until nothing moves.
    fn run(&mut self) {
        for _ in 0..1_000_000 {
            let now = self.client.now.max(self.server.now);
            (self.client.now, self.server.now) = (now, now);
            self.server.deliver();
            let up = self.client.take(self.chunk);
            if !up.is_empty() {
                self.server.feed(&up);
            }
            let down = self.server.take(self.chunk);
            if !down.is_empty() {
                self.client.feed(&down);
            }
            if up.is_empty() && down.is_empty() && !self.carry_fin() {
                return;
            }
        }
        panic!("the two never come to rest");
    }

    fn carry_fin(&mut self) -> bool {
        let fin = |intent: Intent, said: &mut bool| intent != Intent::Open && !std::mem::replace(said, true);
        let (from_client, from_server) = (
            fin(self.client.conn.intent(), &mut self.ends[0]),
            fin(self.server.conn.intent(), &mut self.ends[1]),
        );
        if from_client {
            self.server.eof();
        }
        if from_server {
            self.client.eof();
        }
        from_client || from_server
    }

    fn closed(&self) -> bool {
        self.client.conn.intent() == Intent::Close && self.server.conn.intent() == Intent::Close
    }

    fn advance(&mut self, by: Duration) {
        self.server.advance(by);
        self.client.advance(by);
        self.run();
    }
}

fn drain(output: &mut Output, n: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < n && !output.is_empty() {
        let taken = output.pending().len().min(n - bytes.len());
        bytes.extend_from_slice(&output.pending()[..taken]);
        output.advance(taken);
    }
    bytes
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    call: u64,
    meta: Vec<u8>,
    body: Vec<u8>,
}

/// What a Response says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    code: u32,
    text: String,
    retryable: bool,
    body: Vec<u8>,
}

#[track_caller]
fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let header = Header::decode(bytes).expect("magic").expect("a header");
        let (meta_len, body_len) = (header.meta_len as usize, header.body_len as usize);
        let (frame, rest) = bytes[HEADER_LEN..].split_at(meta_len + body_len);
        let (meta, body) = frame.split_at(meta_len);
        frames.push(Frame {
            kind: header.kind,
            flags: header.flags,
            call: header.call_id,
            meta: meta.into(),
            body: body.into(),
        });
        bytes = rest;
    }
    frames
}

fn replies(frames: &[Frame]) -> Vec<(u64, Reply)> {
    frames
        .iter()
        .filter(|frame| frame.kind == Kind::Response as u8)
        .map(|frame| {
            assert_eq!(frame.flags, END);
            let meta = ResponseMeta::decode(&frame.meta).expect("a ResponseMeta");
            let reply = Reply {
                code: meta.code,
                text: meta.message.into(),
                retryable: meta.retryable,
                body: frame.body.clone(),
            };
            (frame.call, reply)
        })
        .collect()
}

fn kinds(frames: &[Frame]) -> Vec<u8> {
    frames.iter().map(|frame| frame.kind).collect()
}

fn message(text: &[u8]) -> BytesValue {
    let mut message = BytesValue::new();
    message.value = text.into();
    message
}

/// A message's bytes.
fn wire(text: &[u8]) -> Vec<u8> {
    message(text).write_to_bytes().expect("bytes")
}

fn raw(kind: u8, flags: u8, call: u64, meta: &[u8], body: &[u8]) -> Vec<u8> {
    let header =
        Header { kind, flags, meta_len: meta.len() as u16, body_len: body.len() as u32, call_id: call };
    [&header.encode(), meta, body].concat()
}

fn control(kind: Kind, call: u64, body: &[u8]) -> Vec<u8> {
    raw(kind as u8, 0, call, &[], body)
}

fn hello_of(hello: Hello) -> Vec<u8> {
    let mut bytes = Vec::new();
    hello.write(&mut bytes);
    bytes
}

fn hello() -> Vec<u8> {
    hello_of(Hello { version: 1, instance: 42, ..Default::default() })
}

fn request_meta(method: &str) -> RequestMeta<'_> {
    RequestMeta { service: "pkg.Svc", method, ..Default::default() }
}

fn request_of(call: u64, meta: &RequestMeta<'_>, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    meta.encode(&mut bytes);
    raw(Kind::Request as u8, END, call, &bytes, body)
}

fn request(call: u64, method: &str, text: &[u8]) -> Vec<u8> {
    request_of(call, &request_meta(method), &wire(text))
}

fn response_of(call: u64, meta: &ResponseMeta<'_>, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    meta.encode(&mut bytes);
    raw(Kind::Response as u8, END, call, &bytes, body)
}

fn response(call: u64, text: &[u8]) -> Vec<u8> {
    response_of(call, &ResponseMeta::default(), &wire(text))
}

fn legacy_request(dialect: Dialect, method: &str, text: &[u8]) -> Vec<u8> {
    let (mut bytes, body) = (Vec::new(), wire(text));
    legacy::write_request_head(&mut bytes, dialect, "Svc", method, body.len() as u32);
    bytes.extend_from_slice(&body);
    bytes
}

const DIALECTS: [Dialect; 3] = [Dialect::LittleEndian, Dialect::BigEndian, Dialect::Varint];

fn code(code: Code) -> u32 {
    code.to_wire()
}
