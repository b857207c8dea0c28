//! The registry against a real ZooKeeper, whose address is in `MPRPC_TEST_ZK` (`scripts/test.sh`
//! sets it). Without it, nothing is tested and the tests say so.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Instant,
};

use mprpc_runtime::{
    registry::{MirrorPolicy, Publication, Registry},
    wire::{Dialect, Wire},
};
use support::*;

#[test]
fn a_provider_is_published_found_drained_and_withdrawn() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let (provider, registry, caller) = (Provider::start(), corner.registry(), corner.registry());
    registry.publish(provider.publication()).unwrap();

    let path = instance_path(provider.addr);
    let (text, owner, version) = corner.get(&path).expect("published");
    assert!(owner != 0 && version == 1);
    let (id, addr) = (provider.instance, provider.addr);
    for line in [
        "v=1",
        &format!("id={id:016x}"),
        &format!("addr={addr}"),
        "proto=mux,legacy",
        "weight=100",
        "state=up",
        "app=test",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
    let mirror = "/UserServiceRpc/Login";
    eventually(ms(2000), "mirrored", || corner.text(mirror).is_some());
    eventually(ms(2000), "set once", || corner.get(mirror).unwrap().2 == 1);
    assert_eq!(corner.text(mirror).unwrap(), format!("{addr}\0mprpc"));
    assert_eq!(corner.get("/UserServiceRpc").unwrap(), (String::new(), 0, 0));

    let snapshot = look(&caller);
    assert_eq!(addrs(&snapshot), [addr]);
    assert_eq!(snapshot.endpoints[0].wire, Wire::Mux);
    assert_eq!(snapshot.endpoints[0].methods, None);
    assert!(Arc::ptr_eq(&snapshot, &look(&caller)));

    registry.drain(addr, soon());
    assert!(corner.text(&path).unwrap().contains("state=draining"));
    assert!(corner.text(mirror).is_none());
    eventually(ms(2000), "seen to drain", || look(&caller).endpoints[0].draining);

    registry.withdraw(addr, soon());
    assert!(corner.text(&path).is_none());
    eventually(ms(2000), "seen to be gone", || look(&caller).endpoints.is_empty());
}

#[test]
fn cpp_providers_are_found_and_their_names_left_alone_until_they_go() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let cpp = corner.connect();
    let there: SocketAddr = "127.0.0.1:28000".parse().unwrap();
    let ephemeral = zookeeper::CreateMode::Ephemeral;
    corner.put_with(&cpp, "/UserServiceRpc/Login", b"127.0.0.1:28000", ephemeral);

    let (provider, registry, caller) = (Provider::start(), corner.registry(), corner.registry());
    registry.publish(provider.publication()).unwrap();
    let own = format!("{}\0mprpc", provider.addr);
    eventually(ms(2000), "the free name is taken", || {
        corner.text("/UserServiceRpc/Register") == Some(own.clone())
    });
    let seen = look(&caller);
    let legacy = seen.endpoints.iter().find(|e| e.addr == there).unwrap();
    assert_eq!(legacy.wire, Wire::Legacy(Dialect::LittleEndian));
    let login = |methods: &std::collections::BTreeSet<String>| methods.iter().eq(["Login"]);
    assert!(legacy.methods.as_ref().is_some_and(login));
    assert!(addrs(&seen).contains(&provider.addr) && seen.endpoints.len() == 2);
    // A channel knows the one method that it calls, and names none.
    let unnamed = service("fixbug.UserServiceRpc", &[]);
    let channel = corner.registry().lookup(&unnamed, soon()).unwrap();
    assert_eq!(*channel, *seen);

    registry.set_mirror(MirrorPolicy::Hold);
    thread::sleep(ms(300));
    assert_eq!(corner.text("/UserServiceRpc/Login").unwrap(), "127.0.0.1:28000");
    drop(cpp);
    eventually(ms(2000), "taken over", || corner.text("/UserServiceRpc/Login") == Some(own.clone()));
    eventually(ms(2000), "seen", || addrs(&look(&caller)) == [provider.addr]);

    registry.set_mirror(MirrorPolicy::Off);
    eventually(ms(2000), "given back", || corner.text("/UserServiceRpc/Login").is_none());
    assert!(corner.text(&instance_path(provider.addr)).is_some());
}

