//! The network between programs and ZooKeeper is slow, silent, cut or reset.

use std::{thread, time::Duration};

use super::scene::{INSTANCES, Scene, all_answered};
use crate::{
    ledger::now,
    proxy::{Mode, Proxy},
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(super) const ROW: Row = Row {
    name: "zookeeper-network",
    wanted: "reset, slow, cut, silent: no call lost, fresh and registered within 10 s of its end",
    limit: Duration::from_secs(150),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let mut scene = Scene::new(stage);
    let way = Proxy::to(scene.hosts.parse().expect("an address"));
    scene.hosts = way.addr().to_string();
    let (_first, addr) = scene.provider("first", &[]);
    let caller = scene.caller("caller", &[]);
    let (nodes, path) = (scene.nodes(), format!("{INSTANCES}/{addr}"));
    let second = Duration::from_secs(1);
    let all = [
        ("reset", Mode::Reset, second),
        ("slow", Mode::Delay(Duration::from_millis(300)), 3 * second),
        ("cut", Mode::Cut, 3 * second),
        ("silent", Mode::Stall, 3 * second),
        ("cut for longer than the session", Mode::Cut, 6 * second),
        ("silent for longer than the session", Mode::Stall, 6 * second),
    ];
    let (mut outcome, mut others) = (Outcome::default(), Vec::new());
    for (n, (what, mode, time)) in all.into_iter().take(if stage.quick { 2 } else { 6 }).enumerate() {
        stage.say(format!("{what}, {time:?}"));
        way.set(mode);
        thread::sleep(time);
        way.set(Mode::Pass);
        let began = now();
        stage.say(format!("no longer {what}; another provider comes"));
        let name = format!("new-{n}");
        others.push(scene.provider(&name, &[]));
        until(Duration::from_secs(15), || stage.ledger().last_answer(&name) > 0);
        let fresh = stage.ledger().first_answer(&name, began).map(|at| Duration::from_micros(at - began));
        outcome.within(&format!("{what}: fresh after"), fresh, Duration::from_secs(10));
        let owned = || nodes.get(&path).is_some_and(|(_, stat)| stat.version == 1);
        outcome.within("registered after", until(Duration::from_secs(15), owned), Duration::from_secs(10));
    }
    let tally = scene.end(caller, Duration::from_secs(5));
    outcome.check(all_answered(tally), tally);
    outcome
}
