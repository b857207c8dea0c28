//! The example programs as users run them: separate processes, configuration files, foreign peers.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use mprpc_tests::{Process, TempDir, address_in, peer, program, zookeeper};

const SOON: Duration = Duration::from_secs(15);
const LONG: Duration = Duration::from_secs(120);
const RESULTS: [&str; 3] =
    ["rpc login response success", "rpc register response success", "rpc GetFriendsList response success"];

/// A callee on a free port of 127.0.0.1, with `settings` beside the address.
fn callee(dir: &TempDir, settings: &[(&str, &str)]) -> (Process, SocketAddr) {
    let mut callee = example("callee", dir, settings);
    let line = callee.wait_line("RpcProvider start service at", SOON);
    (callee, address_in(&line))
}

fn example(name: &str, dir: &TempDir, settings: &[(&str, &str)]) -> Process {
    let mut command = program(name);
    command.arg("-i").arg(dir.conf(&format!("{name}.conf"), settings));
    Process::start(command)
}

fn client(script: &str, addr: SocketAddr, options: &[&str]) -> Process {
    let mut command = peer(script);
    command.arg("--addr").arg(addr.to_string()).args(options);
    Process::start(command)
}

fn assert_results(lines: &[String]) {
    for result in RESULTS {
        assert!(lines.iter().any(|line| line.contains(result)), "no {result:?} in\n{}", lines.join("\n"));
    }
}

/// A part of the test ZooKeeper that belongs to one test.
struct Root {
    server: String,
    path: String,
}

impl Root {
    fn new(name: &str) -> Option<Self> {
        let root = Self { server: zookeeper()?, path: format!("/mprpc-tests-{}-{name}", std::process::id()) };
        root.jute("create", "").succeed(SOON);
        Some(root)
    }

    fn jute(&self, command: &str, path: &str) -> Process {
        let mut jute = peer("jute.py");
        jute.args(["--zk", &self.server, command]).arg(format!("{}{path}", self.path));
        Process::start(jute)
    }

    /// The paths below the root, one a line, with their data.
    fn tree(&self) -> Vec<String> {
        let lines = self.jute("tree", "").succeed(SOON);
        lines.iter().map(|line| line.replace(&self.path, "")).collect()
    }

