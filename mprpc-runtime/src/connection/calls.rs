//! The calls of one connection that wait for their answer, by rising id.

use std::collections::VecDeque;

/// A table for ids that only rise. Most calls end in about the order in which they began, so a
/// queue with holes beats a hash map: no hashing, and an idle table holds little memory.
#[derive(Debug)]
pub struct Calls<T> {
    queue: VecDeque<(u64, Option<T>)>,
    live: usize,
}

impl<T> Calls<T> {
    /// How many calls wait.
    pub fn len(&self) -> usize {
        self.live
    }

    /// True if none waits.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Adds a call. `id` must be above every id added before.
    pub fn insert(&mut self, id: u64, call: T) {
        debug_assert!(self.queue.back().is_none_or(|(last, _)| *last < id));
        // A long call at the front keeps its finished followers in the queue; drop them when
        // they are the majority.
        if self.queue.len() > 2 * self.live + 64 {
            self.queue.retain(|(_, call)| call.is_some());
        }
        self.live += 1;
        if self.queue.capacity() == 0 {
            // Who makes one call at a time needs no room for more.
            self.queue.reserve_exact(1);
        }
        self.queue.push_back((id, Some(call)));
    }

    /// The call with this id, if it waits.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let at = self.position(id)?;
        self.queue[at].1.as_mut()
    }

    /// Takes a call out.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let call = if self.queue.front()?.0 == id {
            self.queue.pop_front()?.1?
        } else {
            let at = self.position(id)?;
            self.queue[at].1.take()?
        };
        self.live -= 1;
        while matches!(self.queue.front(), Some((_, None))) {
            self.queue.pop_front();
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Some(call)
    }

    /// Gives back the memory of the last call, for connections that are many. Most never had two calls at a time.
    pub fn tidy(&mut self) {
        if self.queue.capacity() == 1 && self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }

    /// All calls that wait, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.queue.iter().filter_map(|(id, call)| Some((*id, call.as_ref()?)))
    }

    /// Takes all calls out, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = (u64, T)> + use<T> {
        self.live = 0;
        std::mem::take(&mut self.queue).into_iter().filter_map(|(id, call)| Some((id, call?)))
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.queue.binary_search_by_key(&id, |(id, _)| *id).ok()
    }
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Self { queue: VecDeque::new(), live: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_may_have_gaps_and_end_in_any_order() {
        let mut calls = Calls::default();
        for id in [1, 5, 6, 90] {
            calls.insert(id, id * 10);
        }
        assert_eq!(calls.remove(6), Some(60));
        assert_eq!(calls.remove(6), None);
        assert_eq!(calls.remove(7), None);
        assert_eq!(calls.remove(1), Some(10));
        assert_eq!(calls.len(), 2);
        assert_eq!(calls.drain().collect::<Vec<_>>(), [(5, 50), (90, 900)]);
        assert!(calls.is_empty());
    }

    #[test]
    fn one_slow_call_does_not_keep_the_memory_of_its_followers() {
        let mut calls = Calls::default();
        calls.insert(1, ());
        for id in 2..100_000 {
            calls.insert(id, ());
            calls.remove(id);
        }
        assert!(calls.queue.len() < 100);
        assert_eq!(calls.remove(1), Some(()));
    }
}
