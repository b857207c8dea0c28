//! What a server's connection does with a peer's bytes, in pieces, with handlers, time and an end
//! of the input's choosing.

use std::{
    collections::HashSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mprpc_runtime::{
    Status,
    connection::{
        Command, ConnId, Connection, Dispatch, Incoming, Intent, Mailbox, Quota, ReplyExtras, Ticket,
        mailbox::Posts,
        server::{ServerConnection, ServerSettings},
    },
    wire::mux::{HEADER_LEN, Header, Kind},
};
use protobuf::well_known_types::wrappers::BytesValue;

use crate::random::Random;

/// The first eight bytes are the schedule, the others what the peer sends.
pub(crate) fn run(input: &[u8]) {
    let (mut random, stream) = Random::from_input(input);
    let settings = settings(&mut random);
    let limit = settings.max_output;
    let handlers = Arc::new(Handlers::default());
    let mailbox = Arc::new(Mailbox::new(usize::MAX, || ()));
    let mut now = Instant::now();
    let peer = Some(([127, 0, 0, 1], 5000).into());
    let mut conn =
        ServerConnection::new(ConnId(3), peer, settings.into(), handlers.clone(), mailbox.clone(), now);
    let (mut rest, mut out, mut fin) = (stream, Vec::new(), false);
    for _ in 0..4 * stream.len() + 64 {
        if matches!(conn.intent(), Intent::Reset | Intent::Close) {
            break;
        }
        match random.below(16) {
            0..7 if conn.wants_read() && !rest.is_empty() => {
                let n = rest.len().min(random.piece());
                conn.receive(&rest[..n], now);
                rest = &rest[n..];
            }
            7..9 => take(&mut conn, 1 + random.below(700), &mut out, now),
            9..11 => handlers.answer(&mut random),
            11 => deliver(&mailbox, &mut conn, now),
            12 => now = advance(&mut conn, now, Duration::from_millis(random.next() % 100)),
            13 if random.one_in(100) => conn.post(Command::Drain, &[], now),
            14 if rest.is_empty() && !fin => {
                fin = true;
                conn.eof(now);
            }
            15 if random.one_in(200) => conn.post(Command::Close("a test"), &[], now),
            _ => {}
        }
        assert!(conn.output().len() < limit + 64 * MAX_BODY, "what waits to be written is bounded");
    }
    handlers.held().clear(); // a dropped ticket answers
    deliver(&mailbox, &mut conn, now);
    take(&mut conn, usize::MAX, &mut out, now);
    conn.lost(&io::ErrorKind::ConnectionReset.into(), now);
    assert!(matches!(conn.intent(), Intent::Close | Intent::Reset));
    assert_eq!(conn.next_timeout(), None);
    if out.starts_with(b"MRPC") {
        check_frames(&out);
    }
}

fn settings(random: &mut Random) -> ServerSettings {
    ServerSettings {
        instance: 7,
        legacy: !random.one_in(8),
        legacy_keep: random.one_in(2),
        max_header: 1000,
        max_body: MAX_BODY as u32,
        max_calls: 1 + random.below(5) as u32,
        max_input: 1 + random.below(3000),
        max_output: 1 + random.below(3000),
        memory: Quota::new(random.below(20_000)),
        request_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(300),
        min_ping_interval: Duration::from_secs(1),
    }
}

/// Answers now, later, with too much, or not at all.
#[derive(Default)]
struct Handlers(Mutex<Vec<Ticket>>);

impl Handlers {
    fn held(&self) -> std::sync::MutexGuard<'_, Vec<Ticket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, random: &mut Random) {
        let mut held = self.held();
        if held.is_empty() {
            return;
        }
        let at = random.below(held.len());
        let ticket = held.swap_remove(at);
        drop(held);
        if random.one_in(4) { ticket.fail(Status::internal("no")) } else { reply(ticket, random.below(300)) }
    }
}

impl Dispatch for Handlers {
    fn dispatch(&self, call: Incoming<'_>) {
        assert!(call.body.as_slice().len() + call.attachment.len() <= MAX_BODY);
        match call.method.bytes().next() {
            Some(b'E') => reply(call.ticket, call.body.as_slice().len()),
            Some(b'D') => drop(call.ticket),
            Some(b'B') => reply(call.ticket, 2 * MAX_BODY),
            Some(b'N') => call.ticket.fail(Status::unimplemented("no such method")),
            _ => self.held().push(call.ticket),
        }
    }
}

fn reply(ticket: Ticket, size: usize) {
    let mut message = BytesValue::new();
    message.value = vec![b'x'; size];
    ticket.answer(&message, &ReplyExtras::default());
}

fn take(conn: &mut ServerConnection, n: usize, out: &mut Vec<u8>, now: Instant) {
    let output = conn.output();
    let mut left = n.min(output.len());
    while left > 0 {
        let n = left.min(output.pending().len());
        out.extend_from_slice(&output.pending()[..n]);
        output.advance(n);
        left -= n;
    }
    conn.written(now);
}

fn deliver(mailbox: &Mailbox, conn: &mut ServerConnection, now: Instant) {
    let mut posts = Posts::default();
    while mailbox.take(&mut posts, false) {
        posts.drain(|_, command, bytes| conn.post(command, bytes, now));
    }
}

fn advance(conn: &mut ServerConnection, mut now: Instant, by: Duration) -> Instant {
    let until = now + by;
    for _ in 0..1000 {
        match conn.next_timeout().filter(|at| *at <= until) {
            Some(at) => {
                now = now.max(at);
                conn.timeout(now);
            }
            None => return until,
        }
    }
    panic!("the timers spin");
}

/// Whole frames of the kinds that a server sends, and no call answered twice.
fn check_frames(mut bytes: &[u8]) {
    let mut answered = HashSet::new();
    while !bytes.is_empty() {
        let header = Header::decode(bytes).expect("our magic").expect("a whole header");
        let len = HEADER_LEN + header.meta_len as usize + header.body_len as usize;
        assert!(len <= bytes.len(), "a whole frame");
        let meta = &bytes[HEADER_LEN..HEADER_LEN + header.meta_len as usize];
        match Kind::from_wire(header.kind) {
            Some(Kind::Response) => {
                let meta = mprpc_runtime::wire::mux::ResponseMeta::decode(meta).expect("a meta of ours");
                // A frame that may not be is refused under its id, whatever else is said of that.
                let refusal = meta.message.contains("streaming");
                assert!(refusal || answered.insert(header.call_id), "call {} twice", header.call_id);
            }
            Some(Kind::Hello | Kind::Ping | Kind::Pong | Kind::GoAway) => {}
            other => panic!("a server does not send {other:?}"),
        }
        bytes = &bytes[len..];
    }
}

const MAX_BODY: usize = 4000;
