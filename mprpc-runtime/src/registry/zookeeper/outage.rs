//! What the log hears of a ZooKeeper that is away: little, and not at the same time as from the crate. Pure.

use std::time::{Duration, Instant};

/// Whether ZooKeeper is away, and when that is to be said next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Outage {
    #[default]
    No,
    /// It began a moment ago and may be over soon.
    Untold(Instant),
    Told(Instant),
}

impl Outage {
    /// A session ended, of which the crate speaks.
    pub(super) fn begin(&mut self, now: Instant) {
        if *self == Self::No {
            *self = Self::Untold(now + UNTOLD);
        }
    }

    /// ZooKeeper cannot be reached. True if that is to be said now.
    pub(super) fn tell(&mut self, now: Instant) -> bool {
        let tell = match *self {
            Self::No => true,
            Self::Untold(at) | Self::Told(at) => now >= at,
        };
        if tell {
            *self = Self::Told(now + TOLD);
        }
        tell
    }

    /// ZooKeeper answers. True if an outage was told of, and its end is to be.
    pub(super) fn end(&mut self) -> bool {
        matches!(std::mem::take(self), Self::Told(_))
    }
}

const UNTOLD: Duration = Duration::from_secs(10);
const TOLD: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_at_the_start_is_told_at_once_and_every_half_minute() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert!(outage.tell(now) && !outage.tell(now) && !outage.tell(now + TOLD / 2));
        assert!(outage.tell(now + TOLD) && !outage.tell(now + TOLD));
        assert!(outage.end() && !outage.end());
    }

    #[test]
    fn the_end_of_a_session_is_left_to_the_crate_and_a_short_outage_is_not_told_at_all() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        outage.begin(now);
        assert!(!outage.tell(now));
        assert!(!outage.end(), "nobody heard of it");
        outage.begin(now);
        outage.begin(now + UNTOLD);
        assert!(outage.tell(now + UNTOLD) && outage.end());
    }
}
