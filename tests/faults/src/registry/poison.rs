//! Directories full of rubbish beside good providers, and directories that somebody emptied.

use std::{thread, time::Duration};

use super::scene::{INSTANCES, LEGACY, Scene, all_answered};
use crate::{
    proxy::{Mode, Proxy},
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(super) const POISONED: Row = Row {
    name: "poisoned",
    wanted: "no call lost, the log names the rubbish",
    limit: Duration::from_secs(60),
    run: poisoned,
};

pub(super) const EMPTIED: Row = Row {
    name: "emptied",
    wanted: "no call lost while the providers answer, loud warning",
    limit: Duration::from_secs(60),
    run: emptied,
};

fn poisoned(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    let (_good, addr) = scene.provider("good", &[("legacy_mirror", "off")]);
    let caller = scene.caller("caller", &[]);
    let nodes = scene.nodes();
    let rubbish = rubbish();
    stage.say(format!("{} kinds of rubbish", rubbish.len()));
    rubbish.iter().for_each(|(path, data)| nodes.put(path, data));
    let warned = || warnings(stage, "caller").iter().any(|line| line.contains("make no sense"));
    let warned = until(Duration::from_secs(15), warned);
    // Who looks for the first time finds the good one, too.
    let late = scene.caller("late", &[]);
    thread::sleep(Duration::from_secs(2));
    let there = nodes.children(INSTANCES).len();
    late.terminate();
    late.finish(Duration::from_secs(10));
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    outcome.check(rubbish.len() >= 30, format!("{} kinds, {there} entries with {addr}", rubbish.len()));
    outcome.check(all_answered(tally), tally);
    outcome.within("log warns after", warned, Duration::from_secs(10));
    outcome
}

/// Paths and data that no provider wrote.
fn rubbish() -> Vec<(String, Vec<u8>)> {
    let good = |addr: &str| format!("v=1\nid=1234\naddr={addr}\nproto=mux\nweight=100\nstate=up\n");
    let mut all = Vec::new();
    // Names that are no address, with data that would do.
    let long = "9".repeat(2000);
    for name in [
        "rubbish",
        "127.0.0.1",
        "127.0.0.1:",
        ":8000",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:+80",
        "127.0.0.1:080",
        "0.0.0.0:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "256.1.1.1:80",
        "localhost:80",
        "[::1]",
        "[::1]:0",
        "[::]:80",
        "%2e%2e",
        "ein Blank:80",
        "größer:80",
        &long,
    ] {
        all.push((format!("{INSTANCES}/{name}"), good(name).into_bytes()));
    }
    // Good names with data that will not do.
    let (big, lines) = ("x".repeat(100_000), "a=b\n".repeat(5000));
    for (n, edit) in [
        "",
        "\0\0\0\0",
        "=",
        "====\n=\n",
        "v=1",
        &big,
        &lines,
        "v=0",
        "v=x",
        "weight=-1",
        "weight=99999999999",
        "weight=1e3",
        "state=sideways",
        "state=",
        "proto=smoke",
        "proto=",
        "addr=127.0.0.1:9",
        "addr=nowhere",
    ]
    .iter()
    .enumerate()
    {
        let addr = format!("127.0.0.1:{}", 10 + n);
        let whole = good(&addr);
        // One field is another, or the data is something else.
        let data = match edit.split_once('=') {
            Some((key, _)) if whole.contains(&format!("{key}=")) && !key.is_empty() && *edit != "v=1" => {
                let same = |line: &&str| !line.starts_with(&format!("{key}="));
                whole.lines().filter(same).chain([*edit]).map(|line| format!("{line}\n")).collect()
            }
            _ => (*edit).to_owned(),
        };
        all.push((format!("{INSTANCES}/{addr}"), data.into_bytes()));
    }
    all.push((format!("{INSTANCES}/127.0.0.1:90"), vec![0xff, 0xfe, 0x80]));
    // Where C++ nodes register: under the service's methods and under others.
    for (method, data) in [
        ("Echo", "127.0.0.1"),
        ("EchoBlob", "127.0.0.1:0"),
        ("EchoInline", ""),
        ("Sleep", "0.0.0.0:80"),
        ("Fail", "localhost:80"),
        ("Panic", "127.0.0.1:99999"),
        ("Later", &long),
        ("nonsense", "nonsense"),
    ] {
        all.push((format!("{LEGACY}/{method}"), data.as_bytes().to_vec()));
    }
    all
}

fn emptied(stage: &Stage) -> Outcome {
    let scene = Scene::new(stage);
    // The providers' way to ZooKeeper: without it they cannot repair what happens to their nodes.
    let way = Proxy::to(scene.hosts.parse().expect("an address"));
    let address = way.addr().to_string();
    let by = [("zookeeperip", &*address), ("legacy_mirror", "off")];
    let _providers = ["one", "two", "three"].map(|name| scene.provider(name, &by));
    let caller = scene.caller("caller", &[]);
    let nodes = scene.nodes();
    assert_eq!(nodes.children(INSTANCES).len(), 3);
    thread::sleep(Duration::from_secs(1));
    scene.show(&nodes, "before");

    stage.say("directory emptied, providers cannot tell");
    way.set(Mode::Stall);
    for name in nodes.children(INSTANCES) {
        nodes.delete(&format!("{INSTANCES}/{name}"));
    }
    scene.show(&nodes, "while it is empty");
    let doubts = || warnings(stage, "caller").iter().any(|line| line.contains("EchoService"));
    let warned = until(Duration::from_secs(5), doubts);
    thread::sleep(stage.seconds(6, 30));
    let empty = nodes.children(INSTANCES).is_empty();
    stage.say("providers reach ZooKeeper again");
    way.set(Mode::Pass);
    let back = until(Duration::from_secs(20), || nodes.children(INSTANCES).len() == 3);
    scene.show(&nodes, "after");
    let tally = scene.end(caller, Duration::from_secs(5));

    let mut outcome = Outcome::default();
    outcome.check(empty, "it stayed empty");
    outcome.check(all_answered(tally), tally);
    outcome.within("log warns after", warned, Duration::from_secs(5));
    outcome.within("all registered again after", back, Duration::from_secs(15));
    outcome
}

/// What a role has warned of.
fn warnings(stage: &Stage, name: &str) -> Vec<String> {
    stage.log(name).lines().filter(|line| line.contains("WARN")).map(Into::into).collect()
}
