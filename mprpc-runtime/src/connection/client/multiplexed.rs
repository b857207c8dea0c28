//! The client's side of the mux wire.

use std::time::Duration;

use bytes::Bytes;

use super::{ClientConnection, Phase, Sink, timing};
use crate::{
    connection::{
        Body, Metadata,
        call::{Failure, Outcome, Received},
    },
    error::Ran,
    stages::{ServerStages, Stages},
    status::{Code, Status},
    wire::{
        buf::{Inbox, NOTHING},
        mux::{self, END, HEADER_LEN, Header, Hello, Kind, ResponseMeta},
    },
};

impl<C> ClientConnection<C> {
    pub(super) fn receive_mux(&mut self, bytes: &[u8], sink: Sink<'_, C>) {
        if self.inbox.is_empty() {
            let used = self.parse(bytes, &NOTHING, sink);
            if self.is_open() {
                self.inbox.push(&bytes[used..]);
            }
            return;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.push(bytes);
        let large = Header::large(inbox.as_slice());
        if large.is_some_and(|total| self.skip == 0 && total <= inbox.len()) {
            let bytes = inbox.freeze();
            let used = self.parse(&bytes, &bytes, sink);
            inbox = Inbox::thaw(bytes, used);
        } else {
            let used = self.parse(inbox.as_slice(), &NOTHING, sink);
            inbox.consume(used);
        }
        if self.is_open() {
            self.inbox = inbox;
        }
    }

    /// If `whole` is not empty, `bytes` lie in it, and large bodies share it.
    fn parse(&mut self, bytes: &[u8], whole: &Bytes, sink: Sink<'_, C>) -> usize {
        let mut used = 0;
        while self.is_open() {
            let dropped = self.skip.min((bytes.len() - used) as u64);
            self.skip -= dropped;
            used += dropped as usize;
            let taken = self.frame(&bytes[used..], whole, sink);
            used += taken;
            if self.skip == 0 && (taken > 0 || dropped > 0) {
                self.watch.frame_complete();
            }
            if taken == 0 {
                break;
            }
        }
        used
    }

    /// Handles the frame at the front of `bytes`. Returns its length, 0 if it is not complete.
    fn frame(&mut self, bytes: &[u8], whole: &Bytes, sink: Sink<'_, C>) -> usize {
        let header = match Header::decode(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return 0,
            Err(error) => return self.violation(&error.0, sink),
        };
        let kind = Kind::from_wire(header.kind);
        if (kind == Some(Kind::Hello)) == (self.phase == Phase::Open) {
            return self.violation("Hello must be the first frame, and the only one", sink);
        }
        if kind == Some(Kind::Request) {
            return self.violation("a Request to a client", sink);
        }
        if kind == Some(Kind::Response) && (header.call_id == 0 || header.call_id >= self.next_id) {
            return self.violation("a Response to a call that was never made", sink);
        }
        if u64::from(header.body_len) > 4 * u64::from(self.settings.max_body) {
            return self.violation("a frame over 4 times max_body", sink);
        }
        if let Some(text) = self.refusal(&header) {
            if kind == Some(Kind::Hello) {
                return self.violation("a Hello over the limits", sink);
            }
            if kind == Some(Kind::Response) {
                self.end_call(header.call_id, Err(maybe(Status::resource_exhausted(text))), sink);
            }
            self.skip = u64::from(header.meta_len) + u64::from(header.body_len);
            return HEADER_LEN;
        }
        let len = header.frame_len();
        let Some(frame) = bytes.get(HEADER_LEN..len) else {
            return 0;
        };
        let (meta, body) = frame.split_at(header.meta_len as usize);
        match kind {
            Some(Kind::Hello) => match Hello::decode(meta) {
                Ok(hello) => {
                    self.peer_instance = hello.instance;
                    // Zero means "not stated".
                    self.peer_max_body = Some(hello.max_body).filter(|&max| max > 0).unwrap_or(u32::MAX);
                    self.doubt = timing::DOUBT.max(Duration::from_millis(hello.min_ping_interval_ms.into()));
                    self.opened = true;
                    self.tell_limit();
                    self.phase = Phase::Open;
                }
                Err(error) => return self.violation(&format!("the Hello: {error}"), sink),
            },
            Some(Kind::Response) => {
                self.end_call(header.call_id, outcome(&header, meta, body, whole), sink);
            }
            // A peer that pings but takes no Pongs must not make us hoard them.
            Some(Kind::Ping) if self.output.len() <= self.settings.max_output => {
                mux::write_control(self.output.buffer(), Kind::Pong, 0, body);
            }
            Some(Kind::GoAway) => self.go_away(header.call_id, body, sink),
            Some(Kind::Ping | Kind::Pong | Kind::Cancel | Kind::Data | Kind::Request) | None => {}
        }
        len
    }

    /// What a frame has too much of, as far as its header tells; `None` if it is to be taken.
    fn refusal(&self, header: &Header) -> Option<String> {
        let (max_header, max_body) = (self.settings.max_header, self.settings.max_body);
        let (meta_len, body_len) = (header.meta_len, header.body_len);
        if u32::from(meta_len) > max_header {
            Some(format!(
                "the response's header of {meta_len} bytes is over max_header, {max_header} bytes here"
            ))
        } else if body_len > max_body {
            Some(format!("the response of {body_len} bytes is over max_body, {max_body} bytes here"))
        } else {
            None
        }
    }

    fn end_call(&mut self, id: u64, outcome: Outcome<'_>, sink: Sink<'_, C>) {
        match self.calls.remove(id) {
            Some(call) => sink(call.start.done, outcome),
            // It was given up on before.
            None => self.late_responses += 1,
        }
    }

    /// The peer takes no new calls; those above `last` did not run.
    fn go_away(&mut self, last: u64, reason: &[u8], sink: Sink<'_, C>) {
        self.leaving = true;
        self.drains |= last == mux::EVERY_CALL;
        self.refuse();
        let reason = String::from_utf8_lossy(&reason[..reason.len().min(MAX_REASON)]);
        let text = format!("the peer went away: {reason}");
        let ids = self.calls.iter().map(|(id, _)| id);
        let refused: Vec<u64> = ids.filter(|id| *id > last).collect();
        for id in refused {
            if let Some(call) = self.calls.remove(id) {
                call.fail(Ran::No, Status::unavailable(text.as_str()), sink);
            }
        }
        self.reason = Some(text);
    }

    fn violation(&mut self, what: &str, sink: Sink<'_, C>) -> usize {
        self.reason = Some(format!("the peer broke the protocol: {what}"));
        self.close(&format!("protocol error: {what}"), sink);
        0
    }
}

fn outcome<'a>(header: &Header, meta: &[u8], body: &'a [u8], whole: &Bytes) -> Outcome<'a> {
    if header.flags & END == 0 {
        return Err(maybe(Status::unimplemented("the peer streams its response, which version 1 does not")));
    }
    if meta.is_empty() {
        return Ok(Received {
            body: Body::of(body, whole),
            attachment: &[],
            metadata: Metadata::default(),
            stages: None,
        });
    }
    let meta = ResponseMeta::decode(meta)
        .map_err(|error| maybe(Status::internal(format!("the header of the response: {error}"))))?;
    if meta.code != 0 {
        let stages = ServerStages::from_wire(&meta.stages_us);
        // Whoever says that the time was over before the handler began does not begin it any more.
        let expired = Code::from_wire(meta.code) == Code::DeadlineExceeded
            && stages.as_ref().is_some_and(|stages| stages.handler.is_none());
        let ran = if meta.retryable || expired { Ran::No } else { Ran::Maybe };
        let status = Status::new(Code::from_wire(meta.code), meta.message)
            .with_details(meta.details)
            .with_retryable(meta.retryable)
            .with_stages(stages);
        return Err(Failure { ran, status });
    }
    if meta.compression != 0 {
        let text = format!("compression {} of the response is not known here", meta.compression);
        return Err(maybe(Status::unimplemented(text)));
    }
    let Some(at) = body.len().checked_sub(meta.attachment_size as usize) else {
        return Err(maybe(Status::internal("attachment_size of the response is larger than its body")));
    };
    let (message, attachment) = body.split_at(at);
    let stages = ServerStages::from_wire(&meta.stages_us)
        .map(|server| Box::new(Stages { server: Some(server), ..Default::default() }));
    let metadata = Metadata::from_wire(&meta.metadata);
    Ok(Received { body: Body::of(message, whole), attachment, metadata, stages })
}

fn maybe(status: Status) -> Failure {
    Failure { ran: Ran::Maybe, status }
}

/// Bytes of a GoAway's reason that are kept.
const MAX_REASON: usize = 256;
