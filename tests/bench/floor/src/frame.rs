//! Frames: a header, then the message.
//!
//! ```text
//!   0        4        8        12
//!   | length | method | call   | message, `length` bytes      all numbers little endian
//! ```

use std::ops::Range;

/// A frame in a buffer.
pub(crate) struct Frame<'a> {
    /// 0 is login, 1 is echo.
    pub(crate) method: u32,
    /// The caller's number for the call, which the answer repeats.
    pub(crate) call: u32,
    pub(crate) message: &'a [u8],
}

/// Size of the header.
pub(crate) const HEADER: usize = 12;

/// Appends a frame whose message `message` appends.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, method: u32, call: u32, message: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&method.to_le_bytes());
    out.extend_from_slice(&call.to_le_bytes());
    message(out);
    let length = (out.len() - at - HEADER) as u32;
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// The whole size of the frame that `bytes` begin with; `None` while its header is incomplete.
#[inline]
pub(crate) fn size(bytes: &[u8]) -> Option<usize> {
    (bytes.len() >= HEADER).then(|| HEADER + number(bytes, 0..4) as usize)
}

/// Takes a frame off the front of `bytes`, if a whole one is there.
#[inline]
pub(crate) fn take<'a>(bytes: &mut &'a [u8]) -> Option<Frame<'a>> {
    let size = size(bytes).filter(|size| *size <= bytes.len())?;
    let (frame, rest) = bytes.split_at(size);
    *bytes = rest;
    Some(Frame { method: number(frame, 4..8), call: number(frame, 8..12), message: &frame[HEADER..] })
}

#[inline]
fn number(bytes: &[u8], at: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[at].try_into().expect("a range of four"))
}
