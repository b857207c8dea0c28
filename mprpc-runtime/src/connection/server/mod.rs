//! The server's side of one connection: finds out which wire the peer speaks, then speaks it.
//!
//! ```text
//!   Sniff --"MRPC"--> Mux ----goodbye----> Linger --EOF, 1 s, enough bytes--> Closed
//!     |  --legacy---> Legacy --reply----->   |
//!     |  --HTTP-----> (404) ------------->   |
//!     `--anything else--> Reset
//! ```

use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Command, ConnId, Connection, Dispatch, Intent, Mailbox, calls::Calls, cancel::CancelToken,
    mailbox::GRACE,
};
use crate::wire::{
    Dialect,
    buf::{Inbox, Output},
    decoder::{Sniff, sniff},
};

mod legacy;
mod mux;

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
    /// Bytes that may wait to be written before requests are left in the socket.
    pub max_output: usize,
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
    peer: Option<SocketAddr>,
    settings: Arc<ServerSettings>,
    dispatch: Arc<dyn Dispatch>,
    mailbox: Arc<Mailbox>,
    phase: Phase,
    calls: Calls<Entry>,
    /// The highest call id taken so far.
    last_id: u64,
    inbox: Inbox,
    /// Bytes of a refused frame that are still to come and to be dropped.
    skip: u64,
    output: Output,
    timers: Timers,
    eof: bool,
    reason: Option<Cow<'static, str>>,
}

/// A call that runs.
#[derive(Default)]
struct Entry {
    cancel: Option<CancelToken>,
    /// Its answer was given already; the handler's own is dropped.
    answered: bool,
}

enum Phase {
    Sniff,
    Mux(mux::State),
    Legacy(Dialect),
    /// FIN is out or will be once the output is; what comes in is dropped.
    Linger {
        until: Instant,
        left: u64,
    },
    Reset,
    Closed,
}

/// When things began that may not take for ever.
struct Timers {
    /// Last byte in, last answer out, or the start.
    active: Instant,
    /// First byte of the frame that is not complete yet.
    partial: Option<Instant>,
    /// When output was last seen to move, and how much was out then.
    stalled: Option<(Instant, u64)>,
}

