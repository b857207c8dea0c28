//! The server's side of the legacy wire: one call, one reply, FIN; a failure is told by a reset.

use std::time::Instant;

use super::{Entry, Phase, ServerConnection, parse::Progress};
use crate::{
    connection::{Body, Incoming, Metadata, SmallAddr},
    wire::{Dialect, Wire, legacy},
};

impl ServerConnection {
    pub(super) fn legacy_request(&mut self, dialect: Dialect, bytes: &[u8], now: Instant) -> Progress {
        if !bytes.is_empty() && !self.calls.is_empty() {
            return Progress::Blocked;
        }
        let (head, used) = match legacy::decode_head(dialect, bytes, self.settings.max_header as usize) {
            Ok(None) => return Progress::Wait,
            Ok(Some(found)) => found,
            Err(error) => {
                self.reset(error.0);
                return Progress::Used(0);
            }
        };
        if head.args_size > self.settings.max_body {
            self.reset("a legacy request over max_body");
            return Progress::Used(0);
        }
        if self.is_too_much(head.args_size) {
            self.reset("a large legacy request while memory is short (max_memory)");
            return Progress::Used(0);
        }
        let total = used + head.args_size as usize;
        let Some(args) = bytes.get(used..total) else {
            return Progress::Wait;
        };
        self.last_id += 1;
        let wire = Wire::Legacy(dialect);
        let ticket = self.begin(self.last_id, wire, u32::MAX, args.len());
        let mut cancel = None;
        self.dispatch.dispatch(Incoming {
            service: head.service,
            method: head.method,
            known_at: None,
            body: Body::Slice(args),
            attachment: &[],
            metadata: Metadata::default(),
            deadline: None,
            received: now,
            peer: self.peer.as_ref().map(SmallAddr::get),
            client: self.id.0,
            cancel: &mut cancel,
            ticket,
        });
        self.keep(self.last_id, Entry { cancel, size: args.len(), ..Default::default() });
        Progress::Used(total)
    }

    /// If this is a legacy connection: its call ended; its reply, if it has one, is in the output.
    pub(super) fn legacy_answered(&mut self, failed: bool) {
        let Phase::Legacy(dialect) = self.phase else {
            return;
        };
        let keep = self.settings.legacy_keep || dialect == Dialect::Varint;
        if failed {
            // A clean end without bytes would be a message of defaults to a C++ caller.
            self.reset("a legacy call failed, which only a reset can tell");
        } else if !keep || self.drains() {
            self.linger();
        }
    }
}
