//! ZooKeeper is killed for a minute while calls go on.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::THREADS;
use crate::{
    row::{Outcome, Row},
    stage::{Stage, until},
    usage::Usage,
    zk::Zk,
};

pub(crate) const ROW: Row = Row {
    name: "zookeeper-down",
    wanted: "all calls answered, <= 2 % of a core, <= 1 log line in 10 s, registered and fresh within 15 s",
    limit: Duration::from_secs(150),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let zk = Zk::standalone();
    let hosts = zk.hosts();
    let settings = [("zookeeperip", &*hosts), ("zookeepertimeout", "4s")];
    let first = stage.provider("first", &settings);
    let caller = stage.caller("caller", &settings);
    let ticks = || Usage::of(first.id()).ticks(THREADS) + Usage::of(caller.id()).ticks(THREADS);
    thread::sleep(Duration::from_secs(1));

    let (outage, before) = (stage.seconds(12, 60), ticks());
    stage.say("ZooKeeper killed");
    zk.signal(1, Signal::KILL);
    thread::sleep(outage);
    let used = ticks() - before;
    let share = used as f64 / outage.as_secs_f64() / 2.0;
    zk.restart();
    stage.say("ZooKeeper back");
    let _second = stage.provider("second", &settings);
    let fresh = until(Duration::from_secs(20), || stage.ledger().last_answer("second") > 0);
    caller.terminate();
    caller.finish(Duration::from_secs(10));

    let mut outcome = Outcome::default();
    let tally = stage.ledger().tally(Duration::from_secs(6));
    outcome.check(tally.is_honest() && (tally.failed, tally.open) == (0, 0), tally);
    outcome.check(share <= 2.0, format!("{share:.1} % of a core"));
    outcome.within("fresh after", fresh, Duration::from_secs(15));
    outcome
}
