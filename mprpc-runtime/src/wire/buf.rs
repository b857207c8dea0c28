//! Buffers of one connection: what was read and not yet parsed, what waits to be written.

use std::{collections::VecDeque, io::IoSlice, iter, mem};

use bytes::{Buf, Bytes};

use super::{mux::Header, spare};

/// Bytes received that do not make a whole frame yet. An idle connection, of which there are many, holds no
/// memory here but for one pointer.
#[derive(Debug, Default)]
pub struct Inbox(Option<Box<Held>>);

/// Never empty.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    used: usize,
}

impl Inbox {
    /// Everything that waits.
    pub fn as_slice(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |held| &held.bytes[held.used..])
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.bytes.capacity())
    }

    /// Appends what was read. Memory grows with what was received, never with what was announced:
    /// fourfold, so that a large frame is copied on little.
    pub fn push(&mut self, bytes: &[u8]) {
        let len = self.len();
        match &mut self.0 {
            _ if bytes.is_empty() => {}
            None => {
                let total = Header::large(bytes).filter(|_| bytes.len() >= OWN_READ);
                let mut memory = total.and_then(spare::take).unwrap_or_default();
                memory.extend_from_slice(bytes);
                *self = Self::of(memory);
            }
            Some(held) => {
                if held.bytes.capacity() - held.bytes.len() < bytes.len() {
                    held.bytes.reserve_exact(bytes.len() + 3 * len);
                }
                held.bytes.extend_from_slice(bytes);
            }
        }
    }

    /// Memory to read more of a frame of `total` bytes into, behind what is there, which spares
    /// copying it. `None` if so little of it is there, or missing, that it does not pay. It grows as
    /// in `push`.
    pub fn room(&mut self, total: usize) -> Option<&mut Vec<u8>> {
        let len = self.len();
        let missing = total.saturating_sub(len);
        if missing < OWN_READ || 3 * len < OWN_READ {
            return None;
        }
        let Held { bytes, used } = &mut **self.0.as_mut()?;
        if bytes.capacity() == bytes.len() {
            if let Some(mut kept) = spare::take(total) {
                kept.extend_from_slice(&bytes[*used..]);
                (*bytes, *used) = (kept, 0);
            } else {
                bytes.reserve_exact(missing.min(3 * len));
            }
        }
        Some(bytes)
    }

    /// Drops the first `n` bytes, and all memory if nothing is left.
    pub fn consume(&mut self, n: usize) {
        let Some(held) = &mut self.0 else { return };
        held.used += n;
        if held.used == held.bytes.len() {
            self.0 = None;
        } else if held.used * 2 >= held.bytes.len() {
            // What is moved is never more than what was dropped since the last time.
            held.bytes.drain(..held.used);
            held.used = 0;
        }
    }

    /// Takes everything out, to be shared without a copy; `thaw` takes back what was not used.
    pub fn freeze(self) -> Bytes {
        self.0.map_or_else(Bytes::new, |held| Bytes::from(held.bytes).split_off(held.used))
    }

    /// An inbox with what is behind the first `used` of these bytes. Much of it is copied only if
    /// somebody else still holds what they were part of.
    pub fn thaw(mut bytes: Bytes, used: usize) -> Self {
        if bytes.len() - used > MUCH {
            bytes.advance(used);
            return Self::of(bytes.into());
        }
        let mut inbox = Self::default();
        inbox.push(&bytes[used..]);
        spare::keep_shared(bytes);
        inbox
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self(Some(Box::new(Held { bytes, used: 0 })))
    }
}

/// Bytes to be written. The memory goes back to the reactor when everything is out.
///
/// Small frames share one buffer. Behind much that waits a new one begins, so that large frames are
/// not moved before they leave.
#[derive(Debug, Default)]
pub struct Output {
    /// What leaves before `bytes`: mostly nothing, and connections are many.
    ahead: Option<Box<Ahead>>,
    bytes: Vec<u8>,
    sent: u64,
}

/// What is left of buffers that are full or began to leave; none of them is empty.
#[derive(Debug, Default)]
struct Ahead {
    buffers: VecDeque<Bytes>,
    len: usize,
}

impl Output {
    /// What is to be written next: all of it, unless that is more than one buffer.
    pub fn pending(&self) -> &[u8] {
        match self.ahead.as_ref().and_then(|ahead| ahead.buffers.front()) {
            Some(first) => first,
            None => &self.bytes,
        }
    }

