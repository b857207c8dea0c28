//! Which endpoint gets the next call: policies, the health of endpoints, and how much may be tried again.
//!
//! Pure: `now` and random numbers are arguments, so that a seed reproduces every decision. [`Endpoints`]
//! chooses among those who serve, [`Health`] is what is known of one of them, [`Budget`] bounds retries.
//! All of it is shared by threads; choosing takes no lock while every endpoint is well.
//!
//! ```text
//!              errors                     time                     time
//!   Up -----------------------> Ejected -------> Returning ---------------------> Up
//!    '--> Down, Silent, Draining -- opened, heard --^  (an eighth of its calls, a quarter, half)
//! ```

use std::{cmp::Ordering, fmt, sync::Arc, time::Instant};

mod health;
mod retry;
#[cfg(test)]
mod tests;

pub use health::{Health, Standing, Verdict};
pub use retry::{Budget, Repeat, mix, pause};

/// How an endpoint is chosen among those that are well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Two are drawn by weight, and the one with fewer calls in flight for its weight is taken; of two
    /// equally busy ones the first drawn, or the other if that one is faster, the likelier the faster.
    /// One whose last call failed counts as slow, not as idle.
    #[default]
    P2c,
    /// All in turn, whatever their weights.
    RoundRobin,
    /// Any, whatever their weights.
    Random,
    /// Drawn by weight.
    Weighted,
}

impl Policy {
    /// All policies, by the names that the configuration has for them.
    pub const ALL: [(&str, Self); 4] = [
        ("p2c", Self::P2c),
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("weighted", Self::Weighted),
    ];
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, policy)| policy == self).map_or("", |(name, _)| name))
    }
}

/// One of those who serve.
#[derive(Debug)]
pub struct Endpoint {
    /// What is known of it; shared by all lists that it stands in.
    pub health: Arc<Health>,
    /// The share of calls it should get; one of weight 0 gets calls only if there is nobody else.
    pub weight: u32,
    /// The registry says that it wants no new calls.
    pub draining: bool,
}

/// Whether an endpoint may get this very call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It may.
    Yes,
    /// The call failed there before: others first.
    Tried,
    /// It does not serve the method.
    No,
}

/// What a choice depends on beside the endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// The time.
    pub now: Instant,
    /// Counts the choices, for taking turns.
    pub turn: u64,
    /// Any number, such as `mix(seed + turn)`.
    pub random: u64,
}

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The place of the endpoint in the list.
    pub index: usize,
    /// An endpoint that might have been chosen is not well: see [`Endpoints::to_probe`].
    pub ailing: bool,
}

/// Those who serve, in a fixed order. A change makes a new list, with the health of those who stay.
#[derive(Debug, Default)]
pub struct Endpoints {
    list: Vec<Endpoint>,
    lots: Lots,
}

impl Endpoints {
    /// A list of these.
    pub fn new(list: Vec<Endpoint>) -> Self {
        let lots = Lots::new(list.iter().map(|endpoint| endpoint.weight));
        Self { list, lots }
    }

    /// The endpoints.
    pub fn list(&self) -> &[Endpoint] {
        &self.list
    }

    /// The endpoint for a call; `None` if nobody fits. One that is known to be bad, which means down,
    /// silent, ejected or draining, is chosen only if all that fit are.
    pub fn pick(&self, policy: Policy, draw: Draw, fit: impl Fn(usize) -> Fit) -> Option<Choice> {
        let n = self.list.len();
        let well = |at: usize| {
            let Endpoint { health, weight, draining } = self.list.get(at)?;
            let well = health.is_up() && !draining && *weight > 0 && fit(at) == Fit::Yes;
            well.then_some(at)
        };
        if n == 1 && well(0).is_some() {
            return Some(Choice { index: 0, ailing: false });
        }
        let drawn = self.lots.draw(policy, draw, n).and_then(|(a, b)| well(a).zip(well(b)));
        if let Some((a, b)) = drawn {
            return Some(Choice { index: self.better(a, b, draw), ailing: false });
        }
        let ranks: Vec<_> = (0..n).filter_map(|at| Some((self.rank(at, draw, fit(at))?, at))).collect();
        let best = ranks.iter().map(|(rank, _)| *rank).min()?;
        let best: Vec<usize> = ranks.iter().filter(|(rank, _)| *rank == best).map(|(_, at)| *at).collect();
        // Of several without weight one is as good as another.
        let lots = Lots::new(best.iter().map(|at| self.list[*at].weight.max(1)));
        // Whose draw it was must not decide who gets it, or a neighbour would get it each time.
        let again = Draw { turn: draw.turn / n as u64, random: mix(draw.random), ..draw };
        let (a, b) = lots.draw(policy, again, best.len())?;
        let ailing = self.list.iter().any(|endpoint| !endpoint.health.is_up());
        Some(Choice { index: self.better(best[a], best[b], again), ailing })
    }

