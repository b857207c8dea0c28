//! Quotas: things that there is a limited amount of, and the shares that calls and connections hold of them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// So much of something, such as bytes or running calls, may be in use at once.
#[derive(Debug)]
pub struct Quota {
    limit: AtomicUsize,
    used: AtomicUsize,
}

/// What somebody uses of a quota. Goes back when it is dropped.
#[derive(Debug)]
pub struct Share {
    quota: Arc<Quota>,
    held: usize,
}

impl Quota {
    /// A quota of which nothing is in use.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0) })
    }

    /// How much may be in use.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes how much may be in use. Nobody has to give anything back.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How much is in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more is in use than may be: those who hold much are to give it up.
    pub fn is_over(&self) -> bool {
        self.used() > self.limit()
    }

    /// A share of `amount`, unless that is more than is left.
    pub fn take(self: &Arc<Self>, amount: usize) -> Option<Share> {
        let limit = self.limit();
        let more = |used: usize| used.checked_add(amount).filter(|used| *used <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Share { quota: self.clone(), held: amount })
    }

    /// A share of `amount`, whatever is left: it is there already and only has to be counted.
    pub fn hold(self: &Arc<Self>, amount: usize) -> Share {
        self.used.fetch_add(amount, Ordering::Relaxed);
        Share { quota: self.clone(), held: amount }
    }

    /// Has what somebody holds without a share, and notes in `held`, follow `bytes`. Only whole grains
    /// count, so that small messages cost nothing here.
    pub(super) fn follow(&self, held: &mut u32, bytes: usize) {
        let grains = (bytes / GRAIN) as u32;
        if grains != *held {
            // Wraps, so that it subtracts too.
            let more = (grains as usize).wrapping_sub(*held as usize).wrapping_mul(GRAIN);
            self.used.fetch_add(more, Ordering::Relaxed);
            *held = grains;
        }
    }
}

impl Share {
    /// How much it is.
    pub(super) fn amount(&self) -> usize {
        self.held
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.held > 0 {
            self.quota.used.fetch_sub(self.held, Ordering::Relaxed);
        }
    }
}

/// What is smaller than this, in bytes, is bounded by its number.
pub(super) const GRAIN: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_given_while_there_is_room_and_come_back() {
        let quota = Quota::new(2);
        let (first, second) = (quota.take(1), quota.take(1));
        assert!(first.is_some() && second.is_some() && quota.take(1).is_none());
        drop(first);
        assert!(quota.take(1).is_some());
        quota.set_limit(0);
        assert!(quota.is_over() && quota.take(1).is_none());
        drop(second);
        assert_eq!(quota.used(), 0);
        assert!(!quota.is_over() && quota.take(usize::MAX).is_none());
    }

    #[test]
    fn use_follows_what_is_held_in_whole_grains() {
        let (quota, mut held) = (Quota::new(10_000), 0);
        for (bytes, used) in [(4095, 0), (4096, 4096), (13_000, 12_288), (1, 0), (9000, 8192), (0, 0)] {
            quota.follow(&mut held, bytes);
            assert_eq!((quota.used(), quota.is_over(), held as usize * GRAIN), (used, used > 10_000, used));
        }
    }
}
