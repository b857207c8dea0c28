//! The lanes of the worker queue: jobs wait in one for each client, and have their turns.
//!
//! The lanes have their turns one after the other, and when the queue is full the longest loses its newest
//! job (stochastic fairness queueing, McKenney 1990). So a client with a thousand calls delays one with a
//! single call by one job, and cannot take its place.
//!
//! Jobs of a client that does not take its answers are held beside the lanes. They are the first to give
//! way: they would wait longest, and who takes nothing must not fill the queue.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    time::Instant,
};

pub(crate) struct Lanes<J> {
    /// Jobs that may run. Lanes without jobs hold little memory.
    lanes: Vec<VecDeque<Waiting<J>>>,
    /// The lanes with jobs, that whose turn it is first.
    turns: VecDeque<usize>,
    /// Jobs in lanes, and jobs that are held.
    ready: usize,
    held: usize,
    /// Clients whose jobs must not run now, with those jobs.
    clients: BTreeMap<u64, VecDeque<Waiting<J>>>,
}

struct Waiting<J> {
    client: u64,
    since: Instant,
    job: J,
}

impl<J> Default for Lanes<J> {
    fn default() -> Self {
        Self {
            lanes: (0..LANES).map(|_| VecDeque::new()).collect(),
            turns: VecDeque::with_capacity(LANES),
            ready: 0,
            held: 0,
            clients: BTreeMap::new(),
        }
    }
}

impl<J> Lanes<J> {
    /// Jobs that can run.
    pub(crate) fn ready(&self) -> usize {
        self.ready
    }

    /// All jobs.
    pub(crate) fn len(&self) -> usize {
        self.ready + self.held
    }

    /// Takes a job in. Gives the job that has to go if there are more than `limit`.
    pub(crate) fn push(&mut self, client: u64, since: Instant, job: J, limit: usize) -> Option<J> {
        let mut refused = None;
        if self.len() >= limit {
            refused = self.displaced(client);
            if refused.is_none() {
                return Some(job);
            }
        }
        let job = Waiting { client, since, job };
        if let Some(jobs) = self.clients.get_mut(&client) {
            jobs.push_back(job);
            self.held += 1;
        } else {
            self.lane(client).push_back(job);
            self.ready += 1;
        }
        refused
    }

    /// Takes out the job whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<J> {
        let turn = self.turns.pop_front()?;
        let lane = &mut self.lanes[turn];
        let Waiting { job, .. } = lane.pop_front()?;
        if !lane.is_empty() {
            self.turns.push_back(turn);
        } else if lane.capacity() > SPARE {
            *lane = VecDeque::new();
        }
        self.ready -= 1;
        Some(job)
    }

    /// Since when the job waits whose turn it is.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let lane = &self.lanes[*self.turns.front()?];
        lane.front().map(|job| job.since)
    }

    /// Keeps the jobs of `client` out of the lanes, those that wait and those to come.
    pub(crate) fn hold(&mut self, client: u64) {
        let turn = client as usize % LANES;
        let lane = mem::take(&mut self.lanes[turn]);
        let (held, others): (VecDeque<_>, _) = lane.into_iter().partition(|job| job.client == client);
        if others.is_empty() {
            self.turns.retain(|other| *other != turn);
        }
        self.lanes[turn] = others;
        self.ready -= held.len();
        self.held += held.len();
        self.clients.entry(client).or_default().extend(held);
    }

    /// Ends a `hold`.
    pub(crate) fn release(&mut self, client: u64) {
        if let Some(mut jobs) = self.clients.remove(&client).filter(|jobs| !jobs.is_empty()) {
            self.held -= jobs.len();
            self.ready += jobs.len();
            self.lane(client).append(&mut jobs);
        }
    }

    pub(crate) fn release_all(&mut self) {
        while let Some((&client, _)) = self.clients.first_key_value() {
            self.release(client);
        }
    }

    /// The lane of a client that is about to get jobs.
    fn lane(&mut self, client: u64) -> &mut VecDeque<Waiting<J>> {
        let lane = client as usize % LANES;
        if self.lanes[lane].is_empty() {
            self.turns.push_back(lane);
            if self.lanes[lane].capacity() == 0 {
                // Clients that make one call at a time need no room for more, in none of the lanes.
                self.lanes[lane].reserve_exact(1);
            }
        }
        &mut self.lanes[lane]
    }

    /// Takes out the job that gives way to a new one of `client`, unless it is the new one that has to.
    fn displaced(&mut self, client: u64) -> Option<J> {
        if self.clients.contains_key(&client) {
            return None;
        }
        let longest = self.clients.values_mut().max_by_key(|jobs| jobs.len());
        if let Some(newest) = longest.and_then(VecDeque::pop_back) {
            self.held -= 1;
            return Some(newest.job);
        }
        let own = self.lanes[client as usize % LANES].len();
        let longest = self.lanes.iter_mut().max_by_key(|lane| lane.len())?;
        if longest.len() <= own + 1 {
            return None;
        }
        self.ready -= 1;
        longest.pop_back().map(|newest| newest.job)
    }
}

/// Clients beyond this number share lanes.
const LANES: usize = 256;
/// Room for so many jobs stays with a lane.
const SPARE: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn push(lanes: &mut Lanes<u32>, client: u64, job: u32) -> Option<u32> {
        lanes.push(client, Instant::now(), job, 6)
    }

    #[test]
    fn a_held_client_waits_and_those_in_its_lane_do_not() {
        let (mut lanes, other) = (Lanes::default(), 1 + LANES as u64);
        for (client, job) in [(1, 10), (other, 50), (1, 11), (2, 20)] {
            assert_eq!(push(&mut lanes, client, job), None);
        }
        lanes.hold(1);
        assert_eq!(push(&mut lanes, 1, 12), None);
        assert_eq!((lanes.ready(), lanes.len()), (2, 5));
        let order: Vec<_> = std::iter::from_fn(|| lanes.pop()).collect();
        assert_eq!((order, lanes.oldest()), (vec![50, 20], None));
        push(&mut lanes, 2, 21);
        lanes.release(1);
        lanes.release(1);
        let order: Vec<_> = std::iter::from_fn(|| lanes.pop()).collect();
        assert_eq!((order, lanes.len()), (vec![21, 10, 11, 12], 0));
        // Without jobs, and with nobody else in the lane.
        lanes.hold(2);
        push(&mut lanes, 3, 30);
        lanes.hold(3);
        assert_eq!((lanes.pop(), lanes.oldest(), lanes.len()), (None, None, 1));
        lanes.release_all();
        assert_eq!((lanes.pop(), lanes.len()), (Some(30), 0));
    }

    #[test]
    fn jobs_that_are_held_count_and_give_way_first() {
        let mut lanes = Lanes::default();
        for job in 0..4 {
            push(&mut lanes, 1, job);
        }
        push(&mut lanes, 2, 20);
        push(&mut lanes, 2, 21);
        lanes.hold(2);
        assert_eq!(push(&mut lanes, 2, 22), Some(22), "its own");
        assert_eq!(push(&mut lanes, 1, 4), Some(21));
        assert_eq!(push(&mut lanes, 3, 30), Some(20));
        assert_eq!(push(&mut lanes, 3, 31), Some(4), "then the longest lane's");
        assert_eq!((lanes.ready(), lanes.len()), (6, 6));
        lanes.release(2);
        assert_eq!(std::iter::from_fn(|| lanes.pop()).count(), 6);
    }
}
