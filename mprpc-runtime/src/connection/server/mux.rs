//! The server's side of the mux wire.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Drain, Entry, Phase, ServerConnection, parse::Progress};
use crate::{
    connection::{Body, Incoming, Metadata, SmallAddr, lent, patience::Haste, ticket::append_failure},
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
    pub(super) leaving: bool,
    /// Where the method of the last request was recognized.
    method_at: u32,
}

impl ServerConnection {
    pub(super) fn begin_mux(&mut self) {
        let settings = &self.settings;
        let hello = Hello {
            version: mux::VERSION,
            instance: settings.instance,
            max_header: settings.max_header,
            max_body: settings.max_body,
            min_ping_interval_ms: u32::try_from(settings.min_ping_interval.as_millis()).unwrap_or(u32::MAX),
            max_calls: settings.max_calls,
        };
        hello.write(self.output.buffer());
        self.phase = Phase::Mux(State { peer_max_body: None, leaving: false, method_at: 0 });
        if self.drains() {
            self.announce_drain();
        }
    }

    /// Handles the frame at the front of `bytes`, if it is complete or can be refused already.
    pub(super) fn mux_frame(&mut self, bytes: &[u8], whole: &Bytes, now: Instant) -> Progress {
        let header = match Header::decode(bytes) {
            Ok(Some(header)) => header,
            Ok(None) => return Progress::Wait,
            Err(error) => return self.violation(error.0),
        };
        let kind = Kind::from_wire(header.kind);
        if let Err(what) = self.check_order(kind, header.call_id) {
            return self.violation(what);
        }
        if u64::from(header.body_len) > 4 * u64::from(self.settings.max_body) {
            return self.violation("a frame over 4 times max_body");
        }
        if let Some(refusal) = self.refusal(kind, &header) {
            return self.refuse(kind, &header, refusal);
        }
        // Pings, Cancels and the like pass while calls are many; a Request waits.
        let full = self.calls.len() as u64 >= u64::from(self.settings.max_calls)
            || self.taken > self.settings.max_input;
        if full && kind == Some(Kind::Request) && !self.ignores_requests() {
            return Progress::Blocked;
        }
        let len = header.frame_len();
        let Some(frame) = bytes.get(HEADER_LEN..len) else {
            return Progress::Wait;
        };
        let (meta, body) = frame.split_at(header.meta_len as usize);
        match kind {
            Some(Kind::Hello) => match Hello::decode(meta) {
                // Zero means "not stated".
                Ok(hello) => {
                    let stated = Some(hello.max_body).filter(|&max| max > 0);
                    self.state().peer_max_body = Some(stated.unwrap_or(u32::MAX));
                }
                Err(error) => return self.violation(format!("the Hello: {error}")),
            },
            Some(Kind::Request) => self.request(&header, meta, (body, whole), now),
            Some(Kind::Cancel) => {
                let last = self.last_id;
                let haste = self.rare().haste.get_or_insert_with(|| Haste::new(now, last));
                if haste.is_too_much(header.call_id, last, now) {
                    return self.violation("too many calls are cancelled as soon as they are made");
                }
                self.cancel(header.call_id);
            }
            Some(Kind::Ping) => return self.ping(body, len, now),
            Some(Kind::Pong) => {
                if let Drain::Announced(_) = self.drain() {
                    self.finish_drain();
                }
            }
            Some(Kind::GoAway) => self.state().leaving = true,
            Some(Kind::Response | Kind::Data) | None => {}
        }
        Progress::Used(len)
    }