    /// Endpoints that somebody should knock at now: their health is to be told whether they `opened`
    /// or that the `connect_failed`. Each is named once in a while.
    pub fn to_probe(&self, now: Instant, random: u64) -> impl Iterator<Item = usize> {
        let due = move |(_, endpoint): &(usize, &Endpoint)| endpoint.health.wants_probe(now, random);
        self.list.iter().enumerate().filter(due).map(|(at, _)| at)
    }

    /// Ejects an endpoint whose calls fail, unless half of the list, or all others, are ejected
    /// already: then it is hardly the endpoints' fault. Returns whether it did.
    pub fn eject(&self, health: &Health, now: Instant, random: u64) -> bool {
        let n = self.list.len();
        let is_ejected = |endpoint: &&Endpoint| endpoint.health.standing(now) == Standing::Ejected;
        let room = self.list.iter().filter(is_ejected).count() < n.div_ceil(2).min(n.saturating_sub(1));
        room && health.eject(now, random)
    }

    /// Lower is better: known bad, tried by this call, how bad.
    fn rank(&self, at: usize, draw: Draw, fit: Fit) -> Option<(bool, bool, u8)> {
        let Endpoint { health, weight, draining } = &self.list[at];
        let level = match health.standing(draw.now) {
            Standing::Up | Standing::Returning if *draining || *weight == 0 => 2,
            Standing::Up => 0,
            Standing::Returning => {
                // A number of its own for each, or those that return would all do so at once.
                u8::from(!health.takes_its_share(draw.now, mix(draw.random ^ at as u64)))
            }
            Standing::Ejected => 3,
            Standing::Draining => 4,
            Standing::Silent | Standing::Down => 5,
        };
        (fit != Fit::No).then_some((level >= 2, fit == Fit::Tried, level))
    }

    /// Of two that were drawn, the one to take. The first counts more: it was drawn by weight.
    fn better(&self, first: usize, second: usize, draw: Draw) -> usize {
        if first == second {
            return first;
        }
        let (a, b) = (&self.list[first], &self.list[second]);
        let load = |of: &Endpoint, other: &Endpoint| {
            u64::from(of.health.in_flight()) * u64::from(other.weight.max(1))
        };
        let latency = |of: &Endpoint| of.health.latency_us(draw.now);
        // Latencies are noisy, and are measured only where calls go: who is twice as slow loses
        // every second call that would be its own, not all of them.
        let loses = |slow: u64, fast: u64| slow > fast && scale(mix(draw.random) >> 32, slow) >= fast;
        match (a.health.fails(), b.health.fails()) {
            // It has few calls in flight because it is quick to refuse them.
            (true, false) if loses(latency(a), latency(b).max(GUESS_US)) => return second,
            (false, true) if loses(latency(b), latency(a).max(GUESS_US)) => return first,
            _ => {}
        }
        match load(a, b).cmp(&load(b, a)) {
            Ordering::Less => first,
            Ordering::Greater => second,
            Ordering::Equal if latency(b) > 0 && loses(latency(a), latency(b)) => second,
            Ordering::Equal => first,
        }
    }
}

/// Cumulated weights, to draw by.
#[derive(Debug, Default)]
struct Lots(Vec<u64>);

impl Lots {
    fn new(weights: impl Iterator<Item = u32>) -> Self {
        Self(weights.scan(0, |sum, weight| Some(add(sum, weight))).collect())
    }

    /// Two of `n` for p2c, one twice for the others.
    fn draw(&self, policy: Policy, draw: Draw, n: usize) -> Option<(usize, usize)> {
        let (low, high) = (draw.random & 0xffff_ffff, draw.random >> 32);
        let one = match policy {
            Policy::P2c => return self.two(low, high),
            Policy::Weighted => self.at(scale(low, *self.0.last()?)),
            Policy::RoundRobin => usize::try_from(draw.turn.checked_rem(n as u64)?).ok()?,
            Policy::Random => usize::try_from(scale(low, n as u64)).ok()?,
        };
        Some((one, one))
    }

    /// Two different ones, if there are two.
    fn two(&self, low: u64, high: u64) -> Option<(usize, usize)> {
        let total = *self.0.last()?;
        let first = self.at(scale(low, total));
        let end = *self.0.get(first)?;
        let start = first.checked_sub(1).map_or(0, |before| self.0[before]);
        let others = total - (end - start);
        if others == 0 {
            return Some((first, first));
        }
        let place = scale(high, others);
        let place = if place < start { place } else { place + (end - start) };
        Some((first, self.at(place)))
    }

    fn at(&self, place: u64) -> usize {
        self.0.partition_point(|upto| *upto <= place)
    }
}

/// The latency of an endpoint of which none is known, beside one that fails.
const GUESS_US: u64 = 1000;

fn add(sum: &mut u64, weight: u32) -> u64 {
    *sum += u64::from(weight);
    *sum
}

/// A number below `n` from 32 random bits.
fn scale(random: u64, n: u64) -> u64 {
    ((u128::from(random) * u128::from(n)) >> 32) as u64
}