    /// What waits, piece by piece, as much of it as one write is worth: no more than some pieces, and few behind
    /// `ONE_WRITE` bytes. Fills the front of `pieces` and returns it.
    pub(crate) fn gather<'a, 'p>(&'a self, pieces: &'p mut [IoSlice<'a>; PIECES]) -> &'p [IoSlice<'a>] {
        let ahead = self.ahead.iter().flat_map(|ahead| &ahead.buffers).map(|bytes| &bytes[..]);
        let all = ahead.chain(iter::once(&self.bytes[..]).filter(|bytes| !bytes.is_empty()));
        let (mut n, mut len) = (0, 0);
        for (place, piece) in pieces.iter_mut().zip(all) {
            if len >= ONE_WRITE {
                break;
            }
            *place = IoSlice::new(piece);
            n += 1;
            len += piece.len();
        }
        &pieces[..n]
    }

    /// True if nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.ahead.is_none()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.ahead.as_ref().map_or(0, |ahead| ahead.len)
    }

    /// The buffer to append frames to.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.bytes.len() > MUCH {
            self.begin_new();
        }
        &mut self.bytes
    }

    /// Appends all of `frames`, without a copy if they are large or nothing waits.
    pub(crate) fn append(&mut self, frames: &mut Vec<u8>) {
        if frames.is_empty() {
            // Not swapped, or an output without frames would walk off with the memory.
        } else if self.bytes.is_empty() {
            mem::swap(&mut self.bytes, frames);
        } else if frames.len() > MUCH {
            self.begin_new();
            self.bytes = mem::take(frames);
        } else {
            self.buffer().append(frames);
        }
    }

    /// Appends a large frame that somebody else keeps, without a copy.
    pub(crate) fn share(&mut self, frame: Bytes) {
        self.begin_new();
        self.push_ahead(frame);
    }

    fn begin_new(&mut self) {
        if !self.bytes.is_empty() {
            let bytes = mem::take(&mut self.bytes);
            self.push_ahead(bytes.into());
        }
    }

    fn push_ahead(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            let ahead = self.ahead.get_or_insert_default();
            ahead.len += bytes.len();
            ahead.buffers.push_back(bytes);
        }
    }

    /// Notes that the socket took `n` bytes.
    #[inline]
    pub fn advance(&mut self, n: usize) {
        self.sent += n as u64;
        let n = self.advance_ahead(n);
        if n == self.bytes.len() {
            self.bytes.clear();
        } else if n > 0 {
            // Nothing is moved: what comes goes into a new buffer.
            self.begin_new();
            self.advance_ahead(n);
        }
    }

    /// Returns how much of `n` is left for `bytes`.
    fn advance_ahead(&mut self, mut n: usize) -> usize {
        let Some(ahead) = &mut self.ahead else { return n };
        while let Some(first) = ahead.buffers.front_mut() {
            let taken = n.min(first.len());
            first.advance(taken);
            ahead.len -= taken;
            n -= taken;
            if !first.is_empty() {
                return 0;
            }
            if let Some(buffer) = ahead.buffers.pop_front().and_then(spare::unshare) {
                spare::keep(buffer);
            }
        }
        self.ahead = None;
        n
    }

    /// Forgets what was appended at and behind `offset`, counted like `end_in_all`. What was sent
    /// stays sent.
    pub fn truncate(&mut self, offset: u64) {
        let mut keep = offset.saturating_sub(self.sent).min(self.len() as u64) as usize;
        if let Some(ahead) = self.ahead.take() {
            for mut bytes in ahead.buffers {
                bytes.truncate(keep);
                keep -= bytes.len();
                self.push_ahead(bytes);
            }
        }
        self.bytes.truncate(keep);
    }

    /// How many bytes the socket has taken since the connection began.
    pub fn sent_in_all(&self) -> u64 {
        self.sent
    }

    /// The offset, counted like `sent_in_all`, at which the next appended byte will go out.
    pub fn end_in_all(&self) -> u64 {
        self.sent + self.len() as u64
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.ahead = None;
        self.bytes.clear();
    }

    /// Takes the buffer's memory if nothing waits; `None` if something does or there is no memory.
    pub fn reclaim(&mut self) -> Option<Vec<u8>> {
        let spare = self.bytes.is_empty() && self.bytes.capacity() > 0;
        spare.then(|| mem::take(&mut self.bytes))
    }

    /// Gives an empty buffer's memory; ignored if there is some already.
    pub fn provide(&mut self, memory: Vec<u8>) {
        if self.bytes.capacity() == 0 {
            self.bytes = memory;
        }
    }
}

/// What bytes lie in that cannot be shared.
pub(crate) static NOTHING: Bytes = Bytes::new();

/// What is read into a frame's own memory at least.
const OWN_READ: usize = 32 << 10;

/// As much as waits in one buffer before the next one begins.
const MUCH: usize = 64 << 10;

/// Of as many pieces is one write.
pub(crate) const PIECES: usize = 16;
/// With as many bytes it is worth its system call.
const ONE_WRITE: usize = 256 << 10;
