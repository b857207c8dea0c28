//! A drain ends with the last call and not before, every call taken has one answer, and the account is exact,
//! whenever the workers are done. The peer is a client's connection; both are the ones that run.

use std::{
    mem,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use mprpc_models::{
    connection::{
        Command, ConnId, Connection, Dispatch, Incoming, Intent, Mailbox, Quota, ReplyExtras,
        call::Outcome,
        client::{ClientConnection, ClientSettings, Start},
        mailbox::Posts,
        server::{ServerConnection, ServerSettings},
    },
    error::Ran,
    status::Code,
    wire::{
        Wire,
        buf::Output,
        mux::{END, Kind, RequestMeta, finish_frame, start_frame},
    },
};
use protobuf::{Message, well_known_types::wrappers::BytesValue};
use shuttle::{
    check_pct, check_random,
    sync::{Condvar, Mutex},
    thread::{self, JoinHandle},
};

fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    check_random(model.clone(), 500);
    check_pct(model, 500, 3);
}

/// Each call on a thread of its own. Its answer comes from there; "Panic" ends without one.
#[derive(Default)]
struct Workers(Mutex<Vec<JoinHandle<()>>>);

impl Dispatch for Workers {
    fn dispatch(&self, call: Incoming<'_>) {
        let (ticket, panics) = (call.ticket, call.method == "Panic");
        let run = move || match panics {
            true => drop(ticket),
            false => _ = ticket.answer(&BytesValue::new(), &ReplyExtras::default()),
        };
        self.0.lock().expect("no panic").push(thread::spawn(run));
    }
}

impl Workers {
    fn join(&self) {
        for worker in mem::take(&mut *self.0.lock().expect("no panic")) {
            worker.join().expect("no panic");
        }
    }
}

type Ended = Vec<(u64, Result<(), (Ran, Code)>)>;

/// A reactor with one connection, and its peer.
struct Node {
    server: ServerConnection,
    client: ClientConnection<u64>,
    ended: Ended,
    mailbox: Arc<Mailbox>,
    woken: Arc<(Mutex<bool>, Condvar)>,
    workers: Arc<Workers>,
    memory: Arc<Quota>,
    begun: Arc<AtomicUsize>,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        let (workers, memory, now) = (Arc::<Workers>::default(), Quota::new(1 << 20), Instant::now());
        let woken = Arc::new((Mutex::new(false), Condvar::new()));
        let waker = woken.clone();
        let wake = move || {
            *waker.0.lock().expect("no panic") = true;
            waker.1.notify_one();
        };
        let mailbox = Arc::new(Mailbox::new(usize::MAX, wake));
        let settings = server_settings(memory.clone());
        let server =
            ServerConnection::new(ID, None, Arc::new(settings), workers.clone(), mailbox.clone(), now);
        let mut client = ClientConnection::new(Wire::Mux, Arc::new(client_settings()), now);
        client.connected();
        let (ended, begun) = Default::default();
        let mut node = Self { server, client, ended, mailbox, woken, workers, memory, begun, now };
        node.exchange();
        node
    }

    /// Starts a call if the peer may: large enough to hold a share of the memory.
    fn call(&mut self, tag: u64, method: &str) {
        if !self.client.takes_calls() {
            return;
        }
        self.begun.fetch_add(1, SeqCst);
        let start = Start { tag, deadline: self.now + MINUTE, empty_ok: false, done: tag };
        let body = BytesValue { value: vec![7; 5000], ..Default::default() };
        let write = |_: &u64, id: u64, out: &mut Vec<u8>| {
            let meta = RequestMeta { service: "pkg.Svc", method, ..Default::default() };
            let at = start_frame(out, Kind::Request, END, id, |out| meta.encode(out));
            body.write_to_vec(out).expect("a message");
            finish_frame(out, at);
        };
        self.client.start(start, write, &mut into(&mut self.ended));
        self.exchange();
    }

    /// Moves bytes until neither side has any.
    fn exchange(&mut self) {
        loop {
            let (up, down) = (taken(self.client.output()), taken(self.server.output()));
            if up.is_empty() && down.is_empty() {
                return;
            }
            self.server.receive(&up, self.now);
            self.client.receive(&down, self.now, &mut into(&mut self.ended));
        }
    }

    /// One turn of the reactor, which sleeps if nothing was posted.
    fn turn(&mut self) {
        let mut posts = Posts::default();
        if self.mailbox.take(&mut posts, true) {
            posts.drain(|_, command, bytes| self.server.post(command, bytes, self.now));
            return self.exchange();
        }
        let mut woken = self.woken.0.lock().expect("no panic");
        while !*woken {
            woken = self.woken.1.wait(woken).expect("no panic");
        }
        *woken = false;
    }

    /// Whatever ended how: nothing runs, nothing is counted, nothing is held.
    fn settled(self) {
        self.workers.join();
        assert_eq!((self.mailbox.open_calls(), self.mailbox.ended()), (0, self.begun.load(SeqCst) as u64));
        drop((self.server, self.workers));
        assert_eq!(self.memory.used(), 0, "all shares came back");
    }
}

