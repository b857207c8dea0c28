//! The legacy name, where C++ callers look, while its owner dies and another Rust provider lives.

use std::time::Duration;

use rustix::process::Signal;

use super::scene::{LEGACY, Scene};
use crate::{
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(super) const MOVES: Row = Row {
    name: "legacy-name-moves",
    wanted: "to a live one within time-out + 2 ticks + 1 s of a kill -9, 1 s of a SIGTERM",
    limit: Duration::from_secs(90),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let nodes = scene.nodes();
    let path = format!("{LEGACY}/Echo");
    // "ip:port mprpc"
    let holder = || nodes.text(&path).and_then(|text| text.split(' ').next()?.parse().ok());
    let mut alive: Vec<_> = ["one", "two"].map(|name| scene.provider(name, &[])).into();
    let mut outcome = Outcome::default();
    let cases =
        [("kill -9", Signal::KILL, scene.expiry()), ("SIGTERM", Signal::TERM, Duration::from_secs(1))];
    for (how, signal, limit) in cases {
        until(Duration::from_secs(5), || holder().is_some()).expect("somebody has the name");
        let owner = alive.iter().position(|(_, addr)| Some(*addr) == holder()).expect("it is one of ours");
        let (owner, _) = alive.swap_remove(owner);
        scene.show(&nodes, "before");
        stage.say(format!("owner of the name: {how}"));
        owner.signal(signal);
        let live = |addr| alive.iter().any(|(_, alive)| Some(*alive) == addr);
        let moved = until(2 * scene.expiry(), || live(holder()));
        scene.show(&nodes, "after");
        outcome.within(&format!("{how}:"), moved, limit);
        alive.push(scene.provider("three", &[]));
    }
    outcome
}
