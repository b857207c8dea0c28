//! A provider that may open no more files.

use std::{thread, time::Duration};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::{
    peer::{LIMIT, Peer, hello, request, text},
    watch::{Provider, percentile},
};
use crate::{
    row::Outcome,
    stage::{Stage, until},
};

pub(crate) fn used_up(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[]);
    let mut outcome = Outcome::default();
    let pid = i32::try_from(provider.process.id()).ok().and_then(Pid::from_raw);
    // After its start: it would have lowered max_connections to what it may open.
    let limit = Rlimit { current: Some(ALLOWED), maximum: Some(ALLOWED) };
    prlimit(pid, Resource::Nofile, limit).expect("the limits of a child can be lowered");
    let mut first = Peer::mux(provider.addr);
    stage.say("more connections than it has descriptors");
    let peers: Vec<Peer> = (0..2 * ALLOWED).filter_map(|_| Peer::try_connect(provider.addr).ok()).collect();
    thread::sleep(Duration::from_secs(1));
    let (seconds, before) = (stage.seconds(2, 5), provider.usage());
    let mut took: Vec<Duration> = Vec::new();
    for call in 1..=20 {
        took.extend(until(LIMIT, || {
            first.send(&request(call, "Echo", &text(b"old")));
            first.answer(LIMIT).is_ok_and(|frame| frame.code == 0)
        }));
        thread::sleep(seconds / 20);
    }
    let usage = provider.usage();
    let cores = usage.cpu_since(&before, &[]).as_secs_f64() / seconds.as_secs_f64();
    outcome
        .check(usage.descriptors as u64 >= ALLOWED - 2, format!("{} of {ALLOWED} open", usage.descriptors));
    outcome.check(cores < 0.1, format!("{cores:.3} core"));
    took.sort_unstable();
    let slowest = percentile(&took, 100.0);
    outcome.check(
        took.len() == 20,
        format!("who was there is served, {:.1} ms at most", slowest.as_secs_f64() * 1e3),
    );
    stage.say("they close");
    drop(peers);
    let again = until(LIMIT, || {
        Peer::try_connect(provider.addr).is_ok_and(|mut peer| {
            peer.send(&[hello(1), request(1, "Echo", &text(b"new"))].concat());
            peer.answer(Duration::from_millis(200)).is_ok_and(|frame| frame.code == 0)
        })
    });
    outcome.within("accepting again after", again, Duration::from_secs(1));
    outcome.failed_if(!provider.lives(), "the provider died");
    outcome
}

const ALLOWED: u64 = 200;
