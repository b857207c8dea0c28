//! One call as the layers hand it to each other: what came in, the right to answer it, what came back.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use protobuf::{CodedInputStream, CodedOutputStream, MessageDyn};

use super::{CancelToken, ConnId, Mailbox};
use crate::{
    error::Ran,
    status::{Code, Status},
    wire::{Wire, mux},
};

/// The serialized message of a call: borrowed from the read buffer, or shared without a copy.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// Valid while the driver's turn lasts.
    Slice(&'a [u8]),
    /// Can be kept; `bytes::Bytes` fields of the message point into it.
    Shared(Bytes),
}

impl<'a> Body<'a> {
    /// `part`, which is shared without a copy if it is large and lies in `whole`; else `whole` is empty.
    pub(super) fn of(part: &'a [u8], whole: &Bytes) -> Self {
        let share = !whole.is_empty() && part.len() >= mux::LARGE;
        if share { Self::Shared(whole.slice_ref(part)) } else { Self::Slice(part) }
    }
}

impl Body<'_> {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Slice(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The same body, free of the read buffer. Copies a borrowed one.
    pub fn into_owned(self) -> Body<'static> {
        match self {
            Self::Slice(bytes) => Body::Shared(Bytes::copy_from_slice(bytes)),
            Self::Shared(bytes) => Body::Shared(bytes),
        }
    }

    /// Parses the bytes into `message`, which should be fresh.
    ///
    /// # Errors
    /// Bytes that are no such message, or a required field of proto2 is missing.
    pub fn parse_into(&self, message: &mut dyn MessageDyn) -> Result<(), protobuf::Error> {
        match self {
            Self::Slice(bytes) => merge(message, &mut CodedInputStream::from_bytes(bytes)),
            Self::Shared(bytes) => merge(message, &mut CodedInputStream::from_tokio_bytes(bytes)),
        }
    }
}

fn merge(message: &mut dyn MessageDyn, input: &mut CodedInputStream<'_>) -> Result<(), protobuf::Error> {
    message.merge_from_dyn(input)?;
    input.check_eof()?;
    message.check_initialized_dyn()
}

/// Appends `message` to `out`. `compute_size_dyn` must have been called on it just before.
pub fn append_message(message: &dyn MessageDyn, out: &mut Vec<u8>) -> Result<(), protobuf::Error> {
    let mut stream = CodedOutputStream::vec(out);
    message.write_to_with_cached_sizes_dyn(&mut stream)?;
    stream.flush()
}

/// Key and value pairs that travel with a call, beside its message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(String, Vec<u8>)>);

impl Metadata {
    /// No pairs.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sets `key`, replacing what it held.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        let key = key.into();
        self.0.retain(|(k, _)| *k != key);
        self.0.push((key, value.into()));
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    /// All pairs, in the order in which they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About how many bytes of a frame's header they take; up to `MAX_METADATA` always fit.
    pub(crate) fn size(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len() + 16).sum()
    }

    pub(crate) fn from_wire(pairs: &[(&str, &[u8])]) -> Self {
        Self(pairs.iter().map(|(key, value)| (String::from(*key), value.to_vec())).collect())
    }

    pub(crate) fn to_wire(&self) -> Vec<(&str, &[u8])> {
        self.iter().collect()
    }
}

/// A request as the server's connection found it.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// On the mux wire the full name of the service, on the legacy wire the short one.
    pub service: &'a str,
    /// The method as the .proto file spells it.
    pub method: &'a str,
    /// The serialized request.
    pub body: Body<'a>,
    /// Bytes beside the message.
    pub attachment: &'a [u8],
    /// Key and value pairs beside the message.
    pub metadata: Metadata,
    /// When the caller stops waiting, if it said so.
    pub deadline: Option<Instant>,
    /// When the request was complete.
    pub received: Instant,
    /// Who asks.
    pub peer: Option<SocketAddr>,
    /// Where to put a token that is to be raised when the caller no longer wants the answer.
    pub cancel: &'a mut Option<CancelToken>,
    /// The right to answer.
    pub ticket: Ticket,
}

