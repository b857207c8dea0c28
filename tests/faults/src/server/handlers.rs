//! Handlers that sleep, panic, or never end.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{CallOptions, Code, Error, MprpcChannel, wire::mux::Kind};
use mprpc_tests::proto::{
    echo::{Nap, Nothing, Text},
    echo_mprpc::EchoServiceRpc_Stub,
};
use rustix::process::Signal;

use super::{
    peer::{LIMIT, Peer, control, nap, request, text},
    watch::{Provider, client, percentile},
};
use crate::{row::Outcome, stage::Stage};

const RESOURCE_EXHAUSTED: u32 = 8;

/// Every worker sleeps and the queue is full.
pub(crate) fn asleep(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[("worker_threads", "4"), ("max_queue", "16")]);
    let mut outcome = Outcome::default();
    let mut sleepers = Peer::mux(provider.addr);
    for call in 1..=20 {
        sleepers.send(&request(call, "Hasty", &nap(4000)));
        thread::sleep(Duration::from_millis(5)); // so that each finds its worker
    }
    stage.say("4 workers sleep, 16 calls wait");
    thread::sleep(Duration::from_millis(100));
    let (mut pings, mut refusals) = (Vec::new(), Vec::new());
    for call in 21..=70 {
        // On the connection that has filled the queue: calls of others would take its places.
        let began = Instant::now();
        sleepers.send(&request(call, "Echo", &text(b"no room")));
        let answer = sleepers.answer(LIMIT);
        if answer.is_ok_and(|frame| (frame.call, frame.code) == (call, RESOURCE_EXHAUSTED)) {
            refusals.push(began.elapsed());
        }
        // A ping that comes sooner than the provider minds is answered late, by design.
        let began = Instant::now();
        let mut pinger = Peer::mux(provider.addr);
        pinger.send(&control(Kind::Ping, 0, b"there?"));
        if pinger.frame(LIMIT).is_ok_and(|frame| (frame.kind, &*frame.body) == (Kind::Pong as u8, b"there?"))
        {
            pings.push(began.elapsed());
        }
        thread::sleep(Duration::from_millis(10));
    }
    for (what, mut took) in [("pings answered", pings), ("calls refused", refusals)] {
        took.sort_unstable();
        let (most, slowest) = (percentile(&took, 95.0), percentile(&took, 100.0));
        let good = took.len() == 50 && most <= Duration::from_millis(50);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        outcome.check(
            good,
            format!(
                "{} of 50 {what}, 95 % within {:.1} ms, all within {:.1} ms",
                took.len(),
                ms(most),
                ms(slowest)
            ),
        );
    }
    outcome
}

/// A handler that panics, between handlers that do not.
pub(crate) fn panics(stage: &Stage) -> Outcome {
    let provider = Provider::start(stage, "provider", &[]);
    let mut outcome = Outcome::default();
    let (panics, threads) = (if stage.quick { 200 } else { 1000 }, 8);
    let rate = 2000;
    stage.say(format!("{panics} panics among {rate} calls a second"));
    let app = client(&[("timeout", "5s")]);
    let channel = MprpcChannel::to(&app, [provider.addr]);
    let (internal, answered, other) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let (began, each) = (Instant::now(), panics / threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let stub = EchoServiceRpc_Stub::new(channel.clone());
                let mut due = Instant::now();
                for n in 0..10 * each {
                    let result = match n % 10 {
                        3 => stub.panic(&Nothing::new()).map(drop),
                        _ => stub.echo(&Text { text: "calm".into(), ..Default::default() }).map(drop),
                    };
                    match result {
                        Ok(()) => answered.fetch_add(1, Relaxed),
                        Err(Error::Call(error)) if n % 10 == 3 && error.status.code() == Code::Internal => {
                            internal.fetch_add(1, Relaxed)
                        }
                        Err(_) => other.fetch_add(1, Relaxed),
                    };
                    due += Duration::from_secs(1) * threads as u32 / rate;
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            });
        }
    });
    let reached = (10 * panics) as f64 / began.elapsed().as_secs_f64();
    let (internal, answered, other) = (internal.into_inner(), answered.into_inner(), other.into_inner());
    outcome.check(internal == panics, format!("{internal} INTERNAL of {panics}"));
    outcome.check(answered == 9 * panics && other == 0, format!("{answered} answered, {other} otherwise"));
    outcome.check(true, format!("{reached:.0} calls/s"));
    outcome.failed_if(!provider.lives(), "the provider died");
    outcome
}

/// A handler does not end; the provider does.
pub(crate) fn stuck_drain(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    let drain = Duration::from_secs(2);
    let app = client(&[("timeout", "60s")]);
    for signals in [1, 2] {
        let name = format!("provider-{signals}");
        let provider = Provider::start(stage, &name, &[("drain_timeout", "2s"), ("worker_threads", "4")]);
        let stub = EchoServiceRpc_Stub::new(MprpcChannel::to(&app, [provider.addr]));
        let stuck = stub.with(CallOptions::new().timeout(Duration::from_secs(60)));
        let call = thread::spawn(move || stuck.hasty(&Nap { ms: 120_000, ..Default::default() }));
        thread::sleep(Duration::from_millis(300));
        stage.say(format!("{signals} signals"));
        let began = Instant::now();
        provider.process.signal(Signal::TERM);
        if signals == 2 {
            thread::sleep(Duration::from_millis(200));
            provider.process.signal(Signal::TERM);
        }
        let (status, _) = provider.process.finish(Duration::from_secs(20));
        let took = began.elapsed();
        let most = if signals == 2 { Duration::from_millis(400) } else { drain + Duration::from_millis(500) };
        outcome.within(&format!("{signals} SIGTERM: over after"), Some(took), most);
        outcome.check(!status.success(), format!("{status}"));
        let result = call.join().expect("a call does not panic");
        let error = result.expect_err("nobody answered").to_string();
        outcome.check(
            error.contains("UNAVAILABLE") || error.contains("CANCELLED"),
            format!("its call: {error}"),
        );
        let logs = std::fs::read_dir(stage.dir().join(&name)).expect("logs");
        let logged = logs.flatten().map(|f| std::fs::read_to_string(f.path()).unwrap_or_default());
        let receipt = logged
            .collect::<String>()
            .lines()
            .find_map(|l| l.split_once("drained: ").map(|l| l.1.to_owned()));
        if signals == 1 {
            outcome.check(receipt.is_some(), format!("receipt: {}", receipt.unwrap_or_default()));
        }
    }
    outcome
}
