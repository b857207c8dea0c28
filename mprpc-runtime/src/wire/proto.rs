//! The part of protobuf's encoding that frame headers use, and [`message!`], the table of a header's fields.
//!
//! Nothing recurses, and only lists allocate, so hostile bytes cost little more than their length.
//! Groups are refused.

use super::WireError;
use Value::{Bytes, Varint};

/// A message as a table of `number field: type`. It becomes a struct with `read` and `encode`.
macro_rules! message {
    ($(#[$meta:meta])* $name:ident $(<$life:lifetime>)? {
        $($(#[$field_meta:meta])* $number:literal $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        pub struct $name $(<$life>)? { $($(#[$field_meta])* pub $field: $type,)* }

        impl<$($life)?> $name $(<$life>)? {
            /// Reads the fields, in the order they come, into what is there; unknown ones are ignored.
            #[inline]
            fn read(&mut self, mut bytes: &$($life)? [u8]) -> Result<(), WireError> {
                while !bytes.is_empty() {
                    match proto::next_field(&mut bytes)? {
                        $(Some(($number, value)) => proto::Field::read(&mut self.$field, value)?,)*
                        _ => {}
                    }
                }
                Ok(())
            }

            /// Appends the fields that are not at their defaults, in the order of their numbers.
            #[inline]
            pub fn encode(&self, out: &mut Vec<u8>) {
                $(proto::Field::write(&self.$field, $number, out);)*
            }
        }
    };
}
pub(super) use message;

/// The value of a field, as far as its wire type tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Integers, booleans and enums.
    Varint(u64),
    /// Strings, byte strings, messages and packed lists.
    Bytes(&'a [u8]),
}

/// A type of field. Reading ignores a value of another wire type, as protobuf does.
pub(super) trait Field<'a> {
    fn read(&mut self, value: Value<'a>) -> Result<(), WireError>;
    fn write(&self, number: u32, out: &mut Vec<u8>);
}

/// A type with one value. As in proto3, the default is not sent.
macro_rules! single {
    ($type:ty, $value:pat => $read:expr, $this:ident => $write:expr) => {
        impl<'a> Field<'a> for $type {
            #[inline]
            fn read(&mut self, value: Value<'a>) -> Result<(), WireError> {
                if let $value = value {
                    *self = $read;
                }
                Ok(())
            }

            #[inline]
            fn write(&self, number: u32, out: &mut Vec<u8>) {
                let $this = *self;
                if $this != Self::default() {
                    put(out, number, $write);
                }
            }
        }
    };
}
single!(bool, Varint(v) => v != 0, this => Varint(this.into()));
single!(u32, Varint(v) => v as Self, this => Varint(this.into()));
single!(u64, Varint(v) => v, this => Varint(this));
single!(Option<u64>, Varint(v) => Some(v), this => Varint(this.unwrap_or_default()));
single!(&'a [u8], Bytes(bytes) => bytes, this => Bytes(this));
single!(&'a str, Bytes(bytes) => str::from_utf8(bytes).map_err(|_| NOT_UTF8)?, this => Bytes(this.as_bytes()));

/// `repeated uint32`: written packed, read in either form.
impl Field<'_> for Vec<u32> {
    fn read(&mut self, value: Value<'_>) -> Result<(), WireError> {
        match value {
            Varint(v) => self.push(v as u32),
            Bytes(mut packed) => {
                while !packed.is_empty() {
                    self.push(take_varint(&mut packed)? as u32);
                }
            }
        }
        Ok(())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_len(out, number, self.iter().map(|&v| varint_len(v.into())).sum());
            self.iter().for_each(|&v| put_varint(out, v.into()));
        }
    }
}

/// `map<string, bytes>`. As protobuf's own writers do, an entry states key and value even if empty.
impl<'a> Field<'a> for Vec<(&'a str, &'a [u8])> {
    fn read(&mut self, value: Value<'a>) -> Result<(), WireError> {
        let Bytes(mut entry) = value else { return Ok(()) };
        let (mut key, mut content) = ("", [].as_slice());
        while let Some((number, value)) = next_field(&mut entry)? {
            match number {
                1 => key.read(value)?,
                2 => content.read(value)?,
                _ => {}
            }
        }
        self.push((key, content));
        Ok(())
    }

    fn write(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            let len_of = |bytes: &[u8]| 1 + varint_len(bytes.len() as u64) + bytes.len();
            put_len(out, number, len_of(key.as_bytes()) + len_of(value));
            put(out, 1, Bytes(key.as_bytes()));
            put(out, 2, Bytes(value));
        }
    }
}

/// Takes the next field's number and value; `None` at the end. Values of fixed size are skipped: no
/// header has one.
///
/// # Errors
///
/// If the message ends inside a field, a tag is illegal (number 0, above 32 bits, or a group), or
/// a varint does not fit in 64 bits.
#[inline]
pub(super) fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, Value<'a>)>, WireError> {
    while !rest.is_empty() {
        let tag = u32::try_from(take_varint(rest)?).map_err(|_| ILLEGAL_TAG)?;
        let number = tag >> 3;
        match tag & 7 {
            _ if number == 0 => return Err(ILLEGAL_TAG),
            0 => return Ok(Some((number, Varint(take_varint(rest)?)))),
            1 => _ = take(rest, 8)?,
            2 => {
                let len = take_varint(rest)?;
                return Ok(Some((number, Bytes(take(rest, len)?))));
            }
            5 => _ = take(rest, 4)?,
            _ => return Err(ILLEGAL_TAG),
        }
    }
    Ok(None)
}

#[inline]
fn take_varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    // Tags and most lengths have one byte.
    if let [byte @ ..0x80, behind @ ..] = *rest {
        *rest = behind;
        return Ok(u64::from(*byte));
    }
    let (value, len) = varint(rest)?.ok_or(TRUNCATED)?;
    *rest = &rest[len..];
    Ok(value)
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8], WireError> {
    let len = usize::try_from(len).map_err(|_| TRUNCATED)?;
    let (bytes, behind) = rest.split_at_checked(len).ok_or(TRUNCATED)?;
    *rest = behind;
    Ok(bytes)
}

