//! The client's side of one connection: calls in flight, their deadlines, and what the peer says.
//!
//! Generic over what a call wants done at its end: the reactor uses a boxed closure, the blocking
//! driver, which waits for one call, uses nothing. Every method that may end calls takes `sink`,
//! which gets each ended call's `C` with its outcome.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Command, Connection, Intent,
    call::{Completion, Failure, Outcome},
    calls::Calls,
    mailbox::GRACE,
};
use crate::{
    error::Ran,
    status::Status,
    wire::{
        Wire,
        buf::{Inbox, Output},
        mux,
    },
};

mod legacy;
mod multiplexed;

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
    /// For connect and the peer's Hello together.
    pub connect_timeout: Duration,
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
    calls: Calls<Call<C>>,
    next_id: u64,
    /// No deadline of a call in flight is earlier.
    earliest: Option<Instant>,
    inbox: Inbox,
    /// Bytes of a refused frame that are still to come and to be dropped.
    skip: u64,
    output: Output,
    /// When the connect began; then the last time that bytes came.
    heard: Instant,
    /// When the unanswered ping went out.
    pinged: Option<Instant>,
    peer_instance: u64,
    /// The peer was heard: calls could be made.
    opened: bool,
    link: Option<Arc<Link>>,
    reason: Option<String>,
}

/// What other threads may know of a connection without asking it.
#[derive(Debug, Default)]
pub struct Link {
    refuses: AtomicBool,
    opened: AtomicBool,
}

impl Link {
    /// Whether calls may be posted to the connection.
    pub fn takes_calls(&self) -> bool {
        !self.refuses.load(Ordering::Acquire)
    }

