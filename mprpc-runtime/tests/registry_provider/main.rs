//! Whole programs by way of a real ZooKeeper (`MPRPC_TEST_ZK`; without it nothing is tested): what a
//! provider publishes, changes while it runs, and takes away before it ends.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod echo;
#[allow(dead_code, reason = "shared with the other tests of the registry")]
#[path = "../registry_zookeeper/support.rs"]
mod support;

use echo::*;
use mprpc_runtime::{MprpcChannel, RpcProvider, Stub, registry::MirrorPolicy};
use support::*;

const DIR: &str = "/mprpc/services/demo.EchoRpc/instances";

#[test]
fn weight_and_zone_change_at_run_time_and_absurd_ones_are_refused() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let zookeeper = format!("{server}{}", corner.chroot);
    let app = app(&zookeeper, &[("weight", "70"), ("zone", "eu-1")]);
    let running = serve(&app, "a");
    let path = format!("{DIR}/{}", running.addr());
    let has = |line: &str| corner.text(&path).is_some_and(|text| text.lines().any(|l| l == line));
    assert!(has("weight=70") && has("zone=eu-1") && !has("app="), "{:?}", corner.text(&path));

    let endpoint = || {
        let echo = service("demo.EchoRpc", &[]);
        app.registry().unwrap().lookup(&echo, soon()).unwrap().endpoints[0].clone()
    };
    assert_eq!((endpoint().weight, &*endpoint().zone), (70, "eu-1"));
    let owner = corner.get(&path).unwrap().1;
    running.set_weight(10_000).unwrap();
    running.set_zone("us-2").unwrap();
    assert!(has("weight=10000") && has("zone=us-2"), "{:?}", corner.text(&path));
    eventually(ms(2000), "seen", || (endpoint().weight, &*endpoint().zone) == (10_000, "us-2"));

    let error = running.set_weight(10_001).unwrap_err().to_string();
    assert!(error.contains("10001") && error.contains("10000"), "{error}");
    assert!(running.set_zone("a/b").is_err() && running.set_zone("x".repeat(65)).is_err());
    running.set_weight(0).unwrap();
    assert!(has("weight=0") && has("zone=us-2"), "the refused ones left nothing behind");
    assert_eq!(corner.get(&path).unwrap().1, owner, "the node was changed, not made anew");

    let mut absurd = RpcProvider::new(&app);
    absurd.notify_service(Echo("b")).unwrap();
    absurd.set_weight(u32::MAX);
    assert!(absurd.start().is_err());
    drop(running);
    assert_eq!(corner.zk.get_children(DIR, false).unwrap(), [""; 0]);
}

#[test]
fn a_provider_says_that_it_drains_before_it_does_and_is_gone_before_it_ends() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let zookeeper = format!("{server}{}", corner.chroot);
    let (app, caller) = (app(&zookeeper, &[]), app(&zookeeper, &[]));
    let running = serve(&app, "a");
    let path = format!("{DIR}/{}", running.addr());
    let mirror = "/EchoRpc/Echo";
    eventually(ms(2000), "mirrored", || corner.text(mirror).is_some());
    let stub = Stub::new(MprpcChannel::new(&caller).unwrap());
    let stub = &stub;
    assert_eq!(call(stub, "").unwrap(), "a");
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| call(stub, "800").unwrap());
        std::thread::sleep(ms(100));
        let stop = scope.spawn(|| running.stop().unwrap());
        let draining = || corner.text(&path).is_some_and(|text| text.contains("state=draining"));
        eventually(ms(600), "draining while the call runs", draining);
        assert!(!slow.is_finished() && !stop.is_finished());
        assert!(corner.text(mirror).is_none(), "C++ callers are sent away first");
        assert_eq!(slow.join().unwrap(), "a");
        stop.join().unwrap();
        assert!(corner.text(&path).is_none(), "gone when stop returns");
    });
}

#[test]
fn the_mirror_policy_changes_while_the_program_runs() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let app = app(&format!("{server}{}", corner.chroot), &[("legacy_mirror", "off")]);
    let running = serve(&app, "a");
    let registry = app.zookeeper().unwrap().expect("on ZooKeeper");
    let own = Some(format!("{}\0mprpc", running.addr()));
    std::thread::sleep(ms(400));
    for (policy, wanted) in
        [(MirrorPolicy::Hold, &own), (MirrorPolicy::Off, &None), (MirrorPolicy::Yield, &own)]
    {
        assert_ne!(corner.text("/EchoRpc/Echo"), *wanted);
        registry.set_mirror(policy);
        eventually(ms(2000), "switched", || corner.text("/EchoRpc/Echo") == *wanted);
    }
}
