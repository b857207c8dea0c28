//! Frames at random: millions to the connections in this process, some to a real provider.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use mprpc_fuzz::{frames, inputs, random::Random};

use super::{
    peer::{Peer, hello},
    watch::{Provider, Watch},
};
use crate::{row::Outcome, stage::Stage};

pub(crate) fn random(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    to_a_provider(stage, &mut outcome);
    let count: usize = if stage.quick { 200_000 } else { 10_000_000 };
    let seed = u64::from(std::process::id());
    stage.say(format!("{count} frames to servers and clients in memory, seed {seed}"));
    let fed = AtomicUsize::new(0);
    let crashes: usize = thread::scope(|scope| {
        let threads = [0, 1].map(|n| {
            let fed = &fed;
            scope.spawn(move || {
                let mut before = 0;
                frames::feed(seed + n, count / 2, |now| {
                    fed.fetch_add(now - before, Ordering::Relaxed);
                    before = now;
                });
            })
        });
        threads.into_iter().map(|thread| usize::from(thread.join().is_err())).sum()
    });
    // A hang would be the row's limit.
    let fed = fed.into_inner();
    outcome
        .check(crashes == 0 && fed >= count, format!("{fed} frames in memory: {crashes} crashes, 0 hangs"));
    outcome
}

/// What a connection does not take is not sent again: the next connection goes on.
fn to_a_provider(stage: &Stage, outcome: &mut Outcome) {
    let provider = Provider::start(stage, "provider", &[]);
    let watch = Watch::start(stage, &provider);
    let count = if stage.quick { 5_000 } else { 100_000 };
    stage.say(format!("{count} frames to a provider"));
    let (mut random, mut sent) = (Random::new(u64::from(std::process::id())), 0);
    while sent < count {
        let mut bytes = if random.one_in(8) { Vec::new() } else { hello(1) };
        let frames = 1 + random.below(30);
        (0..frames).for_each(|_| inputs::frame(&mut random, &mut bytes));
        let mut peer = Peer::connect(provider.addr);
        let piece = random.piece();
        bytes.chunks(piece).for_each(|piece| peer.send(piece));
        if random.one_in(20) {
            let _ = peer.rest(Duration::from_millis(1));
        }
        if random.one_in(2) {
            peer.reset();
        }
        sent += frames;
    }
    outcome.check(provider.lives(), format!("{sent} frames to a provider"));
    watch.end(outcome, &provider);
}
