//! A server's connection against a model of it: which calls are open, what is answered, and when it ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use mprpc_fuzz::random::Random;
use mprpc_runtime::{
    connection::{
        ConnId, Connection, Dispatch, Incoming, Intent, Mailbox, Quota, ReplyExtras, Ticket,
        mailbox::Posts,
        server::{ServerConnection, ServerSettings},
    },
    wire::mux::{
        END, HEADER_LEN, Header, Hello, Kind, RequestMeta, ResponseMeta, finish_frame, start_frame,
        write_control,
    },
};
use protobuf::well_known_types::wrappers::BytesValue;

/// Keeps every ticket, by the id that the request's body states.
#[derive(Default)]
struct Handlers(Mutex<BTreeMap<u64, Ticket>>);

impl Handlers {
    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Ticket>> {
        self.0.lock().expect("no holder panics")
    }
}

impl Dispatch for Handlers {
    fn dispatch(&self, call: Incoming<'_>) {
        let id = u64::from_le_bytes(call.body.as_slice().try_into().expect("eight bytes"));
        assert!(self.held().insert(id, call.ticket).is_none(), "dispatched once");
    }
}

/// What the connection should be like.
#[derive(Default)]
struct Model {
    last: u64,
    open: BTreeSet<u64>,
    cancelled: BTreeSet<u64>,
    ended: bool,
}

struct World {
    conn: ServerConnection,
    handlers: Arc<Handlers>,
    mailbox: Arc<Mailbox>,
    now: Instant,
}

/// Kind, call, code and body of a frame of the server's.
type Frame = (u8, u64, u32, Vec<u8>);

impl World {
    fn new() -> Self {
        let (handlers, mailbox) = (Arc::new(Handlers::default()), Arc::new(Mailbox::new(usize::MAX, || ())));
        let (settings, now) = (Arc::new(settings()), Instant::now());
        let conn = ServerConnection::new(ConnId(1), None, settings, handlers.clone(), mailbox.clone(), now);
        let mut world = Self { conn, handlers, mailbox, now };
        let mut hello = Vec::new();
        Hello { version: 1, ..Default::default() }.write(&mut hello);
        world.conn.receive(&hello, now);
        assert_eq!(world.frames().len(), 1);
        world
    }

    fn feed(&mut self, bytes: &[u8], random: &mut Random) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, others) = rest.split_at(rest.len().min(random.piece()));
            self.conn.receive(piece, self.now);
            rest = others;
        }
    }

    fn frames(&mut self) -> Vec<Frame> {
        let mut posts = Posts::default();
        while self.mailbox.take(&mut posts, false) {
            posts.drain(|_, command, bytes| self.conn.post(command, bytes, self.now));
        }
        let mut bytes = Vec::new();
        while !self.conn.output().is_empty() {
            let n = self.conn.output().pending().len();
            bytes.extend_from_slice(self.conn.output().pending());
            self.conn.output().advance(n);
        }
        self.conn.written(self.now);
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some(header) = Header::decode(rest).expect("our magic") {
            let meta_end = HEADER_LEN + header.meta_len as usize;
            let end = meta_end + header.body_len as usize;
            let response = header.kind == Kind::Response as u8;
            let code = if response {
                ResponseMeta::decode(&rest[HEADER_LEN..meta_end]).expect("our meta").code
            } else {
                0
            };
            frames.push((header.kind, header.call_id, code, rest[meta_end..end].to_vec()));
            rest = &rest[end..];
        }
        assert!(rest.is_empty(), "whole frames");
        frames
    }
}

