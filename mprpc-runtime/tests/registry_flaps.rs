//! The registry beside a ZooKeeper that comes and goes: what it costs, and what it leaves behind.
//! Alone in its process, because it counts threads and descriptors.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[allow(dead_code, reason = "shared with the other tests of the registry")]
#[path = "registry_zookeeper/support.rs"]
mod support;

use std::{fs, thread, time::Instant};

use mprpc_runtime::registry::{Registry, ZooKeeperRegistry};
use support::*;

/// Shows what the registry and the crate say, each line with the seconds since the first.
struct Log(std::sync::OnceLock<Instant>);

static LOG: Log = Log(std::sync::OnceLock::new());

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let at = self.0.get_or_init(Instant::now).elapsed();
        eprintln!("{at:9.3?} {} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// For a person who looks for the reason of a failure.
fn show_log() {
    let _ = log::set_logger(&LOG).map(|()| log::set_max_level(log::LevelFilter::Info));
}

/// Threads of the registry and of the zookeeper crate, the ticks that they used, open descriptors.
fn costs() -> (usize, u64, usize) {
    let (mut threads, mut ticks) = (0, 0);
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        let Ok(stat) = fs::read_to_string(path.join("stat")) else {
            continue; // it ended
        };
        let (name, rest) = stat.rsplit_once(") ").unwrap();
        let name = name.split_once('(').unwrap().1;
        if ["mprpc-registry", "mprpc-zookeeper", "io", "event"].contains(&name) {
            threads += 1;
            let fields: Vec<&str> = rest.split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    (threads, ticks, fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
fn a_flapping_zookeeper_costs_little_and_leaves_one_registration_and_nothing_else() {
    if server().is_none() {
        return;
    }
    if std::env::var_os("MPRPC_TEST_LOG").is_some() {
        show_log();
    }
    let own = OwnServer::started();
    let corner = Corner::of(&own.address());
    let provider = Provider::start();
    let mut options = corner.options();
    options.session_timeout = ms(4000);
    drop(corner);
    let registry = ZooKeeperRegistry::start(options.clone()).unwrap();
    registry.publish(provider.publication()).unwrap();
    look(&registry);
    thread::sleep(ms(500));
    let (threads, ticks, descriptors) = costs();
    let start = Instant::now();
    for round in 0..4 {
        own.signal(if round % 2 == 0 { "-KILL" } else { "-TERM" });
        // Now and then longer than the session.
        thread::sleep(ms(if round == 2 { 7000 } else { 1000 }));
        own.run("start");
        thread::sleep(ms(1000));
        assert_eq!(addrs(&look(&registry)), [provider.addr]);
    }
    let used = costs().1 - ticks;
    assert!(used <= 2 + start.elapsed().as_millis() as u64 / 10 / 50, "{used} ticks: over 2 %");

    let zk = connect(&format!("{}{}", own.address(), options.chroot));
    let path = instance_path(provider.addr);
    eventually(ms(15_000), "published again", || {
        zk.get_data(&path, false).is_ok_and(|(_, stat)| stat.version == 1)
    });
    let instances = "/mprpc/services/fixbug.UserServiceRpc/instances";
    assert_eq!(zk.get_children(instances, false).unwrap(), [provider.addr.to_string()]);
    drop(zk);
    eventually(ms(20_000), "threads and descriptors as before", || {
        let now = costs();
        now.0 == threads && now.2 <= descriptors
    });
    registry.stop(soon());
    drop(registry);
    eventually(ms(5000), "all threads ended", || costs().0 == 0);
}
