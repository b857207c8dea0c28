//! A long run under load with a random fault a minute: nothing is lost, and nothing grows.
//!
//! Two providers are also killed and restarted; the first and the caller live through it all, and are watched.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mprpc_fuzz::random::Random;
use mprpc_tests::{Process, address_in};
use rustix::process::Signal;

use super::hostile;
use crate::{
    calls,
    ledger::now,
    proxy::{Mode, Proxy},
    row::{Outcome, Row},
    stage::Stage,
    usage::Usage,
};

/// The only row of `faults soak`. `FAULTS_MINUTES` says how long, `FAULTS_SEED` repeats the faults of another run.
pub(crate) const SOAK: &[Row] = &[Row {
    name: "soak",
    wanted: "ledger clean, hostile clients get what they should, resident memory <= 1 MiB more in 10 min, descriptors and threads constant",
    limit: Duration::from_secs(24 * 3600),
    run,
}];

/// The provider that is never killed, and meets the hostile client.
pub(crate) const STEADY: &str = "steady";
const NAMES: [&str; 3] = [STEADY, "second", "third"];

struct Cast {
    providers: Vec<Option<Process>>,
    addrs: Vec<SocketAddr>,
    proxies: Vec<Proxy>,
    caller: Process,
    /// What hostile clients met that is not as WIRE.md says.
    complaints: Vec<String>,
}

/// What a process used, in a moment without a fault.
struct Sample {
    at: Duration,
    usage: Usage,
}

fn run(stage: &Stage) -> Outcome {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let minutes = number("FAULTS_MINUTES").unwrap_or(30);
    let seed = number("FAULTS_SEED").unwrap_or_else(now);
    let (mut random, mut outcome) = (Random::new(seed), Outcome::default());
    let mut cast = Cast::start(stage);
    thread::sleep(Duration::from_secs(5));
    let (began, mut samples) = (Instant::now(), [Vec::new(), Vec::new()]);
    for minute in 0..minutes {
        let fault = random.pick(FAULTS);
        stage.say(format!("minute {} of {minutes}, seed {seed}: {}", minute + 1, fault.0));
        (fault.1)(&mut cast, stage, 1 + random.below(2));
        let next = Duration::from_secs(60 * (minute + 1));
        thread::sleep(next.saturating_sub(began.elapsed()));
        for (samples, pid) in samples.iter_mut().zip([cast.steady().id(), cast.caller.id()]) {
            samples.push(Sample { at: began.elapsed(), usage: Usage::of(pid) });
        }
    }
    stage.say("a last look: without faults every call is answered");
    let quiet = now();
    thread::sleep(Duration::from_secs(10));
    let tally = stage.ledger().tally_of(Duration::MAX, quiet, now() - 2_000_000);
    outcome.check(tally.failed == 0 && tally.answered > 0, format!("{tally} in the end"));
    for (name, samples) in ["provider", "caller"].into_iter().zip(&samples) {
        judge(&mut outcome, name, samples);
    }
    cast.complaints.iter().for_each(|complaint| outcome.check(false, complaint));
    cast.caller.terminate();
    cast.caller.finish(Duration::from_secs(10));
    calls::judge(stage, &mut outcome, Duration::from_secs(1));
    outcome
}

