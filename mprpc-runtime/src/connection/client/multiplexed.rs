//! The client's side of the mux wire.

use std::time::Instant;

use super::{ClientConnection, Phase, Sink};
use crate::{
    connection::{
        Body, Metadata,
        call::{Failure, Outcome, Received},
        mailbox::GRACE,
    },
    error::Ran,
    status::{Code, Status},
    wire::mux::{self, END, HEADER_LEN, Header, Hello, Kind, ResponseMeta},
};

impl<C> ClientConnection<C> {
    pub(super) fn receive_mux(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_, C>) {
        if self.inbox.is_empty() {
            let used = self.parse(bytes, now, sink);
            self.inbox.push(&bytes[used..]);
        } else {
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.push(bytes);
            let used = self.parse(inbox.as_slice(), now, sink);
            inbox.consume(used);
            self.inbox = inbox;
        }
        if self.phase == Phase::Draining {
            self.leave(now);
        }
    }

    /// Takes no new calls; says goodbye once the running ones have ended.
    pub(super) fn leave(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Greeting | Phase::Open | Phase::Draining) {
            self.phase = Phase::Draining;
            if self.calls.is_empty() {
                mux::write_control(self.output.buffer(), Kind::GoAway, 0, b"done");
                self.phase = Phase::Linger(now + GRACE);
            }
        }
    }

    fn parse(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_, C>) -> usize {
        let mut used = 0;
        while matches!(
            self.phase,
            Phase::Connecting | Phase::Greeting | Phase::Open | Phase::Draining
        ) {
            let dropped = self.skip.min((bytes.len() - used) as u64);
            self.skip -= dropped;
            used += dropped as usize;
            match self.frame(&bytes[used..], now, sink) {
                0 => return used,
                n => used += n,
            }
        }
        bytes.len()
    }

    /// Handles the frame at the front of `bytes`. Returns its length, 0 if it is not complete.
    fn frame(&mut self, bytes: &[u8], now: Instant, sink: Sink<'_, C>) -> usize {
        let header = match Header::decode(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return 0,
            Err(error) => return self.violation(&error.0, now, sink),
        };
        let kind = Kind::from_wire(header.kind);
        if (kind == Some(Kind::Hello)) != matches!(self.phase, Phase::Connecting | Phase::Greeting)
        {
            return self.violation("Hello must be the first frame, and the only one", now, sink);
        }
        if kind == Some(Kind::Request) {
            return self.violation("a Request to a client", now, sink);
        }
        if kind == Some(Kind::Response) && (header.call_id == 0 || header.call_id >= self.next_id) {
            return self.violation("a Response to a call that was never made", now, sink);
        }
        let limit = self.settings.max_body;
        if header.body_len > limit || u32::from(header.meta_len) > self.settings.max_header {
            return self.refuse(kind, &header, now, sink);
        }
        let len = HEADER_LEN + header.meta_len as usize + header.body_len as usize;
        let Some(frame) = bytes.get(HEADER_LEN..len) else {
            return 0;
        };
        let (meta, body) = frame.split_at(header.meta_len as usize);
        match kind {
            Some(Kind::Hello) => return self.hello(meta, len, now, sink),
            Some(Kind::Response) => {
                // An id that is not in flight any more was given up on; its answer is late.
                if let Some(call) = self.calls.remove(header.call_id) {
                    sink(call.start.done, outcome(&header, meta, body));
                }
            }
            Some(Kind::Ping) => mux::write_control(self.output.buffer(), Kind::Pong, 0, body),
            Some(Kind::GoAway) => self.go_away(header.call_id, body, sink),
            Some(Kind::Pong | Kind::Cancel | Kind::Data | Kind::Request) | None => {}
        }
        len
    }

    fn refuse(
        &mut self,
        kind: Option<Kind>,
        header: &Header,
        now: Instant,
        sink: Sink<'_, C>,
    ) -> usize {
        let limit = self.settings.max_body;
        if u64::from(header.body_len) > 4 * u64::from(limit) {
            return self.violation("a frame over 4 times max_body", now, sink);
        }
        if kind == Some(Kind::Hello) {
            return self.violation("a Hello over the limits", now, sink);
        }
        if kind == Some(Kind::Response)
            && let Some(call) = self.calls.remove(header.call_id)
        {
            let text = format!(
                "the response of {} bytes is over max_body, {limit} bytes here",
                header.body_len
            );
            let failure = Failure {
                ran: Ran::Maybe,
                status: Status::resource_exhausted(text),
            };
            sink(call.start.done, Err(failure));
        }
        self.skip = u64::from(header.meta_len) + u64::from(header.body_len);
        HEADER_LEN
    }

    fn hello(&mut self, meta: &[u8], len: usize, now: Instant, sink: Sink<'_, C>) -> usize {
        match Hello::decode(meta) {
            Ok(hello) if hello.version > 0 => {
                self.peer_instance = hello.instance;
                self.opened = true;
                self.phase = Phase::Open;
                len
            }
            _ => self.violation(
                "a Hello without a version or that cannot be decoded",
                now,
                sink,
            ),
        }
    }

    /// The peer takes no new calls; those above `last` did not run.
    fn go_away(&mut self, last: u64, reason: &[u8], sink: Sink<'_, C>) {
        self.phase = Phase::Draining;
        let refused: Vec<u64> = self
            .calls
            .iter()
            .map(|(id, _)| id)
            .filter(|id| *id > last)
            .collect();
        for id in refused {
            if let Some(call) = self.calls.remove(id) {
                let text = format!("the peer went away: {}", String::from_utf8_lossy(reason));
                sink(
                    call.start.done,
                    Err(Failure {
                        ran: Ran::No,
                        status: Status::unavailable(text),
                    }),
                );
            }
        }
    }

    fn violation(&mut self, what: &str, now: Instant, sink: Sink<'_, C>) -> usize {
        self.reason = Some(format!("the peer broke the protocol: {what}"));
        self.close(&format!("protocol error: {what}"), now, sink);
        0
    }
}

fn outcome<'a>(header: &Header, meta: &[u8], body: &'a [u8]) -> Outcome<'a> {
    let maybe = |status| Failure {
        ran: Ran::Maybe,
        status,
    };
    if header.flags & END == 0 {
        return Err(maybe(Status::unimplemented(
            "the peer streams its response, which version 1 does not",
        )));
    }
    if meta.is_empty() {
        return Ok(Received {
            body: Body::Slice(body),
            attachment: &[],
            metadata: Metadata::default(),
        });
    }
    let meta = ResponseMeta::decode(meta).map_err(|error| {
        maybe(Status::internal(format!(
            "the header of the response: {error}"
        )))
    })?;
    if meta.code != 0 {
        let ran = if meta.retryable { Ran::No } else { Ran::Maybe };
        let status = Status::new(Code::from_wire(meta.code), meta.message)
            .with_details(meta.details)
            .with_retryable(meta.retryable);
        return Err(Failure { ran, status });
    }
    if meta.compression != 0 {
        let text = format!(
            "compression {} of the response is not known here",
            meta.compression
        );
        return Err(maybe(Status::unimplemented(text)));
    }
    let Some(at) = body.len().checked_sub(meta.attachment_size as usize) else {
        return Err(maybe(Status::internal(
            "attachment_size of the response is larger than its body",
        )));
    };
    let (message, attachment) = body.split_at(at);
    Ok(Received {
        body: Body::Slice(message),
        attachment,
        metadata: Metadata::from_wire(&meta.metadata),
    })
}
