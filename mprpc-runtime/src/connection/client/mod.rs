//! The client's side of one connection: calls in flight, their deadlines, and what the peer says.
//!
//! Generic over what a call wants done at its end: the reactor uses a boxed closure, the blocking
//! driver, which waits for one call, uses nothing. Every method that may end calls takes `sink`,
//! which gets each ended call's `C` with its outcome.
//!
//! `multiplexed` and `legacy` read what the peer says, `timing` knows when it has said too little,
//! `ending` closes; `posted` is the connection as a reactor drives it, and `link` what other threads
//! see of that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Intent,
    call::{Failure, Outcome},
    calls::Calls,
    patience::{Farewell, Watch},
};
use crate::{
    error::Ran,
    status::Status,
    wire::{
        Wire,
        buf::{Inbox, Output},
        mux::{self, Header, Kind},
    },
};

mod ending;
mod legacy;
mod link;
mod multiplexed;
mod posted;
mod timing;

pub use ending::is_of_the_peer;
pub use link::{Link, Observer};

/// What the connections of one channel have in common. Durations and sizes are the settings of
/// the same names.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// This process, as its Hello says it.
    pub instance: u64,
    /// Bytes of a header.
    pub max_header: u32,
    /// Bytes of a message with its attachment.
    pub max_body: u32,
    /// Bytes that may wait to be written before calls are refused.
    pub max_output: usize,
    /// For connect and the peer's Hello together.
    pub connect_timeout: Duration,
    /// From a response's first byte to its last, and for the peer to take output.
    pub request_timeout: Duration,
    /// Silence after which a mux connection is pinged.
    pub ping_interval: Duration,
    /// A legacy reply ends when the line is quiet, not with FIN.
    pub legacy_quiet: bool,
    /// A legacy reply of no bytes is a message of defaults.
    pub legacy_empty: bool,
}

/// A call to start.
#[derive(Debug)]
pub struct Start<C> {
    /// Names the call for `cancel`; 0 if it cannot be cancelled.
    pub tag: u64,
    /// When it must have ended.
    pub deadline: Instant,
    /// Whether a legacy reply of no bytes is a message.
    pub empty_ok: bool,
    /// What goes to the sink with the outcome.
    pub done: C,
}

