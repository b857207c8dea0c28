//! Requests as bytes of either wire.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use protobuf::MessageDyn;

use crate::{
    connection::{
        Metadata,
        call::{CAN_BE_WRITTEN, Failure, MAX_METADATA, append_message},
        client::ClientSettings,
        links::{self, Links},
    },
    descriptor::MethodDescriptor,
    error::Ran,
    rpc_channel::Call,
    status::Status,
    wire::{
        Wire, legacy,
        mux::{self, END, Kind, RequestMeta},
    },
};

/// What a request consists of beside its message.
pub(super) struct Head<'a> {
    pub(super) method: &'static MethodDescriptor,
    pub(super) remaining: Duration,
    pub(super) metadata: &'a Metadata,
    pub(super) attachment: &'a [u8],
}

/// The message of a request.
pub(super) enum Payload<'a> {
    Message(&'a dyn MessageDyn),
    /// Without these fields. Where they belong comes into the cell; the frame, as finished, lacks them.
    Linked(&'a dyn MessageDyn, &'a [Bytes], &'a Cell<Links>),
    Bytes(&'a [u8]),
}

/// Appends a request with this id. Returns where in `out` the message lies.
pub(super) fn request(
    out: &mut Vec<u8>,
    wire: Wire,
    id: u64,
    head: &Head<'_>,
    payload: &Payload<'_>,
) -> std::ops::Range<usize> {
    match wire {
        Wire::Mux => {
            let meta = RequestMeta {
                service: head.method.service,
                method: head.method.name,
                timeout_us: Some(u64::try_from(head.remaining.as_micros()).unwrap_or(u64::MAX)),
                metadata: head.metadata.to_wire(),
                attachment_size: u32::try_from(head.attachment.len()).unwrap_or(u32::MAX),
                ..Default::default()
            };
            let start = mux::start_frame(out, Kind::Request, END, id, |out| meta.encode(out));
            let message = append(out, payload);
            out.extend_from_slice(head.attachment);
            mux::finish_frame(out, start);
            message
        }
        Wire::Legacy(dialect) => {
            let (service, method) = (head.method.short_service(), head.method.name);
            let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            // The connection carries nothing else.
            out.reserve_exact(LEGACY_HEAD + service.len() + method.len() + size as usize);
            legacy::write_request_head(out, dialect, service, method, size);
            append(out, payload)
        }
    }
}

/// The fields of a message of `size` bytes that need no copy on this wire, if it has any.
pub(super) fn fields(message: &dyn MessageDyn, size: u64, wire: Wire) -> Option<Vec<Bytes>> {
    let size = usize::try_from(size).ok().filter(|size| *size >= links::LARGE && wire == Wire::Mux)?;
    links::large_fields(message, size)
}

/// Puts another message into a mux request that has no attachment, at `at`. Returns where it lies.
#[inline]
pub(super) fn replace(out: &mut Vec<u8>, at: usize, payload: &Payload<'_>) -> std::ops::Range<usize> {
    out.truncate(at);
    let message = append(out, payload);
    mux::finish_frame(out, 0);
    message
}

/// Bytes of message and attachment. Has the message compute its size.
pub(super) fn size(call: &Call<'_>) -> u64 {
    call.request.compute_size_dyn() + call.options.given().attachment.len() as u64
}

/// Refuses a request that nobody would take: that costs its call, and no connection. Gives the size
/// of message and attachment.
#[inline]
pub(super) fn check(call: &Call<'_>, settings: &ClientSettings) -> Result<u64, Status> {
    let size = size(call);
    if size > u64::from(settings.max_body) {
        let limit = settings.max_body;
        let text = format!("the request of {size} bytes is over max_body, {limit} bytes here");
        return Err(Status::resource_exhausted(text));
    }
    let metadata = &call.options.given().metadata;
    if !metadata.is_empty() {
        let limit = MAX_METADATA.min(settings.max_header as usize);
        metadata.check(limit).map_err(Status::invalid_argument)?;
    }
    Ok(size)
}

/// Refuses a request that is larger than the peer said it takes.
pub(super) fn check_peer(size: u64, limit: u32) -> Result<(), Failure> {
    if size <= u64::from(limit) {
        return Ok(());
    }
    let text = format!("the request of {size} bytes is over max_body, {limit} bytes at the peer");
    Err(Failure { ran: Ran::No, status: Status::resource_exhausted(text) })
}

fn append(out: &mut Vec<u8>, payload: &Payload<'_>) -> std::ops::Range<usize> {
    let start = out.len();
    match payload {
        Payload::Message(message) => {
            append_message(*message, out).expect(CAN_BE_WRITTEN);
        }
        Payload::Linked(message, fields, links) => {
            links.set(links::append(*message, out, fields).expect(CAN_BE_WRITTEN));
        }
        Payload::Bytes(bytes) => out.extend_from_slice(bytes),
    }
    start..out.len()
}

/// Room for what a legacy request consists of beside its names and its message.
const LEGACY_HEAD: usize = 32;

impl Payload<'_> {
    /// Its size; has the message compute it anew.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Message(message) | Self::Linked(message, ..) => message.compute_size_dyn() as usize,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// How much of it is not encoded.
    pub(super) fn linked(&self) -> usize {
        match self {
            Self::Linked(_, fields, _) => fields.iter().map(Bytes::len).sum(),
            Self::Message(_) | Self::Bytes(_) => 0,
        }
    }
}