    /// `zookeeperip` and `zookeeperport` of a configuration.
    fn settings(&self) -> [(&'static str, String); 2] {
        let (host, port) = self.server.rsplit_once(':').expect("host:port");
        [("zookeeperip", format!("{host}:{port}{}", self.path)), ("zookeeperport", port.to_owned())]
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let (_, _) = self.jute("delete", "").finish(SOON);
    }
}

fn borrowed<'a>(settings: &'a [(&'static str, String); 2]) -> [(&'static str, &'a str); 2] {
    [0, 1].map(|i| (settings[i].0, settings[i].1.as_str()))
}

#[test]
fn callee_serves_legacy_callers_in_every_form() {
    let dir = TempDir::new();
    let (_callee, addr) = callee(&dir, &[("request_timeout", "1s")]);
    let whole = ["--dialect", "all", "--cuts", "--request-timeout", "1"];
    let whole = client("legacy_client.py", addr, &whole);
    let bytes = client("legacy_client.py", addr, &["--dialect", "all", "--split", "1"]);
    whole.succeed(LONG);
    bytes.succeed(LONG);
}

#[test]
fn callee_keeps_to_the_description_of_mux() {
    let dir = TempDir::new();
    let (_callee, addr) = callee(&dir, &[("request_timeout", "1s")]);
    let whole = client("mux_client.py", addr, &["--request-timeout", "1"]);
    let bytes = client("mux_client.py", addr, &["--split", "1"]);
    whole.succeed(LONG);
    bytes.succeed(LONG);
}

#[test]
fn caller_calls_the_address_in_its_configuration() {
    let dir = TempDir::new();
    let (callee, addr) = callee(&dir, &[]);
    let port = addr.port().to_string();
    let caller = example("caller", &dir, &[("rpcserverip", "127.0.0.1"), ("rpcserverport", &port)]);
    assert_results(&caller.succeed(SOON));
    callee.terminate();
    callee.succeed(SOON);
}

#[test]
fn caller_speaks_mux_to_a_provider_that_answers_out_of_order() {
    let dir = TempDir::new();
    let mut command = peer("ref_server.py");
    command.arg("--shuffle");
    let mut server = Process::start(command);
    let port = address_in(&server.wait_line("listening on", SOON)).port().to_string();
    assert_results(&example("caller", &dir, &[("rpcserverport", &port)]).succeed(SOON));
}

#[test]
fn caller_speaks_legacy_where_the_configuration_says_so() {
    let dialects = [("legacy", "le"), ("legacy-be", "be"), ("legacy-varint", "varint")];
    for (protocol, dialect) in dialects {
        let dir = TempDir::new();
        let mut command = peer("legacy_callee.py");
        command.args(["--dialect", dialect, "--calls", "1"]);
        let mut server = Process::start(command);
        let port = address_in(&server.wait_line("listening on", SOON)).port().to_string();
        let settings = [("rpcserverport", port.as_str()), ("protocol", protocol), ("timeout", "2s")];
        let mut caller = example("caller", &dir, &settings);
        caller.wait_line(RESULTS[0], SOON);
        server.succeed(SOON); // one call served, in one piece, not half-closed early
    }
}

#[test]
fn a_legacy_provider_that_fails_is_never_a_success() {
    for mode in ["reset", "empty", "cut", "silent"] {
        let dir = TempDir::new();
        let mut command = peer("legacy_callee.py");
        command.args(["--mode", mode, "--calls", "1"]);
        let mut server = Process::start(command);
        let port = address_in(&server.wait_line("listening on", SOON)).port().to_string();
        let settings = [("rpcserverport", port.as_str()), ("protocol", "legacy"), ("timeout", "1s")];
        let (_, lines) = example("caller", &dir, &settings).finish(SOON);
        assert!(
            !lines.iter().any(|line| line.contains(RESULTS[0])),
            "{mode} looks like a success:\n{}",
            lines.join("\n")
        );
    }
}

#[test]
fn caller_finds_a_cpp_provider_that_registers_only_login() {
    let Some(root) = Root::new("cpp") else { return };
    let dir = TempDir::new();
    let mut command = peer("legacy_callee.py");
    command.args(["--zk", &root.server, "--chroot", &root.path, "--calls", "1", "--session", "4000"]);
    let mut server = Process::start(command);
    server.wait_line("listening on", SOON);
    let settings = root.settings();
    let mut caller = example("caller", &dir, &borrowed(&settings));
    caller.wait_line(RESULTS[0], SOON);
    server.succeed(SOON);
}

#[test]
fn callee_stands_in_zookeeper_until_it_is_asked_to_end() {
    let Some(root) = Root::new("znodes") else {
        return;
    };
    let dir = TempDir::new();
    let settings = root.settings();
    let (callee, addr) = callee(&dir, &borrowed(&settings));
    let services = ["fixbug.UserServiceRpc", "fixbug.FriendServiceRpc"];
    for service in services {
        let node = format!("/mprpc/services/{service}/instances/{addr}");
        root.jute("wait", &node).succeed(SOON); // it serves first, then it publishes
    }
    let caller = example("caller", &dir, &borrowed(&settings));
    assert_results(&caller.succeed(SOON));

    let tree = root.tree();
    let has = |start: &str| tree.iter().any(|line| line.starts_with(start));
    for service in services {
        let node = format!("/mprpc/services/{service}/instances/{addr} (ephemeral) = v=1\\n");
        assert!(has(&node), "no {node} in {tree:#?}");
    }
    for method in ["UserServiceRpc/Login", "UserServiceRpc/Register", "FriendServiceRpc/GetFriendsList"] {
        let mirror = format!("/{method} (ephemeral) = {addr}\\0mprpc");
        root.jute("wait", &format!("/{method}")).succeed(SOON); // a free name is taken after a pause
        assert!(
            root.tree().iter().any(|line| line.starts_with(&mirror)),
            "no {mirror} in {:#?}",
            root.tree()
        );
    }

    callee.terminate();
    callee.succeed(SOON);
    let left = root.tree();
    assert!(!left.iter().any(|line| line.contains("(ephemeral)")), "nodes outlive the process: {left:#?}");
}

#[test]
fn start_errors_are_one_line_and_a_status() {
    let dir = TempDir::new();
    let status_and_lines = |command: Command| Process::start(command).finish(SOON);

    let mut missing = program("callee");
    missing.arg("-i").arg(dir.path().join("missing.conf"));
    let (status, lines) = status_and_lines(missing);
    assert_eq!(status.code(), Some(2), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("missing.conf"), "{lines:?}");

    let bad = dir.conf("bad.conf", &[("rpcserverport", "eighty")]);
    let mut wrong = program("callee");
    wrong.arg("-i").arg(&bad);
    let (status, lines) = status_and_lines(wrong);
    assert_eq!(status.code(), Some(2), "{lines:?}");
    for part in ["bad.conf:2", "rpcserverport", "eighty"] {
        assert!(lines.len() == 1 && lines[0].contains(part), "no {part} in {lines:?}");
    }

    let (_first, addr) = callee(&dir, &[]);
    let port = addr.port().to_string();
    let (status, lines) = example("callee", &dir, &[("rpcserverport", &port)]).finish(SOON);
    assert_eq!(status.code(), Some(1), "{lines:?}");
    let said = |part: &str| lines.iter().any(|line| line.contains(part));
    assert!(said(&port) && said("rpcserverport; port 0 takes any free one"), "{lines:?}");

    // Kept free for documentation, RFC 5737: no machine's own.
    let (status, lines) = example("callee", &dir, &[("rpcserverip", "192.0.2.1")]).finish(SOON);
    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("want an address of this machine"), "{lines:?}");
}

#[test]
fn a_file_that_names_nobody_to_call_is_named_itself() {
    let dir = TempDir::new();
    let (status, lines) = example("caller", &dir, &[]).finish(SOON);
    assert_eq!(status.code(), Some(1), "{lines:?}");
    assert!(lines.len() == 1 && lines[0].contains("caller.conf\"), where rpcserverport"), "{lines:?}");
}

#[test]
fn a_callee_that_starts_without_its_zookeeper_serves_and_says_so() {
    let dir = TempDir::new();
    let (callee, _) = callee(&dir, &[("zookeeperip", "127.0.0.1:1")]); // nobody listens there
    callee.terminate();
    let lines = callee.succeed(SOON);
    let said: Vec<_> = lines.iter().filter(|line| line.contains("not published yet")).collect();
    assert!(said.len() == 1 && said[0].contains("ZooKeeper at 127.0.0.1:1: "), "{lines:?}");
}

#[test]
fn passwords_do_not_reach_the_log() {
    let dir = TempDir::new();
    let (callee, addr) = callee(&dir, &[("log_level", "trace")]);
    let mut login = peer("legacy_client.py");
    login.args(["--calls-only", "--addr"]).arg(addr.to_string());
    Process::start(login).succeed(LONG);
    callee.terminate();
    callee.succeed(SOON);
    for file in fs::read_dir(dir.path()).expect("the directory exists") {
        let path = file.expect("an entry").path();
        let text = fs::read(&path).expect("a readable file");
        let found = text.windows(6).any(|bytes| bytes == b"123456");
        assert!(!found, "a password in {}", path.display());
    }
}
