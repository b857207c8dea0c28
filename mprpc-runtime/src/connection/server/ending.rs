//! How a server's connection ends: drained, closed with a word to the peer, or reset.

use std::{borrow::Cow, time::Instant};

use super::{Drain, Phase, ServerConnection};
use crate::{
    connection::patience::{Farewell, GRACE},
    wire::mux::{self, Kind},
};

impl ServerConnection {
    /// Ends what can end now.
    pub(super) fn settle_end(&mut self, now: Instant) {
        // Complete frames that wait for room come before the FIN behind them.
        let ended = self.eof && !self.blocked;
        // A cancelled call has its answer; that its handler still runs is no reason to stay.
        let quiet = || self.calls.iter().all(|(_, entry)| entry.answered);
        let unread = !self.inbox.is_empty();
        match &self.phase {
            Phase::Sniff if ended && unread => self.reset("it ended before it said which wire"),
            Phase::Sniff if ended => self.phase = Phase::Closed,
            Phase::Mux(state) if ended && (!state.leaving || quiet()) => {
                self.goodbye("the caller closed");
            }
            Phase::Mux(_) if matches!(self.drain(), Drain::Final(_)) && quiet() => self.linger(),
            // Closing without a word would look like a message of defaults to a C++ caller.
            Phase::Legacy(_) if ended && unread && quiet() => {
                self.reset("a legacy request ended in its middle");
            }
            Phase::Legacy(_) if !unread && (ended || self.drains()) && quiet() => {
                if ended || !self.output.is_empty() {
                    self.linger();
                } else {
                    self.reset("draining");
                }
            }
            _ => {}
        }
        if let Phase::Linger(farewell) = &mut self.phase
            && farewell.is_over(self.eof, &self.output, now)
        {
            self.phase = Phase::Closed;
        }
    }

    pub(super) fn drains(&self) -> bool {
        !matches!(self.drain(), Drain::No)
    }

    /// Takes no new calls, finishes the running ones, closes. A connection whose wire is not known
    /// yet gets the time to say: a caller may have written its request already.
    pub(super) fn start_drain(&mut self, now: Instant) {
        if !self.drains() {
            self.rare().drain = Drain::Announced(now + GRACE);
            if let Phase::Mux(_) = self.phase {
                self.announce_drain();
            }
        }
    }

    pub(super) fn announce_drain(&mut self) {
        self.say_go_away(mux::EVERY_CALL, "draining");
        mux::write_control(self.output.buffer(), Kind::Ping, 0, b"draining");
    }

    /// The second step: what comes from now on was sent by a peer that knows, or by nobody.
    pub(super) fn finish_drain(&mut self) {
        self.rare().drain = Drain::Final(self.last_id);
        match self.phase {
            Phase::Mux(_) => self.say_go_away(self.last_id, "draining"),
            Phase::Sniff => self.reset("draining"),
            Phase::Legacy(_) if self.calls.is_empty() => self.reset("draining"),
            // A running legacy call is answered, which ends the connection.
            Phase::Legacy(_) | Phase::Linger(_) | Phase::Reset | Phase::Closed => {}
        }
    }

    /// Ends the connection in the way of its wire.
    pub(super) fn close(&mut self, reason: &'static str) {
        match self.phase {
            // An empty reply would look like a message of defaults to a C++ caller.
            Phase::Sniff | Phase::Legacy(_) => self.reset(reason),
            Phase::Mux(_) => {
                self.rare().reason.get_or_insert(Cow::Borrowed(reason));
                self.goodbye(reason);
            }
            Phase::Linger(_) | Phase::Reset | Phase::Closed => {}
        }
    }

    /// Ends a mux connection: GoAway with the reason, then FIN.
    pub(super) fn goodbye(&mut self, reason: &str) {
        let last = match self.drain() {
            Drain::Final(last) => last,
            Drain::No | Drain::Announced(_) => self.last_id,
        };
        self.say_go_away(last, reason);
        self.linger();
    }

    fn say_go_away(&mut self, last: u64, reason: &str) {
        mux::write_control(self.output.buffer(), Kind::GoAway, last, reason.as_bytes());
    }

    /// Sends FIN after what the output holds, and takes leave.
    pub(super) fn linger(&mut self) {
        self.end(Phase::Linger(Box::new(Farewell::new(self.settings.max_body))));
    }

    pub(super) fn reset(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.rare().reason = Some(reason.into());
        self.end(Phase::Reset);
    }

    fn end(&mut self, phase: Phase) {
        self.cancel_all();
        self.phase = phase;
        self.inbox = Default::default();
    }

    pub(super) fn cancel_all(&mut self) {
        self.taken = 0;
        for (_, entry) in self.calls.drain() {
            if let Some(cancel) = entry.cancel {
                cancel.cancel();
            }
        }
    }
}
