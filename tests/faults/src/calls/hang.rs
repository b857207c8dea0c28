//! One of three providers is stopped and goes on later.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::cast::{Cast, NAMES, between};
use crate::{
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(crate) const ROW: Row = Row {
    name: "hang",
    wanted: "no call goes to a stopped provider after 3 s; back within 5 s of SIGCONT",
    limit: Duration::from_secs(90),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let cast = Cast::start(stage);
    stage.say("SIGSTOP of one of three");
    let (stopped, _) = cast.signal(2, Signal::STOP);
    thread::sleep(stage.seconds(6, 15));
    stage.say("SIGCONT");
    let (end, goes_on) = cast.signal(2, Signal::CONT);
    let back = until(Duration::from_secs(10), || stage.ledger().first_answer(NAMES[2], goes_on).is_some());
    let mut outcome = Outcome::default();
    // The last second's calls had their time to fail before they were counted.
    thread::sleep(Duration::from_millis(1500));
    let last = cast.last_failure(stage, 2, stopped, end);
    outcome.within(
        "the last call there after",
        Some(between(stopped, last.unwrap_or(stopped))),
        Duration::from_secs(3),
    );
    outcome.within("back after", back, Duration::from_secs(5));
    cast.end(stage, &mut outcome);
    outcome
}
