//! The part of protobuf's encoding that frame headers use: varints, byte strings and tags.
//!
//! Nothing recurses and nothing allocates, so hostile bytes cost no more than their length. Groups
//! are refused; messages in messages are byte strings to this module.

use super::WireError;

/// Reads the fields of one message in the order they come.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

/// The value of a field, as far as its wire type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Integers, booleans and enums.
    Varint(u64),
    /// Strings, byte strings, messages and packed lists.
    Bytes(&'a [u8]),
    /// Four or eight bytes that no header of ours uses.
    Fixed,
}

impl<'a> Reader<'a> {
    /// Reads `message`, which ends where the slice ends.
    pub fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; `None` at the end.
    ///
    /// A caller ignores numbers it does not know, and known ones with another wire type, as
    /// protobuf does.
    ///
    /// # Errors
    ///
    /// If the message ends inside a field, a tag is illegal (number 0, above 32 bits, or a group), or
    /// a varint does not fit in 64 bits.
    #[inline]
    pub fn next_field(&mut self) -> Result<Option<(u32, Value<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = u32::try_from(self.varint()?).map_err(|_| ILLEGAL_TAG)?;
        let value = match (tag >> 3, tag & 7) {
            (0, _) => return Err(ILLEGAL_TAG),
            (_, 0) => Value::Varint(self.varint()?),
            (_, 1) => self.bytes(8).map(|_| Value::Fixed)?,
            (_, 2) => {
                let len = self.varint()?;
                Value::Bytes(self.bytes(len)?)
            }
            (_, 5) => self.bytes(4).map(|_| Value::Fixed)?,
            _ => return Err(ILLEGAL_TAG),
        };
        Ok(Some((tag >> 3, value)))
    }

    /// The next varint of a packed list; `None` at the end.
    ///
    /// # Errors
    ///
    /// As `next_field`.
    #[inline]
    pub fn next_packed(&mut self) -> Result<Option<u64>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.varint().map(Some)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        let (value, len) = varint(self.rest)?.ok_or(TRUNCATED)?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    #[inline]
    fn bytes(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(len).map_err(|_| TRUNCATED)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// The varint at the front of `bytes` and its length; `None` if it is not complete.
///
/// Padding (`80 00` for 0) is accepted up to ten bytes, as protobuf does.
///
/// # Errors
///
/// If it is longer than ten bytes or does not fit in 64 bits.
#[inline]
pub fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, WireError> {
    let mut value = 0;
    for (i, &byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && byte > 1 {
            return Err(OVERLONG);
        }
        value |= u64::from(byte & 0x7F) << (7 * i);
        if byte < 0x80 {
            return Ok(Some((value, i + 1)));
        }
    }
    Ok(None)
}

/// A `string` field's text.
///
/// # Errors
///
/// If it is not UTF-8.
#[inline]
pub fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

/// Where fields are written: a buffer, or a `usize` that only counts their bytes.
pub trait Sink {
    /// Appends, or counts, `bytes`.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Sink for usize {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        *self += bytes.len();
    }
}

/// Writes a varint.
#[inline]
pub fn put_varint(out: &mut impl Sink, mut value: u64) {
    while value >= 0x80 {
        out.put(&[value as u8 | 0x80]);
        value >>= 7;
    }
    out.put(&[value as u8]);
}

/// Writes an integer field unless it is 0, which proto3 does not send.
#[inline]
pub fn put_uint(out: &mut impl Sink, field: u32, value: u64) {
    if value != 0 {
        put_uint_always(out, field, value);
    }
}

/// Writes an integer field, 0 too.
#[inline]
pub fn put_uint_always(out: &mut impl Sink, field: u32, value: u64) {
    put_varint(out, u64::from(field << 3));
    put_varint(out, value);
}

/// Writes a byte string field unless it is empty, which proto3 does not send.
#[inline]
pub fn put_bytes(out: &mut impl Sink, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_bytes_always(out, field, bytes);
    }
}

/// Writes a byte string field, an empty one too.
#[inline]
pub fn put_bytes_always(out: &mut impl Sink, field: u32, bytes: &[u8]) {
    put_len(out, field, bytes.len());
    out.put(bytes);
}

/// Writes the tag and length of a byte string field; the caller writes its `len` bytes.
#[inline]
pub fn put_len(out: &mut impl Sink, field: u32, len: usize) {
    put_varint(out, u64::from(field << 3 | 2));
    put_varint(out, len as u64);
}

const ILLEGAL_TAG: WireError = WireError::new("illegal protobuf tag in a header");
const TRUNCATED: WireError = WireError::new("a header ends inside a field");
const OVERLONG: WireError = WireError::new("a varint does not fit in 64 bits");
const NOT_UTF8: WireError = WireError::new("a text in a header is not UTF-8");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_of_every_length_come_back() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_varint(&mut out, value);
                let mut counted = 0;
                put_varint(&mut counted, value);
                assert_eq!(out.len(), counted);
                assert_eq!(varint(&out), Ok(Some((value, out.len()))));
                for cut in 0..out.len() {
                    assert_eq!(varint(&out[..cut]), Ok(None));
                }
            }
        }
    }

    #[test]
    fn a_varint_beyond_64_bits_is_refused() {
        assert_eq!(varint(&[0x80, 0x00]), Ok(Some((0, 2))));
        let mut bytes = [0xFF; 10];
        assert_eq!(varint(&bytes), Err(OVERLONG));
        bytes[9] = 2;
        assert_eq!(varint(&bytes), Err(OVERLONG));
        bytes[9] = 1;
        assert_eq!(varint(&bytes), Ok(Some((u64::MAX, 10))));
    }

    #[test]
    fn fixed_values_are_skipped_and_groups_refused() {
        let mut reader = Reader::new(&[0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4, 0x18, 7]);
        assert_eq!(reader.next_field(), Ok(Some((1, Value::Fixed))));
        assert_eq!(reader.next_field(), Ok(Some((2, Value::Fixed))));
        assert_eq!(reader.next_field(), Ok(Some((3, Value::Varint(7)))));
        assert_eq!(reader.next_field(), Ok(None));
        for tag in [0x0B, 0x0C, 0x0E, 0x0F, 0x00, 0x02] {
            assert_eq!(Reader::new(&[tag, 0]).next_field(), Err(ILLEGAL_TAG), "{tag}");
        }
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        assert_eq!(Reader::new(&[0x0A, 2, 0]).next_field(), Err(TRUNCATED));
        let huge = [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(Reader::new(&huge).next_field(), Err(TRUNCATED));
    }
}
