//! How a client's connection ends: left in order, closed with a word to the peer, or lost.

use std::io::{self, ErrorKind};

use super::{Call, ClientConnection, Phase, Sink};
use crate::{
    connection::patience::Farewell,
    error::Ran,
    status::Status,
    wire::{
        Wire,
        buf::Inbox,
        mux::{self, Kind},
    },
};

impl<C> ClientConnection<C> {
    /// The peer sent FIN.
    pub fn eof(&mut self, sink: Sink<'_, C>) {
        if matches!(self.wire, Wire::Legacy(_)) {
            self.deliver_legacy(sink);
        } else {
            let text = match &self.reason {
                Some(reason) => format!("the peer closed the connection: {reason}"),
                None => "the peer closed the connection".into(),
            };
            self.end_all(&text, sink);
        }
        self.close_now(Phase::Closed);
    }

    /// The socket is gone.
    pub fn lost(&mut self, error: &io::Error, sink: Sink<'_, C>) {
        if self.phase == Phase::Connecting {
            let text = format!("cannot connect: {error}");
            self.left_early |= !is_of_the_peer(error);
            self.end_all(&text, sink);
            if let Some(link) = &self.link {
                link.fail(text);
            }
        } else {
            self.end_all(&format!("the connection was lost: {error}"), sink);
        }
        self.close_now(Phase::Closed);
    }

    /// Ends the connection, with a reason for the peer. Calls in flight fail.
    pub fn close(&mut self, reason: &str, sink: Sink<'_, C>) {
        self.end_all(reason, sink);
        match (self.phase, self.wire) {
            (Phase::Greeting | Phase::Open, Wire::Mux) => self.say_goodbye(reason),
            (Phase::Linger(_) | Phase::Closed, _) => {}
            _ => self.close_now(Phase::Reset),
        }
    }

    /// Takes no new calls; says goodbye once the running ones have ended.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.left_early = !self.opened;
        self.settle();
    }

    /// A call whose first byte the socket never took did not run, if it is not written later.
    pub(super) fn ran(&self, call: &Call<C>) -> Ran {
        if self.output.sent_in_all() <= call.offset { Ran::No } else { Ran::Maybe }
    }

    /// Fails every call in flight. Those that were not written at all never will be.
    pub(super) fn end_all(&mut self, text: &str, sink: Sink<'_, C>) {
        self.refuse();
        let mut unsent = None;
        for (_, call) in self.calls.drain() {
            let ran = self.ran(&call);
            if ran == Ran::No {
                unsent.get_or_insert(call.offset);
            }
            call.fail(ran, Status::unavailable(text), sink);
        }
        // A frame that went out in part is finished, so that the peer can read what follows it.
        if let Some(offset) = unsent {
            self.output.truncate(offset);
        }
    }

    /// Ends what can end now. Every method that may end calls comes by here.
    pub(super) fn settle(&mut self) {
        if self.leaving && self.calls.is_empty() {
            match (self.phase, self.wire) {
                (Phase::Greeting | Phase::Open, Wire::Mux) => self.say_goodbye("done"),
                (Phase::Connecting | Phase::Greeting | Phase::Open, _) => {
                    self.close_now(Phase::Closed);
                }
                (Phase::Linger(_) | Phase::Reset | Phase::Closed, _) => {}
            }
        }
    }

    fn say_goodbye(&mut self, reason: &str) {
        mux::write_control(self.output.buffer(), Kind::GoAway, 0, reason.as_bytes());
        self.inbox = Inbox::default();
        self.phase = Phase::Linger(Farewell::new(self.settings.max_body));
    }

    pub(super) fn close_now(&mut self, phase: Phase) {
        self.output.clear();
        self.inbox = Inbox::default();
        self.phase = phase;
    }
}

/// Whether a failed connect says anything about the peer: a lack of descriptors or ports here does not.
pub fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::TimedOut
            | ErrorKind::UnexpectedEof
            | ErrorKind::BrokenPipe
    )
}
