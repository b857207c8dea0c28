//! A non-blocking connection that holds memory only for what is half done.
//!
//! Reads land in the thread's input buffer and answers are gathered in its output buffer. A connection keeps just the beginning
//! of an incomplete frame and what the socket did not take.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
};

use mio::net::TcpStream;

use crate::frame::{self, Frame, HEADER};

/// Buffers that all links of a thread share.
pub(crate) struct Buffers {
    input: Vec<u8>,
    /// Frames to be sent on the link that is being handled.
    pub(crate) output: Vec<u8>,
    /// Large buffers between two uses, kept so that the allocator does not return and fetch their pages every time.
    spare: Vec<Vec<u8>>,
}

impl Buffers {
    pub(crate) fn new() -> Self {
        Self { input: vec![0; INPUT], output: Vec::with_capacity(INPUT), spare: Vec::new() }
    }

    fn fetch(&mut self, size: usize) -> Vec<u8> {
        if size < LARGE { Vec::with_capacity(size) } else { self.spare.pop().unwrap_or_default() }
    }

    fn store(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() >= LARGE && self.spare.len() < SPARES {
            self.spare.push(buffer);
        }
    }
}

/// One connection.
pub(crate) struct Link {
    pub(crate) stream: TcpStream,
    /// The beginning of a frame: `have` bytes of it. What is behind is room, or left from an earlier frame.
    partial: Vec<u8>,
    have: usize,
    /// What the socket did not take; of the first, `sent` bytes it did.
    unsent: VecDeque<Vec<u8>>,
    sent: usize,
}

impl Link {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, partial: Vec::new(), have: 0, unsent: VecDeque::new(), sent: 0 }
    }

    /// Reads until nothing is left, hands every whole frame to `on_frame`, and sends what that put into the output.
    ///
    /// An error is also the end of the stream.
    pub(crate) fn read(
        &mut self,
        buffers: &mut Buffers,
        mut on_frame: impl FnMut(&Frame<'_>, &mut Vec<u8>),
    ) -> io::Result<()> {
        loop {
            let room;
            let count = if self.have == 0 {
                room = buffers.input.len();
                let Some(count) = some(self.stream.read(&mut buffers.input))? else {
                    break;
                };
                let mut rest = &buffers.input[..count];
                while let Some(frame) = frame::take(&mut rest) {
                    on_frame(&frame, &mut buffers.output);
                }
                if !rest.is_empty() {
                    let kept = count - rest.len()..count;
                    self.keep(buffers, kept);
                }
                count
            } else {
                let whole = frame::size(&self.partial[..self.have]);
                let want = whole.unwrap_or(HEADER);
                if self.partial.len() < want {
                    self.partial.resize(want, 0);
                }
                room = want - self.have;
                let Some(count) = some(self.stream.read(&mut self.partial[self.have..want]))? else {
                    break;
                };
                self.have += count;
                if whole == Some(self.have) || frame::size(&self.partial[..self.have]) == Some(self.have) {
                    if let Some(frame) = frame::take(&mut &self.partial[..self.have]) {
                        on_frame(&frame, &mut buffers.output);
                    }
                    self.have = 0;
                    buffers.store(std::mem::take(&mut self.partial));
                }
                count
            };
            if count < room {
                break; // epoll(7): of a stream socket, a short read is the last one
            }
            self.send(buffers)?;
        }
        self.send(buffers)
    }

    /// Sends the output, and keeps what the socket does not take.
    pub(crate) fn send(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        let mut at = 0;
        while self.unsent.is_empty() && at < buffers.output.len() {
            match some(self.stream.write(&buffers.output[at..]))? {
                Some(count) => at += count,
                None => break,
            }
        }
        if at == buffers.output.len() {
            buffers.output.clear();
            return Ok(());
        }
        if self.unsent.is_empty() {
            self.sent = at;
        }
        // The whole buffer changes hands; copying its rest would cost more.
        let mut next = buffers.fetch(buffers.output.len());
        next.clear();
        self.unsent.push_back(std::mem::replace(&mut buffers.output, next));
        Ok(())
    }

    /// Sends what was kept, because the socket has room again.
    pub(crate) fn resume(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        while let Some(first) = self.unsent.front() {
            while self.sent < first.len() {
                match some(self.stream.write(&first[self.sent..]))? {
                    Some(count) => self.sent += count,
                    None => return Ok(()),
                }
            }
            self.sent = 0;
            buffers.store(self.unsent.pop_front().unwrap_or_default());
        }
        Ok(())
    }

    fn keep(&mut self, buffers: &mut Buffers, range: std::ops::Range<usize>) {
        self.have = range.len();
        self.partial = buffers.fetch(frame::size(&buffers.input[range.clone()]).unwrap_or(HEADER));
        if self.partial.len() < self.have {
            self.partial.resize(self.have, 0);
        }
        self.partial[..self.have].copy_from_slice(&buffers.input[range]);
    }
}

/// A count, or `None` where the socket has no more to give or take now.
fn some(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

const INPUT: usize = 64 << 10;
const LARGE: usize = 64 << 10;
const SPARES: usize = 16;
