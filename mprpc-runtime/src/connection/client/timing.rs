//! What ends by time: calls at their deadline, connections whose peer has said nothing for too long.

use std::time::{Duration, Instant};

use super::{Call, ClientConnection, Phase, Sink};
use crate::{
    connection::patience::Late,
    status::Status,
    wire::{
        Wire,
        mux::{self, Kind},
    },
};

impl<C> ClientConnection<C> {
    /// When `timeout` wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let settings = &self.settings;
        let phase = match self.phase {
            Phase::Reset | Phase::Closed => return None,
            Phase::Connecting | Phase::Greeting => Some(self.heard + settings.connect_timeout),
            Phase::Open if self.wire == Wire::Mux => match self.pinged {
                Some(at) if !self.silent => Some(at + SILENCE),
                Some(at) => self.output.is_empty().then(|| at + PING_TIMEOUT),
                None => Some(self.heard + self.patience()),
            },
            Phase::Open => self.legacy_quiet_at(),
            Phase::Linger(farewell) => farewell.due(),
        };
        let calls = self.earliest.filter(|_| !self.calls.is_empty());
        let watch = self.watch.due(settings.request_timeout);
        phase.into_iter().chain(calls).chain(watch).min()
    }

    /// The time of `next_timeout` has come.
    pub fn timeout(&mut self, now: Instant, sink: Sink<'_, C>) {
        self.look(now);
        self.expire(now, sink);
        let settings = self.settings.clone();
        match (self.phase, self.pinged) {
            (Phase::Connecting, _) if now >= self.heard + settings.connect_timeout => {
                let limit = settings.connect_timeout;
                let text = format!("no connection within {limit:?} (connect_timeout)");
                self.end_all(&text, sink);
                self.close_now(Phase::Closed);
            }
            (Phase::Greeting, _) if now >= self.heard + settings.connect_timeout => {
                self.end_all(NO_HELLO, sink);
                self.close_now(Phase::Reset);
            }
            // A ping that is not even written says nothing: `watch` knows how long that may take.
            (Phase::Open, Some(at)) if now >= at + PING_TIMEOUT && self.output.is_empty() => {
                self.end_all("the peer does not answer pings", sink);
                self.close_now(Phase::Reset);
            }
            (Phase::Open, Some(at)) if now >= at + SILENCE => self.silent = true,
            (Phase::Open, None) if self.wire == Wire::Mux && now >= self.heard + self.patience() => {
                self.ping(now)
            }
            (Phase::Open, _) if self.legacy_quiet_at().is_some_and(|at| now >= at) => {
                self.deliver_legacy(sink);
                self.close_now(Phase::Closed);
            }
            _ => {}
        }
        match self.watch.late(settings.request_timeout, now) {
            Some(Late::Output) => {
                self.end_all("the peer takes no bytes (request_timeout)", sink);
                self.close_now(Phase::Reset);
            }
            Some(Late::Frame) => {
                self.close("response not complete in time (request_timeout)", sink);
            }
            None => {}
        }
        self.settle();
        self.look(now);
    }

    /// How long the peer may say nothing before it is pinged: not long if it owes an answer.
    fn patience(&self) -> Duration {
        let idle = self.settings.ping_interval;
        if self.calls.is_empty() { idle } else { idle.min(self.doubt) }
    }

    /// From `now` on the peer owes an answer; what it owed nobody before says nothing about it.
    /// Drivers say so when the first call in flight starts.
    pub fn expect(&mut self, now: Instant) {
        if self.calls.len() == 1 && self.phase == Phase::Open {
            self.heard = self.heard.max(now);
        }
    }

    /// Asks the peer for a sign of life, if it was not asked just now.
    pub(super) fn ping(&mut self, now: Instant) {
        let lately =
            |at: Instant| now.saturating_duration_since(at) < self.doubt.min(self.settings.ping_interval);
        let due = self.pinged.is_none() && !self.last_ping.is_some_and(lately);
        if self.phase == Phase::Open && self.wire == Wire::Mux && due {
            (self.pinged, self.last_ping) = (Some(now), Some(now));
            mux::write_control(self.output.buffer(), Kind::Ping, 0, &[]);
        }
    }

    /// On the legacy wire, that it can be connected is all that a peer says without a call.
    pub(super) fn probe(&mut self) {
        self.probes = true;
        if self.phase == Phase::Open {
            self.leave();
        }
    }

    /// Ends the calls whose deadline passed. `earliest` is only a bound, so that ending calls
    /// costs nothing here; it is made exact when it passes.
    fn expire(&mut self, now: Instant, sink: Sink<'_, C>) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        let due = |(id, call): (u64, &Call<C>)| (call.start.deadline <= now).then_some(id);
        let expired: Vec<u64> = self.calls.iter().filter_map(due).collect();
        let any = !expired.is_empty();
        for id in expired {
            let text = match self.phase {
                Phase::Connecting => "the deadline passed while connecting",
                Phase::Greeting => "the deadline passed before the peer said Hello",
                _ => "the deadline passed before the reply came",
            };
            self.abandon(id, Status::deadline_exceeded(text), sink);
        }
        self.earliest = self.calls.iter().map(|(_, call)| call.start.deadline).min();
        // Calls that all end before the peer is in doubt must not hide that it is dead.
        if any && now.saturating_duration_since(self.heard) >= HASTE {
            self.ping(now);
        }
    }

    /// Looks at what the peer owes. A legacy reply has no frame that could be late.
    pub(super) fn look(&mut self, now: Instant) {
        let begun = !self.inbox.is_empty() || self.skip > 0;
        let partial = begun && self.is_open() && self.wire == Wire::Mux;
        self.watch.look(partial, &self.output, now);
        if let Phase::Linger(farewell) = &mut self.phase
            && farewell.is_over(false, &self.output, now)
        {
            self.close_now(Phase::Closed);
        }
    }
}

/// A peer that owes an answer and says nothing for this long is pinged.
pub(super) const DOUBT: Duration = Duration::from_secs(1);
/// A peer that is silent this long after a ping is in doubt: others get the new calls.
const SILENCE: Duration = Duration::from_secs(1);
/// A peer that is silent this long after a ping is taken for dead.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence at a deadline that is worth a ping.
const HASTE: Duration = Duration::from_millis(50);

const NO_HELLO: &str = "connected, but no Hello came in time (connect_timeout); is the peer a C++ node? \
                        then set protocol = legacy";