#[test]
fn one_of_two_instances_has_the_legacy_name_and_the_other_inherits_it() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let (a, b) = (Provider::start(), Provider::start());
    let (registry_a, registry_b) = (corner.registry(), corner.registry());
    registry_a.publish(a.publication()).unwrap();
    let names = |addr: SocketAddr| {
        let own = Some(format!("{addr}\0mprpc"));
        ["Login", "Register"].iter().all(|m| corner.text(&format!("/UserServiceRpc/{m}")) == own)
    };
    eventually(ms(2000), "the first has it", || names(a.addr));
    registry_b.publish(b.publication()).unwrap();
    thread::sleep(ms(400));
    assert!(names(a.addr));
    registry_a.withdraw(a.addr, soon());
    eventually(ms(1000), "the second inherits", || names(b.addr));
    assert_eq!(addrs(&look(&registry_a)), [b.addr]);
}

#[test]
fn of_several_that_want_a_legacy_name_at_once_one_says_that_it_has_it() {
    let Some(server) = server() else { return };
    let _ = log::set_logger(&LINES).map(|()| log::set_max_level(log::LevelFilter::Info));
    let corner = Corner::of(&server);
    let providers: Vec<_> = (0..4).map(|_| (Provider::start(), corner.registry())).collect();
    let methods: Vec<String> = (0..10).map(|n| format!("Race{n}")).collect();
    let methods: Vec<&str> = methods.iter().map(String::as_str).collect();
    thread::scope(|scope| {
        for (provider, registry) in &providers {
            registry.set_mirror(MirrorPolicy::Hold);
            let services = vec![service("demo.RaceRpc", &methods)];
            scope.spawn(|| registry.publish(Publication { services, ..provider.publication() }).unwrap());
        }
    });
    let said = |method: &&str| LINES.count(&format!("published /RaceRpc/{method} "));
    eventually(ms(5000), "all names are taken", || methods.iter().all(|method| said(method) > 0));
    thread::sleep(ms(200));
    assert_eq!(methods.iter().map(said).collect::<Vec<_>>(), [1; 10]);
}

/// The log of this process.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl Lines {
    fn count(&self, text: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.contains(text)).count()
    }
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

#[test]
fn ghosts_on_our_own_address_are_replaced() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let provider = Provider::start();
    // An earlier life of this address, and the C++ provider that was replaced in its place.
    let earlier = format!("v=1\nid=00000000000000aa\naddr={}\nproto=mux\n", provider.addr);
    let path = instance_path(provider.addr);
    corner.put(&path, earlier.as_bytes());
    corner.put("/UserServiceRpc/Login", provider.addr.to_string().as_bytes());
    let ghost = corner.get(&path).unwrap().1;

    let registry = corner.registry();
    registry.publish(provider.publication()).unwrap();
    for path in [path.as_str(), "/UserServiceRpc/Login"] {
        eventually(ms(3000), path, || corner.get(path).is_some_and(|(_, owner, v)| owner != ghost && v == 1));
    }
    assert!(corner.text(&path).unwrap().contains(&format!("id={:016x}", provider.instance)));
}

#[test]
fn an_address_that_leads_to_another_process_is_not_published() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let (honest, liar) = (Provider::start(), corner.registry());
    let registry = corner.registry();
    registry.publish(honest.publication()).unwrap();
    let (before, owner, version) = corner.get(&instance_path(honest.addr)).unwrap();
    let mut publication = honest.publication();
    publication.instance += 1;
    liar.publish(publication.clone()).unwrap();
    thread::sleep(ms(300));
    let after = corner.get(&instance_path(honest.addr)).unwrap();
    assert_eq!(after, (before, owner, version));

    let mut options = corner.options();
    options.require = true;
    let strict = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    let error = strict.publish(publication.clone()).unwrap_err().to_string();
    assert!(error.contains("advertise"), "{error}");
    publication.addr = "0.0.0.0:8000".parse().unwrap();
    let error = strict.publish(publication).unwrap_err().to_string();
    assert!(error.contains("advertise"), "{error}");
}

#[test]
fn a_name_that_another_living_process_holds_is_left_and_taken_when_it_goes() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let (provider, other) = (Provider::start(), Provider::start());
    let path = instance_path(provider.addr);
    let claim = format!("v=1\nid={:016x}\naddr={}\nproto=mux\n", other.instance, other.addr);
    let cpp = corner.connect();
    corner.put_with(&cpp, &path, claim.as_bytes(), zookeeper::CreateMode::Ephemeral);
    let registry = corner.registry();
    registry.publish(provider.publication()).unwrap();
    thread::sleep(ms(300));
    assert_eq!(corner.text(&path).unwrap(), claim);
    assert!(corner.text("/UserServiceRpc/Login").is_none(), "no mirror before the instance");
    drop(cpp);
    eventually(ms(9000), "taken", || corner.text(&path).is_some_and(|text| text != claim));
}

