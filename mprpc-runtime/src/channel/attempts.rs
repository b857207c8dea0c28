//! What the attempts of one call have in common: its time, where it was tried, what its failures say.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{encode, peer::Peer};
use crate::{
    balance::{Budget, Repeat, Verdict},
    connection::{call::Failure, client::ClientSettings},
    descriptor::MethodDescriptor,
    error::{CallError, Error, Ran},
    reactor,
    rpc_channel::Call,
    stages::{ServerStages, Stages},
    status::{Code, Status},
    wire::Wire,
};

/// One call's attempts: what it is, how long it may take, where it was tried.
pub(super) struct Attempts {
    pub(super) method: &'static MethodDescriptor,
    pub(super) began: Instant,
    pub(super) allowed: Duration,
    pub(super) deadline: Instant,
    count: u32,
    /// Bytes of the message and the attachment.
    pub(super) size: u64,
    /// It may be repeated even if it ran.
    idempotent: bool,
    peer: Option<SocketAddr>,
    /// When the present attempt began, and when it was known who serves the call, a connection took
    /// it, that was open.
    pub(super) since: Instant,
    pub(super) marks: [Option<Instant>; 3],
    /// Where the call failed; empty, and without memory, for nearly all calls.
    pub(super) tried: Vec<SocketAddr>,
}

/// An attempt that failed.
pub(super) struct Failed {
    pub(super) failure: Failure,
    /// The connection had served others before: that it is gone says nothing about the peer.
    pub(super) stale: bool,
}

impl Failed {
    /// What it says about the peer.
    pub(super) fn verdict(&self) -> Verdict {
        let Failure { ran, status } = &self.failure;
        match (ran, status.code()) {
            (_, Code::DeadlineExceeded) => Verdict::Late,
            (Ran::No, _) if status.retryable() => Verdict::Refused,
            // What could not be connected is told by the connection.
            (Ran::No, _) | (_, Code::Cancelled) => Verdict::Nothing,
            (_, Code::Unavailable | Code::Internal | Code::DataLoss) => Verdict::Failed,
            (_, Code::ResourceExhausted) => Verdict::Refused,
            _ => Verdict::Answered,
        }
    }
}

impl Attempts {
    #[inline]
    pub(super) fn new(call: &Call<'_>, default: Duration) -> Self {
        let began = reactor::now();
        let allowed = call.timeout(default);
        let deadline = began + allowed;
        let idempotent = call.options.given().idempotent.unwrap_or(call.method.idempotent);
        let (method, tried) = (call.method, Vec::new());
        Self {
            method,
            began,
            allowed,
            deadline,
            count: 0,
            size: 0,
            idempotent,
            peer: None,
            since: began,
            marks: [None; 3],
            tried,
        }
    }

    /// Refuses what cannot be sent.
    pub(super) fn may_start(
        &mut self,
        call: &Call<'_>,
        settings: &ClientSettings,
        now: Instant,
    ) -> Result<(), Failure> {
        let refuse = |status| Err(Failure { ran: Ran::No, status });
        if self.allowed.is_zero() {
            return refuse(Status::deadline_exceeded(
                "a timeout of 0 leaves no time to send the call; it must be above (CallOptions::timeout, \
                 MprpcChannel::with_timeout; inside of a handler, what its own caller left)",
            ));
        }
        if now >= self.deadline {
            return refuse(Status::deadline_exceeded("no time was left to send the call"));
        }
        if call.options.given().cancel.as_ref().is_some_and(|token| token.is_cancelled()) {
            return refuse(Status::cancelled("cancelled before it was sent"));
        }
        if !call.request.is_initialized_dyn() {
            let text = format!("the request {} lacks a required field", call.method.request_type);
            return refuse(Status::invalid_argument(text));
        }
        self.size = encode::check(call, settings).map_err(|status| Failure { ran: Ran::No, status })?;
        Ok(())
    }

    /// The next attempt begins.
    pub(super) fn renew(&mut self, now: Instant) {
        (self.since, self.marks) = (now, [None; 3]);
    }

    /// How much of the time is left, which the request says.
    pub(super) fn remaining(&self, now: Instant) -> Duration {
        // The first attempt begins with the call: nothing to reckon.
        if now == self.began { self.allowed } else { self.deadline.saturating_duration_since(now) }
    }

    /// Until when a connection waits for the answer: a moment longer than the caller is allowed, as the
    /// server says at the deadline where the time went. What it says later than that is not heard.
    pub(super) fn patience(&self, wire: Wire) -> Instant {
        match wire {
            Wire::Mux => self.deadline + (self.allowed / 10).min(LAST_WORD),
            Wire::Legacy(_) => self.deadline,
        }
    }

    pub(super) fn stages(&self, now: Instant, server: Option<ServerStages>) -> Box<Stages> {
        let at = |mark: Instant| mark.saturating_duration_since(self.began);
        // The first attempt begins with the call.
        let before = if self.count > 1 { at(self.since) } else { Duration::ZERO };
        Box::new(Stages::between(before, self.marks.map(|mark| mark.map(at)), at(now), server))
    }

    pub(super) fn begin(&mut self, peer: &Peer) {
        self.count += 1;
        self.peer = Some(peer.addr);
    }

    /// Whether the call may be repeated and is worth another attempt. Notes where it failed.
    pub(super) fn may_retry(&mut self, failed: &Failed, budget: &Budget) -> bool {
        let Failure { ran, status } = &failed.failure;
        let repeat = Repeat::of(*ran, status, self.idempotent);
        if repeat == Repeat::No || self.count >= MAX_ATTEMPTS || Instant::now() >= self.deadline {
            return false;
        }
        if repeat == Repeat::Budgeted && !budget.spend() {
            return false;
        }
        if !failed.stale {
            self.tried.extend(self.peer);
        }
        true
    }

    pub(super) fn error(&self, failure: Failure) -> Error {
        let now = Instant::now();
        let stages = self.peer.map(|_| self.stages(now, failure.status.stages().cloned()));
        Error::Call(Box::new(CallError {
            status: failure.status,
            ran: failure.ran,
            method: self.method.path(),
            peer: self.peer,
            attempt: self.count.max(1),
            max_attempts: MAX_ATTEMPTS,
            stages,
            elapsed: now.saturating_duration_since(self.began),
            allowed: self.allowed,
        }))
    }
}

/// Attempts of one call, the first included.
const MAX_ATTEMPTS: u32 = 3;
/// How long after the deadline the server's word on it is waited for; less for short deadlines.
const LAST_WORD: Duration = Duration::from_millis(10);
