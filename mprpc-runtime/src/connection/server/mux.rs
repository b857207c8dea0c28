//! The server's side of the mux wire.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use super::{GRACE, Phase, Progress, ServerConnection};
use crate::{
    connection::{Body, Incoming, Metadata, Ticket, call::append_failure},
    status::{Code, Status},
    wire::{
        Wire,
        mux::{self, END, HEADER_LEN, Header, Hello, Kind, RequestMeta},
    },
};

/// What only a mux connection remembers.
pub(super) struct State {
    /// The largest response that the caller takes; none until its Hello came.
    peer_max_body: Option<u32>,
    /// The caller said that it will open no more calls.
    leaving: bool,
    drain: Drain,
    /// Pings that may still come before they come too fast, and since when.
    pings: (u32, Instant),
}

/// The two steps of a drain.
enum Drain {
    No,
    /// "Open no more calls" is out; calls on their way still count, until the Pong or this time.
    Announced(Instant),
    /// The last id is told; requests that come now are ignored.
    Final,
}

impl State {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.drain {
            Drain::Announced(until) => Some(until),
            Drain::No | Drain::Final => None,
        }
    }
}

impl ServerConnection {
    pub(super) fn begin_mux(&mut self, now: Instant) {
        let settings = &self.settings;
        let hello = Hello {
            version: mux::VERSION,
            instance: settings.instance,
            max_header: settings.max_header,
            max_body: settings.max_body,
            min_ping_interval_ms: u32::try_from(settings.min_ping_interval.as_millis())
                .unwrap_or(u32::MAX),
            max_calls: settings.max_calls,
        };
        hello.write(self.output.buffer());
        let pings = (PING_BURST, now);
        self.phase = Phase::Mux(State {
            peer_max_body: None,
            leaving: false,
            drain: Drain::No,
            pings,
        });
    }

    /// Handles the frame at the front of `bytes`, if it is complete or can be refused already.
    pub(super) fn mux_frame(&mut self, bytes: &[u8], now: Instant) -> Progress {
        let header = match Header::decode(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return Progress::Wait,
            Err(error) => return self.violation(error.0, now),
        };
        let kind = Kind::from_wire(header.kind);
        if (kind == Some(Kind::Hello)) == self.state().peer_max_body.is_some() {
            let text = if kind == Some(Kind::Hello) {
                "a second Hello"
            } else {
                "the first frame is no Hello"
            };
            return self.violation(text, now);
        }
        if kind == Some(Kind::Response) {
            return self.violation("a Response to a server", now);
        }
        let opens = match kind {
            Some(Kind::Request) => true,
            // Without a call of its own a Data frame is answered like one.
            Some(Kind::Data) => header.call_id > self.last_id,
            _ => false,
        };
        if opens && (header.call_id <= self.last_id || header.call_id == mux::EVERY_CALL) {
            return self.violation("a call id that does not rise", now);
        }
        let (meta_len, body_len) = (header.meta_len as usize, header.body_len as usize);
        if let Some(refusal) = self.refusal(kind, &header) {
            return self.refuse(opens, &header, refusal, now);
        }
        let Some(frame) = bytes.get(HEADER_LEN..HEADER_LEN + meta_len + body_len) else {
            return Progress::Wait;
        };
        let (meta, body) = frame.split_at(meta_len);
        match kind {
            Some(Kind::Hello) => return self.hello(meta, frame.len(), now),
            Some(Kind::Request) => self.request(&header, meta, body, now),
            Some(Kind::Cancel) => self.cancel(header.call_id, now),
            Some(Kind::Ping) => self.ping(body, now),
            Some(Kind::Pong) => self.drain_final(),
            Some(Kind::GoAway) => self.state().leaving = true,
            Some(Kind::Response | Kind::Data) | None => {}
        }
        Progress::Used(HEADER_LEN + frame.len())
    }

    /// Why a frame is not taken, as far as its header tells; `None` if it is.
    fn refusal(&self, kind: Option<Kind>, header: &Header) -> Option<Status> {
        let (max_header, max_body) = (self.settings.max_header, self.settings.max_body);
        if u32::from(header.meta_len) > max_header {
            let len = header.meta_len;
            return Some(Status::resource_exhausted(format!(
                "the header of {len} bytes is over max_header, {max_header} bytes here"
            )));
        }
        if header.body_len > max_body {
            let len = header.body_len;
            return Some(Status::resource_exhausted(format!(
                "the message of {len} bytes is over max_body, {max_body} bytes here"
            )));
        }
        let streamed =
            kind == Some(Kind::Data) || (kind == Some(Kind::Request) && header.flags & END == 0);
        streamed.then(|| Status::unimplemented("streaming is not part of version 1"))
    }

    fn refuse(&mut self, opens: bool, header: &Header, refusal: Status, now: Instant) -> Progress {
        if u64::from(header.body_len) > 4 * u64::from(self.settings.max_body) {
            return self.violation("a frame over 4 times max_body", now);
        }
        if Kind::from_wire(header.kind) == Some(Kind::Hello) {
            return self.violation("a Hello over the limits", now);
        }
        if opens {
            self.last_id = header.call_id;
            if !self.ignores_requests() {
                append_failure(self.output.buffer(), header.call_id, &refusal);
            }
        }
        self.skip = u64::from(header.meta_len) + u64::from(header.body_len);
        Progress::Used(HEADER_LEN)
    }

    fn hello(&mut self, meta: &[u8], len: usize, now: Instant) -> Progress {
        match Hello::decode(meta) {
            Ok(hello) if hello.version > 0 => {
                // Zero means "not stated".
                let max = if hello.max_body == 0 {
                    u32::MAX
                } else {
                    hello.max_body
                };
                self.state().peer_max_body = Some(max);
                Progress::Used(HEADER_LEN + len)
            }
            Ok(_) => self.violation("a Hello without a version", now),
            Err(_) => self.violation("a Hello that cannot be decoded", now),
        }
    }