#[test]
fn a_server_does_what_its_model_says() {
    for seed in 0..1500 {
        let mut random = Random::new(seed);
        let (mut world, mut model) = (World::new(), Model::default());
        for step in 0..60 {
            let expected = act(&mut world, &mut model, &mut random);
            let mut seen = world.frames();
            seen.retain(|(kind, ..)| *kind != Kind::GoAway as u8); // its presence is `ended`
            assert_eq!(seen, expected, "seed {seed}, step {step}");
            let open = world.conn.intent() == Intent::Open;
            assert_eq!(open, !model.ended, "seed {seed}, step {step}: {:?}", world.conn.reason());
            if model.ended {
                break;
            }
            // A cancelled call is the handler's until it answers.
            let held: BTreeSet<u64> = world.handlers.held().keys().copied().collect();
            let known: BTreeSet<u64> = model.open.union(&model.cancelled).copied().collect();
            assert_eq!(held, known, "seed {seed}, step {step}");
        }
    }
}

fn settings() -> ServerSettings {
    ServerSettings {
        instance: 7,
        legacy: true,
        legacy_keep: false,
        max_header: 1000,
        max_body: 4000,
        max_calls: 1000,
        max_input: 1 << 20,
        max_output: 1 << 20,
        memory: Quota::new(1 << 30),
        request_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(300),
        min_ping_interval: Duration::from_secs(1),
    }
}

/// One act of the peer or of a handler, in both worlds. Gives the frames that have to follow.
fn act(world: &mut World, model: &mut Model, random: &mut Random) -> Vec<Frame> {
    match random.below(20) {
        0..7 => {
            // Mostly the next id or one above it; now and then one that was there, or 0.
            let id = if random.one_in(40) {
                random.next() % (model.last + 1)
            } else {
                model.last + 1 + random.next() % 3
            };
            world.feed(&request(id), random);
            if id <= model.last {
                model.ended = true;
            } else {
                model.last = id;
                model.open.insert(id);
            }
            Vec::new()
        }
        7..12 => {
            let ids: Vec<u64> = world.handlers.held().keys().copied().collect();
            if ids.is_empty() {
                return Vec::new();
            }
            let id = random.pick(&ids);
            let ticket = world.handlers.held().remove(&id).expect("held");
            let mut message = BytesValue::new();
            message.value = vec![7; 3];
            if random.one_in(3) {
                drop(ticket);
            } else {
                ticket.answer(&message, &ReplyExtras::default());
            }
            model.cancelled.remove(&id);
            if !model.open.remove(&id) {
                return Vec::new(); // nobody waits for it
            }
            // Which of the two it was is for other tests.
            let mut frames = world.frames();
            assert_eq!(frames.len(), 1);
            let frame = frames.remove(0);
            assert_eq!((frame.0, frame.1), (Kind::Response as u8, id));
            assert!([0, 13].contains(&frame.2), "{frame:?}");
            Vec::new()
        }
        12..15 => {
            let id = random.next() % (model.last + 3);
            world.feed(&control(Kind::Cancel, id, &[]), random);
            if model.open.remove(&id) {
                model.cancelled.insert(id);
                // CANCELLED, or nothing: the caller has gone.
                for frame in world.frames() {
                    assert_eq!((frame.0, frame.1, frame.2), (Kind::Response as u8, id, 1));
                }
            }
            Vec::new()
        }
        15 => {
            world.now += Duration::from_secs(2); // no flood
            let body = random.bytes(9);
            world.feed(&control(Kind::Ping, 0, &body), random);
            vec![(Kind::Pong as u8, 0, 0, body)]
        }
        16 => {
            world.feed(&control(Kind::Pong, 0, b"unasked"), random);
            Vec::new()
        }
        17 if random.one_in(10) => {
            let kind = random.pick(&[Kind::Hello, Kind::Response]);
            world.feed(&control(kind, 1, &[]), random);
            model.ended = true;
            Vec::new()
        }
        _ => Vec::new(),
    }
}

fn request(id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let meta = RequestMeta { service: "pkg.Svc", method: "Hold", ..Default::default() };
    let start = start_frame(&mut bytes, Kind::Request, END, id, |out| meta.encode(out));
    bytes.extend_from_slice(&id.to_le_bytes());
    finish_frame(&mut bytes, start);
    bytes
}

fn control(kind: Kind, call: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_control(&mut bytes, kind, call, body);
    bytes
}
