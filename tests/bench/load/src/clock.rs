//! The clock: nanoseconds since its first use.

use std::{sync::OnceLock, time::Instant};

/// The time, in nanoseconds. Rises, and is the same for all threads.
#[inline]
pub fn now() -> u64 {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    // Not `as_nanos`, whose 128-bit product shows in a profile at millions of calls a second.
    elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
}

static START: OnceLock<Instant> = OnceLock::new();
