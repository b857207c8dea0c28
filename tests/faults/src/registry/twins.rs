//! Two hosts advertise one address that each of them has, such as a bridge's: each reaches itself there.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::scene::{INSTANCES, Scene, complaint};
use crate::{
    namespace::Namespace,
    proxy::Proxy,
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(super) const ROW: Row = Row {
    name: "two-hosts-one-address",
    wanted: "both serve, exactly one is published and stays, the other says why",
    limit: Duration::from_secs(90),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    if !Namespace::possible() {
        outcome.check(stage.quick, "NOT MEASURED: needs root and ip, for hosts of their own");
        return outcome;
    }
    let scene = Scene::new(stage);
    let hosts = [Namespace::new(0, BOTH), Namespace::new(1, BOTH)];
    let zookeeper = scene.hosts.parse().expect("an address");
    let ways = [Proxy::on(hosts[0].ours(), zookeeper), Proxy::on(hosts[1].ours(), zookeeper)];
    let names = ["first", "twin"];
    let _providers: Vec<_> = (0..2)
        .map(|n| {
            stage.say(format!("host {n} starts its provider"));
            let way = ways[n].addr().to_string();
            let more = [("zookeeperip", &*way), ("zookeepertimeout", "4s")];
            let settings = [&more[..], &[("rpcserverip", BOTH), ("rpcserverport", PORT)]].concat();
            let mut provider = hosts[n].role(stage, "provider", names[n], &settings);
            provider.wait_line("RpcProvider start service at", Duration::from_secs(20));
            provider
        })
        .collect();
    let (nodes, path) = (scene.nodes(), format!("{INSTANCES}/{BOTH}:{PORT}"));
    let owner = || nodes.get(&path).map(|(_, stat)| stat.ephemeral_owner);

    stage.say("they fight, or do not");
    let (mut changes, mut last_change, mut last) = (0, Duration::ZERO, owner());
    let began = Instant::now();
    while began.elapsed() < stage.seconds(8, 30) {
        let now = owner();
        if now != last && now.is_some() {
            (changes, last_change, last) = (changes + 1, began.elapsed(), now);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let words = names.map(|name| complaint(stage, name));
    let serve = [0, 1].map(|n| {
        let (name, peer) = (format!("direct-{n}"), format!("{BOTH}:{PORT}"));
        let _caller = hosts[n].role(stage, "caller", &name, &[("peers", &peer)]);
        until(Duration::from_secs(10), || stage.ledger().last_answer(names[n]) > 0).is_some()
    });
    scene.show(&nodes, "with both");

    outcome.check(serve == [true, true], format!("{} serve", serve.iter().filter(|serves| **serves).count()));
    outcome.check(nodes.children(INSTANCES).len() == 1 && owner().is_some(), "one node");
    outcome.within(
        &format!("{changes} changes of owner, the last after"),
        Some(last_change),
        Duration::from_secs(10),
    );
    let says: Vec<_> = words.iter().flatten().collect();
    outcome.check(says.len() == 1, format!("{} says why: {says:?}", says.len()));
    outcome
}

/// The address that both hosts have, and the port.
const BOTH: &str = "198.18.99.254";
const PORT: &str = "8000";
