//! Others put their hands on our nodes: delete and overwrite them, or claim our address.

use std::{net::SocketAddr, time::Duration};

use mprpc_tests::Process;

use super::scene::{INSTANCES, LEGACY, Scene, all_answered, complaint};
use crate::{
    row::{Outcome, Row},
    stage::{Stage, until},
    zk::Zk,
};

pub(super) const REPAIRED: Row = Row {
    name: "node-deleted",
    wanted: "deleted, overwritten, usurped: repaired within 10 s, no call lost",
    limit: Duration::from_secs(150),
    run: repaired,
};

pub(super) const TWO_HOSTS: Row = Row {
    name: "one-address-twice",
    wanted: "both serve, exactly one is published, the other says why",
    limit: Duration::from_secs(60),
    run: two_hosts,
};

fn repaired(stage: &Stage) -> Outcome {
    // Sessions of 10 s, as they are by default: what only an audit finds is found after 8 s.
    let scene = Scene::on(stage, Zk::with_tick(Duration::from_millis(500)));
    let (_first, addr) = scene.provider("first", &[]);
    let caller = scene.caller("caller", &[]);
    let (nodes, others) = (scene.nodes(), scene.nodes());
    let mut outcome = Outcome::default();
    let legacy = format!("{LEGACY}/Echo");
    until(Duration::from_secs(5), || nodes.get(&legacy).is_some()).expect("the name is taken");
    for (what, path) in [("instance", format!("{INSTANCES}/{addr}")), ("name", legacy)] {
        let (good, stat) = nodes.get(&path).expect("it is published");
        let own = |(data, now): (Vec<u8>, zookeeper::Stat)| {
            data == good && now.version >= 1 && now.ephemeral_owner == stat.ephemeral_owner
        };
        let mut check = |how: &str, act: &dyn Fn()| {
            stage.say(format!("{what} {how}"));
            act();
            let again = until(Duration::from_secs(15), || nodes.get(&path).is_some_and(own));
            outcome.within(&format!("{what} {how}"), again, Duration::from_secs(10));
        };
        check("deleted", &|| others.delete(&path));
        check("overwritten", &|| others.set(&path, b"rubbish"));
        if what == "instance" {
            check("usurped", &|| others.usurp(&path, b"rubbish"));
        }
    }
    let tally = scene.end(caller, Duration::from_secs(5));
    outcome.check(all_answered(tally), tally);
    outcome
}

fn two_hosts(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (_right, addr) = scene.provider("right", &[]);
    let nodes = scene.nodes();
    let path = format!("{INSTANCES}/{addr}");
    let published = nodes.get(&path).expect("it is published");
    stage.say("a second host claims the same address");
    let (_wrong, other) = scene.provider("wrong", &[("advertise", &addr.to_string())]);
    assert_ne!(addr, other);
    let why =
        until(scene.expiry(), || complaint(stage, "wrong").is_some()).and_then(|_| complaint(stage, "wrong"));
    let serves = |name: &str, at: SocketAddr| direct(stage, name, at);
    let both = [serves("right", addr), serves("wrong", other)];
    scene.show(&nodes, "with both");

    let mut outcome = Outcome::default();
    let children = nodes.children(INSTANCES);
    outcome.check(both == [true, true], format!("{} serve", both.iter().filter(|serves| **serves).count()));
    outcome.check(children == [addr.to_string()], format!("{} node", children.len()));
    let same =
        |(data, stat): (Vec<u8>, zookeeper::Stat)| data == published.0 && stat.czxid == published.1.czxid;
    outcome.check(nodes.get(&path).is_some_and(same), "the first is published still");
    let text = why.as_deref().unwrap_or("not a word");
    outcome.check(
        why.is_some(),
        format!("the other says: {}", text.split("should be: ").last().unwrap_or(text)),
    );
    outcome
}

/// Whether the provider at this address answers and is the one of this name.
fn direct(stage: &Stage, name: &str, at: SocketAddr) -> bool {
    let caller: Process = stage.caller(&format!("direct-{name}"), &[("peers", &at.to_string())]);
    let answered = stage.ledger().last_answer(name) > 0;
    drop(caller);
    answered
}
