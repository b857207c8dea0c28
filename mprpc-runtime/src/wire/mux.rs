//! Our multiplexed format: frames that carry a call's number, the same in both directions.
//!
//! ```text
//!  0  magic "MRPC"    4  kind u8    5  flags u8    6  meta_len u16    8  body_len u32    12  call_id u64
//! 20  meta: protobuf, then body: message bytes, then attachment; body_len counts both
//! ```
//!
//! Integers are little endian. `proto/WIRE.md` is the full description, `proto/mux.proto` the metas.

use super::WireError;
pub use super::meta::{Hello, RequestMeta, ResponseMeta};

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = *b"MRPC";
/// How many bytes stand before the meta.
pub const HEADER_LEN: usize = 20;
/// A body of this size is handed on without a copy.
pub const LARGE: usize = 16 << 10;
/// The version of the format that this module speaks.
pub const VERSION: u32 = 1;
/// The flag of a call's last frame in one direction.
pub const END: u8 = 1;
/// The call id of a GoAway that excludes no call yet.
pub const EVERY_CALL: u64 = u64::MAX;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first frame of each side: what it is and what it can take.
    Hello = 0,
    /// Opens a call.
    Request = 1,
    /// Ends a call.
    Response = 2,
    /// The caller no longer wants the call's answer.
    Cancel = 3,
    /// Asks for a Pong with the same body.
    Ping = 4,
    /// Answers a Ping.
    Pong = 5,
    /// No calls above the frame's id were or will be executed.
    GoAway = 6,
    /// Reserved for streams.
    Data = 7,
}

impl Kind {
    /// The kind with this number; `None` for the numbers that version 1 does not know.
    pub fn from_wire(kind: u8) -> Option<Self> {
        use Kind::*;
        const KINDS: [Kind; 8] = [Hello, Request, Response, Cancel, Ping, Pong, GoAway, Data];
        KINDS.get(usize::from(kind)).copied()
    }
}

/// The fixed front of a frame. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The number of a [`Kind`], or of one that is not known yet.
    pub kind: u8,
    /// Bit 0 is [`END`]; the others are ignored.
    pub flags: u8,
    /// The length of the meta.
    pub meta_len: u16,
    /// The length of message and attachment together.
    pub body_len: u32,
    /// The call, or 0 where the frame is about none.
    pub call_id: u64,
}

impl Header {
    /// Reads the header at the front of `bytes`; `None` if there are fewer than 20.
    ///
    /// # Errors
    ///
    /// If the magic is wrong, as soon as its first wrong byte is there.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        if !bytes.starts_with(&MAGIC) && !MAGIC.starts_with(bytes) {
            return Err(WireError::new("a frame that does not begin with \"MRPC\""));
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let [_, _, _, _, kind, flags, l0, l1, b0, b1, b2, b3, call_id @ ..] = *header;
        Ok(Some(Self {
            kind,
            flags,
            meta_len: u16::from_le_bytes([l0, l1]),
            body_len: u32::from_le_bytes([b0, b1, b2, b3]),
            call_id: u64::from_le_bytes(call_id),
        }))
    }

    /// The length of the frame.
    #[inline]
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.meta_len as usize + self.body_len as usize
    }

    /// The length of the frame at the front of `bytes`, complete or not, if its body is worth sharing
    /// instead of copying.
    pub fn large(bytes: &[u8]) -> Option<usize> {
        let header = Self::decode(bytes).ok()??;
        (header.body_len as usize >= LARGE).then(|| header.frame_len())
    }

    /// The header's bytes.
    #[inline]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = self.kind;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.call_id.to_le_bytes());
        bytes
    }
}

impl Hello {
    /// Appends the whole frame.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = start_frame(out, Kind::Hello, 0, 0, |out| self.encode(out));
        finish_frame(out, start);
    }
}

/// Appends a header and the meta that `write_meta` writes; the caller appends the body and then
/// calls [`finish_frame`] with the index that this returns.
///
/// The caller has made sure that the meta is at most 65,535 bytes. In a debug build a longer
/// one panics; else its end becomes part of the body, so that the frames after it stay readable.
pub fn start_frame(
    out: &mut Vec<u8>,
    kind: Kind,
    flags: u8,
    call_id: u64,
    write_meta: impl FnOnce(&mut Vec<u8>),
) -> usize {
    let start = out.len();
    let header = Header { kind: kind as u8, flags, meta_len: 0, body_len: 0, call_id };
    out.extend_from_slice(&header.encode());
    write_meta(out);
    let meta_len = u16::try_from(out.len() - start - HEADER_LEN);
    debug_assert!(meta_len.is_ok(), "the meta does not fit in a frame");
    let meta_len = meta_len.unwrap_or(u16::MAX);
    out[start + 6..start + 8].copy_from_slice(&meta_len.to_le_bytes());
    start
}

/// Completes the frame at `start`: its body is what was appended after the meta.
///
/// # Panics
///
/// If `start` is not what `start_frame` returned for `out`, or the body is over 4 GiB, which no
/// peer's `max_body` allows.
#[inline]
pub fn finish_frame(out: &mut [u8], start: usize) {
    finish_linked(&mut out[start..], 0);
}

/// The same for all of `frame`, of whose body `more` bytes stand elsewhere.
#[inline]
pub(crate) fn finish_linked(frame: &mut [u8], more: usize) {
    let meta_len = usize::from(u16::from_le_bytes([frame[6], frame[7]]));
    let body_len = u32::try_from(frame.len() - HEADER_LEN - meta_len + more)
        .expect("a body is checked against max_body, a u32");
    frame[8..12].copy_from_slice(&body_len.to_le_bytes());
}

/// Puts the call's id into the frame at the front of `frame`.
pub(crate) fn set_call_id(frame: &mut [u8], call_id: u64) {
    frame[12..HEADER_LEN].copy_from_slice(&call_id.to_le_bytes());
}

/// Appends a frame without meta: Cancel, Ping, Pong or GoAway.
pub fn write_control(out: &mut Vec<u8>, kind: Kind, call_id: u64, body: &[u8]) {
    let start = start_frame(out, kind, 0, call_id, |_| {});
    out.extend_from_slice(body);
    finish_frame(out, start);
}
