//! The C++ framework's format: a length, a small protobuf header, the arguments.
//!
//! ```text
//! request   | header_size | RpcHeader{1: service_name, 2: method_name, 3: args_size} | args |
//! response  | response message | FIN
//! ```
//!
//! `header_size` is four bytes or a varint, see [`Dialect`]. The reply has no frame at all: it ends
//! where the connection ends, so there is nothing here to read or write it.

use super::{
    Dialect, WireError,
    proto::{self, message},
};

message! {
    /// What stands before the arguments of a request.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    RequestHead<'a> {
        /// The service's short name: the C++ framework knows no packages.
        1 service: &'a str,
        /// The method's name.
        2 method: &'a str,
        /// How many bytes of arguments follow.
        3 args_size: u32,
    }
}

/// Reads the head of the request at the front of `bytes`, and the index where its arguments start;
/// `None` if it is not complete.
///
/// # Errors
///
/// If the header is empty, longer than `max_header` bytes (told as soon as its length is there),
/// not protobuf, or names no service or no method in UTF-8.
pub fn decode_head(
    dialect: Dialect,
    bytes: &[u8],
    max_header: usize,
) -> Result<Option<(RequestHead<'_>, usize)>, WireError> {
    let Some((size, start)) = header_size(dialect, bytes)? else { return Ok(None) };
    if size == 0 || size > max_header as u64 {
        let text = format!("legacy header of {size} bytes, allowed are 1 to {max_header}");
        return Err(WireError(text.into()));
    }
    let end = start + size as usize;
    let Some(header) = bytes.get(start..end) else { return Ok(None) };
    let mut head = RequestHead::default();
    head.read(header)?;
    if head.service.is_empty() || head.method.is_empty() {
        return Err(WireError::new("legacy header names no service or no method"));
    }
    Ok(Some((head, end)))
}

/// Appends the head of a request; the caller appends the arguments, `args_size` bytes.
pub fn write_request_head(out: &mut Vec<u8>, dialect: Dialect, service: &str, method: &str, args_size: u32) {
    let start = out.len();
    RequestHead { service, method, args_size }.encode(out);
    let size = out.len() - start;
    match dialect {
        Dialect::LittleEndian => out.extend_from_slice(&(size as u32).to_le_bytes()),
        Dialect::BigEndian => out.extend_from_slice(&(size as u32).to_be_bytes()),
        Dialect::Varint => proto::put_varint(out, size as u64),
    }
    out[start..].rotate_left(size); // the size was known last and stands first
}

/// The header's size and how many bytes say it; `None` if they are not complete.
fn header_size(dialect: Dialect, bytes: &[u8]) -> Result<Option<(u64, usize)>, WireError> {
    let fixed = |read: fn([u8; 4]) -> u32| Ok(bytes.first_chunk().map(|&size| (read(size).into(), 4)));
    match dialect {
        Dialect::LittleEndian => fixed(u32::from_le_bytes),
        Dialect::BigEndian => fixed(u32::from_be_bytes),
        // Five bytes hold every u32; who sends more is not counting a header.
        Dialect::Varint => match proto::varint(&bytes[..bytes.len().min(5)])? {
            None if bytes.len() >= 5 => {
                Err(WireError::new("legacy header length is not a varint of 32 bits"))
            }
            size => Ok(size),
        },
    }
}