/// How far a look at the bytes got.
enum Progress {
    /// This many bytes were used; look again.
    Used(usize),
    /// Nothing can be done until more bytes come or something else happens.
    Wait,
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
            peer,
            settings,
            dispatch,
            mailbox,
            phase: Phase::Sniff,
            calls: Calls::default(),
            last_id: 0,
            inbox: Inbox::default(),
            skip: 0,
            output: Output::default(),
            timers: Timers {
                active: now,
                partial: None,
                stalled: None,
            },
            eof: false,
            reason: None,
        }
    }

    /// Parses what can be parsed of `bytes` and returns how much that was. Answers given meanwhile
    /// are encoded straight into the output.
    fn parse(&mut self, bytes: &[u8], now: Instant) -> usize {
        self.mailbox.lend(self.id, self.last_id);
        let mut used = 0;
        for frames in 1.. {
            // Answered calls count, and their bytes wait, until they are reclaimed.
            if frames % RECLAIM_EVERY == 0 || !self.may_parse() {
                self.reclaim(now);
                if !self.may_parse() {
                    break;
                }
                self.mailbox.lend(self.id, self.last_id);
            }
            let dropped = self.skip.min((bytes.len() - used) as u64);
            self.skip -= dropped;
            used += dropped as usize;
            let rest = &bytes[used..];
            let progress = match self.phase {
                Phase::Sniff => self.sniff(rest, now),
                Phase::Mux(_) => self.mux_frame(rest, now),
                Phase::Legacy(dialect) => self.legacy_request(dialect, rest, now),
                Phase::Linger { .. } | Phase::Reset | Phase::Closed => break,
            };
            match progress {
                Progress::Used(n) => used += n,
                Progress::Wait => break,
            }
        }
        self.reclaim(now);
        used
    }

    /// Takes over the answers given since `lend`.
    fn reclaim(&mut self, now: Instant) {
        let Self {
            calls,
            output,
            mailbox,
            ..
        } = self;
        let mut ended = None;
        mailbox.reclaim(output.buffer(), |call, failed| {
            calls.remove(call);
            ended = Some(failed);
        });
        if let (Some(failed), Phase::Legacy(_)) = (ended, &self.phase) {
            self.legacy_answered(failed, now);
        }
    }

    fn may_parse(&self) -> bool {
        let open = matches!(self.phase, Phase::Sniff | Phase::Mux(_));
        let room = (self.calls.len() as u64) < u64::from(self.settings.max_calls)
            && self.output.len() <= self.settings.max_output;
        (open && room) || (matches!(self.phase, Phase::Legacy(_)) && self.calls.is_empty())
    }

    /// Parses what waits in the inbox: after more bytes came, or after the reason to wait is gone.
    fn parse_inbox(&mut self, now: Instant) {
        let mut inbox = std::mem::take(&mut self.inbox);
        let used = self.parse(inbox.as_slice(), now);
        inbox.consume(used);
        self.inbox = inbox;
        self.after_parse(used > 0, now);
    }

    fn after_parse(&mut self, progress: bool, now: Instant) {
        let waits_for_bytes = self.may_parse() && (!self.inbox.is_empty() || self.skip > 0);
        self.timers.partial = match self.timers.partial {
            Some(since) if waits_for_bytes && !progress => Some(since),
            _ => waits_for_bytes.then_some(now),
        };
        self.mux_end_drain(now);
        if self.eof {
            self.after_eof(now);
        }
    }

    fn sniff(&mut self, bytes: &[u8], now: Instant) -> Progress {
        match sniff(bytes) {
            Sniff::NeedMore => return Progress::Wait,
            Sniff::Mux => self.begin_mux(now),
            Sniff::Legacy(dialect) if self.settings.legacy => self.phase = Phase::Legacy(dialect),
            Sniff::Legacy(_) => {
                self.reset("the legacy wire, which is switched off here (legacy = on)")
            }
            Sniff::Http => {
                self.reason = Some("an HTTP request".into());
                self.output.buffer().extend_from_slice(HTTP_404);
                self.linger(now);
            }
            Sniff::Unknown(what) => self.reset(what),
        }
        Progress::Used(0)
    }

    /// Sends FIN after what the output holds, and takes leave.
    fn linger(&mut self, now: Instant) {
        self.cancel_all();
        let left = 4 * u64::from(self.settings.max_body);
        self.phase = if self.eof {
            Phase::Closed
        } else {
            Phase::Linger {
                until: now + GRACE,
                left,
            }
        };
        self.inbox = Inbox::default();
    }

    fn reset(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.reason = Some(reason.into());
        self.cancel_all();
        self.phase = Phase::Reset;
    }

    fn cancel_all(&mut self) {
        for (_, entry) in self.calls.drain() {
            if let Some(cancel) = entry.cancel {
                cancel.cancel();
            }
        }
    }

    fn after_eof(&mut self, now: Instant) {
        match &self.phase {
            Phase::Sniff | Phase::Linger { .. } => self.phase = Phase::Closed,
            Phase::Mux(_) => self.mux_eof(now),
            Phase::Legacy(_) => {
                // A caller that shut down its side still wants its answer; without a call running
                // it is gone.
                if self.calls.is_empty() {
                    self.phase = Phase::Closed;
                }
            }
            Phase::Reset | Phase::Closed => {}
        }
    }

    /// Notes how the output moves: only a peer that takes nothing at all is stalled.
    fn watch_output(&mut self, now: Instant) {
        let sent = self.output.sent_in_all();
        self.timers.stalled = match self.timers.stalled {
            _ if self.output.is_empty() => None,
            Some((since, before)) if before == sent => Some((since, before)),
            _ => Some((now, sent)),
        };
    }

    fn idle(&self) -> bool {
        self.calls.is_empty() && self.output.is_empty() && self.timers.partial.is_none()
    }
}