/// The varint at the front of `bytes` and its length; `None` if it is not complete.
///
/// Padding (`80 00` for 0) is accepted up to ten bytes, as protobuf does.
///
/// # Errors
///
/// If it is longer than ten bytes or does not fit in 64 bits.
#[inline]
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, WireError> {
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

/// Writes a varint.
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Writes a field, the default, too.
#[inline]
fn put(out: &mut Vec<u8>, number: u32, value: Value<'_>) {
    match value {
        Varint(v) => {
            put_varint(out, u64::from(number << 3));
            put_varint(out, v);
        }
        Bytes(bytes) => {
            put_len(out, number, bytes.len());
            out.extend_from_slice(bytes);
        }
    }
}

/// Writes the front of a field of `len` bytes.
#[inline]
fn put_len(out: &mut Vec<u8>, number: u32, len: usize) {
    if number < 16 && len < 0x80 {
        // Both varints have one byte, and need room to be looked for only once.
        return out.extend_from_slice(&[(number << 3 | 2) as u8, len as u8]);
    }
    put_varint(out, u64::from(number << 3 | 2));
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
        let mut rest = [0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4, 0x18, 7].as_slice();
        assert_eq!(next_field(&mut rest), Ok(Some((3, Varint(7)))));
        assert_eq!(next_field(&mut rest), Ok(None));
        for tag in [0x0B, 0x0C, 0x0E, 0x0F, 0x00, 0x02] {
            assert_eq!(next_field(&mut [tag, 0].as_slice()), Err(ILLEGAL_TAG), "{tag}");
        }
    }

    #[test]
    fn a_length_beyond_the_message_is_refused() {
        assert_eq!(next_field(&mut [0x0A, 2, 0].as_slice()), Err(TRUNCATED));
        let huge = [0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(next_field(&mut huge.as_slice()), Err(TRUNCATED));
    }
}