#[test]
fn a_drain_ends_with_the_last_call_and_loses_none() {
    check(|| {
        let mut node = Node::new();
        node.call(1, "Echo");
        let mailbox = node.mailbox.clone();
        let operator = thread::spawn(move || mailbox.post(ID, Command::Drain, |_| ()));
        node.call(2, "Panic");
        thread::yield_now();
        // Before the word of the drain, or with it on its way.
        node.turn();
        node.call(3, "Echo");
        while node.server.intent() == Intent::Open {
            node.turn();
        }
        operator.join().expect("no panic");
        assert_eq!(node.server.intent(), Intent::ShutDown);
        assert_eq!(node.mailbox.open_calls(), 0, "over with the last call");
        node.client.eof(&mut into(&mut node.ended));
        node.server.eof(node.now);
        assert_eq!((node.server.intent(), node.client.intent()), (Intent::Close, Intent::Close));
        node.ended.sort_by_key(|(tag, _)| *tag);
        assert_eq!(node.ended.len(), node.begun.load(SeqCst));
        for (tag, result) in &node.ended {
            match (tag, result) {
                (1 | 3, Ok(())) | (2, Err((_, Code::Internal))) | (3, Err((Ran::No, _))) => {}
                other => panic!("{other:?}"),
            }
        }
        node.settled();
    });
}

/// As a reactor ends when the time of the drain is over: what is on its way then counts as cut, once.
#[test]
fn an_answer_that_is_given_while_the_reactor_stops_is_sent_or_cut() {
    check(|| {
        let mut node = Node::new();
        for tag in 1..=3 {
            node.call(tag, "Echo");
        }
        thread::yield_now();
        let mut posts = Posts::default();
        if node.mailbox.take(&mut posts, false) {
            posts.drain(|_, command, bytes| node.server.post(command, bytes, node.now));
        }
        node.exchange();
        node.mailbox.close(&mut posts);
        let account = node.mailbox.account();
        node.server.lost(&std::io::Error::other("the reactor has stopped"), node.now);
        posts.drain(|_, command, _| command.undeliverable());
        let sent = node.ended.len() as u64;
        assert_eq!((account.finished, account.open), (sent, 3 - sent));
        node.settled();
    });
}

fn taken(output: &mut Output) -> Vec<u8> {
    let bytes = output.pending().to_vec();
    output.advance(bytes.len());
    bytes
}

fn into(ended: &mut Ended) -> impl FnMut(u64, Outcome<'_>) {
    |tag, outcome| ended.push((tag, outcome.map(drop).map_err(|end| (end.ran, end.status.code()))))
}

fn server_settings(memory: Arc<Quota>) -> ServerSettings {
    ServerSettings {
        instance: 7,
        legacy: false,
        legacy_keep: false,
        max_header: 1000,
        max_body: 10_000,
        max_calls: 10,
        max_input: 100_000,
        max_output: 100_000,
        memory,
        request_timeout: MINUTE,
        idle_timeout: MINUTE,
        min_ping_interval: Duration::from_secs(1),
    }
}

fn client_settings() -> ClientSettings {
    ClientSettings {
        instance: 9,
        max_header: 1000,
        max_body: 10_000,
        max_output: 100_000,
        connect_timeout: MINUTE,
        request_timeout: MINUTE,
        ping_interval: MINUTE,
        legacy_quiet: false,
        legacy_empty: false,
    }
}

const ID: ConnId = ConnId(3);
const MINUTE: Duration = Duration::from_secs(60);