#[test]
fn our_nodes_are_repaired_when_somebody_deletes_or_overwrites_them() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let (provider, registry) = (Provider::start(), corner.registry());
    registry.publish(provider.publication()).unwrap();
    let path = instance_path(provider.addr);
    eventually(ms(2000), "mirrored", || corner.get("/UserServiceRpc/Login").is_some_and(|n| n.2 == 1));
    for path in [path.as_str(), "/UserServiceRpc/Login"] {
        let text = corner.text(path);
        corner.zk.delete(path, None).unwrap();
        eventually(ms(2000), "made again", || corner.text(path) == text);
        eventually(ms(2000), "set again", || corner.get(path).is_some_and(|n| n.2 >= 1));
        thread::sleep(ms(100));
        corner.zk.set_data(path, b"nonsense".to_vec(), None).unwrap();
        eventually(ms(2000), "written again", || corner.text(path) == text);
    }
}

#[test]
fn rubbish_does_not_hide_a_good_provider() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let (provider, registry) = (Provider::start(), corner.registry());
    registry.publish(provider.publication()).unwrap();
    let dir = "/mprpc/services/fixbug.UserServiceRpc/instances";
    for i in 0..1100 {
        corner.put(&format!("{dir}/!{i}"), b"junk");
    }
    for (name, data) in [
        ("1.2.3.4:99999", "v=1\naddr=1.2.3.4:99999\nproto=mux\n"),
        ("1.2.3.4:80", ""),
        ("1.2.3.4:81", "v=1\naddr=1.2.3.4:82\nproto=mux\n"),
        ("1.2.3.4:83", "v=1\naddr=1.2.3.4:83\nproto=morse\n"),
        ("0.0.0.0:84", "v=1\naddr=0.0.0.0:84\nproto=mux\n"),
        ("224.0.0.1:85", "v=1\naddr=224.0.0.1:85\nproto=mux\n"),
    ] {
        corner.put(&format!("{dir}/{name}"), data.as_bytes());
    }
    corner.put(&format!("{dir}/9.9.9.9:9"), &vec![0xff; 900_000]);
    let caller = corner.registry();
    assert_eq!(addrs(&look(&caller)), [provider.addr]);
    corner.put("/FriendServiceRpc/GetFriendsList", b"example.org:80\n");
    let friends = service("fixbug.FriendServiceRpc", &["GetFriendsList"]);
    assert!(caller.lookup(&friends, soon()).unwrap().endpoints.is_empty());
}

#[test]
fn a_service_nobody_serves_is_empty_and_a_provider_is_seen_when_it_comes() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let caller = corner.registry();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let caller = Arc::clone(&caller);
            thread::spawn(move || look(&caller))
        })
        .collect();
    let looks: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(looks.iter().all(|l| l.endpoints.is_empty() && Arc::ptr_eq(l, &looks[0])));
    let provider = Provider::start();
    let registry = corner.registry();
    registry.publish(provider.publication()).unwrap();
    eventually(ms(2000), "seen", || addrs(&look(&caller)) == [provider.addr]);
    let mut heavier = provider.publication();
    heavier.weight = 300;
    registry.publish(heavier).unwrap();
    eventually(ms(2000), "heavier", || look(&caller).endpoints[0].weight == 300);
    registry.stop(soon());
    eventually(ms(2000), "gone", || look(&caller).endpoints.is_empty());
    let source = caller.source(&user_service());
    assert!(
        source.starts_with("ZooKeeper at 127.0.0.1:")
            && source.contains("/mprpc/services/fixbug.UserServiceRpc/"),
        "{source}"
    );
}

