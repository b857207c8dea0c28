//! A client's connection in a reactor: calls come by post, outcomes go to their completions.

use std::{io, time::Instant};

use super::{ClientConnection, Start};
use crate::{
    connection::{
        Command, Connection, Intent,
        call::{Completion, Outcome},
    },
    wire::{Wire, buf::Output, mux},
};

impl Connection for ClientConnection<Box<dyn Completion>> {
    fn connected(&mut self, now: Instant) {
        Self::connected(self);
        self.tell(now);
    }

    fn receive(&mut self, bytes: &[u8], now: Instant) {
        Self::receive(self, bytes, now, &mut run);
        self.tell(now);
    }

    fn room(&mut self) -> Option<&mut Vec<u8>> {
        Self::room(self)
    }

    fn eof(&mut self, now: Instant) {
        Self::eof(self, &mut run);
        self.tell(now);
    }

    fn lost(&mut self, error: &io::Error, now: Instant) {
        Self::lost(self, error, &mut run);
        self.tell(now);
    }

    fn post(&mut self, command: Command, _bytes: &[u8], now: Instant) {
        match command {
            Command::Start { tag, deadline, empty_ok, mut done } => {
                done.started(now);
                let start = Start { tag, deadline, empty_ok, done };
                let is_mux = self.wire == Wire::Mux;
                self.start_in(
                    start,
                    |done, id, output| {
                        if is_mux && done.share(id, output) {
                            return;
                        }
                        let out = output.buffer();
                        let at = out.len();
                        out.extend_from_slice(done.frame());
                        if is_mux {
                            mux::set_call_id(&mut out[at..], id);
                        }
                    },
                    &mut run,
                );
                self.expect(now);
                if is_mux {
                    // Nothing that others are told of has changed.
                    return self.look(now);
                }
            }
            Command::Cancel(tag) => self.cancel(tag, &mut run),
            Command::Close(reason) => self.close(reason, &mut run),
            Command::Ping if self.wire == Wire::Mux => self.ping(now),
            Command::Ping => self.probe(),
            Command::Drain => self.leave(),
            // Nothing else is posted to a client's connection.
            Command::Answer { .. } | Command::Custom(_) => {}
        }
        self.look(now);
        self.tell(now);
    }

    fn output(&mut self) -> &mut Output {
        Self::output(self)
    }

    fn written(&mut self, now: Instant) {
        Self::written(self, now);
        if !self.is_open() {
            // Nothing else that others are told of changes by that.
            self.tell(now);
        }
    }

    fn intent(&self) -> Intent {
        Self::intent(self)
    }

    fn next_timeout(&self) -> Option<Instant> {
        Self::next_timeout(self)
    }

    fn timeout(&mut self, now: Instant) {
        Self::timeout(self, now, &mut run);
        self.tell(now);
    }

    fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

fn run(done: Box<dyn Completion>, outcome: Outcome<'_>) {
    done.complete(outcome);
}
