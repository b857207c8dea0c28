//! The server's side of one connection: finds out which wire the peer speaks, then speaks it.
//!
//! ```text
//!   Sniff --"MRPC"--> Mux ----goodbye----> Linger --EOF, 1 s, enough bytes--> Closed
//!     |  --legacy---> Legacy --reply----->   |
//!     |  --HTTP-----> (404) ------------->   |
//!     `--anything else--> Reset
//! ```
//!
//! `parse` turns bytes into frames; `mux` and `legacy` act on them; `ending` drains and closes.

use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Command, ConnId, Connection, Dispatch, Intent, Mailbox, Quota, SmallAddr, Ticket,
    calls::Calls,
    cancel::CancelToken,
    lent,
    patience::{Farewell, Haste, Late, Watch},
    quota::GRAIN,
};
use crate::wire::{
    Dialect, Wire,
    buf::{Inbox, NOTHING, Output},
    mux::Header,
    spare,
};

mod ending;
mod legacy;
mod mux;
mod parse;

/// What the connections of one provider have in common. Durations and sizes are the settings of
/// the same names.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// This process, as its Hello says it.
    pub instance: u64,
    /// Whether the legacy wire is answered.
    pub legacy: bool,
    /// Whether a legacy connection is kept for the next call.
    pub legacy_keep: bool,
    /// Bytes of a header.
    pub max_header: u32,
    /// Bytes of a message with its attachment.
    pub max_body: u32,
    /// Calls in flight on one connection.
    pub max_calls: u32,
    /// Bytes of requests that are taken in and not yet answered, before more are left in the socket.
    pub max_input: usize,
    /// Bytes that may wait to be written before requests are left in the socket and calls in the worker queue.
    pub max_output: usize,
    /// Bytes that all connections may hold together, before large requests are refused.
    pub memory: Arc<Quota>,
    /// From a request's first byte to its last, and for the peer to take output.
    pub request_timeout: Duration,
    /// Without bytes and without calls.
    pub idle_timeout: Duration,
    /// Pings that come faster for long end the connection.
    pub min_ping_interval: Duration,
}

/// The state machine. `Dispatch` gets the calls, the driver carries out the rest.
pub struct ServerConnection {
    id: ConnId,
    peer: Option<SmallAddr>,
    settings: Arc<ServerSettings>,
    dispatch: Arc<dyn Dispatch>,
    mailbox: Arc<Mailbox>,
    phase: Phase,
    calls: Calls<Entry>,
    /// Calls begun since the mailbox was told: never more than `RECLAIM_EVERY`.
    begun: u8,
    /// Bytes of the requests of `calls`.
    taken: usize,
    /// Of what inbox and output hold, what counts towards `memory`, in grains.
    held: u32,
    /// The highest call id seen so far.
    last_id: u64,
    inbox: Inbox,
    /// The front of the inbox has to wait until a call ends or output is taken.
    blocked: bool,
    /// Calls that wait for a worker have to wait until output is taken.
    choked: bool,
    output: Output,
    /// Last byte in, last answer out, or the start.
    active: Instant,
    watch: Watch,
    /// Idle connections are many, and need none of it.
    rare: Option<Box<Rare>>,
    /// No deadline of a call that waits for a worker, or runs on one, is earlier.
    earliest: Option<Instant>,
    eof: bool,
}

/// What few connections come to need.
#[derive(Default)]
struct Rare {
    /// Bytes of a refused frame that are still to come and to be dropped.
    skip: u64,
    /// Pings that may still come before they come too fast, and since when.
    pings: Option<(u32, Instant)>,
    drain: Drain,
    /// Made with the first cancel.
    haste: Option<Haste>,
    reason: Option<Cow<'static, str>>,
}

/// A call that runs.
#[derive(Default)]
struct Entry {
    cancel: Option<CancelToken>,
    /// Its answer was given already; the handler's own is dropped.
    answered: bool,
    /// Bytes of its request, as counted in `taken`.
    size: usize,
    /// When it came, and when its caller stops waiting.
    due: Option<(Instant, Instant)>,
}

enum Phase {
    Sniff,
    Mux(mux::State),
    Legacy(Dialect),
    /// FIN is out or will be once the output is; what comes in is dropped.
    Linger(Box<Farewell>),
    Reset,
    Closed,
}

