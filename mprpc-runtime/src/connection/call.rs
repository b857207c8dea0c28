//! One call as the layers hand it to each other: what came in, what came back.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use protobuf::{CodedInputStream, CodedOutputStream, MessageDyn};

use super::{CancelToken, Ticket};
use crate::{
    error::Ran,
    stages::Stages,
    status::Status,
    wire::{buf::Output, mux},
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

    /// Whether a key may be sent: 1 to 128 ASCII letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_key(key: &str) -> Result<(), String> {
        if key.is_empty() || key.len() > MAX_KEY {
            let len = key.len();
            return Err(format!("a metadata key of {len} bytes: from 1 to {MAX_KEY} bytes are allowed"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if key.bytes().all(plain) {
            return Ok(());
        }
        Err(format!("the metadata key {key:?}: only ASCII letters, digits and -_. are allowed"))
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

    /// Whether all of it may be sent in a header that has `limit` bytes for it.
    pub(crate) fn check(&self, limit: usize) -> Result<(), String> {
        self.iter().try_for_each(|(key, _)| Self::check_key(key))?;
        let size = self.size();
        if size <= limit {
            return Ok(());
        }
        Err(format!("the metadata of {size} bytes is over {limit} bytes (max_header)"))
    }

    /// About how many bytes of a frame's header they take; up to `MAX_METADATA` always fit.
    pub(super) fn size(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len() + 16).sum()
    }

    #[inline]
    pub(crate) fn from_wire(pairs: &[(&str, &[u8])]) -> Self {
        if pairs.is_empty() {
            return Self::new();
        }
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
    /// Where `Dispatch::recognize` found the method, if it did.
    pub known_at: Option<usize>,
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
    /// Which connection it came on: calls of one are to wait in line behind each other, not others' behind them.
    pub client: u64,
    /// Where to put a token that is to be raised when the caller no longer wants the answer.
    pub cancel: &'a mut Option<CancelToken>,
    /// The right to answer.
    pub ticket: Ticket,
}

/// A method that was recognized by the encoded names at the front of a request's meta.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The full name of the service.
    pub service: &'static str,
    /// The method as the .proto file spells it.
    pub method: &'static str,
    /// How many bytes of the meta say so.
    pub len: usize,
    /// Where it was found, for the next time.
    pub at: usize,
}

/// What a server's connection hands its calls to. Interceptors decorate it.
pub trait Dispatch: Send + Sync {
    /// Recognizes the method that a mux request's meta begins with, so that its names need not be
    /// decoded and checked for every call. `last` is where the connection's last one was found. What
    /// is not recognized, as by default, is decoded.
    fn recognize(&self, _meta: &[u8], _last: usize) -> Option<Known> {
        None
    }

    /// Sees to it that `call` is answered through its ticket, now or later, from any thread.
    fn dispatch(&self, call: Incoming<'_>);

    /// The peer of connection `client` does not take its answers, or takes them again: meanwhile its
    /// calls that have not begun had better wait. Ends with the connection at the latest.
    fn hold(&self, _client: u64, _held: bool) {}
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
    /// Where the time went, as far as it is known.
    pub stages: Option<Box<Stages>>,
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

    /// On the mux wire: appends the frame with this id, without a copy, and returns true if it is a large one.
    fn share(&mut self, _id: u64, _output: &mut Output) -> bool {
        false
    }

    /// The connection takes the call.
    fn started(&mut self, _now: Instant) {}

    /// The call ended. Runs once, on the reactor's thread, so it must not block or panic.
    fn complete(self: Box<Self>, outcome: Outcome<'_>);
}

const MAX_KEY: usize = 128;
/// Leaves room in a header of 65,535 bytes for what else stands there.
pub(crate) const MAX_METADATA: usize = 60_000;

/// Why a message is expected to be appended: that fails only on a size that `compute_size` does not agree with, of a
/// message that changes while it is written, which `&dyn MessageDyn` rules out.
pub(crate) const CAN_BE_WRITTEN: &str = "a complete message can be written to memory";