    /// Whether a frame may come now, whatever is in it.
    fn check_order(&mut self, kind: Option<Kind>, call_id: u64) -> Result<(), &'static str> {
        match (kind, self.state().peer_max_body) {
            (Some(Kind::Hello), Some(_)) => Err("a second Hello"),
            (Some(Kind::Hello), None) => Ok(()),
            (_, None) => Err("the first frame is no Hello"),
            (Some(Kind::Response), _) => Err("a Response to a server"),
            (Some(Kind::Request), _) if call_id <= self.last_id || call_id == mux::EVERY_CALL => {
                Err("a call id that does not rise")
            }
            _ => Ok(()),
        }
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
        if kind == Some(Kind::Request) && self.is_too_much(header.body_len) {
            let text = "memory is short here (max_memory)";
            return Some(Status::resource_exhausted(text).with_retryable(true));
        }
        let streamed = kind == Some(Kind::Data) || (kind == Some(Kind::Request) && header.flags & END == 0);
        streamed.then(|| Status::unimplemented("streaming is not part of version 1"))
    }

    /// Answers what opens a call, and lets the frame's bytes pass.
    fn refuse(&mut self, kind: Option<Kind>, header: &Header, refusal: Status) -> Progress {
        let call = header.call_id;
        let opens = match kind {
            Some(Kind::Hello) => return self.violation("a Hello over the limits"),
            Some(Kind::Request) => true,
            // Behind a Request of its own, which was answered, a Data frame needs no answer.
            Some(Kind::Data) => {
                refusal.code() == Code::Unimplemented && call > self.last_id && call != mux::EVERY_CALL
            }
            _ => false,
        };
        if kind == Some(Kind::Request) {
            self.last_id = call;
        }
        if opens && !self.ignores_requests() {
            append_failure(self.output.buffer(), call, &refusal);
        }
        self.rare().skip = u64::from(header.meta_len) + u64::from(header.body_len);
        Progress::Used(HEADER_LEN)
    }

    fn request(&mut self, header: &Header, meta: &[u8], (body, whole): (&[u8], &Bytes), now: Instant) {
        let call = header.call_id;
        self.last_id = call;
        if self.ignores_requests() {
            return;
        }
        let Phase::Mux(state) = &mut self.phase else { return };
        let max_body = state.peer_max_body.unwrap_or(u32::MAX);
        let known = self.dispatch.recognize(meta, state.method_at as usize);
        state.method_at = known.map_or(0, |known| known.at as u32);
        let (mut request, mut rest) = (RequestMeta::default(), meta);
        if let Some(known) = known {
            (request.service, request.method, rest) = (known.service, known.method, &meta[known.len..]);
        }
        let attachment_at = match check_request(&mut request, rest, body.len()) {
            Ok(at) => at,
            Err(status) => return append_failure(self.output.buffer(), call, &status),
        };
        let ticket = self.begin(call, Wire::Mux, max_body, body.len());
        let deadline = request.timeout_us.and_then(|us| now.checked_add(Duration::from_micros(us)));
        let mut cancel = None;
        let (message, attachment) = body.split_at(attachment_at);
        self.dispatch.dispatch(Incoming {
            service: request.service,
            method: request.method,
            known_at: known.map(|known| known.at),
            body: Body::of(message, whole),
            attachment,
            metadata: Metadata::from_wire(&request.metadata),
            deadline,
            received: now,
            peer: self.peer.as_ref().map(SmallAddr::get),
            client: self.id.0,
            cancel: &mut cancel,
            ticket,
        });
        // An inline handler has ended by now.
        if lent::forget(call) {
            return;
        }
        if let Some(deadline) = deadline.filter(|_| cancel.is_some()) {
            self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        }
        let due = deadline.map(|deadline| (now, deadline));
        self.keep(call, Entry { cancel, answered: false, size: body.len(), due });
    }

    /// Answers calls whose deadline passed in place of their handlers, and says where the time went.
    /// `earliest` is only a bound, so that ending calls costs nothing; it is made exact here.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.earliest.is_none_or(|earliest| now < earliest) || !matches!(self.phase, Phase::Mux(_)) {
            return;
        }
        let due = |(id, entry): (u64, &Entry)| {
            let (came, deadline) = entry.due.filter(|_| !entry.answered && entry.cancel.is_some())?;
            Some((id, came, deadline))
        };
        let waiting: Vec<_> = self.calls.iter().filter_map(due).collect();
        self.earliest = waiting.iter().map(|call| call.2).filter(|deadline| *deadline > now).min();
        for (id, came, _) in waiting.into_iter().filter(|call| call.2 <= now) {
            let Some(entry) = self.calls.get_mut(id) else { continue };
            entry.answered = true;
            let Some(cancel) = entry.cancel.take() else { continue };
            // First, so that a handler which has not begun by now does not begin.
            cancel.cancel();
            let stages = cancel.stages(now.saturating_duration_since(came));
            let text = match stages.handler {
                None => "the deadline passed in the worker queue; it did not run",
                Some(_) => "the deadline passed while the handler ran",
            };
            let status = Status::deadline_exceeded(text).with_stages(Some(stages));
            append_failure(self.output.buffer(), id, &status);
        }
    }

    /// Answers CANCELLED at once. The entry stays until the handler ends: it is the running
    /// handlers that `max_calls` is there to bound.
    fn cancel(&mut self, call: u64) {
        // What was answered is answered; what answers from now on does so by a post.
        self.reclaim();
        self.lend();
        let Some(entry) = self.calls.get_mut(call) else {
            return;
        };
        let cancel = entry.cancel.take();
        if !std::mem::replace(&mut entry.answered, true) {
            let status = Status::cancelled("cancelled by the caller");
            append_failure(self.output.buffer(), call, &status);
        }
        if let Some(cancel) = cancel {
            cancel.cancel();
        }
    }

    fn ping(&mut self, body: &[u8], len: usize, now: Instant) -> Progress {
        let interval = self.settings.min_ping_interval;
        let (left, since) = self.rare().pings.get_or_insert((PING_BURST, now));
        if now.duration_since(*since) >= interval {
            (*left, *since) = (PING_BURST, now);
        }
        if *left == 0 {
            return self.violation("too many pings");
        }
        *left -= 1;
        mux::write_control(self.output.buffer(), Kind::Pong, 0, body);
        Progress::Used(len)
    }

    fn violation(&mut self, what: impl Into<Cow<'static, str>>) -> Progress {
        // Answers that were given before it go out before the GoAway.
        self.reclaim();
        let what = what.into();
        self.goodbye(&what);
        self.rare().reason = Some(what);
        Progress::Used(0)
    }

    fn ignores_requests(&self) -> bool {
        matches!(self.drain(), Drain::Final(_))
    }

    fn state(&mut self) -> &mut State {
        match &mut self.phase {
            Phase::Mux(state) => state,
            _ => unreachable!("only called while the phase is Mux"),
        }
    }
}

/// Decodes what is not known yet of a Request's meta, and finds where in the body the attachment begins.
#[inline]
fn check_request<'a>(meta: &mut RequestMeta<'a>, rest: &'a [u8], body_len: usize) -> Result<usize, Status> {
    meta.decode_rest(rest)
        .map_err(|error| Status::invalid_argument(format!("the header of the request: {error}")))?;
    let attachment_at = body_len
        .checked_sub(meta.attachment_size as usize)
        .ok_or_else(|| Status::invalid_argument("attachment_size is larger than the body"))?;
    if meta.compression != 0 {
        let text = format!("compression {} is not known here", meta.compression);
        return Err(Status::unimplemented(text));
    }
    if meta.timeout_us == Some(0) {
        return Err(Status::deadline_exceeded("the request came with no time left"));
    }
    Ok(attachment_at)
}

/// Pings that may come at once before they count as a flood.
const PING_BURST: u32 = 16;
