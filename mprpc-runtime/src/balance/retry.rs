//! How much may be tried again, and after which pause.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    error::Ran,
    status::{Code, Status},
};

/// Bounds the retries of a channel: a tenth of its calls, and ten more at a time. So retries cannot
/// multiply the load on peers that are overloaded already.
#[derive(Debug)]
pub struct Budget(
    /// Tenths of a retry.
    AtomicU32,
);

impl Budget {
    /// A call is made. Costs nothing while the budget is full.
    pub fn earn(&self) {
        if self.0.load(Ordering::Relaxed) < FULL {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one retry out, if there is one.
    pub fn spend(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |tenths| tenths.checked_sub(10)).is_ok()
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(FULL))
    }
}

/// Whether a call that failed may be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It may not.
    No,
    /// It did not reach anybody who works on it, so that another attempt adds no load: it was not
    /// sent, or stood above the id of a GoAway.
    Free,
    /// It may, if the budget allows: it was refused for overload, or may have run and is idempotent.
    Budgeted,
}

impl Repeat {
    /// Decides for a call that ended so.
    pub fn of(ran: Ran, status: &Status, idempotent: bool) -> Self {
        match (ran, status.code()) {
            (_, Code::Cancelled | Code::InvalidArgument) => Self::No,
            (Ran::No, Code::Unavailable) if !status.retryable() => Self::Free,
            (Ran::No, _) => Self::Budgeted,
            (Ran::Maybe, Code::Unavailable) if idempotent => Self::Budgeted,
            (Ran::Maybe, _) => Self::No,
        }
    }
}

/// The pause after this many failures in a row: it doubles from 100 ms to 3 s, give or take a fifth, so
/// that many callers do not come back together.
pub fn pause(failures: u32, random: u64) -> Duration {
    let base = (FIRST_PAUSE * (1 << failures.min(8))).min(LONGEST_PAUSE);
    jitter(base, random)
}

/// `base`, give or take a fifth.
pub(super) fn jitter(base: Duration, random: u64) -> Duration {
    base.mul_f64(0.8 + 0.4 * (mix(random) >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Makes a random number of a counter or a seed (SplitMix64, Steele et al. 2014).
pub fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const FULL: u32 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
