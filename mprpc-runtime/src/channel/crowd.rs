//! Blocking callers of one service at the same time: few do best with a connection each, many with one for all.
//!
//! A caller that drives its own connection waits for nobody but the peer. With many times more callers than cores that is
//! no gain any more: each request and each answer costs its own system calls on both sides, and its own wake-up of a
//! thread. On one connection, driven by a client reactor, those of many callers leave and come together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// The callers of one service.
pub(super) struct Crowd {
    callers: AtomicUsize,
    /// More callers than this share.
    limit: usize,
    /// Whether all that serve speak the mux wire, as far as it is known; on the legacy wire there is nothing to share.
    can: AtomicBool,
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
        let (callers, can, sharing) = Default::default();
        Self { callers, limit, can, sharing }
    }

    /// Whether connections can be shared.
    pub(super) fn set_can(&self, can: bool) {
        self.can.store(can, Relaxed);
    }

    /// Half of them share no better than none: so all do from `limit` on, until there are half as many.
    pub(super) fn enter(&self) -> Caller<'_> {
        let callers = self.callers.fetch_add(1, Relaxed) + 1;
        let sharing = self.sharing.load(Relaxed);
        let shares = callers > if sharing { self.limit / 2 } else { self.limit };
        if shares != sharing {
            self.sharing.store(shares, Relaxed);
        }
        Caller { crowd: self, shares: shares && self.can.load(Relaxed) }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.crowd.callers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_share_above_the_limit_until_they_are_half_as_many() {
        let crowd = Crowd::new(4);
        crowd.set_can(true);
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
    fn with_a_limit_of_0_every_caller_shares_if_that_can_be() {
        let crowd = Crowd::new(0);
        assert!(!crowd.enter().shares, "who serves is not known yet");
        crowd.set_can(true);
        assert!(crowd.enter().shares && crowd.enter().shares);
        crowd.set_can(false);
        assert!(!crowd.enter().shares);
    }
}
