//! Time is moved by hand, random numbers come from seeds.

use std::time::Duration;

use super::*;

/// A list with its clock and its counter.
struct World {
    endpoints: Endpoints,
    now: Instant,
    turn: u64,
    policy: Policy,
}

impl World {
    fn new(policy: Policy, weights: &[u32]) -> Self {
        let now = Instant::now();
        let one =
            |weight: &u32| Endpoint { health: Arc::new(Health::new(now)), weight: *weight, draining: false };
        Self { endpoints: Endpoints::new(weights.iter().map(one).collect()), now, turn: 0, policy }
    }

    fn health(&self, at: usize) -> &Health {
        &self.endpoints.list()[at].health
    }

    fn pick(&mut self) -> Choice {
        self.pick_of(|_| Fit::Yes).expect("somebody")
    }

    fn pick_of(&mut self, fit: impl Fn(usize) -> Fit) -> Option<Choice> {
        self.turn += 1;
        let draw = Draw { now: self.now, turn: self.turn, random: mix(self.turn) };
        self.endpoints.pick(self.policy, draw, fit)
    }

    /// How often each is chosen.
    fn shares(&mut self, picks: usize) -> Vec<usize> {
        let mut shares = vec![0; self.endpoints.list().len()];
        (0..picks).for_each(|_| shares[self.pick().index] += 1);
        shares
    }

    fn end(&self, at: usize, verdict: Verdict, ms: u64) -> bool {
        self.health(at).begin();
        let asked = self.health(at).end(verdict, Duration::from_millis(ms), self.now);
        asked && self.endpoints.eject(self.health(at), self.now, self.turn)
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }
}

fn near(share: usize, wanted: usize) -> bool {
    share.abs_diff(wanted) * 10 <= wanted
}

#[test]
fn idle_endpoints_share_by_policy() {
    for (policy, wanted) in [
        (Policy::P2c, [3000, 6000, 1000, 0]),
        (Policy::Weighted, [3000, 6000, 1000, 0]),
        (Policy::RoundRobin, [3334, 3333, 3333, 0]),
        (Policy::Random, [3333, 3333, 3333, 0]),
    ] {
        let shares = World::new(policy, &[30, 60, 10, 0]).shares(10_000);
        assert!(shares.iter().zip(wanted).all(|(share, wanted)| near(*share, wanted)), "{policy} {shares:?}");
    }
}