#[test]
fn credentials_guard_our_nodes_and_leave_cpp_directories_open() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let mut options = corner.options();
    options.chroot += "/deep/er";
    options.auth = Some(("digest".into(), "user:secret".into()));
    let registry = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    let provider = Provider::start();
    registry.publish(provider.publication()).unwrap();
    let path = format!("/deep/er{}", instance_path(provider.addr));
    assert!(corner.text(&path).is_some());
    assert!(corner.zk.set_data(&path, vec![], None).is_err());
    assert_eq!(addrs(&look(&registry)), [provider.addr]);
    let mirror = "/deep/er/UserServiceRpc/Login";
    eventually(ms(2000), "mirrored", || corner.text(mirror).is_some());
    corner.put("/deep/er/UserServiceRpc/Other", b"127.0.0.1:28000");
}

#[test]
fn without_zookeeper_a_provider_serves_on_and_is_published_when_it_comes() {
    if server().is_none() {
        return;
    }
    let own = OwnServer::new();
    let provider = Provider::start();
    let mut options = mprpc_runtime::registry::ZooKeeperOptions::new(vec![own.address()]);
    options.require = true;
    let error = mprpc_runtime::registry::ZooKeeperRegistry::start(options.clone());
    let error = error.err().expect("it is required").to_string();
    assert!(error.contains(&own.address()), "{error}");

    options.require = false;
    let registry = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    let start = Instant::now();
    registry.publish(provider.publication()).unwrap();
    assert!(registry.lookup(&user_service(), soon()).is_err());
    assert!(start.elapsed() < ms(3000), "nobody waits for what is known to be away");
    own.run("start");
    eventually(ms(15_000), "published and found", || {
        registry.lookup(&user_service(), soon()).is_ok_and(|s| addrs(&s) == [provider.addr])
    });
}

#[test]
fn a_restart_and_an_outage_longer_than_the_session_are_survived() {
    if server().is_none() {
        return;
    }
    let own = OwnServer::started();
    let corner = Corner::of(&own.address());
    let provider = Provider::start();
    let mut options = corner.options();
    options.session_timeout = ms(4000);
    let start = |options: &mprpc_runtime::registry::ZooKeeperOptions| {
        mprpc_runtime::registry::ZooKeeperRegistry::start(options.clone()).unwrap()
    };
    let (registry, caller) = (start(&options), start(&options));
    registry.publish(provider.publication()).unwrap();
    assert_eq!(addrs(&look(&caller)), [provider.addr]);

    own.signal("-KILL");
    thread::sleep(ms(500));
    own.run("start");
    let second = Provider::start();
    let second_registry = start(&options);
    second_registry.publish(second.publication()).unwrap();
    eventually(ms(10_000), "a change after the restart is seen", || look(&caller).endpoints.len() == 2);

    own.run("stop");
    let before = look(&caller);
    thread::sleep(ms(6500));
    assert!(Arc::ptr_eq(&before, &look(&caller)), "the last snapshot serves on");
    own.run("start");
    let again = corner.connect();
    let published = |p: &Provider| {
        let path = instance_path(p.addr);
        again.get_data(&path, false).is_ok_and(|(_, stat)| stat.version == 1)
    };
    eventually(ms(15_000), "published again", || published(&provider) && published(&second));
    second_registry.withdraw(second.addr, soon());
    eventually(ms(10_000), "fresh again", || addrs(&look(&caller)) == [provider.addr]);
}

#[test]
fn a_server_that_speaks_rubbish_is_left_for_one_that_does_not() {
    use std::io::{Read, Write};
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    // It says that it serves; on what it answers to a session, the crate's thread panics.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = corner.options();
    options.hosts = vec![listener.local_addr().unwrap().to_string()];
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut start = [0; 4];
            let question = stream.read_exact(&mut start).is_ok() && start == *b"srvr";
            let answer: &[u8] = if question { b"Mode: standalone\n" } else { &[0, 0, 0, 4, 9, 9, 9, 9] };
            let _ = stream.write_all(answer);
            thread::sleep(ms(20));
        }
    });
    let start = Instant::now();
    options.require = true;
    let error = mprpc_runtime::registry::ZooKeeperRegistry::start(options.clone()).err().expect("no session");
    assert!(start.elapsed() < ms(5000), "{error}");
    options.require = false;
    options.hosts.push(corner.server.clone());
    let registry = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    let provider = Provider::start();
    registry.publish(provider.publication()).unwrap();
    // Half of the attempts go to the liar first; they pause for three seconds at most.
    eventually(ms(40_000), "published", || corner.text(&instance_path(provider.addr)).is_some());
}

