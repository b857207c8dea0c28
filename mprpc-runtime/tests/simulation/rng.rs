//! Random numbers that a seed reproduces.

use std::{ops::Range, time::Duration};

use mprpc_runtime::balance::mix;

/// A sequence of numbers; each use takes the next.
pub(crate) struct Rng(u64, u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed), 0)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.1 += 1;
        mix(self.0.wrapping_add(self.1))
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        (self.next() % len as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub(crate) fn micros(&mut self, range: Range<u64>) -> Duration {
        Duration::from_micros(self.within(range))
    }

    pub(crate) fn millis(&mut self, range: Range<u64>) -> Duration {
        self.micros(range.start * 1000..range.end * 1000)
    }
}