/// What a server's connection hands its calls to. Interceptors decorate it.
pub trait Dispatch: Send + Sync {
    /// Sees to it that `call` is answered through its ticket, now or later, from any thread.
    fn dispatch(&self, call: Incoming<'_>);
}

/// The right, and the duty, to answer one call. Dropped unused, it answers with an error.
#[derive(Debug)]
pub struct Ticket(Option<Route>);

/// The way back to the caller.
enum Route {
    /// Through the connection that the call came from.
    Connection { mailbox: Arc<Mailbox>, conn: ConnId, call: u64, wire: Wire, max_body: u32 },
    /// To a caller in this process.
    Local(Box<dyn FnOnce(Outcome<'_>) + Send>),
}

/// What a handler sends beside its message.
#[derive(Clone, Debug, Default)]
pub struct ReplyExtras {
    /// Key and value pairs.
    pub metadata: Metadata,
    /// Bytes beside the message.
    pub attachment: Vec<u8>,
}

impl Ticket {
    /// A ticket that answers through a connection.
    pub fn new(mailbox: Arc<Mailbox>, conn: ConnId, call: u64, wire: Wire, max_body: u32) -> Self {
        Self(Some(Route::Connection { mailbox, conn, call, wire, max_body }))
    }

    /// A ticket that hands the answer to `done`.
    pub fn local(done: impl FnOnce(Outcome<'_>) + Send + 'static) -> Self {
        Self(Some(Route::Local(Box::new(done))))
    }

    /// Which wire the answer will take; `None` for a caller in this process.
    pub fn wire(&self) -> Option<Wire> {
        match &self.0 {
            Some(Route::Connection { wire, .. }) => Some(*wire),
            _ => None,
        }
    }

    /// Answers with a message. Returns its size in bytes.
    pub fn answer(mut self, message: &dyn MessageDyn, extras: &ReplyExtras) -> u64 {
        let size = message.compute_size_dyn();
        let result = if message.is_initialized_dyn() { Ok(message) } else { Err(incomplete(message)) };
        if let Some(route) = self.0.take() {
            route.send(result, size, extras);
        }
        size
    }

    /// Answers with a failure.
    pub fn fail(mut self, status: Status) {
        if let Some(route) = self.0.take() {
            route.send(Err(status), 0, &ReplyExtras::default());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(route) = self.0.take() {
            route.send(
                Err(Status::internal("the handler ended without an answer")),
                0,
                &ReplyExtras::default(),
            );
        }
    }
}

impl Route {
    fn send(self, result: Result<&dyn MessageDyn, Status>, size: u64, extras: &ReplyExtras) {
        match self {
            Self::Connection { mailbox, conn, call, wire, max_body } => {
                let total = size + extras.attachment.len() as u64;
                let result = match result {
                    Ok(_) if total > u64::from(max_body) => Err(too_large(total, max_body)),
                    Ok(_) if extras.metadata.size() > MAX_METADATA => Err(Status::resource_exhausted(
                        "the metadata of the response does not fit in a header",
                    )),
                    other => other,
                };
                let failed = result.is_err();
                mailbox.answer(conn, call, failed, |out| match wire {
                    Wire::Mux => append_response(out, call, result, extras),
                    Wire::Legacy(_) => append_bare(out, result),
                });
            }
            Self::Local(done) => match result {
                Err(status) => done(Err(Failure { ran: Ran::Maybe, status })),
                Ok(message) => {
                    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                    append_bare(&mut bytes, Ok(message));
                    done(Ok(Received {
                        body: Body::Shared(bytes.into()),
                        attachment: &extras.attachment,
                        metadata: extras.metadata.clone(),
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
        }
    }
}

/// Appends a mux Response.
pub(super) fn append_response(
    out: &mut Vec<u8>,
    call: u64,
    result: Result<&dyn MessageDyn, Status>,
    extras: &ReplyExtras,
) {
    match result {
        Ok(message) => {
            let start = mux::start_frame(out, mux::Kind::Response, mux::END, call, |out| {
                if !extras.metadata.is_empty() || !extras.attachment.is_empty() {
                    let meta = mux::ResponseMeta {
                        metadata: extras.metadata.to_wire(),
                        attachment_size: u32::try_from(extras.attachment.len()).unwrap_or(u32::MAX),
                        ..Default::default()
                    };
                    meta.encode(out);
                }
            });
            append_bare(out, Ok(message));
            out.extend_from_slice(&extras.attachment);
            mux::finish_frame(out, start);
        }
        Err(status) => append_failure(out, call, &status),
    }
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
        ..Default::default()
    };
    let start = mux::start_frame(out, mux::Kind::Response, mux::END, call, |out| meta.encode(out));
    mux::finish_frame(out, start);
}

fn append_bare(out: &mut Vec<u8>, result: Result<&dyn MessageDyn, Status>) {
    if let Ok(message) = result {
        // Fails only on a size that `compute_size` does not agree with: a message that changes
        // while it is written, which `&dyn MessageDyn` rules out.
        append_message(message, out).expect("a complete message can be written to memory");
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

/// A response as the client's connection found it.
#[derive(Debug)]
pub struct Received<'a> {
    /// The serialized response.
    pub body: Body<'a>,
    /// Bytes beside the message.
    pub attachment: &'a [u8],
    /// Key and value pairs beside the message.
    pub metadata: Metadata,
}

/// A call that ended without a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether the handler may have run.
    pub ran: Ran,
    /// What went wrong.
    pub status: Status,
}

/// How a call ended.
pub type Outcome<'a> = Result<Received<'a>, Failure>;

/// An asynchronous call on its way: its bytes, and who waits for its outcome. It keeps the bytes to
/// the end, so that a call that did not run can be sent again.
pub trait Completion: Send {
    /// The frame to send; on the mux wire the connection fills in the id.
    fn frame(&self) -> &[u8];

    /// The call ended. Runs once, on the reactor's thread, so it must not block or panic.
    fn complete(self: Box<Self>, outcome: Outcome<'_>);
}

/// Leaves room in a header of 65,535 bytes for what else stands there.
pub(crate) const MAX_METADATA: usize = 60_000;

/// Every peer takes a header of 16 KiB; texts stay well below.
const MAX_TEXT: usize = 4096;
const MAX_DETAILS: usize = 8192;