#[test]
fn the_same_numbers_make_the_same_choices() {
    let run = || {
        let mut world = World::new(Policy::P2c, &[1, 2, 3]);
        (0..100).map(|_| world.pick().index).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn p2c_takes_the_less_busy_for_its_weight() {
    let mut world = World::new(Policy::P2c, &[100, 200]);
    (0..3).for_each(|_| world.health(1).begin());
    world.health(0).begin();
    assert_eq!(world.shares(100), [100, 0], "1 of 100 is less than 3 of 200");
    world.health(0).begin();
    assert_eq!(world.shares(100), [0, 100]);
}

#[test]
fn one_that_hangs_costs_few_calls() {
    let mut world = World::new(Policy::P2c, &[100; 3]);
    let mut stuck = 0;
    for _ in 0..1000 {
        let at = world.pick().index;
        world.health(at).begin();
        if at == 0 {
            stuck += 1;
        } else {
            world.health(at).end(Verdict::Answered, Duration::from_millis(1), world.now);
        }
    }
    assert_eq!(stuck, 1);
}

#[test]
fn of_equally_busy_ones_the_slow_one_waits_until_its_slowness_is_old() {
    let mut world = World::new(Policy::P2c, &[100, 100]);
    (0..2).for_each(|_| assert!(!world.end(1, Verdict::Answered, 4)));
    world.end(0, Verdict::Late, 5000);
    let shares = world.shares(1000);
    assert!(shares[0] < 10, "a failure counts as latency = deadline: {shares:?}");
    for _ in 0..11 {
        world.pass(1000);
        world.end(1, Verdict::Answered, 4);
    }
    let shares = world.shares(1000);
    assert!(shares[0] > 300, "{shares:?}");
    (0..20).for_each(|_| assert!(!world.end(0, Verdict::Answered, 8)));
    let shares = world.shares(1000);
    assert!(near(shares[0], 250), "twice as slow: {shares:?}");
    assert!(!world.end(0, Verdict::Answered, 1000));
    let shares = world.shares(1000);
    assert!(shares[0] > 100, "once is never: {shares:?}");
}

#[test]
fn one_that_is_quick_to_refuse_does_not_draw_the_calls_of_busy_ones() {
    for verdict in [Verdict::Refused, Verdict::Failed, Verdict::Late] {
        let mut world = World::new(Policy::P2c, &[100, 100]);
        (0..5).for_each(|_| world.health(1).begin());
        assert_eq!(world.shares(100), [100, 0]);
        assert!(!world.end(0, verdict, 1000));
        let shares = world.shares(1000);
        assert!(shares[0] < 20, "{verdict:?} {shares:?}");
        assert!(!world.end(0, Verdict::Answered, 1));
        assert_eq!(world.shares(100), [100, 0]);
    }
}

#[test]
fn an_untried_endpoint_is_as_good_as_a_fast_one() {
    let mut world = World::new(Policy::P2c, &[100, 100]);
    (0..2).for_each(|_| assert!(!world.end(0, Verdict::Answered, 1)));
    let shares = world.shares(1000);
    assert!(near(shares[0], 500), "{shares:?}");
}

#[test]
fn known_bad_is_never_chosen_while_another_fits() {
    for (_, policy) in Policy::ALL {
        for seed in 0..200 {
            let mut world = World::new(policy, &[50, 0, 100, 7, 100]);
            world.turn = seed * 1000;
            for at in [0, 2, 4] {
                match mix(seed + at as u64) % 4 {
                    0 => world.health(at).connect_failed(world.now, 1),
                    1 => world.health(at).fell_silent(world.now, 1),
                    2 => world.health(at).drains(world.now, 1),
                    _ => assert!(world.health(at).eject(world.now, 1)),
                }
            }
            assert_eq!(world.shares(20), [0, 0, 0, 20, 0], "{policy}, seed {seed}");
            let choice = world.pick_of(|at| if at == 3 { Fit::Tried } else { Fit::Yes });
            assert_eq!(choice, Some(Choice { index: 3, ailing: true }), "it failed once, but is not bad");
            let last = world.pick_of(|at| if at == 2 { Fit::Yes } else { Fit::No });
            assert_eq!(last.map(|choice| choice.index), Some(2), "there is nobody else");
            assert_eq!(world.pick_of(|_| Fit::No), None);
        }
    }
}

#[test]
fn each_that_is_well_gets_calls_also_in_a_long_list() {
    for (_, policy) in Policy::ALL {
        let mut world = World::new(policy, &[100; 40]);
        world.health(7).connect_failed(world.now, 1);
        let shares = world.shares(4000);
        assert!(shares.iter().enumerate().all(|(at, n)| (*n > 0) == (at != 7)), "{policy} {shares:?}");
    }
}

#[test]
fn a_retry_goes_elsewhere() {
    let mut world = World::new(Policy::P2c, &[100, 100]);
    for tried in [0, 1].repeat(50) {
        let fit = |at| if at == tried { Fit::Tried } else { Fit::Yes };
        assert_eq!(world.pick_of(fit).map(|choice| choice.index), Some(1 - tried));
    }
}

#[test]
fn failures_in_a_row_eject_and_answers_between_them_do_not() {
    let world = World::new(Policy::P2c, &[100; 3]);
    let row: Vec<bool> = (0..5).map(|_| world.end(0, Verdict::Late, 100)).collect();
    assert_eq!(row, [false, false, false, false, true]);
    for _ in 0..100 {
        assert!(!world.end(1, Verdict::Failed, 100));
        assert!(!world.end(1, Verdict::Answered, 1));
        assert!(!world.end(1, Verdict::Answered, 1));
        assert!(!world.end(2, Verdict::Refused, 1), "overload is no illness");
    }
}

#[test]
fn more_failures_than_answers_eject() {
    let world = World::new(Policy::P2c, &[100; 3]);
    let ejected = (0..100).any(|_| {
        world.end(0, Verdict::Failed, 1) || world.end(0, Verdict::Failed, 1) || {
            world.end(0, Verdict::Answered, 1);
            false
        }
    });
    assert!(ejected);
}

#[test]
fn no_more_than_half_are_ejected_and_never_all() {
    for (n, most) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (10, 5)] {
        let world = World::new(Policy::P2c, &vec![100; n]);
        let ejected = (0..n).filter(|at| (0..20).any(|_| world.end(*at, Verdict::Failed, 1)));
        assert_eq!(ejected.count(), most, "of {n}");
    }
}

#[test]
fn an_ejected_endpoint_returns_in_steps_and_falls_again_for_longer() {
    let mut world = World::new(Policy::Random, &[100, 100]);
    assert!((0..5).any(|_| world.end(0, Verdict::Failed, 1)));
    world.pass(700);
    assert_eq!(world.shares(100), [0, 100]);
    world.pass(600);
    let mut before = 0;
    for _ in 0..3 {
        let share = world.shares(1000)[0];
        assert!(share > before && share < 400, "{share} after {before}");
        before = share;
        world.pass(500);
    }
    assert!(near(world.shares(1000)[0], 500));
    assert!(world.endpoints.list()[0].health.is_up());
    assert!((0..5).any(|_| world.end(0, Verdict::Failed, 1)));
    world.pass(1500);
    assert_eq!(world.shares(100), [0, 100], "this time for two seconds");
    world.pass(1000);
    assert!(world.shares(1000)[0] > 0);
    assert!(!world.end(0, Verdict::Failed, 1));
    assert!(world.end(0, Verdict::Failed, 1), "the trial ends sooner");
}

#[test]
fn one_that_is_down_is_probed_ever_more_seldom_until_it_opens() {
    let mut world = World::new(Policy::P2c, &[100, 100]);
    world.health(0).connect_failed(world.now, 7);
    world.health(0).connect_failed(world.now, 7);
    let mut probes = Vec::new();
    for ms in 0..20_000 {
        if world.endpoints.to_probe(world.now, ms).next().is_some() {
            probes.push(ms);
            world.health(0).connect_failed(world.now, ms);
        }
        world.pass(1);
    }
    let pauses: Vec<u64> = probes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((80..=120).contains(&probes[0]), "{probes:?}");
    assert!(pauses[0] >= 160 && pauses[1] >= 320, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= 3600), "{pauses:?}");
    assert!(pauses[4..].windows(2).any(|pair| pair[0] != pair[1]), "with jitter: {pauses:?}");
    world.health(0).opened(world.now);
    assert_eq!(world.health(0).standing(world.now), Standing::Returning);
    assert_eq!(world.endpoints.to_probe(world.now, 1).count(), 0);
    world.pass(1500);
    assert_eq!(world.health(0).standing(world.now), Standing::Up);
}