/// Memory from the first quarter to the last, and the extremes of the rest, after a quarter to warm up.
fn judge(outcome: &mut Outcome, name: &str, samples: &[Sample]) {
    let warm = &samples[samples.len() / 4..];
    let (Some(first), Some(last)) = (warm.first(), warm.last()) else {
        return outcome.check(false, format!("{name}: no samples"));
    };
    let part = &warm[..warm.len().div_ceil(4)];
    let rest = &warm[warm.len() - part.len()..];
    let mean = |of: &[Sample]| of.iter().map(|s| s.usage.rss_kib as f64).sum::<f64>() / of.len() as f64;
    let grown = (mean(rest) - mean(part)) / 1024.0;
    let tens = ((last.at - first.at).as_secs_f64() / 600.0).max(1.0);
    let figure = format!("{name}: {grown:+.2} MiB in {:.0} min", (last.at - first.at).as_secs_f64() / 60.0);
    outcome.check(grown <= tens, figure);
    for (what, count) in [
        ("threads", (|usage| usage.threads.len()) as fn(&Usage) -> usize),
        ("descriptors", |usage| usage.descriptors),
    ] {
        let counts: Vec<usize> = warm.iter().map(|sample| count(&sample.usage)).collect();
        let (least, most) = (counts.iter().min().unwrap_or(&0), counts.iter().max().unwrap_or(&0));
        // Connections come and go with faults; what leaks does so minute by minute.
        let slack = if what == "threads" { 0 } else { 8 };
        outcome.check(most - least <= slack, format!("{least} to {most} {what}"));
    }
}

impl Cast {
    fn start(stage: &Stage) -> Self {
        let (mut providers, mut addrs, mut proxies) = (Vec::new(), Vec::new(), Vec::new());
        for name in NAMES {
            let mut process = stage.provider(name, &[]);
            let line = process.wait_line("RpcProvider start service at", Duration::from_secs(20));
            addrs.push(address_in(&line));
            proxies.push(Proxy::to(address_in(&line)));
            providers.push(Some(process));
        }
        let peers: Vec<String> = proxies.iter().map(|proxy| proxy.addr().to_string()).collect();
        let settings = [
            ("peers", &*peers.join(", ")),
            ("timeout", "1s"),
            ("faults_rate", "1000"),
            ("faults_threads", "16"),
            ("faults_mixed", "true"),
        ];
        let caller = stage.caller("caller", &settings);
        Self { providers, addrs, proxies, caller, complaints: Vec::new() }
    }

    fn steady(&self) -> &Process {
        self.providers[0].as_ref().expect("it is never killed")
    }

    /// Ends a provider by `signal` and starts it again on its port.
    fn restart(&mut self, stage: &Stage, which: usize, signal: Signal) {
        let old = self.providers[which].take().expect("it runs");
        old.signal(signal);
        old.finish(Duration::from_secs(20));
        thread::sleep(Duration::from_secs(2));
        let port = self.addrs[which].port().to_string();
        self.providers[which] = Some(stage.provider(NAMES[which], &[("rpcserverport", &port)]));
    }

    /// Something happens to the way to a provider, for a while.
    fn network(&self, which: usize, mode: Mode, time: Duration) {
        self.proxies[which].set(mode);
        thread::sleep(time);
        self.proxies[which].set(Mode::Pass);
    }
}

/// A name, and what happens; the number names one of the providers that may be killed.
type Fault = (&'static str, fn(&mut Cast, &Stage, usize));

const FAULTS: &[Fault] = &[
    ("a provider is killed and comes back", |cast, stage, which| cast.restart(stage, which, Signal::KILL)),
    ("a provider is restarted in order", |cast, stage, which| cast.restart(stage, which, Signal::TERM)),
    ("the steady provider hangs for 5 s", |cast, _, _| {
        cast.steady().signal(Signal::STOP);
        thread::sleep(Duration::from_secs(5));
        cast.steady().signal(Signal::CONT);
    }),
    ("connections are reset", |cast, _, which| {
        cast.network(0, Mode::Reset, Duration::from_millis(200));
        cast.network(which, Mode::Reset, Duration::from_millis(200));
    }),
    ("the network is silent for 5 s", |cast, _, which| {
        cast.network(which, Mode::Stall, Duration::from_secs(5));
    }),
    ("the network is slow for 10 s", |cast, _, _| {
        cast.network(0, Mode::Delay(Duration::from_millis(50)), Duration::from_secs(10));
    }),
    ("a hostile client, all of its behaviours", |cast, stage, _| {
        let complaints = hostile::complaints(cast.addrs[0]);
        complaints.iter().for_each(|complaint| stage.say(complaint));
        cast.complaints.extend(complaints);
    }),
];
