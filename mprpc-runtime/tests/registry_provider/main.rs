//! Whole programs by way of a real ZooKeeper (`MPRPC_TEST_ZK`; without it nothing is tested): what a
//! provider publishes, changes while it runs, and takes away before it ends.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod echo;
#[allow(dead_code, reason = "shared with the other tests of the registry")]
#[path = "../registry_zookeeper/support.rs"]
mod support;

use echo::*;
use mprpc_runtime::{MprpcApplication, MprpcChannel, RpcProvider, Stub, registry::MirrorPolicy};
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
fn what_comes_after_a_reload_is_what_stays_published() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let file = std::env::temp_dir().join(format!("mprpc-reload-{:016x}.conf", random()));
    let write = |weight: u32| {
        let zookeeper = format!("zookeeperip = {server}{}", corner.chroot);
        std::fs::write(&file, format!("{zookeeper}\nlog_level = off\nweight = {weight}\n")).unwrap();
    };
    write(1);
    let app = MprpcApplication::from_file(&file).unwrap();
    let mut running = serve(&app, "a");
    let path = format!("{DIR}/{}", running.addr());
    for round in 1..=5 {
        write(round * 10);
        running.reload().unwrap();
        running.set_weight(round * 10 + 1).unwrap();
        std::thread::sleep(ms(100));
        let text = corner.text(&path).unwrap();
        assert!(text.contains(&format!("weight={}\n", round * 10 + 1)), "round {round}: {text}");
    }
    write(60);
    running.reload().unwrap();
    eventually(ms(2000), "published", || corner.text(&path).unwrap().contains("weight=60\n"));
    write(70);
    running.reload().unwrap();
    running.stop().unwrap();
    std::thread::sleep(ms(300));
    assert_eq!(corner.text(&path), None, "what was taken away does not come back");
    std::fs::remove_file(file).unwrap();
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

#[test]
fn a_caller_that_starts_in_an_outage_calls_whom_it_remembers() {
    if server().is_none() {
        return;
    }
    let own = OwnServer::started();
    let corner = Corner::of(&own.address());
    let zookeeper = format!("{}{}", own.address(), corner.chroot);
    let dir = std::env::temp_dir().join(format!("mprpc-cache-{:016x}", random()));
    let settings = [("zookeepertimeout", "4s"), ("registry_cache", dir.to_str().unwrap())];
    let provider = app(&zookeeper, &settings[..1]);
    let running = serve(&provider, "a");
    let stub = |settings: &[(&str, &str)]| {
        let app = app(&zookeeper, settings);
        Stub::new(MprpcChannel::new(&app).unwrap())
    };
    assert_eq!(call(&stub(&settings), "").unwrap(), "a");
    let files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    assert!(file.file_name().unwrap().to_str().unwrap().starts_with("demo.EchoRpc-"));
    let mode = |path| std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path).unwrap()) & 0o777;
    assert_eq!((mode(file), mode(&dir)), (0o600, 0o700));

    own.run("stop");
    let start = std::time::Instant::now();
    let remembering = stub(&settings);
    assert_eq!(call(&remembering, "").unwrap(), "a");
    assert!(start.elapsed() < ms(4000), "{:?}", start.elapsed());
    assert!(call(&stub(&settings[..1]), "").is_err(), "without a file, nothing is known");
    let text = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, text.replace("end 1", "end 2")).unwrap();
    assert!(call(&stub(&settings), "").is_err(), "a damaged file is not believed");

    // What was remembered gives way to what is so.
    own.run("start");
    let (second, other) = (app(&zookeeper, &settings[..1]), "b");
    let running_too = serve(&second, other);
    eventually(ms(15_000), "fresh", || call(&remembering, "").unwrap() == other);
    running.stop().unwrap();
    for _ in 0..20 {
        assert_eq!(call(&remembering, "").unwrap(), other);
    }
    eventually(ms(2000), "saved", || {
        let text = std::fs::read_to_string(file).unwrap();
        text.contains(&running_too.addr().to_string()) && text.ends_with("end 1\n")
    });
    std::fs::remove_dir_all(dir).unwrap();
}