/// The steps of a drain.
#[derive(Clone, Copy, Default)]
enum Drain {
    #[default]
    No,
    /// The peer was asked to open no more calls; those on their way still count, until it says
    /// that it knows (Pong) or this time.
    Announced(Instant),
    /// Calls above this one are ignored; the peer knows that they do not run.
    Final(u64),
}

impl ServerConnection {
    /// A connection just accepted.
    pub fn new(
        id: ConnId,
        peer: Option<SocketAddr>,
        settings: Arc<ServerSettings>,
        dispatch: Arc<dyn Dispatch>,
        mailbox: Arc<Mailbox>,
        now: Instant,
    ) -> Self {
        Self {
            id,
            peer: peer.map(SmallAddr::from),
            settings,
            dispatch,
            mailbox,
            phase: Phase::Sniff,
            calls: Calls::default(),
            begun: 0,
            taken: 0,
            held: 0,
            last_id: 0,
            inbox: Inbox::default(),
            blocked: false,
            choked: false,
            output: Output::default(),
            active: now,
            watch: Watch::default(),
            rare: None,
            earliest: None,
            eof: false,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn to_skip(&self) -> u64 {
        self.rare.as_ref().map_or(0, |rare| rare.skip)
    }

    fn drain(&self) -> Drain {
        self.rare.as_ref().map_or(Drain::No, |rare| rare.drain)
    }

    /// Goes on with what had to wait, if it may.
    fn resume(&mut self, now: Instant) {
        if self.blocked && self.may_write() {
            self.parse_inbox(now);
        }
    }

    /// A peer that does not take its answers gets no more of them, sooner while memory is short.
    fn may_write(&self) -> bool {
        let unsent = self.output.len();
        unsent <= self.settings.max_output && (unsent <= LITTLE || !self.settings.memory.is_over())
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Sniff | Phase::Mux(_) | Phase::Legacy(_))
    }

    /// What follows from whatever just happened. Every method that takes `now` ends here.
    fn settle(&mut self, now: Instant) {
        self.settle_end(now);
        self.settings.memory.follow(&mut self.held, self.inbox.len() + self.output.len());
        let choked = self.is_open() && !self.may_write();
        if choked != self.choked {
            self.choke(choked);
        }
        let begun = !self.inbox.is_empty() || self.to_skip() > 0;
        let reading = self.is_open() && !self.blocked && !self.eof && !choked;
        self.watch.look(begun && reading, &self.output, now);
    }

    /// Has the calls that wait for a worker wait on, or no longer. While they do there is output, which is taken
    /// or ends the connection: either lets them go on.
    fn choke(&mut self, choked: bool) {
        self.choked = choked;
        self.dispatch.hold(self.id.0, choked);
    }

    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.inbox.capacity()
    }

    fn idle_until(&self) -> Option<Instant> {
        let idle = self.calls.is_empty() && self.output.is_empty() && !self.watch.is_partial();
        idle.then(|| self.active + self.settings.idle_timeout)
    }

    fn take_answer(&mut self, call: u64, failed: bool, answer: (&[u8], Vec<Bytes>), now: Instant) {
        self.active = now;
        let Some(entry) = self.calls.remove(call) else {
            return;
        };
        self.calls.tidy();
        self.taken -= entry.size;
        if !entry.answered {
            let (bytes, pieces) = answer;
            let out = self.output.buffer();
            spare::provide(out, bytes.len());
            out.extend_from_slice(bytes);
            pieces.into_iter().for_each(|piece| self.output.share(piece));
            self.legacy_answered(failed);
        }
        let much = self.output.len() > self.settings.max_output;
        // What was not offered to the peer yet says nothing about it.
        if much && self.is_open() && self.settings.memory.is_over() && self.watch.is_stalled(now) {
            self.reset("the peer takes no answers, and memory is short (max_memory)");
        }
    }

    /// Counts a call that begins and gives the right to answer it.
    fn begin(&mut self, call: u64, wire: Wire, max_body: u32, body: usize) -> Ticket {
        self.begun += 1;
        let mut ticket = Ticket::new(lent::way(&self.mailbox), self.id, call, wire, max_body);
        if body >= GRAIN {
            ticket.hold(self.settings.memory.hold(body));
        }
        ticket
    }

    /// Notes a call that waits for its answer.
    fn keep(&mut self, call: u64, entry: Entry) {
        self.taken += entry.size;
        self.calls.insert(call, entry);
    }

