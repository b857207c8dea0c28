//! The right, and the duty, to answer a call, and how the answer becomes bytes of its wire.

use std::sync::Arc;

use bytes::Bytes;
use protobuf::MessageDyn;

use super::{
    Body, ConnId, Mailbox, Metadata, Share,
    call::{CAN_BE_WRITTEN, Failure, MAX_METADATA, Outcome, Received, append_message},
    lent,
    links::{self, Links},
};
use crate::{
    error::Ran,
    stages::{ServerStages, Stages},
    status::{Code, Status},
    wire::{Wire, mux, spare},
};

/// The right, and the duty, to answer one call. Dropped unused, it answers with an error.
#[derive(Debug)]
pub struct Ticket {
    route: Option<Route>,
    stages: Option<Box<ServerStages>>,
    /// What the call holds of quotas until it is answered; mostly nothing.
    held: Option<Box<Held>>,
}

/// Shares, one behind the other: a ticket is moved often and has to be small.
#[derive(Debug)]
struct Held {
    share: Share,
    more: Option<Box<Self>>,
}

/// The way back to the caller.
enum Route {
    /// Through the connection that the call came from.
    Connection { mailbox: Arc<Mailbox>, conn: ConnId, call: u64, wire: Wire, max_body: u32 },
    /// To a caller in this process.
    Local(Box<dyn FnOnce(Outcome<'_>) + Send>),
    /// By another ticket, past somebody who wants to know.
    Watched(Box<(Ticket, Watcher)>),
}

/// Gets to know why a call failed, or that it did not.
type Watcher = Box<dyn FnOnce(Option<&Status>) + Send>;

/// What a handler sends beside its message.
#[derive(Clone, Debug, Default)]
pub struct ReplyExtras {
    /// Key and value pairs.
    pub metadata: Metadata,
    /// Bytes beside the message.
    pub attachment: Vec<u8>,
    /// For callers: where the time went, if they asked for it. Handlers leave it alone.
    pub stages: Option<Box<Stages>>,
}

impl Ticket {
    /// A ticket that answers through a connection.
    pub fn new(mailbox: Arc<Mailbox>, conn: ConnId, call: u64, wire: Wire, max_body: u32) -> Self {
        Self::of(Route::Connection { mailbox, conn, call, wire, max_body })
    }

    /// A ticket that hands the answer to `done`.
    pub fn local(done: impl FnOnce(Outcome<'_>) + Send + 'static) -> Self {
        Self::of(Route::Local(Box::new(done)))
    }

    fn of(route: Route) -> Self {
        Self { route: Some(route), stages: None, held: None }
    }

    /// The answer is to say where the time went.
    pub fn tell_stages(&mut self, stages: ServerStages) {
        self.stages = Some(Box::new(stages));
    }

    /// Keeps a share of a quota until the call is answered.
    pub fn hold(&mut self, share: Share) {
        self.held = Some(Box::new(Held { share, more: self.held.take() }));
    }

    /// A ticket that answers through `ticket` once `watcher` knows why the call failed, if it did.
    pub fn watched(ticket: Self, watcher: impl FnOnce(Option<&Status>) + Send + 'static) -> Self {
        Self::of(Route::Watched(Box::new((ticket, Box::new(watcher)))))
    }

    /// Which wire the answer will take; `None` for a caller in this process.
    pub fn wire(&self) -> Option<Wire> {
        match &self.route {
            Some(Route::Connection { wire, .. }) => Some(*wire),
            Some(Route::Watched(watched)) => watched.0.wire(),
            _ => None,
        }
    }

    /// Bytes of other answers that have to be taken up before this call's.
    pub fn backlog(&self) -> usize {
        match &self.route {
            Some(Route::Connection { mailbox, .. }) => mailbox.waiting(),
            Some(Route::Watched(watched)) => watched.0.backlog(),
            _ => 0,
        }
    }

    /// Answers with a message. Returns its size in bytes.
    pub fn answer(mut self, message: &dyn MessageDyn, extras: &ReplyExtras) -> u64 {
        let size = message.compute_size_dyn();
        if let Some(route) = self.route.take() {
            let refusal = match message.is_initialized_dyn() {
                true => route.refusal(size, extras),
                false => Some(incomplete(message)),
            };
            let stages = self.stages.as_deref();
            route.send(refusal.map_or(Ok(message), Err), (size, self.request()), extras, stages);
        }
        size
    }

    /// Answers with a failure.
    pub fn fail(mut self, status: Status) {
        if let Some(route) = self.route.take() {
            route.send(Err(status), (0, 0), &ReplyExtras::default(), self.stages.as_deref());
        }
    }

    /// The bytes of the request, if they are many.
    fn request(&self) -> usize {
        let held = std::iter::successors(self.held.as_deref(), |held| held.more.as_deref());
        held.map(|held| held.share.amount()).max().unwrap_or(0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(route) = self.route.take() {
            route.send(
                Err(Status::internal("no answer: the handler panicked, or dropped its reply")),
                (0, 0),
                &ReplyExtras::default(),
                None,
            );
        }
    }
}

impl Route {
    /// Why an answer cannot be sent.
    fn refusal(&self, size: u64, extras: &ReplyExtras) -> Option<Status> {
        let total = size + extras.attachment.len() as u64;
        match self {
            Self::Connection { max_body, .. } if total > u64::from(*max_body) => {
                return Some(too_large(total, *max_body));
            }
            Self::Watched(watched) => return watched.0.route.as_ref()?.refusal(size, extras),
            Self::Connection { .. } | Self::Local(_) => {}
        }
        if extras.metadata.is_empty() {
            return None;
        }
        let wrong = extras.metadata.check(MAX_METADATA).err()?;
        let large = extras.metadata.size() > MAX_METADATA;
        let code = if large { Code::ResourceExhausted } else { Code::Internal };
        Some(Status::new(code, format!("in the response, {wrong}")))
    }

    /// Sends an answer with a message of the first size to a request of the second, which is 0 if that is small.
    fn send(
        self,
        result: Result<&dyn MessageDyn, Status>,
        (size, request): (u64, usize),
        extras: &ReplyExtras,
        stages: Option<&ServerStages>,
    ) {
        match self {
            Self::Connection { mailbox, conn, call, wire, .. } => {
                let failed = result.is_err();
                let size = size as usize;
                // A small part of a large request must not keep all of it until the peer has taken the answer.
                let here = if size >= links::LARGE
                    && size >= request / 2
                    && wire == Wire::Mux
                    && let Ok(message) = &result
                    && let Some(pieces) = linked_response(call, *message, size, extras, stages)
                {
                    mailbox.answer_with(conn, call, failed, |_, out| out.extend(pieces))
                } else {
                    mailbox.answer_with(conn, call, failed, |out, _| {
                        spare::provide(out, ROOM + size + extras.attachment.len());
                        match wire {
                            Wire::Mux => append_response(out, call, &result, extras, stages),
                            Wire::Legacy(_) => append_bare(out, &result),
                        }
                    })
                };
                if here {
                    lent::leave_way(mailbox);
                }
            }
            Self::Watched(watched) => {
                let (mut ticket, watcher) = *watched;
                watcher(result.as_ref().err());
                if let Some(route) = ticket.route.take() {
                    let request = request.max(ticket.request());
                    route.send(result, (size, request), extras, stages);
                }
            }
            Self::Local(done) => match result {
                Err(status) => done(Err(Failure { ran: Ran::Maybe, status })),
                Ok(message) => {
                    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                    append_bare(&mut bytes, &Ok(message));
                    done(Ok(Received {
                        body: Body::Shared(bytes.into()),
                        attachment: &extras.attachment,
                        metadata: extras.metadata.clone(),
                        stages: None,
                    }));
                }
            },
        }
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connection { conn, call, .. } => {
                write!(f, "call {call} of connection {}", conn.0)
            }
            Self::Local(_) => f.write_str("a local call"),
            Self::Watched(watched) => watched.0.fmt(f),
        }
    }
}

/// Appends a mux Response.
pub(super) fn append_response(
    out: &mut Vec<u8>,
    call: u64,
    result: &Result<&dyn MessageDyn, Status>,
    extras: &ReplyExtras,
    stages: Option<&ServerStages>,
) {
    match result {
        Ok(_) => append_success(out, call, extras, stages, |out| append_bare(out, result)),
        Err(status) => append_failure(out, call, &status.clone().with_stages(stages.cloned())),
    }
}

/// A mux Response in pieces, if the message has large fields that need no copy.
fn linked_response(
    call: u64,
    message: &dyn MessageDyn,
    size: usize,
    extras: &ReplyExtras,
    stages: Option<&ServerStages>,
) -> Option<Vec<Bytes>> {
    let fields = links::large_fields(message, size)?;
    let (mut frame, mut links) = (Vec::new(), Links::new());
    append_success(&mut frame, call, extras, stages, |out| {
        links = links::append(message, out, &fields).expect(CAN_BE_WRITTEN);
    });
    Some(links::finish(frame, &links))
}

fn append_success(
    out: &mut Vec<u8>,
    call: u64,
    extras: &ReplyExtras,
    stages: Option<&ServerStages>,
    append_message: impl FnOnce(&mut Vec<u8>),
) {
    let start = mux::start_frame(out, mux::Kind::Response, mux::END, call, |out| {
        if !extras.metadata.is_empty() || !extras.attachment.is_empty() || stages.is_some() {
            let meta = mux::ResponseMeta {
                metadata: extras.metadata.to_wire(),
                attachment_size: u32::try_from(extras.attachment.len()).unwrap_or(u32::MAX),
                stages_us: stages.map(ServerStages::to_wire).unwrap_or_default(),
                ..Default::default()
            };
            meta.encode(out);
        }
    });
    append_message(out);
    out.extend_from_slice(&extras.attachment);
    mux::finish_frame(out, start);
}

/// Appends a mux Response that carries a failure. Long texts are cut to what every peer takes.
pub(super) fn append_failure(out: &mut Vec<u8>, call: u64, status: &Status) {
    let message = status.message();
    let mut cut = message.len().min(MAX_TEXT);
    while !message.is_char_boundary(cut) {
        cut -= 1;
    }
    let details = if status.details().len() > MAX_DETAILS { &[] } else { status.details() };
    let meta = mux::ResponseMeta {
        code: status.code().to_wire(),
        message: &message[..cut],
        details,
        retryable: status.retryable(),
        stages_us: status.stages().map(ServerStages::to_wire).unwrap_or_default(),
        ..Default::default()
    };
    let start = mux::start_frame(out, mux::Kind::Response, mux::END, call, |out| meta.encode(out));
    mux::finish_frame(out, start);
}

fn append_bare(out: &mut Vec<u8>, result: &Result<&dyn MessageDyn, Status>) {
    if let Ok(message) = result {
        append_message(*message, out).expect(CAN_BE_WRITTEN);
    }
}

fn incomplete(message: &dyn MessageDyn) -> Status {
    let name = message.descriptor_dyn().full_name().to_owned();
    Status::internal(format!("the response {name} lacks a required field"))
}

fn too_large(size: u64, limit: u32) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!("the response of {size} bytes is over the caller's max_body of {limit} bytes"),
    )
}

/// Every peer takes a header of 16 KiB; texts stay well below.
const MAX_TEXT: usize = 4096;
const MAX_DETAILS: usize = 8192;
/// What stands before a response's message mostly takes no more.
const ROOM: usize = 256;
