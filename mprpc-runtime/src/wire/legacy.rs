//! The C++ framework's format: a length, a small protobuf header, the arguments.
//!
//! ```text
//! request   | header_size | RpcHeader{1: service_name, 2: method_name, 3: args_size} | args |
//! response  | response message | FIN
//! ```
//!
//! `header_size` is four bytes or a varint, see [`Dialect`]. The reply has no frame at all: it ends
//! where the connection ends, so there is nothing here to read or write it.

use super::{Dialect, Step, WireError, proto};
use proto::{Reader, Value};

/// What stands before the arguments of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The service's short name: the C++ framework knows no packages.
    pub service: &'a str,
    /// The method's name.
    pub method: &'a str,
    /// How many bytes of arguments follow.
    pub args_size: u32,
}

/// Reads the head of the request at the front of `bytes`; the arguments start at `Done`'s count.
///
/// # Errors
///
/// If the header is empty, longer than `max_header` bytes (told as soon as its length is there),
/// not protobuf, or names no service or no method in UTF-8.
pub fn decode_head(
    dialect: Dialect,
    bytes: &[u8],
    max_header: usize,
) -> Result<Step<RequestHead<'_>>, WireError> {
    let (size, prefix) = match header_size(dialect, bytes)? {
        Step::Need(total) => return Ok(Step::Need(total)),
        Step::Done(size, prefix) => (size, prefix),
    };
    if size == 0 {
        return Err(WireError::new("legacy header of zero bytes"));
    }
    if size > max_header {
        let text = format!("legacy header of {size} bytes, allowed are {max_header}");
        return Err(WireError(text.into()));
    }
    let end = prefix + size;
    match bytes.get(prefix..end) {
        Some(header) => Ok(Step::Done(decode_header(header)?, end)),
        None => Ok(Step::Need(end)),
    }
}

/// Appends the head of a request; the caller appends the arguments, `args_size` bytes.
pub fn write_request_head(
    out: &mut Vec<u8>,
    dialect: Dialect,
    service_short: &str,
    method: &str,
    args_size: u32,
) {
    let mut size = 0_usize;
    put_header(&mut size, service_short, method, args_size);
    match dialect {
        Dialect::LittleEndian => out.extend_from_slice(&(size as u32).to_le_bytes()),
        Dialect::BigEndian => out.extend_from_slice(&(size as u32).to_be_bytes()),
        Dialect::Varint => proto::put_varint(out, size as u64),
    }
    put_header(out, service_short, method, args_size);
}

fn put_header(out: &mut impl proto::Sink, service: &str, method: &str, args_size: u32) {
    proto::put_bytes(out, 1, service.as_bytes());
    proto::put_bytes(out, 2, method.as_bytes());
    proto::put_uint(out, 3, args_size.into());
}

fn header_size(dialect: Dialect, bytes: &[u8]) -> Result<Step<usize>, WireError> {
    let size = match (dialect, bytes.first_chunk()) {
        (Dialect::Varint, _) => return varint_size(bytes),
        (_, None) => return Ok(Step::Need(4)),
        (Dialect::LittleEndian, Some(&size)) => u32::from_le_bytes(size),
        (Dialect::BigEndian, Some(&size)) => u32::from_be_bytes(size),
    };
    Ok(Step::Done(size as usize, 4))
}

fn varint_size(bytes: &[u8]) -> Result<Step<usize>, WireError> {
    // Five bytes hold every u32; who sends more is not counting a header.
    match proto::varint(&bytes[..bytes.len().min(5)])? {
        Some((size, len)) => Ok(Step::Done(usize::try_from(size).unwrap_or(usize::MAX), len)),
        None if bytes.len() < 5 => Ok(Step::Need(bytes.len() + 1)),
        None => Err(WireError::new("legacy header length is not a varint of 32 bits")),
    }
}

fn decode_header(header: &[u8]) -> Result<RequestHead<'_>, WireError> {
    let mut head = RequestHead::default();
    let mut fields = Reader::new(header);
    while let Some(field) = fields.next_field()? {
        match field {
            (1, Value::Bytes(name)) => head.service = proto::text(name)?,
            (2, Value::Bytes(name)) => head.method = proto::text(name)?,
            (3, Value::Varint(size)) => head.args_size = size as u32,
            _ => {}
        }
    }
    if head.service.is_empty() || head.method.is_empty() {
        return Err(WireError::new("legacy header names no service or no method"));
    }
    Ok(head)
}
