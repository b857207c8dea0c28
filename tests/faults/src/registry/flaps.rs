//! ZooKeeper goes down and up, again and again.

use std::{thread, time::Duration};

use mprpc_tests::Process;
use rustix::process::Signal;

use super::scene::{INSTANCES, Scene, all_answered};
use crate::{
    row::{Outcome, Row},
    stage::{Stage, until},
    usage::Usage,
};

pub(super) const FLAPS: Row = Row {
    name: "zookeeper-flaps",
    wanted: "one registration, threads and descriptors as before, no call lost",
    limit: Duration::from_secs(240),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (provider, addr) = scene.provider("provider", &[]);
    // One thread, so that its connections to the provider are one, too.
    let caller = scene.caller("caller", &[("faults_threads", "1")]);
    thread::sleep(Duration::from_secs(1));
    let (of_provider, of_caller) = (size(&provider), size(&caller));
    let rounds = if stage.quick { 3 } else { 20 };
    for round in 1..=rounds {
        stage.say(format!("flap {round} of {rounds}"));
        scene.zk.signal(1, if round % 2 == 0 { Signal::KILL } else { Signal::TERM });
        // Now and then longer than the session.
        thread::sleep(Duration::from_secs(if round % 10 == 3 { 6 } else { 1 }));
        scene.zk.restart();
        thread::sleep(Duration::from_secs(1));
    }
    stage.say("ZooKeeper stays");
    let (nodes, path) = (scene.nodes(), format!("{INSTANCES}/{addr}"));
    let again =
        until(Duration::from_secs(15), || nodes.get(&path).is_some_and(|(_, stat)| stat.version == 1));
    let sizes = || (size(&provider), size(&caller));
    let as_before = until(Duration::from_secs(30), || sizes() == (of_provider, of_caller));
    let (now_provider, now_caller) = sizes();
    thread::sleep(scene.session);
    let children = nodes.children(INSTANCES);
    scene.show(&nodes, "after");
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    outcome.within("registered after", again, Duration::from_secs(15));
    outcome.check(children == [addr.to_string()], format!("{} node", children.len()));
    outcome.check(
        as_before.is_some(),
        format!("threads and descriptors: provider {of_provider:?} -> {now_provider:?}, caller {of_caller:?} -> {now_caller:?}"),
    );
    outcome.check(all_answered(tally), tally);
    outcome
}

/// Threads and descriptors.
fn size(process: &Process) -> (usize, usize) {
    let usage = Usage::of(process.id());
    (usage.threads.len(), usage.descriptors)
}
