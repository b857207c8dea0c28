//! A hundred instances come and go.

use std::{collections::HashMap, thread, time::Duration};

use super::{
    scene::{Scene, all_answered},
    tap::Requests,
};
use crate::{
    proxy::Proxy,
    row::{Outcome, Row},
    stage::Stage,
    zk::Zk,
};

pub(super) const ROW: Row = Row {
    name: "instances-churn",
    wanted: "each change seen within 2 s, per change one getChildren, per new name one getData, no call lost",
    limit: Duration::from_secs(240),
    run,
};

fn run(stage: &Stage) -> Outcome {
    // Sessions of 5 minutes, so that no audit mixes with what a change costs.
    let scene = Scene::on(stage, Zk::with_tick(Duration::from_secs(15)));
    let proxy = Proxy::tapped(scene.hosts.parse().expect("an address"));
    let (_steady, _) = scene.provider("steady", &[("legacy_mirror", "off")]);
    let caller = scene.caller("caller", &[]);
    let mut looker = scene.role("looker", "looker", &[("zookeeperip", &proxy.addr().to_string())]);
    looker.wait_line("looking", Duration::from_secs(10));
    thread::sleep(Duration::from_secs(2));
    let count = if stage.quick { 12 } else { 100 };
    let limit = Duration::from_secs(100);

    let begin = Requests::of(&proxy.tap());
    stage.say(format!("{count} providers come"));
    let number = count.to_string();
    let small =
        [("faults_count", &*number), ("legacy_mirror", "off"), ("io_threads", "1"), ("worker_threads", "1")];
    let mut crowd = scene.role("crowd", "crowd", &small);
    crowd.wait_line("all are up", limit);
    thread::sleep(Duration::from_secs(1));
    let middle = Requests::of(&proxy.tap());
    stage.say("and go");
    crowd.wait_line("all are down", limit);
    thread::sleep(Duration::from_secs(1));
    let end = Requests::of(&proxy.tap());
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    for (kind, asked) in [("up", middle - begin), ("down", end - middle)] {
        let (did, seen) = (events(stage, "crowd", kind), events(stage, "looker", kind));
        let delays = did.iter().map(|(addr, at)| seen.get(addr).map(|seen| seen.saturating_sub(*at)));
        let slowest = delays.collect::<Option<Vec<_>>>().and_then(|delays| delays.into_iter().max());
        outcome.check(did.len() == count, format!("{} {kind}", did.len()));
        outcome.within("seen after at most", slowest.map(Duration::from_micros), Duration::from_secs(2));
        outcome.check(asked.get_children <= count, format!("{} getChildren", asked.get_children));
        // Who goes says so first: that is a change of its node's data.
        outcome.check(asked.get_data <= count, format!("{} getData", asked.get_data));
    }
    outcome.check(all_answered(tally), tally);
    outcome
}

/// When what happened to which address, as a role wrote it down.
fn events(stage: &Stage, name: &str, kind: &str) -> HashMap<String, u64> {
    let text = std::fs::read_to_string(stage.dir().join(format!("{name}.events"))).unwrap_or_default();
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let of_kind = words.filter(|words| words[0] == kind);
    of_kind.filter_map(|words| Some((words[1].to_owned(), words[2].parse().ok()?))).collect()
}