impl Connection for ServerConnection {
    fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.timers.active = now;
        if let Phase::Linger { left, .. } = &mut self.phase {
            *left = left.saturating_sub(bytes.len() as u64);
            if *left == 0 {
                self.phase = Phase::Closed;
            }
            return;
        }
        if self.inbox.is_empty() {
            let used = self.parse(bytes, now);
            if !matches!(
                self.phase,
                Phase::Linger { .. } | Phase::Reset | Phase::Closed
            ) {
                self.inbox.push(&bytes[used..]);
            }
            self.after_parse(used > 0, now);
        } else {
            self.inbox.push(bytes);
            self.parse_inbox(now);
        }
    }

    fn eof(&mut self, now: Instant) {
        self.eof = true;
        if self.inbox.is_empty() || !self.may_parse() {
            self.after_eof(now);
        } else {
            self.parse_inbox(now);
        }
    }

    fn lost(&mut self, _error: &io::Error, _now: Instant) {
        self.cancel_all();
        self.phase = Phase::Closed;
    }

    fn post(&mut self, command: Command, bytes: &[u8], now: Instant) {
        match command {
            Command::Answer { call, failed } => self.posted_answer(call, failed, bytes, now),
            Command::Drain => self.drain(now),
            Command::Close(reason) => self.close(reason, now),
            // Nothing else is posted to a server's connection.
            Command::Start { .. } | Command::Cancel(_) | Command::Custom(_) => {}
        }
    }

    fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn written(&mut self, now: Instant) {
        self.watch_output(now);
        // The peer takes answers again: go on with what it asked meanwhile.
        if !self.inbox.is_empty() && self.timers.partial.is_none() && self.may_parse() {
            self.parse_inbox(now);
        }
    }

    fn wants_read(&self) -> bool {
        match self.phase {
            Phase::Sniff | Phase::Mux(_) => self.may_parse(),
            // A legacy connection is read while its call runs, to learn of a reset; but no
            // further than one request ahead.
            Phase::Legacy(_) => self.inbox.len() <= self.settings.max_output,
            Phase::Linger { .. } => true,
            Phase::Reset | Phase::Closed => false,
        }
    }

    fn intent(&self) -> Intent {
        match self.phase {
            Phase::Sniff | Phase::Mux(_) | Phase::Legacy(_) => Intent::Open,
            Phase::Linger { .. } => Intent::ShutDown,
            Phase::Reset => Intent::Reset,
            Phase::Closed => Intent::Close,
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let timers = &self.timers;
        let limit = self.settings.request_timeout;
        let phase = match &self.phase {
            Phase::Linger { until, .. } => Some(*until),
            Phase::Mux(state) => state.next_timeout(),
            _ => None,
        };
        let idle = self
            .idle()
            .then(|| timers.active + self.settings.idle_timeout);
        let stalled = timers.stalled.map(|(since, _)| since + limit);
        let partial = timers.partial.map(|since| since + limit);
        [phase, idle, stalled, partial].into_iter().flatten().min()
    }

    fn timeout(&mut self, now: Instant) {
        self.watch_output(now);
        let limit = self.settings.request_timeout;
        let over = |since: Instant| now >= since + limit;
        if let Phase::Linger { until, .. } = self.phase {
            if now >= until {
                self.phase = Phase::Closed;
            }
        } else if self.timers.stalled.is_some_and(|(since, _)| over(since)) {
            self.reset("the peer takes no answers (request_timeout)");
        } else if self.timers.partial.is_some_and(over) {
            self.close("request not complete in time (request_timeout)", now);
        } else if self.idle() && now >= self.timers.active + self.settings.idle_timeout {
            self.close("idle (idle_timeout)", now);
        } else {
            self.mux_timeout(now);
        }
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl ServerConnection {
    fn posted_answer(&mut self, call: u64, failed: bool, bytes: &[u8], now: Instant) {
        self.timers.active = now;
        let Some(entry) = self.calls.remove(call) else {
            return;
        };
        if !entry.answered {
            self.output.buffer().extend_from_slice(bytes);
            if matches!(self.phase, Phase::Legacy(_)) {
                self.legacy_answered(failed, now);
            }
        }
        self.after_answer(now);
    }

    /// A call ended: go on with what had to wait for that.
    fn after_answer(&mut self, now: Instant) {
        self.mux_end_drain(now);
        if !self.inbox.is_empty() && self.timers.partial.is_none() && self.may_parse() {
            self.parse_inbox(now);
        } else if self.eof {
            self.after_eof(now);
        }
    }

    fn drain(&mut self, now: Instant) {
        match self.phase {
            Phase::Sniff => self.close("draining", now),
            Phase::Mux(_) => self.mux_drain(now),
            // A running legacy call is answered, which ends the connection.
            Phase::Legacy(_) if self.calls.is_empty() => self.close("draining", now),
            _ => {}
        }
    }

    /// Ends the connection in the way of its wire.
    fn close(&mut self, reason: &'static str, now: Instant) {
        self.reason.get_or_insert(Cow::Borrowed(reason));
        match self.phase {
            Phase::Sniff if self.inbox.is_empty() => self.linger(now),
            // An empty reply would look like a message of defaults to a C++ caller.
            Phase::Sniff | Phase::Legacy(_) => self.reset(reason),
            Phase::Mux(_) => self.goodbye(reason, now),
            Phase::Linger { .. } | Phase::Reset | Phase::Closed => {}
        }
    }
}

/// Frames after which answers are taken over in the middle of a read, so that their bytes count
/// towards `max_output`.
const RECLAIM_EVERY: u32 = 64;

const HTTP_404: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