/// Gets every call that ended.
pub type Sink<'a, C> = &'a mut dyn FnMut(C, Outcome<'_>);

/// The state machine. See the module for `C`.
pub struct ClientConnection<C> {
    wire: Wire,
    settings: Arc<ClientSettings>,
    phase: Phase,
    /// No new calls; the connection ends with the last one in flight.
    leaving: bool,
    /// On the legacy wire: it was made only to find out whether that can be done.
    probes: bool,
    calls: Calls<Call<C>>,
    next_id: u64,
    /// No deadline of a call in flight is earlier.
    earliest: Option<Instant>,
    inbox: Inbox,
    /// Bytes of a refused frame that are still to come and to be dropped.
    skip: u64,
    output: Output,
    watch: Watch,
    /// When the connect began; from Hello on the last time that bytes came.
    heard: Instant,
    /// When the unanswered ping went out.
    pinged: Option<Instant>,
    /// When the last ping went out, answered or not.
    last_ping: Option<Instant>,
    /// The ping has waited so long that the peer is in doubt.
    silent: bool,
    /// Pings that were followed by a word of the peer.
    pongs: u32,
    /// The peer wants no new calls, on no connection.
    drains: bool,
    /// After so long without a word while it owes one, the peer is pinged.
    doubt: Duration,
    /// What the peer said, `u32::MAX` before it did.
    peer_max_body: u32,
    /// It was left before it was open: that says nothing about the peer.
    left_early: bool,
    peer_instance: u64,
    late_responses: u64,
    /// The peer was heard: calls could be made.
    opened: bool,
    link: Option<Arc<Link>>,
    told: link::Told,
    reason: Option<String>,
}

struct Call<C> {
    start: Start<C>,
    /// The place of its first byte in all that the connection ever writes.
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The socket is not connected yet.
    Connecting,
    /// Connected; on the mux wire the peer's Hello is still to come.
    Greeting,
    Open,
    /// FIN is out or will be once the output is; what comes in is dropped.
    Linger(Farewell),
    Reset,
    Closed,
}

impl<C> Call<C> {
    fn fail(self, ran: Ran, status: Status, sink: Sink<'_, C>) {
        sink(self.start.done, Err(Failure { ran, status }));
    }
}

impl<C> ClientConnection<C> {
    /// A connection whose connect has just begun.
    pub fn new(wire: Wire, settings: Arc<ClientSettings>, now: Instant) -> Self {
        let mut output = Output::default();
        if wire == Wire::Mux {
            let hello = mux::Hello {
                version: mux::VERSION,
                instance: settings.instance,
                max_header: settings.max_header,
                max_body: settings.max_body,
                ..Default::default()
            };
            hello.write(output.buffer());
        }
        Self {
            wire,
            settings,
            phase: Phase::Connecting,
            leaving: false,
            probes: false,
            calls: Calls::default(),
            next_id: 1,
            earliest: None,
            inbox: Inbox::default(),
            skip: 0,
            output,
            watch: Watch::default(),
            heard: now,
            pinged: None,
            last_ping: None,
            silent: false,
            pongs: 0,
            drains: false,
            doubt: timing::DOUBT,
            peer_max_body: u32::MAX,
            left_early: false,
            peer_instance: 0,
            late_responses: 0,
            opened: false,
            link: None,
            told: link::Told::default(),
            reason: None,
        }
    }

    /// The wire it speaks.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Whether the peer was ever heard, so that calls could be made.
    pub fn was_open(&self) -> bool {
        self.opened
    }

    /// Whether `start` would take a call.
    pub fn takes_calls(&self) -> bool {
        self.is_open() && !self.leaving && (self.wire == Wire::Mux || self.next_id == 1)
    }

    /// Whether nothing is under way, so that the connection may wait for its next call in a pool.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Open
            && self.calls.is_empty()
            && self.inbox.is_empty()
            && self.skip == 0
            && self.output.is_empty()
    }

    /// Whether a ping is unanswered, so that the connection may be dead.
    pub fn is_in_doubt(&self) -> bool {
        self.pinged.is_some()
    }

    /// The largest message that the peer takes, once it said so; else no limit.
    pub fn peer_max_body(&self) -> u32 {
        self.peer_max_body
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// The process at the other end, once its Hello came; 0 before, and on the legacy wire.
    pub fn peer_instance(&self) -> u64 {
        self.peer_instance
    }

    /// Responses that came for calls that had ended already, by deadline or cancel.
    pub fn late_responses(&self) -> u64 {
        self.late_responses
    }

    /// Starts a call: `write` appends its frame under the id it is given. A connection that takes
    /// no calls, or whose peer takes no bytes, ends it at once, saying that it did not run.
    pub fn start(&mut self, start: Start<C>, write: impl FnOnce(&C, u64, &mut Vec<u8>), sink: Sink<'_, C>) {
        self.start_in(start, |done, id, output| write(done, id, output.buffer()), sink);
    }

    /// The same where `write` has the whole output to append to.
    pub(crate) fn start_in(
        &mut self,
        start: Start<C>,
        write: impl FnOnce(&mut C, u64, &mut Output),
        sink: Sink<'_, C>,
    ) {
        let (deadline, offset) = (start.deadline, self.output.end_in_all());
        let mut call = Call { start, offset };
        if !self.takes_calls() {
            let status = Status::unavailable("the connection takes no new calls");
            return call.fail(Ran::No, status, sink);
        }
        if self.output.len() > self.settings.max_output {
            let status = Status::unavailable("too many bytes wait for the peer (max_output)");
            return call.fail(Ran::No, status, sink);
        }
        let id = self.next_id;
        self.next_id += 1;
        write(&mut call.start.done, id, &mut self.output);
        let others = self.earliest.filter(|_| !self.calls.is_empty());
        self.earliest = Some(others.map_or(deadline, |earliest| earliest.min(deadline)));
        self.calls.insert(id, call);
    }

    /// Ends the call with this tag, if it is in flight, and tells the peer.
    pub fn cancel(&mut self, tag: u64, sink: Sink<'_, C>) {
        let found = self.calls.iter().find(|(_, call)| call.start.tag == tag).map(|(id, _)| id);
        if let Some(id) = found.filter(|_| tag != 0) {
            self.abandon(id, Status::cancelled("cancelled by the caller"), sink);
        }
        self.settle();
    }

    /// Ends a call that the peer still works on.
    fn abandon(&mut self, id: u64, status: Status, sink: Sink<'_, C>) {
        let Some(call) = self.calls.remove(id) else {
            return;
        };
        let ran = match self.wire {
            Wire::Mux => {
                mux::write_control(self.output.buffer(), Kind::Cancel, id, &[]);
                Ran::Maybe
            }
            // All that can be said on the legacy wire; what is not written never will be.
            Wire::Legacy(_) => {
                self.phase = Phase::Reset;
                self.left_early |= !self.opened;
                self.ran(&call)
            }
        };
        call.fail(ran, status, sink);
    }

    /// The connect succeeded.
    pub fn connected(&mut self) {
        if self.phase == Phase::Connecting {
            self.opened = self.wire != Wire::Mux;
            self.phase = if self.opened { Phase::Open } else { Phase::Greeting };
            if self.probes {
                self.leave();
            }
        }
    }

    /// Where the rest of a large frame can be read to; then `receive` is told of no bytes.
    pub fn room(&mut self) -> Option<&mut Vec<u8>> {
        let mux = self.wire == Wire::Mux && self.is_open() && self.skip == 0;
        let total = mux.then(|| Header::large(self.inbox.as_slice()))??;
        self.inbox.room(total)
    }

    /// Bytes arrived; none, if they were read into `room`.
    pub fn receive(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_, C>) {
        if self.pinged.take().is_some() {
            self.silent = false;
            self.pongs = self.pongs.wrapping_add(1);
        }
        match (&mut self.phase, self.wire) {
            (Phase::Reset | Phase::Closed, _) => {}
            (Phase::Linger(farewell), _) => farewell.drop_bytes(bytes.len()),
            (_, Wire::Mux) => self.receive_mux(bytes, sink),
            (_, Wire::Legacy(_)) => self.receive_legacy(bytes, sink),
        }
        // A peer that dribbles its Hello has not been heard.
        if self.phase == Phase::Open {
            self.heard = now;
        }
        self.settle();
        self.look(now);
    }

    /// What is to be written.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The socket took some or all of `output`.
    pub fn written(&mut self, now: Instant) {
        if self.silent && self.output.is_empty() {
            self.pinged = Some(now);
        }
        self.look(now);
    }

    /// What to do once `output` is empty.
    pub fn intent(&self) -> Intent {
        match self.phase {
            Phase::Connecting | Phase::Greeting | Phase::Open => Intent::Open,
            Phase::Linger(_) => Intent::ShutDown,
            Phase::Reset => Intent::Reset,
            Phase::Closed => Intent::Close,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Connecting | Phase::Greeting | Phase::Open)
    }
}
