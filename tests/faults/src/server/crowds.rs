//! Many connections, or one that takes and does not give: slow senders, a peer that never reads, connects
//! without end, ten thousand at once.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::wire::mux::Kind;

use super::{
    peer::{End, LIMIT, Peer, blob_of, header, hello, request, text},
    watch::{Provider, Watch},
};
use crate::{
    row::Outcome,
    stage::{Stage, until},
};

/// Each sends a byte now and then, and never a whole frame, on both wires.
pub(crate) fn slow_senders(stage: &Stage) -> Outcome {
    let limit = stage.seconds(2, 5);
    let provider =
        Provider::start(stage, "provider", &[("request_timeout", &format!("{}ms", limit.as_millis()))]);
    let watch = Watch::start(stage, &provider);
    let mut outcome = Outcome::default();
    stage.say("500 connections begin a frame");
    let began = Instant::now();
    let mut peers: Vec<Peer> = (0..500)
        .map(|n| {
            let mut peer = Peer::connect(provider.addr);
            if n % 2 == 0 {
                peer.send(&hello(1));
                peer.send(&header(Kind::Request, 1, 100, 1000)[..15]);
            } else {
                peer.send(&[40, 0, 0, 0, 0x0A]);
            }
            peer
        })
        .collect();
    let begun = Instant::now();
    stage.say("and go on a byte at a time");
    let mut ended = Vec::new();
    while !peers.is_empty() && began.elapsed() < limit + Duration::from_secs(10) {
        peers.retain_mut(|peer| {
            let gone = peer.stream.write_all(&[1]).is_err()
                || matches!(peer.rest(Duration::from_micros(300)).1, End::Fin | End::Reset);
            if gone {
                ended.push(begun.elapsed());
            }
            !gone
        });
        thread::sleep(Duration::from_millis(50));
    }
    outcome.check(ended.len() == 500, format!("{} of 500 ended", ended.len()));
    let most = limit + Duration::from_secs(1);
    outcome.within("the last after", ended.iter().max().copied(), most);
    watch.end(&mut outcome, &provider);
    outcome
}

/// Asks for replies of 64 KiB as fast as it can, and reads none of them; then it reads after all.
pub(crate) fn never_reader(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[("request_timeout", "60s")]);
    let mut watch = Watch::start(stage, &provider);
    // Once it reads, handlers begin again, and are ahead of the reactor until that has their answers.
    watch.growth_mib = 48.0;
    let mut outcome = Outcome::default();
    let mut peer = Peer::mux(provider.addr);
    let _ = peer.stream.set_write_timeout(Some(Duration::from_secs(1)));
    stage.say("a flood of requests, and nothing is read");
    let until = Instant::now() + stage.seconds(3, 10);
    let (mut taken, mut calls, mut whole) = (0_usize, 0, true);
    while Instant::now() < until {
        // What asks for replies, and what only takes room.
        let body = if calls % 2 == 0 { blob_of(64 << 10) } else { text(&[b'x'; 16 << 10]) };
        let bytes = request(calls + 1, "EchoBlob", &body);
        match peer.stream.write(&bytes) {
            Ok(n) => {
                taken += n;
                whole = n == bytes.len();
                if !whole {
                    break;
                }
                calls += 1;
            }
            Err(_) => break, // it takes no more
        }
    }
    let mib = taken as f64 / f64::from(1 << 20);
    outcome.check(mib <= 64.0, format!("{mib:.1} MiB taken in"));
    thread::sleep(stage.seconds(1, 3));
    let grown = watch.grown_kib() / 1024;
    outcome.check(grown <= 16, format!("{grown} MiB kept"));
    stage.say("it reads after all");
    let mut answered = 0;
    // The last request may be there in part only; it never gets an answer then.
    while answered < calls && peer.answer(LIMIT).is_ok_and(|frame| frame.kind == Kind::Response as u8) {
        answered += 1;
    }
    outcome
        .check(answered == calls, format!("{answered} of its {calls} calls answered, last cut: {}", !whole));
    watch.end(&mut outcome, &provider);
    outcome
}

/// Connects and closes, in order and by reset, with and without a word.
pub(crate) fn connects(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[]);
    let watch = Watch::start(stage, &provider);
    let mut outcome = Outcome::default();
    thread::sleep(Duration::from_millis(200)); // the honest client has its connections
    let before = provider.usage().descriptors;
    let count = if stage.quick { 3000 } else { 5000 };
    stage.say(format!("{count} connects and closes"));
    for n in 0..count {
        let mut peer = Peer::connect(provider.addr);
        if n % 3 > 0 {
            peer.send(&hello(1));
        }
        if n % 2 == 0 {
            peer.reset();
        }
    }
    let back = until(Duration::from_secs(5), || provider.usage().descriptors <= before + 2);
    outcome.check(true, format!("{count} connects"));
    outcome.within("descriptors back after", back, Duration::from_secs(5));
    watch.end(&mut outcome, &provider);
    outcome
}

/// Two waves of connections; each makes a call and stays.
pub(crate) fn ten_thousand(stage: &Stage) -> Outcome {
    let count = if stage.quick { 2000 } else { 10_000 };
    // They all call within half a second: room for that, or the queue refuses some when the workers are disturbed.
    let provider = Provider::start(stage, "provider", &[("max_queue", "10000")]);
    let mut outcome = Outcome::default();
    let before = provider.usage();
    let mut memory = Vec::new();
    raise_limit();
    for wave in ["first", "second"] {
        stage.say(format!("the {wave} wave of {count} connections"));
        let mut peers = Vec::with_capacity(count);
        for _ in 0..count {
            let mut peer = Peer::connect(provider.addr);
            peer.send(&[hello(1), request(1, "Echo", &text(b"here"))].concat());
            peers.push(peer);
        }
        let mut refused = None;
        let mut answered = |peer: &mut Peer| {
            let answer = peer.answer(LIMIT * 4);
            let served = answer.as_ref().is_ok_and(|frame| frame.code == 0);
            if !served {
                refused = Some(answer);
            }
            served
        };
        let served = peers.iter_mut().map(&mut answered).filter(|served| *served).count();
        outcome.failed_if(refused.is_some(), format!("one got {refused:?}"));
        let usage = provider.usage();
        let each = usage.rss_kib.saturating_sub(before.rss_kib) as f64 / count as f64;
        outcome.check(served == count, format!("{wave} wave: {served} served, {each:.1} KiB each"));
        memory.push(usage.rss_kib);
        stage.say("and they close");
        drop(peers);
        let back = until(Duration::from_secs(10), || provider.usage().descriptors <= before.descriptors + 2);
        outcome.within("descriptors back after", back, Duration::from_secs(5));
    }
    let more = (memory[1] as f64 / memory[0] as f64 - 1.0) * 100.0;
    outcome.check(more <= 5.0, format!("{more:.1} % more memory in the second wave"));
    outcome.failed_if(!provider.lives(), "the provider died");
    outcome
}

/// This process needs a descriptor for each of its connections.
fn raise_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}
