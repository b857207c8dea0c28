//! Three servers, of which the leader is killed; the first host that programs know is a black hole.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::scene::{INSTANCES, Scene, all_answered};
use crate::{
    black_hole::BlackHole,
    ledger::now,
    nodes::Nodes,
    row::{Outcome, Row},
    stage::{Stage, until},
    zk::Zk,
};

pub(super) const LEADER_KILLED: Row = Row {
    name: "leader-killed",
    wanted: "registered and fresh within 10 s, calls unaffected",
    limit: Duration::from_secs(120),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let hole = BlackHole::new();
    let mut scene = Scene::on(stage, Zk::ensemble());
    scene.hosts = format!("{},{}", hole.addr(), scene.hosts);
    let (_first, addr) = scene.provider("first", &[]);
    let caller = scene.caller("caller", &[]);
    thread::sleep(Duration::from_secs(1));

    let leader = scene.zk.leader();
    stage.say(format!("leader (server {leader} of 3) killed"));
    let killed = now();
    scene.zk.signal(leader, Signal::KILL);
    let (_second, _) = scene.provider("second", &[]);
    until(Duration::from_secs(20), || stage.ledger().last_answer("second") > 0);
    let fresh = stage.ledger().first_answer("second", killed);
    let fresh = fresh.map(|at| Duration::from_micros(at - killed));
    let nodes = Nodes::at(&scene.zk.host(leader % 3 + 1));
    let registered = until(Duration::from_secs(10), || nodes.children(INSTANCES).len() == 2);
    let registered = registered.map(|_| Duration::from_micros(now() - killed));
    let kept = nodes.get(&format!("{INSTANCES}/{addr}")).is_some();
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    outcome.check(all_answered(tally), tally);
    outcome.within("fresh after", fresh, Duration::from_secs(10));
    outcome.within("both registered after", registered, Duration::from_secs(10));
    outcome.check(kept, "the first is registered");
    outcome
}
