//! The smaller example programs: relay, cluster, chat, deferred, interceptors, protobuf-demo.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use mprpc_runtime::MprpcConfig;
use mprpc_tests::{Process, TempDir, address_in, program, root};

const SOON: Duration = Duration::from_secs(20);

fn start(name: &str, dir: &TempDir, settings: &[(&str, &str)]) -> Process {
    let mut command = program(name);
    command.arg("-i").arg(dir.conf(&format!("{name}.conf"), settings));
    Process::start(command)
}

fn listening(name: &str, dir: &TempDir, settings: &[(&str, &str)], says: &str) -> (Process, SocketAddr) {
    let mut process = start(name, dir, settings);
    let addr = address_in(&process.wait_line(says, SOON));
    (process, addr)
}

#[test]
fn a_relay_passes_on_the_answer_and_the_failure_of_the_service_behind_it() {
    let dir = TempDir::new();
    let serves = "RpcProvider start service at";
    let (callee, behind) = listening("callee", &dir, &[], serves);
    let peers = behind.to_string();
    let (_relay, addr) = listening("relay", &dir, &[("peers", &peers)], serves);
    let port = addr.port().to_string();
    let ask = || start("relay-ask", &dir, &[("rpcserverport", &port)]);

    let greetings = ask().succeed(SOON);
    assert_eq!(greetings, ["ni hao, gao yang!", "ni hao, liu hong!", "ni hao, wang shuo!"]);

    callee.terminate();
    callee.succeed(SOON);
    let (status, lines) = ask().finish(SOON);
    assert_eq!(status.code(), Some(1), "{lines:?}");
    for part in
        ["UNAVAILABLE relay.GreetingServiceRpc/GreetFriends", "fixbug.FriendServiceRpc/GetFriendsList"]
    {
        assert!(lines.iter().any(|line| line.contains(part)), "no {part} in {lines:?}");
    }
}

#[test]
fn a_cluster_shares_the_calls_out_and_goes_on_without_one_of_its_callees() {
    let lines = start("cluster", &TempDir::new(), &[]).succeed(SOON);
    let stopped = lines.iter().position(|line| line == "callee-1 has stopped").expect("it says so");
    let (before, after) = lines.split_at(stopped);
    let counts = |lines: &[String]| -> Vec<(String, u32)> {
        let words = lines.iter().map(|line| line.split(' ').collect::<Vec<_>>());
        let answers = words.filter(|words| words.get(1) == Some(&"answered"));
        answers.map(|words| (words[0].to_owned(), words[2].parse().expect("a number of calls"))).collect()
    };
    let (before, after) = (counts(before), counts(after));
    for answered in [&before, &after] {
        assert_eq!(answered.iter().map(|(_, calls)| calls).sum::<u32>(), 3000, "{lines:#?}");
    }
    let names = |counts: &[(String, u32)]| counts.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), ["callee-1", "callee-2", "callee-3"]);
    assert_eq!(names(&after), ["callee-2", "callee-3"]);
}

#[test]
fn one_worker_has_a_hundred_deferred_calls_open_at_once() {
    let lines = start("deferred", &TempDir::new(), &[("worker_threads", "1")]).succeed(SOON);
    // One after the other they would take twenty seconds, and the call's time would be over after five.
    assert!(lines.iter().any(|line| line.starts_with("100 calls that take 200ms each")), "{lines:?}");
}

#[test]
fn interceptors_send_check_count_and_log() {
    let dir = TempDir::new();
    let lines = start("interceptors", &dir, &[("token", "secret")]).succeed(SOON);
    let said = |part: &str| lines.iter().any(|line| line.contains(part));
    for part in [
        "UNAUTHENTICATED fixbug.UserServiceRpc/Login",
        "made: Login OK 10 ",
        "made: Login UNAUTHENTICATED 1 ",
    ] {
        assert!(said(part), "no {part} in {lines:#?}");
    }
    for part in ["served: Login OK 10 ", "served: Login UNAUTHENTICATED 1 "] {
        assert!(said(part), "no {part} in {lines:#?}");
    }
    let files = fs::read_dir(dir.path()).expect("the directory exists");
    let log = files
        .map(|file| file.expect("an entry").path())
        .find(|path| path.to_string_lossy().ends_with("log.txt"));
    let logged = fs::read_to_string(log.expect("a log")).expect("a text");
    assert_eq!(logged.matches("fixbug.UserServiceRpc/Login OK").count(), 10, "{logged}");
    assert_eq!(
        logged.matches("fixbug.UserServiceRpc/Login UNAUTHENTICATED: who are you?").count(),
        1,
        "{logged}"
    );
    assert!(!logged.contains("secret"), "{logged}");
}

#[test]
fn a_protobuf_message_comes_back_as_it_was() {
    let lines = Process::start(program("protobuf-demo")).succeed(SOON);
    for part in ["gao yang, 27 years, MAN, gao@example.com", "(\"liu hong\", 302)", "[8, 88, 888]"] {
        assert!(lines.iter().any(|line| line.contains(part)), "no {part} in {lines:#?}");
    }
}

/// Somebody in the chat.
struct Guest(BufReader<TcpStream>);

impl Guest {
    fn new(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the chat listens");
        stream.set_read_timeout(Some(SOON)).expect("a time-out that is not zero");
        let mut guest = Self(BufReader::new(stream));
        assert!(guest.hear().starts_with("* welcome"));
        guest
    }

    fn say(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the chat is there");
    }

    /// The next line; empty at the end.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("a line in time");
        line
    }
}

#[test]
fn everybody_else_in_the_chat_gets_a_line_once_it_is_whole() {
    let dir = TempDir::new();
    let (_chat, addr) = listening("chat", &dir, &[], "chat at");
    let mut first = Guest::new(addr);
    let mut earlier = Guest::new(addr);
    assert!(first.hear().ends_with(" came\n"));
    first.say(b"who comes later does not hear this\n");
    // Guests live on different reactors: only who hears the line knows that it was told.
    assert!(earlier.hear().ends_with(": who comes later does not hear this\n"));
    let mut second = Guest::new(addr);
    assert!(first.hear().ends_with(" came\n"));
    second.say("你好\x1b[31m\r\nand ".as_bytes());
    second.say(b"more\n");
    assert!(first.hear().ends_with(": 你好 [31m\n"), "control characters are taken out");
    assert!(first.hear().ends_with(": and more\n"));
    second.say(&[b'x'; 5000]);
    assert_eq!(second.hear(), "* that line is too long\n");
    assert_eq!(second.hear(), "", "the connection ends");
    assert!(first.hear().ends_with(" went\n"));
}

/// Files of the example folders that end in `ending`.
fn files(ending: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("examples")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in examples/");
    found
}

#[test]
fn every_configuration_file_is_accepted_without_a_warning() {
    for path in files(".conf") {
        let text = fs::read_to_string(&path).expect("a text");
        let config = MprpcConfig::parse(&text, &path.to_string_lossy()).expect("a good configuration");
        assert_eq!(config.warnings(), [""; 0], "{}", path.display());
    }
}

#[test]
fn copies_of_a_proto_are_the_proto() {
    let mut compared = 0;
    for path in files(".proto") {
        let original = root().join("proto").join(path.file_name().expect("a file"));
        if let Ok(original) = fs::read_to_string(&original) {
            let copy = fs::read_to_string(&path).expect("a text");
            assert!(copy == original, "{} is not what proto/ has", path.display());
            compared += 1;
        }
    }
    assert!(compared >= 6, "only {compared} copies were found");
}
