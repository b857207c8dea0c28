//! Blocking callers of one service at the same time: few mostly do best with a connection each, many whose calls are quick
//! with one for all.
//!
//! A caller that drives its own connection waits for nobody but the peer, and is one more to the peer's limits and turns,
//! which count connections. If many times more callers than cores make calls that end at once, the calls themselves are what
//! keeps the cores busy: each request and each answer costs its own system calls on both sides, and its own wake-up of a
//! thread. On one connection, driven by a client reactor, those of many callers leave and come together. One thread carries
//! them all then, which is no gain where there are many cores.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// The callers of one service.
pub(super) struct Crowd {
    /// More callers than this share; if it is 0 all do.
    limit: usize,
    callers: AtomicUsize,
    /// How long their calls take, in nanoseconds, as a mean that forgets; 0 before the first.
    mean: AtomicU64,
    /// All that serve speak the mux wire, as far as it is known; on the legacy wire there is nothing to share.
    sharable: AtomicBool,
    sharing: AtomicBool,
}

/// One of them, until it is dropped.
pub(super) struct Caller<'a> {
    crowd: &'a Crowd,
    /// Whether it had better share a connection with the others.
    pub(super) shares: bool,
}

impl Crowd {
    pub(super) fn new(limit: usize) -> Self {
        let (callers, mean, sharable, sharing) = Default::default();
        Self { limit, callers, mean, sharable, sharing }
    }

    pub(super) fn set_sharable(&self, sharable: bool) {
        self.sharable.store(sharable, Relaxed);
    }

    /// If only some shared, nobody would gain. So once there are enough, all who come do, until there are half as many, or
    /// until they make half as many calls.
    pub(super) fn enter(&self) -> Caller<'_> {
        let callers = self.callers.fetch_add(1, Relaxed) + 1;
        let was = self.sharing.load(Relaxed);
        let (limit, pause) = if was { (self.limit / 2, 2 * QUICK) } else { (self.limit, QUICK) };
        let mean = self.mean.load(Relaxed);
        let quick = mean > 0 && mean <= callers as u64 * pause;
        let sharing = callers > limit.max(1) && callers <= MOST && quick;
        if sharing != was {
            self.sharing.store(sharing, Relaxed);
        }
        Caller { crowd: self, shares: (sharing || self.limit == 0) && self.sharable.load(Relaxed) }
    }
}

impl Caller<'_> {
    /// Its call has ended. Of some that end at once one may be heard, which is enough.
    pub(super) fn took(&self, time: Duration) {
        let (time, mean) = (time.min(LONGEST).as_nanos() as u64, self.crowd.mean.load(Relaxed));
        let mean = if mean == 0 { time } else { mean - mean / MEMORY + time / MEMORY };
        self.crowd.mean.store(mean.max(1), Relaxed);
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.crowd.callers.fetch_sub(1, Relaxed);
    }
}

/// Calls are quick if one ends so often, in nanoseconds: 50,000 a second.
const QUICK: u64 = 20_000;
/// Calls that the mean is about.
const MEMORY: u64 = 16;
/// A call that took longer counts as if it had taken this: far from quick, and soon made up for if it was the only one.
const LONGEST: Duration = Duration::from_millis(100);
/// Callers on one connection, which a peer takes 1024 calls of by default (`max_calls`).
const MOST: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(limit: usize) -> Crowd {
        let crowd = Crowd::new(limit);
        crowd.set_sharable(true);
        crowd.enter().took(Duration::from_micros(10));
        crowd
    }

    #[test]
    fn callers_share_above_the_limit_until_they_are_half_as_many() {
        let crowd = crowd(4);
        let mut callers: Vec<_> = (0..4).map(|_| crowd.enter()).collect();
        assert!(callers.iter().all(|caller| !caller.shares), "there are no more than the limit");
        callers.push(crowd.enter());
        assert!(callers[4].shares);
        callers.truncate(2);
        callers.push(crowd.enter());
        assert!(callers[2].shares, "three are more than half of the limit");
        callers.truncate(1);
        callers.push(crowd.enter());
        assert!(!callers[1].shares);
        callers.push(crowd.enter());
        assert!(!callers[2].shares, "from then on the limit counts again");
    }

    #[test]
    fn a_lone_caller_does_not_share_whatever_was_before() {
        let crowd = crowd(1);
        let callers = [crowd.enter(), crowd.enter()];
        assert!(callers[1].shares);
        drop(callers);
        assert!(!crowd.enter().shares);
    }

    #[test]
    fn callers_share_while_their_calls_are_quick() {
        let crowd = crowd(4);
        let callers: Vec<_> = (0..9).map(|_| crowd.enter()).collect();
        let took = |us| (0..100).for_each(|_| callers[0].took(Duration::from_micros(us)));
        took(250);
        assert!(crowd.enter().shares, "ten callers, one call in 25 us, while they share");
        took(450);
        assert!(!crowd.enter().shares);
        took(250);
        assert!(!crowd.enter().shares, "not quick enough to begin");
        took(150);
        assert!(crowd.enter().shares);
    }

    #[test]
    fn so_many_that_the_peer_might_not_take_their_calls_do_not_share() {
        let crowd = crowd(4);
        let callers: Vec<_> = (0..=MOST).map(|_| crowd.enter()).collect();
        assert!(callers[MOST - 1].shares && !callers[MOST].shares);
    }

    #[test]
    fn with_a_limit_of_0_every_caller_shares_if_that_can_be() {
        let crowd = Crowd::new(0);
        assert!(!crowd.enter().shares, "who serves is not known yet");
        crowd.set_sharable(true);
        assert!(crowd.enter().shares && crowd.enter().shares);
        crowd.set_sharable(false);
        assert!(!crowd.enter().shares);
    }
}
