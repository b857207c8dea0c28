//! A provider is stopped for longer than its session lives, and goes on.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::scene::{INSTANCES, Scene};
use crate::{
    ledger::now,
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(super) const EXPIRES: Row = Row {
    name: "session-expires",
    wanted: "callers moved off within time-out + 2 ticks + 1 s, back within 5 s of SIGCONT",
    limit: Duration::from_secs(90),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (stopped, addr) = scene.provider("stopped", &[]);
    let (_other, _) = scene.provider("other", &[]);
    let caller = scene.caller("caller", &[("timeout", "1s")]);
    until(Duration::from_secs(5), || stage.ledger().last_answer("stopped") > 0).expect("both are called");
    let (nodes, path) = (scene.nodes(), format!("{INSTANCES}/{addr}"));

    stage.say("provider stopped");
    let from = now();
    stopped.signal(Signal::STOP);
    let gone = until(2 * scene.expiry(), || nodes.get(&path).is_none());
    thread::sleep(Duration::from_secs(2));
    let to = now();
    stage.say("provider goes on");
    stopped.signal(Signal::CONT);
    let registered =
        until(Duration::from_secs(10), || nodes.get(&path).is_some_and(|(_, stat)| stat.version == 1));
    until(Duration::from_secs(10), || stage.ledger().first_answer("stopped", to).is_some());
    let called = stage.ledger().first_answer("stopped", to).map(|at| Duration::from_micros(at - to));
    thread::sleep(Duration::from_secs(1));
    let tally = scene.end(caller, Duration::from_millis(1500));

    let mut outcome = Outcome::default();
    let ledger = stage.ledger();
    // Whoever calls the stopped provider waits.
    let waited =
        ledger.calls(from, to).filter(|call| call.took() > Duration::from_millis(500) || call.failed());
    let moved = Duration::from_micros(waited.map(|call| call.began - from).max().unwrap_or(0));
    outcome.within("node gone after", gone, scene.expiry());
    outcome.within("last call to it after", Some(moved), scene.expiry());
    outcome.within("registered after", registered, Duration::from_secs(5));
    outcome.within("called after", called, Duration::from_secs(5));
    outcome.check(tally.is_honest(), tally);
    outcome
}
