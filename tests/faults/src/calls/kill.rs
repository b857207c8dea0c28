//! One of three providers is killed.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::cast::{Cast, between};
use crate::{
    ledger::{End, now},
    row::{Outcome, Row},
    stage::Stage,
};

pub(crate) const ROW: Row = Row {
    name: "kill",
    wanted: "errors only for calls in flight there, told within 50 ms; all new calls on survivors within 100 ms",
    limit: Duration::from_secs(60),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let cast = Cast::start(stage);
    let dead = format!(" at {},", cast.addrs[1]);
    stage.say("kill -9 of one of three");
    let (before, killed) = cast.signal(1, Signal::KILL);
    thread::sleep(stage.seconds(3, 10));
    let end = now();

    let mut outcome = Outcome::default();
    let (mut in_flight, mut elsewhere, mut new, mut slowest) = (0, 0, 0, Duration::ZERO);
    for entry in stage.ledger().calls(before - 5_000_000, end) {
        let Some((at, End::Failed(text))) = entry.ends.first() else { continue };
        if entry.began > killed + 100_000 {
            new += 1;
        } else if text.contains(&dead) {
            in_flight += 1;
            // A process that dies takes a moment to be gone; what is sent to it meanwhile is lost.
            slowest = slowest.max(between(killed.max(entry.began), *at));
        } else {
            elsewhere += 1;
        }
    }
    let most = 64 / 3 + 16; // about a third of the callers wait there
    outcome.check(in_flight <= most, format!("{in_flight} failed in flight"));
    outcome.check(
        slowest <= Duration::from_millis(50),
        format!("told within {:.1} ms", slowest.as_secs_f64() * 1e3),
    );
    outcome.check(elsewhere == 0, format!("{elsewhere} elsewhere"));
    outcome.check(new == 0, format!("{new} of the new ones"));
    cast.end(stage, &mut outcome);
    outcome
}
