//! Buffers of one connection: what was read and not yet parsed, what waits to be written.

use bytes::Bytes;

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
            None => *self = Self::of(bytes.to_vec()),
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
        let bytes = &mut self.0.as_mut()?.bytes;
        if bytes.capacity() == bytes.len() {
            bytes.reserve_exact(missing.min(3 * len));
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

    /// An inbox with these bytes. Copied only if somebody else still holds what they were part of.
    pub fn thaw(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::default() } else { Self::of(bytes.into()) }
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self(Some(Box::new(Held { bytes, used: 0 })))
    }
}

/// Bytes to be written. The memory goes back to the reactor when everything is out.
#[derive(Debug, Default)]
pub struct Output {
    bytes: Vec<u8>,
    sent: usize,
    total: u64,
}

impl Output {
    /// What is still to be written.
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// True if nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// The buffer to append frames to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Notes that the socket took `n` bytes.
    pub fn advance(&mut self, n: usize) {
        self.sent += n;
        self.total += n as u64;
        // Under steady load the buffer may never be empty, and must not grow for ever. What is moved
        // is never more than what was sent since the last time.
        if self.sent * 2 >= self.bytes.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Forgets what was appended at and behind `offset`, counted like `end_in_all`. What was sent
    /// stays sent.
    pub fn truncate(&mut self, offset: u64) {
        let keep = offset.saturating_sub(self.total).min(self.len() as u64);
        self.bytes.truncate(self.sent + keep as usize);
        self.advance(0);
    }

    /// How many bytes the socket has taken since the connection began.
    pub fn sent_in_all(&self) -> u64 {
        self.total
    }

    /// The offset, counted like `sent_in_all`, at which the next appended byte will go out.
    pub fn end_in_all(&self) -> u64 {
        self.total + self.len() as u64
    }

    /// Forgets what waits.
    pub fn clear(&mut self) {
        self.sent = 0;
        self.bytes.clear();
    }

    /// Takes the buffer's memory if nothing waits; `None` if something does or there is no memory.
    pub fn reclaim(&mut self) -> Option<Vec<u8>> {
        let spare = self.bytes.is_empty() && self.bytes.capacity() > 0;
        spare.then(|| std::mem::take(&mut self.bytes))
    }

    /// Gives an empty buffer's memory; ignored if there is some already.
    pub fn provide(&mut self, memory: Vec<u8>) {
        if self.bytes.capacity() == 0 {
            self.bytes = memory;
        }
    }
}

/// What is read into a frame's own memory at least.
const OWN_READ: usize = 32 << 10;
