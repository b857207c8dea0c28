//! The client's side of the legacy wire: one call a connection; the reply ends with the connection.

use std::time::{Duration, Instant};

use super::{ClientConnection, Phase, Sink};
use crate::{
    connection::{Body, Metadata, call::Received},
    error::Ran,
    status::Status,
    wire::Wire,
};

impl<C> ClientConnection<C> {
    pub(super) fn receive_legacy(&mut self, bytes: &[u8], sink: Sink<'_, C>) {
        let limit = self.settings.max_body;
        if self.inbox.len() + bytes.len() > limit as usize {
            let text = format!("the legacy reply is over max_body, {limit} bytes here");
            for (_, call) in self.calls.drain() {
                call.fail(Ran::Maybe, Status::resource_exhausted(text.as_str()), sink);
            }
            return self.close_now(Phase::Reset);
        }
        self.inbox.push(bytes);
    }

    /// The reply is complete: hands it to its call.
    pub(super) fn deliver_legacy(&mut self, sink: Sink<'_, C>) {
        let reply = std::mem::take(&mut self.inbox).freeze();
        let Some((_, call)) = self.calls.drain().next() else {
            return;
        };
        if reply.is_empty() && !call.start.empty_ok && !self.settings.legacy_empty {
            // A dying callee looks the same as a message of defaults.
            let text = "the legacy peer ended the connection without a byte of reply; if it may answer with \
                        a message of defaults, set legacy_empty = default";
            let ran = self.ran(&call);
            return call.fail(ran, Status::unavailable(text), sink);
        }
        let received = Received {
            body: Body::Shared(reply),
            attachment: &[],
            metadata: Metadata::default(),
            stages: None,
        };
        sink(call.start.done, Ok(received));
    }

    /// When a reply without an end of its own counts as complete. On the mux wire never: there a
    /// silence in the middle of a frame is none of its business.
    pub(super) fn legacy_quiet_at(&self) -> Option<Instant> {
        let quiet = self.settings.legacy_quiet && self.wire != Wire::Mux;
        (quiet && !self.inbox.is_empty()).then(|| self.heard + QUIET)
    }
}

/// Long enough for the segments of one write on a local network.
const QUIET: Duration = Duration::from_millis(100);