#[test]
fn a_hanging_zookeeper_keeps_nobody_waiting() {
    if server().is_none() {
        return;
    }
    let own = OwnServer::started();
    let corner = Corner::of(&own.address());
    let provider = Provider::start();
    let mut options = corner.options();
    options.session_timeout = ms(4000);
    let registry = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    registry.publish(provider.publication()).unwrap();
    look(&registry);
    let before = corner.get(&instance_path(provider.addr)).unwrap().1;
    own.signal("-STOP");
    let hang = Instant::now();
    while hang.elapsed() < ms(8000) {
        let look_up = Instant::now();
        assert_eq!(addrs(&look(&registry)), [provider.addr]);
        assert!(look_up.elapsed() < ms(100));
        thread::sleep(ms(50));
    }
    let start = Instant::now();
    registry.withdraw(provider.addr, Instant::now() + ms(500));
    assert!(start.elapsed() < ms(1500), "bounded");
    registry.publish(provider.publication()).unwrap();
    own.signal("-CONT");
    let again = connect(&format!("{}{}", own.address(), corner.chroot));
    let path = instance_path(provider.addr);
    let owner =
        |path: &str| again.get_data(path, false).map(|(_, stat)| (stat.ephemeral_owner, stat.version));
    // The node of the session before may still be there, for a moment.
    let anew = || owner(&path).is_ok_and(|(owner, version)| owner != before && version == 1);
    eventually(ms(10_000), "published again", anew);
    let settled = owner(&path).unwrap();
    thread::sleep(ms(5000)); // by then the old sessions are over
    assert_eq!(owner(&path).ok(), Some(settled));
}

#[test]
fn the_death_of_an_ensembles_leader_and_a_dead_first_host_go_unnoticed() {
    if server().is_none() {
        return;
    }
    let own = OwnServer::new();
    own.run("start ensemble");
    let corner = Corner::of(&own.address());
    let provider = Provider::start();
    let mut options = corner.options();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap(); // it never accepts
    options.hosts = vec![silent.local_addr().unwrap().to_string()];
    options.hosts.extend((1..=3).map(|member| own.member(member)));
    let start = Instant::now();
    let registry = mprpc_runtime::registry::ZooKeeperRegistry::start(options.clone()).unwrap();
    registry.publish(provider.publication()).unwrap();
    look(&registry);
    assert!(start.elapsed() < ms(8000));

    let leader = own.leader();
    own.signal_to(leader, "-KILL");
    let kill = Instant::now();
    let second = Provider::start();
    let second_registry = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    second_registry.publish(second.publication()).unwrap();
    let both = [provider.addr, second.addr];
    eventually(ms(10_000), "registration and discovery are fresh", || {
        let seen = look(&registry);
        assert!(!seen.endpoints.is_empty(), "calls go on");
        both.iter().all(|addr| addrs(&seen).contains(addr))
    });
    eprintln!("fresh {:?} after the leader's death", kill.elapsed());
}

#[test]
fn a_hundred_providers_come_and_go_and_each_change_is_seen_soon() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let mut options = corner.options();
    // No audit in the meantime; and a number by which the server's list of connections shows it.
    options.session_timeout = ms(39_876);
    let caller = mprpc_runtime::registry::ZooKeeperRegistry::start(options).unwrap();
    let requests = || requests(&server, "to=39876,");
    assert!(look(&caller).endpoints.is_empty());
    let (before, start) = (requests(), Instant::now());
    let path = |n: u16| instance_path(([127, 0, 0, 1], 20_000 + n).into());
    for n in 0..100 {
        let text = format!("v=1\naddr=127.0.0.1:{}\nproto=mux\n", 20_000 + n);
        corner.put(&path(n), text.as_bytes());
        eventually(ms(2000), "seen to come", || look(&caller).endpoints.len() == usize::from(n) + 1);
    }
    let added = requests();
    let serving = || look(&caller).endpoints.iter().filter(|e| !e.draining).count();
    for n in 0..100 {
        corner.zk.delete(&path(n), None).unwrap();
        eventually(ms(2000), "seen to go", || serving() == 99 - usize::from(n));
    }
    eventually(ms(2000), "all gone", || look(&caller).endpoints.is_empty());
    let (came, went) = (added - before, requests() - added);
    eprintln!("100 came: {came} requests, 100 went: {went} requests, {:?}", start.elapsed());
    // For each that comes a list and its data, for each that goes at most a list. The directory is made
    // with the first, and there is a ping now and then.
    assert!(came <= 200 + 5 && went <= 100 + 5, "{came}, {went}");
}
