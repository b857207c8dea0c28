//! Tells from the first bytes of a connection which wire it speaks.
//!
//! | bytes | wire |
//! |---|---|
//! | `MRPC` | mux |
//! | `GET `, `POST`, `HEAD` | HTTP |
//! | b2 = b3 = 0, b0 or b1 not 0, b4 in {0A, 12} | legacy, little endian |
//! | b0 = b1 = 0, b2 or b3 not 0, b4 in {0A, 12} | legacy, big endian |
//! | a varint of one or two bytes, 0A, a name's length that fits | legacy, varint |
//!
//! 0A and 12 are the tags with which an RpcHeader can begin.

use super::{Dialect, mux};

/// The verdict on the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// These bytes may still become more than one thing.
    NeedMore,
    /// Our multiplexed wire.
    Mux,
    /// An HTTP/1 request that a console could answer.
    Http,
    /// The C++ framework's wire.
    Legacy(Dialect),
    /// None of ours; the text says what it looks like.
    Unknown(&'static str),
}

/// Judges the first bytes of a connection.
///
/// The verdict comes with the first byte that allows one, and more bytes never change it.
pub fn sniff(first: &[u8]) -> Sniff {
    // Judging ever longer prefixes is what keeps the verdict from depending on how TCP cut the bytes.
    (1..=first.len().min(MOST_NEEDED))
        .map(|n| judge(&first[..n]))
        .find(|verdict| *verdict != Sniff::NeedMore)
        .unwrap_or(Sniff::NeedMore)
}

/// A two-byte varint, a tag and a two-byte length; the four-byte lengths need as many with their tag.
const MOST_NEEDED: usize = 5;

/// Whether some bytes begin a wire's first frame; `None` if the bytes to come decide.
type Fit = Option<bool>;

fn judge(first: &[u8]) -> Sniff {
    let fits = [
        (literal(first, &mux::MAGIC), Sniff::Mux),
        (literal(first, b"GET "), Sniff::Http),
        (literal(first, b"POST"), Sniff::Http),
        (literal(first, b"HEAD"), Sniff::Http),
        (little_endian(first), Sniff::Legacy(Dialect::LittleEndian)),
        (big_endian(first), Sniff::Legacy(Dialect::BigEndian)),
        (varint(first), Sniff::Legacy(Dialect::Varint)),
    ];
    match fits.iter().find(|(fit, _)| *fit == Some(true)) {
        Some((_, verdict)) => *verdict,
        None if fits.iter().any(|(fit, _)| fit.is_none()) => Sniff::NeedMore,
        None => Sniff::Unknown(looks_like(first)),
    }
}

fn literal(first: &[u8], expected: &[u8; 4]) -> Fit {
    if first.starts_with(expected) {
        return Some(true);
    }
    if expected.starts_with(first) { None } else { Some(false) }
}

fn little_endian(first: &[u8]) -> Fit {
    match *first {
        [0, 0, ..] | [_, _, 1..=0xFF, ..] | [_, _, _, 1..=0xFF, ..] => Some(false),
        [_, _, _, _, tag, ..] => Some(is_header_tag(tag)),
        _ => None,
    }
}

fn big_endian(first: &[u8]) -> Fit {
    match *first {
        [1..=0xFF, ..] | [_, 1..=0xFF, ..] | [_, _, 0, 0, ..] => Some(false),
        [_, _, _, _, tag, ..] => Some(is_header_tag(tag)),
        _ => None,
    }
}

/// The size of a header and the length of the name in it; both of one byte, or two.
fn varint(first: &[u8]) -> Fit {
    let two = |low: u8, high: u8| usize::from(low & 0x7F) | usize::from(high) << 7;
    let (size, rest) = match *first {
        [size @ 1..0x80, ref rest @ ..] => (usize::from(size), rest),
        [low @ 0x80..=0xFF, high @ 1..0x80, ref rest @ ..] => (two(low, high), rest),
        [0x80..=0xFF] => return None,
        _ => return Some(false), // zero, padded, or above 16,383
    };
    match *rest {
        [] | [0x0A] => None,
        [0x0A, len @ 1..0x80, ..] => Some(2 + usize::from(len) <= size),
        [0x0A, low @ 0x80..=0xFF, high @ 1..0x80, ..] => Some(3 + two(low, high) <= size),
        [0x0A, low @ 0x80..=0xFF] if 3 + two(low, 1) <= size => None, // else no second byte makes it fit
        _ => Some(false),
    }
}

fn is_header_tag(byte: u8) -> bool {
    matches!(byte, 0x0A | 0x12)
}

fn looks_like(first: &[u8]) -> &'static str {
    match *first {
        [0x16, 0x03, ..] => "TLS",
        [b'P', b'R', b'I', ..] => "HTTP/2",
        [b'P', b'R', b'O', ..] | [0x0D, 0x0A, 0x0D, ..] => "the PROXY protocol",
        [b'S', b'S', b'H', ..] => "SSH",
        [b'P', b'U', b'T', ..] | [b'D', b'E', b'L', ..] | [b'O', b'P', b'T', ..] => "an HTTP request",
        [0, 0, _, _, 0, ..] => "Krpc (total length first)",
        [0, 0, ..] | [_, _, 0, 0, ..] => "the C++ framework's frame with an implausible header",
        _ => "no known protocol",
    }
}
