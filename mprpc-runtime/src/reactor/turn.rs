//! What the connections of a reactor share while it takes a turn.

use std::{collections::VecDeque, mem, time::Instant};

use super::{slot::Slot, timers::Timers};
use crate::{
    connection::ConnId,
    wire::{buf::Output, spare},
};

/// Time, memory, and who is to be worked on.
pub(super) struct Turn {
    pub(super) now: Instant,
    /// Connections to be worked on.
    pub(super) queue: VecDeque<ConnId>,
    pub(super) timers: Timers,
    /// Connections to be watched from now on, or no longer.
    pub(super) rewatch: Vec<ConnId>,
    /// What is read lands here first.
    pub(super) scratch: Vec<u8>,
    /// Memory for output, lent to connections that have some.
    spares: Vec<Vec<u8>>,
}

impl Turn {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            queue: VecDeque::new(),
            timers: Timers::new(now),
            rewatch: Vec::new(),
            scratch: vec![0; READ_BYTES],
            spares: Vec::new(),
        }
    }

    pub(super) fn touch(&mut self, slot: &mut Slot) {
        if !mem::replace(&mut slot.queued, true) {
            self.queue.push_back(slot.id);
        }
    }

    #[inline]
    pub(super) fn lend(&mut self, output: &mut Output) {
        if output.buffer().capacity() == 0 {
            output.provide(self.spares.pop().unwrap_or_default());
        }
    }

    pub(super) fn keep(&mut self, output: &mut Output) {
        match output.reclaim() {
            Some(memory) if memory.capacity() > SPARE_BYTES => spare::keep(memory),
            Some(memory) if self.spares.len() < SPARES => self.spares.push(memory),
            _ => {}
        }
    }
}

/// What one connection may read before others have their turn; also the size of one read.
pub(super) const READ_BYTES: usize = 64 << 10;

/// At most 4 MiB of memory for output stay here after a burst; buffers of large frames are kept elsewhere.
const SPARES: usize = 16;
const SPARE_BYTES: usize = 256 << 10;
