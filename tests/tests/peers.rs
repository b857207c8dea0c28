//! The peers judge other programs, so they are judged first: against a reference, and against faults.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use mprpc_tests::{Process, address_in, peer, root, zookeeper};

const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

fn reference(options: &[&str]) -> (Process, SocketAddr) {
    let mut command = peer("ref_server.py");
    command.args(options);
    let mut server = Process::start(command);
    let addr = address_in(&server.wait_line("listening on", SOON));
    (server, addr)
}

fn client(script: &str, addr: SocketAddr, options: &[&str]) -> Process {
    let mut command = peer(script);
    command.arg("--addr").arg(addr.to_string()).args(options);
    Process::start(command)
}

#[test]
fn clients_write_and_read_the_vectors() {
    Process::start(peer("vectors.py")).succeed(SOON);
}

#[test]
fn legacy_client_accepts_the_reference() {
    let (_server, addr) = reference(&["--request-timeout", "1"]);
    let whole = client("legacy_client.py", addr, &["--dialect", "all", "--cuts", "--request-timeout", "1"]);
    let bytes = client("legacy_client.py", addr, &["--dialect", "all", "--split", "1"]);
    whole.succeed(LONG);
    bytes.succeed(LONG);
}

#[test]
fn mux_client_accepts_the_reference_and_replies_out_of_order() {
    let (_server, addr) = reference(&["--shuffle", "--request-timeout", "1"]);
    let whole = client("mux_client.py", addr, &["--request-timeout", "1"]);
    let bytes = client("mux_client.py", addr, &["--split", "1"]);
    whole.succeed(LONG);
    bytes.succeed(LONG);
}

#[test]
fn clients_notice_every_fault() {
    let legacy = ["clean-close", "pieces"].map(|fault| ("legacy_client.py", fault));
    let mux = ["twice", "ids", "silent-end", "goaway-id", "pong", "end-flag", "expired", "limit"]
        .map(|fault| ("mux_client.py", fault));
    for (script, fault) in legacy.into_iter().chain(mux) {
        let (_server, addr) = reference(&["--fault", fault]);
        let (status, lines) = client(script, addr, &["--timeout", "1"]).finish(LONG);
        assert_eq!(status.code(), Some(1), "{script} does not notice {fault}");
        assert!(
            lines.iter().any(|line| line.starts_with("FAIL")),
            "{script} does not say what is wrong with {fault}"
        );
    }
}

/// Login{name "zhang san", pwd "123456"}, as a C++ caller sends it.
const LOGIN: &[u8] = b"\x19\0\0\0\x0a\x0eUserServiceRpc\x12\x05Login\x18\x13\x0a\x09zhang san\x12\x06123456";

fn call(addr: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&addr, SOON).expect("the callee listens");
    stream.set_read_timeout(Some(SOON)).expect("a limit above zero");
    stream.set_nodelay(true).expect("a connected socket");
    for piece in pieces {
        stream.write_all(piece).expect("the callee reads");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply); // an early end shows as a short reply
    reply
}

#[test]
fn legacy_callee_serves_login_and_registers_it() {
    let Some(zk) = zookeeper() else { return };
    let nodes = |command: &str, path: &str| {
        let mut jute = peer("jute.py");
        jute.args(["--zk", &zk, command, path]);
        Process::start(jute)
    };
    let mut command = peer("legacy_callee.py");
    command.args(["--zk", &zk, "--calls", "1", "--service", "PeerTestRpc"]);
    let mut callee = Process::start(command);
    let addr = address_in(&callee.wait_line("listening on", SOON));
    assert_eq!(nodes("get", "/PeerTestRpc/Login").succeed(SOON), [addr.to_string()]);
    let login = [b"\x16\0\0\0\x0a\x0bPeerTestRpc".as_slice(), &LOGIN[20..]].concat();
    assert_eq!(call(addr, &[&login]), b"\x0a\0\x10\x01");
    callee.succeed(SOON);
    assert_eq!(nodes("ls", "/PeerTestRpc").succeed(SOON), [""], "the node ends with the session");
    nodes("delete", "/PeerTestRpc").succeed(SOON);
}

#[test]
fn legacy_callee_objects_to_a_request_in_pieces() {
    let mut command = peer("legacy_callee.py");
    command.args(["--calls", "1", "--limit", "1"]);
    let mut callee = Process::start(command);
    let addr = address_in(&callee.wait_line("listening on", SOON));
    assert_eq!(call(addr, &[&LOGIN[..20], &LOGIN[20..]]), b"");
    callee.wait_line("VIOLATION", SOON);
    assert_eq!(callee.finish(SOON).0.code(), Some(1));
}

#[test]
fn layer_check_finds_what_is_planted() {
    let mut command = Command::new("bash");
    command.arg(root().join("scripts/check-layers.sh")).arg("--self-test");
    Process::start(command).succeed(LONG);
}
