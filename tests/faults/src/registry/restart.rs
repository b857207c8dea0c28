//! A server that restarts inside the sessions, and a provider that is killed and restarts at once.

use std::{thread, time::Duration};

use rustix::process::Signal;

use super::scene::{INSTANCES, Scene, all_answered};
use crate::{
    ledger::now,
    row::{Outcome, Row},
    stage::{Stage, free_port, until},
};

pub(super) const INSIDE_SESSION: Row = Row {
    name: "restart-in-session",
    wanted: "membership change seen within 10 s, no call lost",
    limit: Duration::from_secs(120),
    run: inside_session,
};

pub(super) const KILL_9: Row = Row {
    name: "provider-kill-9",
    wanted: "reachable within 2 s of its start, one node, no ghost",
    limit: Duration::from_secs(120),
    run: kill_9,
};

fn inside_session(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (_first, _) = scene.provider("first", &[]);
    let caller = scene.caller("caller", &[]);
    let mut outcome = Outcome::default();
    for round in 0..if stage.quick { 1 } else { 4 } {
        stage.say("server restarts");
        scene.zk.signal(1, Signal::KILL);
        scene.zk.restart();
        let name = format!("new-{round}");
        let (new, _) = scene.provider(&name, &[]);
        stage.say("another provider came");
        let seen = until(Duration::from_secs(12), || stage.ledger().last_answer(&name) > 0);
        outcome.within("came after", seen, Duration::from_secs(10));
        stage.say("and goes");
        let left = now();
        new.terminate();
        new.finish(Duration::from_secs(15));
        let gone = Duration::from_micros(stage.ledger().last_answer(&name).saturating_sub(left));
        outcome.within("went after", Some(gone), Duration::from_secs(10));
    }
    let tally = scene.end(caller, Duration::from_secs(5));
    outcome.check(all_answered(tally), tally);
    outcome
}

fn kill_9(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let port = free_port().to_string();
    let at = [("rpcserverport", &*port)];
    let mut outcome = Outcome::default();
    let (mut provider, addr) = scene.provider("life-0", &at);
    let _caller = scene.caller("caller", &[("timeout", "1s")]);
    let nodes = scene.nodes();
    for round in 1..if stage.quick { 3 } else { 6 } {
        stage.say("provider killed and started again");
        provider.signal(Signal::KILL);
        drop(provider);
        let (name, began) = (format!("life-{round}"), now());
        provider = scene.provider(&name, &at).0;
        until(Duration::from_secs(5), || stage.ledger().first_answer(&name, began).is_some());
        let first = stage.ledger().first_answer(&name, began);
        let took = first.map(|at| Duration::from_micros(at - began));
        outcome.within("reachable after", took, Duration::from_secs(2));
        thread::sleep(Duration::from_millis(700));
    }
    // By then the sessions of the dead are over; what they owned must not be what counts.
    stage.say("sessions of the killed ones expire");
    thread::sleep(scene.expiry());
    let (children, from) = (nodes.children(INSTANCES), now());
    thread::sleep(Duration::from_secs(1));
    let tally = stage.ledger().tally_of(Duration::from_secs(1), from, now() - 200_000);
    scene.show(&nodes, "after");
    outcome.check(children == [addr.to_string()], format!("{} node", children.len()));
    let named = nodes.text("/EchoService/Echo").is_some_and(|text| text.starts_with(&addr.to_string()));
    outcome.check(named, "C++ callers find it");
    outcome.check(all_answered(tally), format!("at last {tally}"));
    outcome
}