    fn request(&mut self, header: &Header, meta: &[u8], body: &[u8], now: Instant) {
        let call = header.call_id;
        self.last_id = call;
        if self.ignores_requests() {
            return;
        }
        let (meta, attachment_at) = match check_request(meta, body.len()) {
            Ok(request) => request,
            Err(status) => return append_failure(self.output.buffer(), call, &status),
        };
        let max_body = self.state().peer_max_body.unwrap_or(u32::MAX);
        let ticket = Ticket::new(self.mailbox.clone(), self.id, call, Wire::Mux, max_body);
        let (message, attachment) = body.split_at(attachment_at);
        let entry = self.calls.insert(call, Default::default());
        self.dispatch.dispatch(Incoming {
            service: meta.service,
            method: meta.method,
            body: Body::Slice(message),
            attachment,
            metadata: Metadata::from_wire(&meta.metadata),
            deadline: meta
                .timeout_us
                .and_then(|us| now.checked_add(Duration::from_micros(us))),
            received: now,
            peer: self.peer,
            cancel: &mut entry.cancel,
            ticket,
        });
    }

    /// Answers CANCELLED at once. The entry stays until the handler ends: it is the running
    /// handlers that `max_calls` is there to bound.
    fn cancel(&mut self, call: u64, now: Instant) {
        self.reclaim(now);
        self.mailbox.lend(self.id, self.last_id);
        let Some(entry) = self.calls.get_mut(call) else {
            return;
        };
        if !std::mem::replace(&mut entry.answered, true) {
            append_failure(
                self.output.buffer(),
                call,
                &Status::new(Code::Cancelled, "cancelled by the caller"),
            );
        }
        if let Some(cancel) = entry.cancel.take() {
            cancel.cancel();
        }
    }

    fn ping(&mut self, body: &[u8], now: Instant) {
        let interval = self.settings.min_ping_interval;
        let (left, since) = &mut self.state().pings;
        if now.duration_since(*since) >= interval {
            (*left, *since) = (PING_BURST, now);
        }
        if *left == 0 {
            self.violation("too many pings", now);
        } else {
            *left -= 1;
            mux::write_control(self.output.buffer(), Kind::Pong, 0, body);
        }
    }

    fn violation(&mut self, what: impl Into<Cow<'static, str>>, now: Instant) -> Progress {
        let what = what.into();
        self.reason = Some(what.clone());
        self.goodbye(&what, now);
        Progress::Used(0)
    }

    /// Ends a mux connection: GoAway with the reason, then FIN.
    pub(super) fn goodbye(&mut self, reason: &str, now: Instant) {
        self.reclaim(now);
        mux::write_control(
            self.output.buffer(),
            Kind::GoAway,
            self.last_id,
            reason.as_bytes(),
        );
        self.linger(now);
    }

    pub(super) fn mux_eof(&mut self, now: Instant) {
        if !self.state().leaving || self.calls.is_empty() {
            self.goodbye("the caller closed", now);
        }
    }

    pub(super) fn mux_drain(&mut self, now: Instant) {
        if matches!(self.state().drain, Drain::No) {
            self.state().drain = Drain::Announced(now + GRACE);
            mux::write_control(
                self.output.buffer(),
                Kind::GoAway,
                mux::EVERY_CALL,
                b"draining",
            );
            mux::write_control(self.output.buffer(), Kind::Ping, 0, b"draining");
        }
    }

    fn drain_final(&mut self) {
        if matches!(self.state().drain, Drain::Announced(_)) {
            self.state().drain = Drain::Final;
            mux::write_control(
                self.output.buffer(),
                Kind::GoAway,
                self.last_id,
                b"draining",
            );
        }
    }

    /// Closes a drained connection once its last call is answered.
    pub(super) fn mux_end_drain(&mut self, now: Instant) {
        if matches!(
            self.phase,
            Phase::Mux(State {
                drain: Drain::Final,
                ..
            })
        ) && self.calls.is_empty()
        {
            self.linger(now);
        }
    }

    pub(super) fn mux_timeout(&mut self, now: Instant) {
        if let Phase::Mux(State {
            drain: Drain::Announced(until),
            ..
        }) = self.phase
            && now >= until
        {
            self.drain_final();
            self.mux_end_drain(now);
        }
    }

    fn ignores_requests(&mut self) -> bool {
        matches!(self.state().drain, Drain::Final)
    }

    fn state(&mut self) -> &mut State {
        match &mut self.phase {
            Phase::Mux(state) => state,
            _ => unreachable!("only called while the phase is Mux"),
        }
    }
}

/// Decodes the meta of a Request and finds where in the body the attachment begins.
fn check_request(meta: &[u8], body_len: usize) -> Result<(RequestMeta<'_>, usize), Status> {
    let meta = RequestMeta::decode(meta)
        .map_err(|error| Status::invalid_argument(format!("the header of the request: {error}")))?;
    let attachment_at = body_len
        .checked_sub(meta.attachment_size as usize)
        .ok_or_else(|| Status::invalid_argument("attachment_size is larger than the body"))?;
    if meta.compression != 0 {
        let text = format!("compression {} is not known here", meta.compression);
        return Err(Status::unimplemented(text));
    }
    if meta.timeout_us == Some(0) {
        return Err(Status::deadline_exceeded(
            "the request came with no time left",
        ));
    }
    Ok((meta, attachment_at))
}

/// Pings that may come at once before they count as a flood.
const PING_BURST: u32 = 16;
