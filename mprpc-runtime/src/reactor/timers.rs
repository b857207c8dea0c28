//! When connections want to be called: a heap that forgets lazily.
//!
//! A connection's next timeout changes with every call, nearly always to a later time. So an entry is
//! added only when the connection wants to be called *earlier* than it will be; when an entry comes
//! up, the connection is asked again.

use std::{cmp::Reverse, collections::BinaryHeap, time::Instant};

use crate::connection::ConnId;

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, ConnId)>>,
}

impl Timers {
    /// When the first entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Sees to it that `id` comes up at `wanted` or before; `entry` is its valid entry, if any.
    pub(super) fn schedule(&mut self, id: ConnId, entry: &mut Option<Instant>, wanted: Option<Instant>) {
        if let Some(at) = wanted
            && entry.is_none_or(|entry| at < entry)
        {
            self.heap.push(Reverse((at, id)));
            *entry = Some(at);
        }
    }

    /// Takes out an entry whose time has come. It counts only if it is still its connection's.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Instant, ConnId)> {
        let due = self.next().is_some_and(|at| at <= now);
        due.then(|| self.heap.pop())?.map(|Reverse(entry)| entry)
    }

    /// Forgets entries without a meaning, once they may be the majority among those of `live`
    /// connections. Connections that come and go fast would pile them up.
    pub(super) fn tidy(&mut self, live: usize, valid: impl Fn(Instant, ConnId) -> bool) {
        if self.heap.len() > 2 * live + 64 {
            self.heap.retain(|Reverse((at, id))| valid(*at, *id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn later_wishes_add_nothing_and_earlier_ones_come_up_first() {
        let (mut timers, mut entry) = (Timers::default(), None);
        let at = |s| Instant::now().max(START.with(|t| *t)) + Duration::from_secs(s);
        thread_local!(static START: Instant = Instant::now());
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
        let mut timers = Timers::default();
        let at = Instant::now();
        for id in 0..10_000 {
            timers.schedule(ConnId(id), &mut None, Some(at));
            timers.tidy(1, |_, entry| entry == ConnId(id));
        }
        assert!(timers.heap.len() < 100);
    }
}
