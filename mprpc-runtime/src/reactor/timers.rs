//! When connections want to be called: a heap that forgets lazily.
//!
//! A connection's next timeout changes with every call, nearly always to a later time. So an entry is
//! added only when the connection wants to be called *earlier* than it will be; when an entry comes
//! up, the connection is asked again.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use crate::connection::ConnId;

pub(super) struct Timers {
    start: Instant,
    /// By nanoseconds since the start, which are half the size of an `Instant`: each idle connection has an entry.
    heap: BinaryHeap<Reverse<(u64, ConnId)>>,
}

impl Timers {
    pub(super) fn new(start: Instant) -> Self {
        Self { start, heap: BinaryHeap::new() }
    }

    /// When the first entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| self.instant(*at))
    }

    /// Sees to it that `id` comes up at `wanted` or before; `entry` is its valid entry, if any.
    #[inline]
    pub(super) fn schedule(&mut self, id: ConnId, entry: &mut Option<Instant>, wanted: Option<Instant>) {
        if let Some(at) = wanted
            && entry.is_none_or(|entry| at < entry)
        {
            let at = at.saturating_duration_since(self.start).as_nanos();
            let at = u64::try_from(at).unwrap_or(u64::MAX);
            self.heap.push(Reverse((at, id)));
            *entry = Some(self.instant(at));
        }
    }

    /// Takes out an entry whose time has come. It counts only if it is still its connection's.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, ConnId)> {
        let due = self.next().is_some_and(|at| at <= now);
        let Reverse((at, id)) = due.then(|| self.heap.pop())??;
        Some((self.instant(at), id))
    }

    /// Forgets entries without a meaning, once they may be a third of those of `live` connections and
    /// more. Connections that come and go fast would pile them up.
    pub(super) fn tidy(&mut self, live: usize, valid: impl Fn(Instant, ConnId) -> bool) {
        if self.heap.len() > live + live / 2 + 64 {
            let start = self.start;
            self.heap.retain(|Reverse((at, id))| valid(start + Duration::from_nanos(*at), *id));
        }
    }

    fn instant(&self, at: u64) -> Instant {
        self.start + Duration::from_nanos(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_wishes_add_nothing_and_earlier_ones_come_up_first() {
        let start = Instant::now();
        let (mut timers, mut entry) = (Timers::new(start), None);
        let at = |s| start + Duration::from_secs(s);
        let (early, mid, late) = (at(1), at(5), at(9));
        timers.schedule(ConnId(1), &mut entry, Some(mid));
        timers.schedule(ConnId(1), &mut entry, Some(late));
        timers.schedule(ConnId(1), &mut entry, None);
        assert_eq!((timers.next(), timers.heap.len()), (Some(mid), 1));
        timers.schedule(ConnId(1), &mut entry, Some(early));
        assert_eq!(entry, Some(early));
        assert_eq!(timers.due(early), Some((early, ConnId(1))));
        assert_eq!(timers.due(early), None);
    }

    #[test]
    fn entries_of_closed_connections_do_not_pile_up() {
        let at = Instant::now();
        let mut timers = Timers::new(at);
        for id in 0..10_000 {
            timers.schedule(ConnId(id), &mut None, Some(at));
            timers.tidy(1, |_, entry| entry == ConnId(id));
        }
        assert!(timers.heap.len() < 100);
    }
}