    /// Whether a request of `body` bytes is too much while memory is short.
    fn is_too_much(&self, body: u32) -> bool {
        body as usize >= GRAIN && self.settings.memory.is_over()
    }
}

impl Connection for ServerConnection {
    fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.active = now;
        if let Phase::Linger(farewell) = &mut self.phase {
            farewell.drop_bytes(bytes.len());
        } else if self.inbox.is_empty() {
            let used = self.parse(bytes, &NOTHING, now);
            if self.is_open() {
                self.inbox.push(&bytes[used..]);
            }
        } else {
            self.inbox.push(bytes);
            self.parse_inbox(now);
        }
        self.settle(now);
    }

    fn room(&mut self) -> Option<&mut Vec<u8>> {
        let mux = matches!(self.phase, Phase::Mux(_)) && self.to_skip() == 0;
        let total = mux.then(|| Header::large(self.inbox.as_slice()))??;
        self.inbox.room(total)
    }

    fn eof(&mut self, now: Instant) {
        self.eof = true;
        self.settle(now);
    }

    fn lost(&mut self, _error: &io::Error, _now: Instant) {
        // After a panic the mailbox was not told of those that will answer there all the same.
        self.mailbox.begin(std::mem::take(&mut self.begun).into());
        self.cancel_all();
        self.phase = Phase::Closed;
    }

    fn post(&mut self, command: Command, bytes: &[u8], now: Instant) {
        match command {
            Command::Answer { call, failed, pieces } => self.take_answer(call, failed, (bytes, pieces), now),
            Command::Drain => self.start_drain(now),
            Command::Close(reason) => self.close(reason),
            // Nothing else is posted to a server's connection.
            Command::Start { .. } | Command::Cancel(_) | Command::Ping | Command::Custom(_) => {}
        }
        self.resume(now);
        self.settle(now);
    }

    fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn written(&mut self, now: Instant) {
        self.resume(now);
        self.settle(now);
    }

    fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Sniff | Phase::Mux(_) => !self.blocked && self.may_write(),
            // Read on while a call runs, to learn of a reset, but not for ever.
            Phase::Legacy(_) => {
                self.may_write() && (!self.blocked || self.inbox.len() <= self.settings.max_header as usize)
            }
            Phase::Linger(_) => true,
            Phase::Reset | Phase::Closed => false,
        }
    }

    fn intent(&self) -> Intent {
        match self.phase {
            Phase::Sniff | Phase::Mux(_) | Phase::Legacy(_) => Intent::Open,
            Phase::Linger(_) => Intent::ShutDown,
            Phase::Reset => Intent::Reset,
            Phase::Closed => Intent::Close,
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let idle = self.idle_until();
        let own = match (&self.phase, self.drain()) {
            (Phase::Reset | Phase::Closed, _) => return None,
            (Phase::Linger(farewell), _) => farewell.due(),
            (_, Drain::Announced(until)) => idle.into_iter().chain([until]).min(),
            // Then it waits for nothing else.
            _ if idle.is_some() => return idle,
            _ => None,
        };
        let watch = self.watch.due(self.settings.request_timeout);
        let calls = self.earliest.filter(|_| !self.calls.is_empty());
        own.into_iter().chain(watch).chain(calls).min()
    }

    fn timeout(&mut self, now: Instant) {
        self.expire(now);
        match self.watch.late(self.settings.request_timeout, now) {
            Some(Late::Output) => self.reset("the peer takes no answers (request_timeout)"),
            Some(Late::Frame) => self.close("request not complete in time (request_timeout)"),
            None if self.idle_until().is_some_and(|until| now >= until) => self.close("idle (idle_timeout)"),
            None if matches!(self.drain(), Drain::Announced(until) if now >= until) => self.finish_drain(),
            None => {}
        }
        self.settle(now);
    }

    fn reason(&self) -> Option<&str> {
        self.rare.as_ref()?.reason.as_deref()
    }
}

impl Drop for ServerConnection {
    /// However it ended: its calls are cancelled, and have to find that out; its memory is free.
    fn drop(&mut self) {
        if self.choked {
            self.choke(false);
        }
        self.settings.memory.follow(&mut self.held, 0);
    }
}

/// A connection with so little unsent, in bytes, goes on while memory is short.
const LITTLE: usize = 16 << 10;
