//! One client that makes as much work as it can with little: it is ended with a reason, or costs nobody
//! else anything.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::wire::mux::Kind;

use super::{
    hostile::ends,
    peer::{End, Peer, control, nap, request, text},
    watch::{Provider, Watch},
};
use crate::{row::Outcome, stage::Stage};

pub(crate) fn all(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[]);
    let watch = Watch::start(stage, &provider);
    let mut outcome = Outcome::default();
    let time = stage.seconds(2, 5);

    stage.say("opens and cancels");
    again(&mut outcome, "cancel storm", time, || {
        let mut call = 0;
        flood(Peer::mux(provider.addr), time, || {
            call += 1;
            [request(call, "Sleep", &nap(50)), control(Kind::Cancel, call, &[])].concat()
        })
    });
    stage.say("pings");
    again(&mut outcome, "ping flood", time, || {
        flood(Peer::mux(provider.addr), time, || control(Kind::Ping, 0, &[0; 100]))
    });

    stage.say("ids that are taken");
    for (name, second) in [("duplicate of a live id", 7), ("reused id", 6)] {
        let mut peer = Peer::mux(provider.addr);
        peer.send(&request(7, "Sleep", &nap(200)));
        peer.send(&request(second, "Echo", &text(b"other")));
        match ends(&mut peer, "id") {
            Ok(()) => outcome.check(true, format!("{name}: ended")),
            Err(why) => outcome.check(false, format!("{name}: {why}")),
        }
    }
    watch.end(&mut outcome, &provider);
    outcome
}

/// Sends as fast as the other side takes it, until it ends that or `time` is over. Returns how often, and
/// what came meanwhile and after.
fn flood(peer: Peer, time: Duration, mut make: impl FnMut() -> Vec<u8>) -> (usize, Vec<u8>, End) {
    let mut out = peer.stream.try_clone().expect("a second descriptor");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut peer, mut all) = (peer, Vec::new());
            let end = loop {
                let (bytes, end) = peer.rest(Duration::from_millis(500));
                // The end of it is what matters: enough for the longest reason.
                all.extend(bytes);
                all.drain(..all.len().saturating_sub(4096));
                if end != End::Silence || over.load(Ordering::Relaxed) {
                    break end;
                }
            };
            (all, end)
        });
        let (until, mut sent) = (Instant::now() + time, 0);
        while Instant::now() < until && !reader.is_finished() && out.write_all(&make()).is_ok() {
            sent += 1;
        }
        over.store(true, Ordering::Relaxed);
        let (bytes, end) = reader.join().expect("it only reads");
        (sent, bytes, end)
    })
}

/// Comes back as soon as it was ended, which each time has to happen, with a reason in the last frame.
fn again(outcome: &mut Outcome, what: &str, time: Duration, storm: impl Fn() -> (usize, Vec<u8>, End)) {
    let (began, mut rounds, mut frames) = (Instant::now(), 0, 0);
    loop {
        let (sent, bytes, end) = storm();
        (rounds, frames) = (rounds + 1, frames + sent);
        let goaway = [b"MRPC", &[Kind::GoAway as u8][..]].concat();
        let at = bytes.windows(5).rposition(|part| part == goaway);
        let reason = at.map(|at| String::from_utf8_lossy(&bytes[(at + 20).min(bytes.len())..]).into_owned());
        let Some(reason) = reason.filter(|_| end != End::Silence) else {
            return outcome.check(false, format!("{what}: {end:?} after {sent}, and no GoAway"));
        };
        if began.elapsed() > time {
            return outcome
                .check(true, format!("{what}: {rounds} x ended, after {}: {reason}", frames / rounds));
        }
    }
}
