//! ZooKeeper is away for a minute, or hangs, while calls go on.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::scene::{INSTANCES, Scene, all_answered, registry_cpu};
use crate::{
    ledger::now,
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(super) const DOWN: Row = Row {
    name: "zookeeper-down",
    wanted: "all calls answered, <= 2 % of a core, <= 1 log line in 10 s, registered and fresh within 15 s",
    limit: Duration::from_secs(150),
    run: down,
};

pub(super) const HANGS: Row = Row {
    name: "zookeeper-hangs",
    wanted: "no call waits, registry calls end within 5 s, fresh within 15 s",
    limit: Duration::from_secs(120),
    run: hangs,
};

fn down(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (first, addr) = scene.provider("first", &[]);
    let caller = scene.caller("caller", &[]);
    thread::sleep(Duration::from_secs(1));
    let path = format!("{INSTANCES}/{addr}");
    let owner = || scene.nodes().get(&path).map(|(_, stat)| stat.ephemeral_owner);
    let dead = owner().expect("it is published");
    scene.show(&scene.nodes(), "before");

    let lines = || ["first", "caller"].map(|name| stage.log(name).lines().count());
    let (before, outage) = (lines(), stage.seconds(12, 60));
    stage.say(format!("ZooKeeper killed, for {outage:?}"));
    scene.zk.signal(1, Signal::KILL);
    let cpu = registry_cpu([&first, &caller], outage);
    let after = lines();

    scene.zk.restart();
    stage.say("ZooKeeper back");
    let back = now();
    let again = until(Duration::from_secs(20), || owner().is_some_and(|owner| owner != dead));
    let (_second, _) = scene.provider("second", &[]);
    until(Duration::from_secs(20), || stage.ledger().last_answer("second") > 0);
    let fresh = stage.ledger().first_answer("second", back).map(|at| Duration::from_micros(at - back));
    let nodes = scene.nodes();
    scene.show(&nodes, "after");
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    outcome.check(all_answered(tally), tally);
    for (n, who) in ["provider", "caller"].iter().enumerate() {
        let share = 100.0 * cpu[n].as_secs_f64() / outage.as_secs_f64();
        outcome.check(share <= 2.0, format!("{who} {share:.2} % of a core"));
        let lines = after[n] - before[n];
        let most = outage.as_secs().div_ceil(10) as usize;
        outcome.check(lines <= most, format!("{lines} log lines"));
    }
    outcome.within("fresh after", fresh, Duration::from_secs(15));
    outcome.within("registered after", again, Duration::from_secs(15));
    outcome
}

fn hangs(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (_first, _) = scene.provider("first", &[]);
    let (leaver, _) = scene.provider("leaver", &[]);
    let caller = scene.caller("caller", &[]);
    let _looker = scene.role("looker", "looker", &[("faults_fresh", "on")]);
    let looked = || stage.ledger().calls(0, u64::MAX).filter(|call| call.caller == "looker").count();
    until(Duration::from_secs(10), || looked() > 2).expect("the looker looks");

    let (from, hang) = (now(), stage.seconds(8, 30));
    stage.say(format!("ZooKeeper stopped, for {hang:?}"));
    scene.zk.signal(1, Signal::STOP);
    // Who starts now serves, or is told that nothing is known, in time; who ends now ends.
    let late = [("zookeeperip", &*scene.hosts), ("timeout", "20s"), ("faults_threads", "1")];
    let _late = stage.role("caller", "late", &late);
    let began = now();
    let (_second, _) = scene.provider("second", &[]);
    let publish = now() - began;
    leaver.terminate();
    let (_, leave) = (leaver.finish(Duration::from_secs(20)), now() - began - publish);
    let lookup = || stage.ledger().calls(began, u64::MAX).find(|call| call.caller == "late").cloned();
    let lookup = until(Duration::from_secs(9), || lookup().is_some_and(|call| !call.ends.is_empty()))
        .and_then(|_| lookup())
        .map(|call| Duration::from_micros(call.ends[0].0 - call.began));
    thread::sleep(hang.saturating_sub(Duration::from_micros(now() - from)));
    let to = now();
    stage.say("ZooKeeper goes on");
    scene.zk.signal(1, Signal::CONT);
    let fresh = until(Duration::from_secs(20), || stage.ledger().last_answer("second") > 0);
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    let ledger = stage.ledger();
    let known = ledger.calls(from, to).filter(|call| call.caller == "caller");
    let slowest = known.flat_map(|call| call.ends.iter().map(|(end, _)| end - call.began)).max();
    let failed = ledger.calls(0, u64::MAX).filter(|call| call.caller == "caller" && call.failed()).count();
    outcome.check(tally.is_honest() && failed == 0, format!("{} answered, {failed} failed", tally.answered));
    outcome.within("slowest call", slowest.map(Duration::from_micros), Duration::from_millis(500));
    outcome.within("first look-up ends after", lookup, Duration::from_secs(5));
    let looks = ledger.calls(from, to).filter(|call| call.caller == "looker");
    let look = looks.map(|call| call.ends.first().map_or_else(now, |(end, _)| *end) - call.began).max();
    outcome.within("one of an open session", look.map(Duration::from_micros), Duration::from_secs(5));
    outcome.within("a provider ends after", Some(Duration::from_micros(leave)), Duration::from_secs(5));
    outcome.within("publish after", Some(Duration::from_micros(publish)), Duration::from_secs(6));
    outcome.within("fresh after", fresh, Duration::from_secs(15));
    outcome
}