    /// Whether the peer was ever heard.
    pub fn was_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }
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
    /// The peer takes no new calls.
    Draining,
    /// FIN is out, waiting for the peer's.
    Linger(Instant),
    Reset,
    Closed,
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
            calls: Calls::default(),
            next_id: 1,
            earliest: None,
            inbox: Inbox::default(),
            skip: 0,
            output,
            heard: now,
            pinged: None,
            peer_instance: 0,
            opened: false,
            link: None,
            reason: None,
        }
    }

    /// The same connection, which keeps `link` up to date.
    #[must_use]
    pub fn linked(mut self, link: Arc<Link>) -> Self {
        self.link = Some(link);
        self
    }

    /// Whether the peer was ever heard, so that calls could be made.
    pub fn was_open(&self) -> bool {
        self.opened
    }

    /// The wire it speaks.
    pub fn wire(&self) -> Wire {
        self.wire
    }

    fn tell(&self) {
        if let Some(link) = &self.link {
            link.refuses.store(!self.takes_calls(), Ordering::Release);
            link.opened.store(self.opened, Ordering::Release);
        }
    }

    /// Whether `start` would take a call.
    pub fn takes_calls(&self) -> bool {
        match self.phase {
            Phase::Connecting | Phase::Greeting | Phase::Open => {
                self.wire == Wire::Mux || self.next_id == 1
            }
            Phase::Draining | Phase::Linger(_) | Phase::Reset | Phase::Closed => false,
        }
    }

    /// Whether nothing is under way, so that the connection may wait for its next call in a pool.
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Open
            && self.wire == Wire::Mux
            && self.calls.is_empty()
            && self.inbox.is_empty()
            && self.skip == 0
            && self.output.is_empty()
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// The process at the other end, once its Hello came; 0 before, and on the legacy wire.
    pub fn peer_instance(&self) -> u64 {
        self.peer_instance
    }

    /// Starts a call: `write` appends its frame under the id it is given. A connection that takes
    /// no calls ends it at once, saying that it did not run.
    pub fn start(
        &mut self,
        start: Start<C>,
        write: impl FnOnce(&C, u64, &mut Vec<u8>),
        sink: Sink<'_, C>,
    ) {
        if !self.takes_calls() {
            let status = Status::unavailable("the connection takes no new calls");
            return sink(
                start.done,
                Err(Failure {
                    ran: Ran::No,
                    status,
                }),
            );
        }
        let id = self.next_id;
        self.next_id += 1;
        let offset = self.output.end_in_all();
        write(&start.done, id, self.output.buffer());
        let deadline = start.deadline;
        self.earliest = Some(
            self.earliest
                .map_or(deadline, |earliest| earliest.min(deadline)),
        );
        self.calls.insert(id, Call { start, offset });
    }

    /// Ends the call with this tag, if it is in flight, and tells the peer.
    pub fn cancel(&mut self, tag: u64, sink: Sink<'_, C>) {
        let found = self
            .calls
            .iter()
            .find(|(_, call)| call.start.tag == tag)
            .map(|(id, _)| id);
        if let Some(id) = found.filter(|_| tag != 0) {
            self.abandon(id, Status::cancelled("cancelled by the caller"), sink);
        }
    }

    /// Ends a call that the peer still works on.
    fn abandon(&mut self, id: u64, status: Status, sink: Sink<'_, C>) {
        let Some(call) = self.calls.remove(id) else {
            return;
        };
        match self.wire {
            Wire::Mux => mux::write_control(self.output.buffer(), mux::Kind::Cancel, id, &[]),
            // All that can be said on the legacy wire.
            Wire::Legacy(_) => self.phase = Phase::Reset,
        }
        sink(
            call.start.done,
            Err(Failure {
                ran: Ran::Maybe,
                status,
            }),
        );
    }

    /// The connect succeeded.
    pub fn connected(&mut self) {
        if self.phase == Phase::Connecting {
            self.opened = self.wire != Wire::Mux;
            self.phase = if self.opened {
                Phase::Open
            } else {
                Phase::Greeting
            };
        }
    }

    /// Bytes arrived.
    pub fn receive(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_, C>) {
        self.heard = now;
        self.pinged = None;
        match (self.phase, self.wire) {
            (Phase::Linger(_) | Phase::Reset | Phase::Closed, _) => {}
            (_, Wire::Mux) => self.receive_mux(bytes, now, sink),
            (_, Wire::Legacy(_)) => self.receive_legacy(bytes, sink),
        }
    }

    /// The peer sent FIN.
    pub fn eof(&mut self, sink: Sink<'_, C>) {
        if matches!(self.wire, Wire::Legacy(_)) {
            self.deliver_legacy(sink);
        } else {
            self.end_all("the peer closed the connection", sink);
        }
        self.phase = Phase::Closed;
    }

    /// The socket is gone.
    pub fn lost(&mut self, error: &io::Error, sink: Sink<'_, C>) {
        if self.phase == Phase::Connecting {
            self.end_all(&format!("cannot connect: {error}"), sink);
        } else {
            self.end_all(&format!("the connection was lost: {error}"), sink);
        }
        self.phase = Phase::Closed;
    }

    /// Ends the connection, with a reason for the peer. Calls in flight fail.
    pub fn close(&mut self, reason: &str, now: Instant, sink: Sink<'_, C>) {
        self.end_all(reason, sink);
        self.phase = match (self.phase, self.wire) {
            (Phase::Greeting | Phase::Open | Phase::Draining, Wire::Mux) => {
                mux::write_control(
                    self.output.buffer(),
                    mux::Kind::GoAway,
                    0,
                    reason.as_bytes(),
                );
                Phase::Linger(now + GRACE)
            }
            (Phase::Linger(until), _) => Phase::Linger(until),
            _ => Phase::Reset,
        };
    }

    /// Fails every call in flight. One whose first byte the socket never took did not run.
    fn end_all(&mut self, text: &str, sink: Sink<'_, C>) {
        let sent = self.output.sent_in_all();
        for (_, call) in self.calls.drain() {
            let ran = if sent <= call.offset {
                Ran::No
            } else {
                Ran::Maybe
            };
            sink(
                call.start.done,
                Err(Failure {
                    ran,
                    status: Status::unavailable(text),
                }),
            );
        }
        self.output.clear();
    }

    /// When `timeout` wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Connecting | Phase::Greeting => Some(self.heard + self.settings.connect_timeout),
            Phase::Open | Phase::Draining if self.wire == Wire::Mux => Some(match self.pinged {
                Some(at) => at + PING_TIMEOUT,
                None => self.heard + self.settings.ping_interval,
            }),
            Phase::Open | Phase::Draining => self.legacy_quiet_at(),
            Phase::Linger(until) => Some(until),
            Phase::Reset | Phase::Closed => None,
        };
        let calls = self.earliest.filter(|_| !self.calls.is_empty());
        phase.into_iter().chain(calls).min()
    }

    /// The time of `next_timeout` has come.
    pub fn timeout(&mut self, now: Instant, sink: Sink<'_, C>) {
        self.expire(now, sink);
        let connect_timeout = self.settings.connect_timeout;
        match self.phase {
            Phase::Connecting if now >= self.heard + connect_timeout => {
                self.end_all(
                    &format!("no connection within {connect_timeout:?} (connect_timeout)"),
                    sink,
                );
                self.phase = Phase::Closed;
            }
            Phase::Greeting if now >= self.heard + connect_timeout => {
                let text = "connected, but no Hello came in time (connect_timeout); is the peer a C++ node? \
                            then set protocol = legacy";
                self.close(text, now, sink);
                self.phase = Phase::Reset;
            }
            Phase::Open | Phase::Draining if self.wire == Wire::Mux => match self.pinged {
                Some(at) if now >= at + PING_TIMEOUT => {
                    self.end_all("the peer does not answer pings", sink);
                    self.phase = Phase::Reset;
                }
                None if now >= self.heard + self.settings.ping_interval => {
                    self.pinged = Some(now);
                    mux::write_control(self.output.buffer(), mux::Kind::Ping, 0, &[]);
                }
                _ => {}
            },
            Phase::Open | Phase::Draining if self.legacy_quiet_at().is_some_and(|at| now >= at) => {
                self.deliver_legacy(sink);
                self.phase = Phase::Closed;
            }
            Phase::Linger(until) if now >= until => self.phase = Phase::Closed,
            _ => {}
        }
    }

    /// Ends the calls whose deadline passed. `earliest` is only a bound, so that starting and
    /// ending calls costs nothing here; it is made exact when it passes.
    fn expire(&mut self, now: Instant, sink: Sink<'_, C>) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        let due = |(id, call): (u64, &Call<C>)| (call.start.deadline <= now).then_some(id);
        let expired: Vec<u64> = self.calls.iter().filter_map(due).collect();
        for id in expired {
            let text = match self.phase {
                Phase::Connecting => "the deadline passed while connecting",
                Phase::Greeting => "the deadline passed before the peer said Hello",
                _ => "the deadline passed before the reply came",
            };
            self.abandon(id, Status::deadline_exceeded(text), sink);
        }
        self.earliest = self.calls.iter().map(|(_, call)| call.start.deadline).min();
    }

    /// What is to be written.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// What to do once `output` is empty.
    pub fn intent(&self) -> Intent {
        match self.phase {
            Phase::Connecting | Phase::Greeting | Phase::Open | Phase::Draining => Intent::Open,
            Phase::Linger(_) => Intent::ShutDown,
            Phase::Reset => Intent::Reset,
            Phase::Closed => Intent::Close,
        }
    }
}