#[test]
fn silence_ends_with_a_word_and_a_drain_only_with_a_new_connection() {
    let world = World::new(Policy::P2c, &[100, 100]);
    world.health(0).begin();
    world.health(0).fell_silent(world.now, 1);
    world.health(1).begin();
    world.health(1).drains(world.now, 1);
    for at in [0, 1] {
        world.health(at).end(Verdict::Answered, Duration::from_millis(1), world.now);
    }
    assert_eq!(world.health(0).standing(world.now), Standing::Returning);
    assert_eq!(world.health(1).standing(world.now), Standing::Draining, "it finishes what it has");
    world.health(1).opened(world.now);
    assert_eq!(world.health(1).standing(world.now), Standing::Returning);
}

#[test]
fn one_that_was_away_is_not_taken_for_slow_when_it_is_back() {
    let mut world = World::new(Policy::P2c, &[100, 100]);
    for at in [0, 1] {
        (0..5).for_each(|_| assert!(!world.end(at, Verdict::Answered, 2)));
    }
    (0..3).for_each(|_| world.health(0).begin());
    world.pass(2000);
    world.health(0).fell_silent(world.now, 1);
    assert!(!world.end(0, Verdict::Late, 5000));
    world.pass(2000);
    // What was stuck is answered now, before or after the answer to the ping.
    for _ in 0..3 {
        world.health(0).end(Verdict::Answered, Duration::from_secs(4), world.now);
        world.health(0).heard(world.now);
    }
    assert!(!world.end(1, Verdict::Answered, 2));
    assert!(world.shares(1000)[0] > 30, "an eighth of its half");
    world.pass(1500);
    assert!(near(world.shares(1000)[0], 500));
}

#[test]
fn retries_are_a_tenth_of_the_calls_and_ten() {
    let budget = Budget::default();
    assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    (0..1000).for_each(|_| budget.earn());
    assert_eq!((0..100).filter(|_| budget.spend()).count(), 10, "never more at a time");
    let spent = (0..1000).filter(|_| {
        budget.earn();
        budget.spend()
    });
    assert_eq!(spent.count(), 100);
}
