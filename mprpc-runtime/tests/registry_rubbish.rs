//! Thirty kinds of rubbish in ZooKeeper beside one good provider: every call is answered, and the log
//! names each of them. Alone in its process, because it reads the log.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

#[path = "registry_provider/echo.rs"]
mod echo;
#[allow(dead_code, reason = "shared with the other tests of the registry")]
#[path = "registry_zookeeper/support.rs"]
mod support;

use std::fs;

use echo::*;
use mprpc_runtime::{MprpcChannel, Stub};
use support::*;

/// Below the instances: a name and what stands there. `@` is the name itself.
const INSTANCES: [(&str, &[u8]); 24] = [
    ("junk", b""),
    ("10.9.9.9", b"v=1\naddr=10.9.9.9\n"),
    ("10.9.9.9:", b""),
    ("10.9.9.9:0", b"v=1\naddr=@\n"),
    ("10.9.9.9:99999", b"v=1\naddr=@\n"),
    ("10.9.9.9:080", b"v=1\naddr=@\n"),
    ("010.9.9.9:80", b"v=1\naddr=@\n"),
    ("0.0.0.0:80", b"v=1\naddr=@\n"),
    ("224.0.0.1:80", b"v=1\naddr=@\n"),
    ("example.org:80", b"v=1\naddr=@\n"),
    ("localhost:80", b"v=1\naddr=@\n"),
    (" 10.9.9.9:80", b"v=1\naddr=@\n"),
    ("%2e%2e", b"v=1\naddr=127.0.0.1:80\n"),
    ("10.9.9.1:80", b""),
    ("10.9.9.2:80", b"\xff\xfe\x00"),
    ("10.9.9.3:80", b"{\"addr\":\"10.9.9.3:80\"}"),
    ("10.9.9.4:80", b"v=0\naddr=@\n"),
    ("10.9.9.5:80", b"v=1\n"),
    ("10.9.9.6:80", b"v=1\naddr=127.0.0.1:80\n"),
    ("10.9.9.7:80", b"v=1\naddr=@\nproto=morse\n"),
    ("10.9.9.8:80", b"v=1\naddr=@\nproto=mux\nweight=10001\n"),
    ("10.9.9.10:80", b"v=1\naddr=@\nproto=mux\nweight=heavy\n"),
    ("10.9.9.11:80", b"v=1\naddr=@\nproto=mux\nstate=dead\n"),
    ("10.9.9.12:80", &[b'x'; 100_000]),
];

/// At methods, where C++ providers register.
const METHODS: [(&str, &[u8]); 6] = [
    ("Empty", b""),
    ("Host", b"example.org:80"),
    ("Port", b"10.9.9.9:65536"),
    ("Spaces", b" 10.9.9.9:80 \n"),
    ("Nowhere", b"0.0.0.0:80"),
    ("Long", &[b'1'; 100]),
];

#[test]
fn thirty_kinds_of_rubbish_beside_one_provider_cost_no_call_and_are_named() {
    let Some(server) = server() else { return };
    let corner = Corner::of(&server);
    let zookeeper = format!("{server}{}", corner.chroot);
    let logs = std::env::temp_dir().join(format!("mprpc-rubbish-{:016x}", random()));
    fs::create_dir(&logs).unwrap();
    let log_dir = ("log_dir", logs.to_str().unwrap());
    let app = app(&zookeeper, &[log_dir, ("legacy_mirror", "off"), ("zookeepertimeout", "4s")]);
    let running = serve(&app, "good");
    let stub = Stub::new(MprpcChannel::new(&app).unwrap());
    // Half of it is there before the first call, half comes while calls go on.
    let put = |n: usize| {
        for (name, data) in INSTANCES.iter().filter(|(name, _)| name.len() % 2 == n) {
            let text = std::str::from_utf8(data).map(|text| text.replace('@', name).into_bytes());
            let data = text.unwrap_or_else(|_| data.to_vec());
            corner.put(&format!("/mprpc/services/demo.EchoRpc/instances/{name}"), &data);
        }
        for (name, data) in METHODS.iter().filter(|(name, _)| name.len() % 2 == n) {
            corner.put(&format!("/EchoRpc/{name}"), data);
        }
    };
    put(0);
    for n in 0..600 {
        assert_eq!(call(&stub, "").unwrap(), "good", "call {n}");
        if n == 300 {
            put(1);
        }
        std::thread::sleep(ms(1));
    }
    let text = || {
        let files =
            fs::read_dir(&logs).unwrap().map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
        files.collect::<String>()
    };
    // A directory has at most one line in ten seconds, so those that came later are named later.
    eventually(ms(20_000), "all are named", || {
        let text = text();
        INSTANCES.iter().chain(&METHODS).all(|(name, _)| text.contains(&format!("{name:?} (")))
    });
    let text = text();
    let lines = text.lines().filter(|line| line.contains("make no sense")).count();
    assert!(lines <= 6, "{text}");
    assert_eq!(text.matches("\"10.9.9.7:80\" (").count(), 1, "once is enough");
    drop(running);
    fs::remove_dir_all(logs).unwrap();
}