impl Connection for ClientConnection<Box<dyn Completion>> {
    fn connected(&mut self, _now: Instant) {
        Self::connected(self);
        self.tell();
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        Self::receive(self, bytes, now, &mut run);
        self.tell();
    }

    fn eof(&mut self, _now: Instant) {
        Self::eof(self, &mut run);
        self.tell();
    }

    fn lost(&mut self, error: &io::Error, _now: Instant) {
        Self::lost(self, error, &mut run);
        self.tell();
    }

    fn post(&mut self, command: Command, _bytes: &[u8], now: Instant) {
        match command {
            Command::Start {
                tag,
                deadline,
                empty_ok,
                done,
            } => {
                let start = Start {
                    tag,
                    deadline,
                    empty_ok,
                    done,
                };
                let mux = self.wire == Wire::Mux;
                self.start(
                    start,
                    |done, id, out| {
                        let at = out.len();
                        out.extend_from_slice(done.frame());
                        if mux {
                            out[at + 12..at + 20].copy_from_slice(&id.to_le_bytes());
                        }
                    },
                    &mut run,
                );
            }
            Command::Cancel(tag) => self.cancel(tag, &mut run),
            Command::Close(reason) => self.close(reason, now, &mut run),
            Command::Drain => self.leave(now),
            // Nothing else is posted to a client's connection.
            Command::Answer { .. } | Command::Custom(_) => {}
        }
        self.tell();
    }

    fn output(&mut self) -> &mut Output {
        Self::output(self)
    }

    fn intent(&self) -> Intent {
        Self::intent(self)
    }

    fn next_timeout(&self) -> Option<Instant> {
        Self::next_timeout(self)
    }

    fn timeout(&mut self, now: Instant) {
        Self::timeout(self, now, &mut run);
        self.tell();
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

fn run(done: Box<dyn Completion>, outcome: Outcome<'_>) {
    done.complete(outcome);
}

/// A peer that is silent this long after a ping is taken for dead.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
