//! Plain operations on znodes against a real ZooKeeper (`MPRPC_TEST_ZK`; without it nothing is tested).
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[allow(dead_code, reason = "shared with the other tests of the registry")]
#[path = "registry_zookeeper/support.rs"]
mod support;

use std::{thread, time::Instant};

use mprpc_runtime::{Code, Error, registry::ZkClient};
use support::*;

#[test]
fn nodes_are_made_read_listed_and_deleted() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let zk = ZkClient::start(corner.options()).unwrap();
    assert_eq!(zk.get("/a/b").unwrap(), None);
    assert_eq!(zk.children("/a").unwrap(), None);
    assert!(!zk.exists("/a/b").unwrap() && !zk.delete("/a/b").unwrap());

    assert!(zk.create("/a/b", b"one").unwrap(), "with what is above it");
    assert!(!zk.create("/a/b", b"two").unwrap(), "it stays as it is");
    assert_eq!(corner.get("/a/b").unwrap(), ("one".into(), 0, 0));
    assert_eq!(zk.get("/a/b").unwrap().as_deref(), Some(&b"one"[..]));
    assert_eq!(zk.get("/a").unwrap().as_deref(), Some(&b""[..]));
    assert!(zk.create_ephemeral("/a/c", &[0, 0xff]).unwrap());
    assert!(corner.get("/a/c").unwrap().1 != 0);
    assert_eq!(zk.get("/a/c").unwrap().as_deref(), Some(&[0, 0xff][..]));
    assert_eq!(zk.children("/a").unwrap().unwrap(), ["b", "c"]);
    assert!(zk.children("/").unwrap().unwrap().contains(&"a".to_owned()), "the chroot's");

    let error = zk.delete("/a").unwrap_err();
    assert!(error.code() == Code::FailedPrecondition && error.did_not_run(), "{error}");
    assert!(error.to_string().contains("zookeeper delete /a") && error.to_string().contains("children"));
    let error = zk.create("/a/c/d", b"").unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    for bad in ["", "a", "/a/", "/a//b", "/../a", "/a\0b"] {
        assert!(matches!(zk.create(bad, b""), Err(Error::Usage(_))), "{bad:?}");
    }
    assert!(zk.create("/big", &vec![7; 1_000_000]).unwrap());
    assert!(matches!(zk.create("/bigger", &vec![7; 1_000_001]), Err(Error::Usage(_))));
    assert_eq!(zk.get("/big").unwrap().unwrap().len(), 1_000_000);

    assert!(zk.delete("/a/c").unwrap() && !zk.delete("/a/c").unwrap());
    assert!(zk.delete("/a/b").unwrap() && zk.delete("/a").unwrap());
    assert!(zk.create_ephemeral("/mine", b"").unwrap());
    drop(zk);
    eventually(ms(1000), "an ephemeral node goes with its client", || corner.get("/mine").is_none());
}

#[test]
fn a_kept_node_is_made_again_until_it_is_deleted_and_anothers_is_left_alone() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let zk = ZkClient::start(corner.options()).unwrap();
    assert!(zk.create_ephemeral("/w/me", b"x").unwrap());
    corner.zk.delete("/w/me", None).unwrap();
    eventually(ms(2000), "made again", || corner.text("/w/me").as_deref() == Some("x"));
    corner.zk.set_data("/w/me", b"y".to_vec(), None).unwrap();
    thread::sleep(ms(300));
    assert_eq!(corner.text("/w/me").as_deref(), Some("y"), "data is anybody's");
    assert!(zk.delete("/w/me").unwrap());
    corner.put("/w/me", b"another's");
    assert!(!zk.create_ephemeral("/w/me", b"x").unwrap());
    thread::sleep(ms(300));
    assert_eq!(corner.text("/w/me").as_deref(), Some("another's"));
    corner.zk.delete("/w/me", None).unwrap();
    thread::sleep(ms(300));
    assert_eq!(corner.text("/w/me"), None, "what was not made is not kept");
}

#[test]
fn many_threads_may_use_one_client() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let zk = &ZkClient::start(corner.options()).unwrap();
    let made: usize = thread::scope(|scope| {
        let each = |t: usize| {
            move || {
                let made =
                    (0..25).filter(|n| zk.create(&format!("/n/{n}"), t.to_string().as_bytes()).unwrap());
                made.count()
            }
        };
        let threads: Vec<_> = (0..4).map(|t| scope.spawn(each(t))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(made, 25, "each node once");
    assert_eq!(zk.children("/n").unwrap().unwrap().len(), 25);
}

#[test]
fn a_hanging_or_absent_server_is_an_error_within_five_seconds_and_is_survived() {
    if server().is_none() {
        return;
    }
    let own = OwnServer::started();
    let corner = Corner::of(&own.address());
    let mut options = corner.options();
    options.session_timeout = ms(4000);
    let zk = ZkClient::start(options.clone()).unwrap();
    assert!(zk.create_ephemeral("/mine", b"x").unwrap());
    let owner = corner.get("/mine").unwrap().1;

    own.signal("-STOP");
    let start = Instant::now();
    let unmade = zk.create("/other", b"").unwrap_err();
    assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
    own.signal("-KILL");
    let start = Instant::now();
    let error = zk.get("/mine").unwrap_err();
    assert!(start.elapsed() < ms(5000), "{:?}", start.elapsed());
    assert!(error.did_not_run() && error.code() == Code::Unavailable, "{error}");
    assert!(ZkClient::start(options).is_err(), "who starts is told");

    own.run("start");
    let again = connect(&format!("{}{}", own.address(), corner.chroot));
    let remade = || again.get_data("/mine", false).is_ok_and(|(_, stat)| stat.ephemeral_owner != owner);
    eventually(ms(15_000), "made again in a new session", remade);
    assert_eq!(zk.get("/mine").unwrap().as_deref(), Some(&b"x"[..]));
    // It did not run if the registry's thread noticed the hang before it came to the create.
    let made = again.exists("/other", false).unwrap().is_some();
    assert!(!(made && unmade.did_not_run()), "{unmade}");
}
