//! The configuration as files, environments and command lines give it.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use mprpc_runtime::{
    MprpcConfig,
    config::{LegacyClose, LegacyEmpty, LegacyEnd, LegacyMirror, LogLevel, Protocol},
};

fn parse(text: &str) -> MprpcConfig {
    MprpcConfig::parse(text, "test.conf").expect("an accepted text")
}

fn refused(text: &str) -> String {
    let error = MprpcConfig::parse(text, "test.conf").expect_err(text);
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2);
    assert!(!text.contains('\n') && text.len() < 500, "one line: {text}");
    text
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mprpc-config-{}-{name}", std::process::id()));
    fs::write(&path, bytes).expect("a writable temporary directory");
    path
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = MprpcConfig::default();
    let s = config.settings();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let secs = Duration::from_secs;
    assert_eq!(s.server_addr(), addr("127.0.0.1:0"));
    assert_eq!((s.io_threads, s.worker_threads), (cores, 4 * cores));
    assert_eq!(s.client_threads, cores.min(4));
    assert!(s.zookeeper.is_none() && s.peers.is_empty() && s.advertise.is_none());
    assert_eq!(s.zookeepertimeout, secs(10));
    assert_eq!((s.protocol, s.legacy), (Protocol::Mux, true));
    assert_eq!((s.legacy_close, s.legacy_end), (LegacyClose::Eof, LegacyEnd::Eof));
    assert_eq!((s.legacy_empty, s.legacy_mirror), (LegacyEmpty::Error, LegacyMirror::Yield));
    assert_eq!((s.weight, &*s.zone), (100, ""));
    assert_eq!((s.timeout, s.connect_timeout, s.drain_timeout), (secs(5), secs(1), secs(10)));
    assert_eq!((s.request_timeout, s.idle_timeout), (secs(10), secs(300)));
    assert_eq!((s.ping_interval, s.min_ping_interval), (secs(30), secs(1)));
    assert_eq!((s.max_header, s.max_body, s.max_output), (65535, 4 << 20, 1 << 20));
    assert_eq!((s.max_connections, s.max_calls, s.max_queue, s.max_idle), (20000, 1024, 1024, 8));
    assert_eq!((s.log_dir.to_str(), s.log_level), (Some("."), LogLevel::Info));
    assert_eq!((s.log_queue, s.log_max_size), (8192, 0));
    assert!(!s.require_registry && s.spin_us.is_zero());
}

#[test]
fn files_of_the_cpp_population_are_read() {
    let text = "\u{feff}# rpc节点\r\n\trpcserverip = 10.0.0.5\t\r\n  rpcServerPort=8000   # ours\r\n[zk]\r\n\
                zookeeperip=10.0.0.1\r\nzookeeperport = 2182";
    let config = parse(text);
    assert_eq!(config.settings().server_addr(), addr("10.0.0.5:8000"));
    let zk = config.settings().zookeeper.as_ref().expect("ZooKeeper");
    assert_eq!(zk.hosts, ["10.0.0.1:2182"]);
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn a_comment_in_another_encoding_is_no_harm_and_a_value_is() {
    let gbk = file("gbk.conf", b"# \xc5\xe4\xd6\xc3\nrpcserverport = 81\n");
    let config = MprpcConfig::from_file(&gbk).expect("comments may be anything");
    assert_eq!(config.settings().rpcserverport, 81);
    let utf16 = file("utf16.conf", b"\xff\xfer\0p\0c\0\n\0");
    let text = MprpcConfig::from_file(&utf16).expect_err("UTF-16").to_string();
    assert!(text.contains("utf16.conf:1:") && text.contains("UTF-8"), "{text}");
    fs::remove_file(gbk).expect("it was made above");
    fs::remove_file(utf16).expect("it was made above");
}

#[test]
fn both_spellings_and_any_case_find_a_value() {
    let config = parse("zkIp = h\nzookeeperport = 1\nMyKey = My Value\nempty =\n");
    for key in ["zkIp", "zkip", "zookeeperip", "ZOOKEEPERIP"] {
        assert_eq!(config.get(key), Some("h"), "{key}");
    }
    assert_eq!(config.get("zkPort"), Some("1"));
    assert_eq!((config.get("mykey"), config.get("MyKey")), (Some("My Value"), Some("My Value")));
    assert_eq!((config.get("empty"), config.get("absent"), config.get("timeout")), (Some(""), None, None));
}

#[test]
fn the_first_of_equal_keys_wins_with_a_warning() {
    let config = parse("zkIp = a\nfoo = 1\nzookeeperip = b\nfoo = 2\n");
    assert_eq!((config.get("zookeeperip"), config.get("foo")), (Some("a"), Some("1")));
    let [first, second] = config.warnings() else { panic!("{:?}", config.warnings()) };
    assert!(
        first.starts_with("test.conf:3: zookeeperip is ignored") && first.contains("test.conf:1"),
        "{first}"
    );
    assert!(second.starts_with("test.conf:4: foo"), "{second}");
}

#[test]
fn only_nearly_known_keys_are_warned_about() {
    let config = parse("rpcserverprt = 1\nmax-body = 2\nmuduothreadnum = 4\nname = x\nport = 3\n");
    let [first, second] = config.warnings() else { panic!("{:?}", config.warnings()) };
    assert!(first.contains(":1: rpcserverprt") && first.contains("rpcserverport"), "{first}");
    assert!(second.contains(":2: max-body") && second.contains("max_body"), "{second}");
}

#[test]
fn a_bad_value_names_file_line_key_value_and_what_is_right() {
    let text = refused("\n# x\nrpcserverport = 80x0\n");
    assert_eq!(text, "test.conf:3: rpcserverport = 80x0: want a whole number from 0 to 65535");
    let cases = [
        ("rpcserverip = localhost", "IP address"),
        ("rpcserverport =", "0 to 65535"),
        ("rpcserverport = 65536", "0 to 65535"),
        ("rpcserverport = +8", "0 to 65535"),
        ("zkPort = 0", "1 to 65535"),
        ("zookeepertimeout = 30000", "a bare number is seconds"),
        ("timeout = 0", "from 1ms to 1h"),
        ("timeout = 5 parsecs", "10s, 200ms or 5m"),
        ("timeout = 1e3", "a time"),
        ("timeout = .", "a time"),
        ("timeout = -1", "a time"),
        ("timeout = inf", "a time"),
        ("max_header = 65536", "256 to 65535"),
        ("max_concurrency = pkg.Service", "package.Service:100"),
        ("max_concurrency = pkg.Service:0", "package.Service:100"),
        ("max_concurrency = pkg.Service:1,", "package.Service:100"),
        ("max_body = 99999999999999999999G", "1k to 1G"),
        ("max_body = 17179869184G", "1k to 1G"),
        ("max_body = k", "1k to 1G"),
        ("max_body = 4é", "1k to 1G"),
        ("protocol = grpc", "mux legacy legacy-be legacy-varint"),
        ("legacy = maybe", "on or off"),
        ("legacy_mirror = on", "off yield hold"),
        ("weight = 10001", "0 to 10000"),
        ("weight = -1", "0 to 10000"),
        ("zone = a/b", "letters, digits"),
        ("io_threads = 0", "1 to 1024"),
        ("spin_us = 2000000", "want microseconds, a number such as 50, from 0 to 1s"),
        ("peers = 127.0.0.1:80, 127.0.0.1", "ip:port"),
        ("peers = 127.0.0.1:0", "ip:port"),
        ("advertise = 0.0.0.0:80", "other machines"),
        ("advertise = host:80", "other machines"),
        ("zookeeperip = a b", "/chroot"),
        ("zookeeperip = h:0", "/chroot"),
        ("zookeeperip = h,,i", "/chroot"),
        ("zookeeperip = h/a//b", "/chroot"),
        ("zookeeperip = h/../b", "/chroot"),
        ("zookeeperip = /a", "/chroot"),
        ("zookeeperip = [::1:2181", "/chroot"),
        ("log_level = loud", "off error warn info debug trace"),
        ("log_dir =", "directory"),
        ("a = x\0y", "control characters"),
        ("= 5", "key = value"),
        ("[x", "key = value"),
    ];
    for (line, want) in cases {
        let text = refused(&format!("# first\n{line}\n"));
        assert!(text.starts_with("test.conf:2: ") && text.contains(want), "{line}: {text}");
    }
}

#[test]
fn a_file_is_read_again_and_what_the_program_set_stays() {
    let path = std::env::temp_dir().join(format!("mprpc-config-{}.conf", std::process::id()));
    fs::write(&path, "max_queue = 7\nmax_concurrency = a.B/C:3, a.B:10").unwrap();
    let config = MprpcConfig::from_file(&path).unwrap().with("timeout", "3s").unwrap();
    assert_eq!(config.settings().max_concurrency, [("a.B/C".into(), 3), ("a.B".into(), 10)]);
    fs::write(&path, "max_queue = 9").unwrap();
    let again = config.reread().unwrap();
    assert_eq!((again.settings().max_queue, again.settings().max_concurrency.len()), (9, 0));
    assert_eq!(again.settings().timeout, Duration::from_secs(3));
    fs::write(&path, "max_queue = none").unwrap();
    assert!(again.reread().is_err());
    fs::remove_file(&path).unwrap();
    assert!(again.reread().is_err() && again.file() == Some(&*path));
}

#[test]
fn values_are_read_in_every_form() {
    let config = parse(
        "timeout = 200ms\nconnect_timeout = 2\ndrain_timeout = 0.5h\nrequest_timeout = 10 s\nidle_timeout = 5m\n\
         max_body = 64k\nmax_header = 1000\nmax_output = 2MB\nspin_us = 50\nLEGACY = OFF\nlegacy_mirror = Hold\n\
         peers = 10.0.0.1:80, [::1]:81\nadvertise = 10.0.0.5\nlog_level = WARN\nlog_max_size = 1G\nrpcserverip = ::1\n",
    );
    let s = config.settings();
    assert_eq!((s.timeout, s.connect_timeout), (Duration::from_millis(200), Duration::from_secs(2)));
    assert_eq!((s.drain_timeout, s.request_timeout), (Duration::from_secs(1800), Duration::from_secs(10)));
    assert_eq!((s.idle_timeout, s.spin_us), (Duration::from_secs(300), Duration::from_micros(50)));
    assert_eq!((s.max_body, s.max_header, s.max_output), (65536, 1000, 2 << 20));
    assert_eq!(parse("spin_us = 1ms\n").settings().spin_us, Duration::from_millis(1));
    assert_eq!((s.legacy, s.legacy_mirror), (false, LegacyMirror::Hold));
    assert_eq!(s.peers, [addr("10.0.0.1:80"), addr("[::1]:81")]);
    assert_eq!((s.advertise, s.server_addr()), (Some(addr("10.0.0.5:0")), addr("[::1]:0")));
    assert_eq!((s.log_level, s.log_max_size), (LogLevel::Warn, 1 << 30));
}

#[test]
fn an_ensemble_with_chroot_ports_and_auth_is_joined() {
    let config =
        parse("zookeeperip = h1:2, h_2 ,[::1],[::2]:3/a/b/\nzkPort = 9\nzookeeperauth = digest:u:p#w:d\n");
    let zk = config.settings().zookeeper.as_ref().expect("ZooKeeper");
    assert_eq!(zk.hosts, ["h1:2", "h_2:9", "[::1]:9", "[::2]:3"]);
    assert_eq!(zk.chroot, "/a/b");
    assert_eq!(zk.auth, Some(("digest".to_owned(), "u:p#w:d".to_owned())));
    // As the C++ nodes write an ensemble: the last port is the other key.
    let zk = parse("zookeeperip=h1:1,h2:2,h3\nzookeeperport=3\n").settings().zookeeper.clone();
    assert_eq!(zk.expect("ZooKeeper").hosts, ["h1:1", "h2:2", "h3:3"]);
    assert!(parse("zookeeperip =\n").settings().zookeeper.is_none());
}

#[test]
fn secrets_are_neither_described_nor_debugged_nor_in_errors() {
    for text in ["zkIp = h\nzookeeperauth = digest:u:hunter2\n", "zookeeperauth = digest:u:hunter2\n"] {
        let config = parse(text);
        let all = format!("{config:?} {:?} {}", config.settings(), config.describe().join("\n"));
        assert!(!all.contains("hunter2"), "{all}");
        assert_eq!(config.get("zookeeperauth"), Some("digest:u:hunter2"));
    }
    let text = refused("zookeeperauth = hunter2\n");
    assert!(text.contains("hidden") && !text.contains("hunter2"), "{text}");
}

#[test]
fn the_description_is_a_file_of_the_same_settings() {
    let config = parse("max_body = 8M\nzkIp = h:1\nlegacy = off\npeers = 127.0.0.1:5\nlog_dir =#1\n");
    let lines = config.describe();
    let again = parse(&lines.join("\n"));
    assert_eq!(format!("{:?}", again.settings()), format!("{:?}", config.settings()));
    assert!(lines.iter().any(|line| line.starts_with("max_body = 8M # ")), "{lines:?}");
    let fields = format!("{:#?}", config.settings());
    for line in &lines {
        let key = line.split(' ').next().expect("a key");
        assert!(fields.contains(&format!("    {key}: ")), "{key} has a field");
    }
}

#[test]
fn a_program_sets_keys_and_a_refused_one_changes_nothing() {
    let mut config = MprpcConfig::default().with("zkIp", "h").expect("a host");
    config.set("timeout", "2s").expect("a time");
    config.set("shop.name", "Emma").expect("the application's own");
    let text = config.set("timeout", "soon").expect_err("no time").to_string();
    assert!(text.starts_with("set by the program: timeout = soon: want a time"), "{text}");
    assert_eq!(config.settings().timeout, Duration::from_secs(2));
    assert_eq!((config.get("timeout"), config.get("shop.name")), (Some("2s"), Some("Emma")));
    assert_eq!(config.get("zookeeperip"), Some("h"));
}

#[test]
fn the_command_line_names_the_file_in_four_ways() {
    let path = file("args.conf", b"rpcserverport = 8123\n");
    let name = path.to_str().expect("UTF-8");
    let port = |args: &[&str]| MprpcConfig::from_args(args).map(|c| c.settings().rpcserverport);
    let (glued, long) = (format!("-i{name}"), format!("--config={name}"));
    for args in [&["p", "-i", name][..], &["p", "x", &glued], &["p", "--config", name, "-v"], &["p", &long]] {
        assert_eq!(port(args).expect("read"), 8123, "{args:?}");
    }
    assert_eq!(port(&["p", "-i", "absent", "-i", name]).expect("the last counts"), 8123);
    assert_eq!(port(&["p", "--", "-i", "absent"]).expect("behind --"), 0);
    assert_eq!(port(&["-i"]).expect("the program's name"), 0);
    assert_eq!(port(&[]).expect("nothing at all"), 0);
    for args in [&["p", "-i"][..], &["p", "--config"], &["p", "--config="], &["p", "-i", ""]] {
        let error = port(args).expect_err("no file");
        assert!(error.exit_code() == 2 && error.to_string().contains("-i"), "{args:?}: {error}");
    }
    fs::remove_file(&path).expect("it was made above");
    for name in [name, "/", "/nonexistent/\n\u{1b}[2Jx"] {
        let error = port(&["p", "-i", name]).expect_err("unreadable");
        let text = error.to_string();
        assert!(error.exit_code() == 2 && text.contains("-i") && !text.contains(['\n', '\u{1b}']), "{text}");
    }
}

#[test]
fn a_file_without_its_option_is_warned_of() {
    let path = file("stray.conf", b"");
    let name = path.to_str().expect("UTF-8");
    let warnings = |args: &[&str]| MprpcConfig::from_args(args).expect("read").warnings().to_vec();
    let all = warnings(&["p", "--loud", "hello.conf", "other.conf"]);
    assert_eq!(all, ["command line: hello.conf is not read; -i hello.conf makes it the configuration"]);
    for args in [&["p.conf"][..], &["p", "hello"], &["p", "--", "a.conf"], &["p", "a.conf", "-i", name]] {
        assert_eq!(warnings(args), [""; 0], "{args:?}");
    }
    fs::remove_file(&path).expect("it was made above");
}

#[test]
fn a_huge_file_is_refused_and_a_large_one_is_read() {
    let huge = file("huge.conf", &vec![b'\n'; (1 << 20) + 1]);
    let text = MprpcConfig::from_file(&huge).expect_err("too large").to_string();
    assert!(text.contains("1 MiB"), "{text}");
    fs::write(&huge, "k = value # comment that fills the line up\n".repeat(24_000)).expect("writable");
    let config = MprpcConfig::from_file(&huge).expect("1 MiB");
    assert_eq!(config.get("k"), Some("value"));
    fs::remove_file(huge).expect("it was made above");
}

/// Runs this test program again with variables set, since a running one must not change its own.
#[test]
fn the_environment_counts_over_the_file() {
    if std::env::var_os("MPRPC_OF_CHILD").is_some() {
        let config = MprpcConfig::from_file(std::env::var("CONF").expect("set below"));
        match config {
            Ok(c) => println!(
                "timeout={:?} zk={:?} own={:?}",
                c.settings().timeout,
                c.get("zkIp"),
                c.get("of_child")
            ),
            Err(e) => println!("error={e}"),
        }
        return;
    }
    let conf = file("env.conf", b"timeout = 1s\nzookeeperip = a\n");
    let child = |key: &str, value: &str| {
        let me = std::env::current_exe().expect("this program");
        let args = ["the_environment_counts_over_the_file", "--exact", "--nocapture"];
        let output = Command::new(me)
            .args(args)
            .env("CONF", &conf)
            .env("MPRPC_OF_CHILD", "1")
            .env(key, value)
            .output();
        String::from_utf8_lossy(&output.expect("it runs").stdout).into_owned()
    };
    let text = child("MPRPC_TIMEOUT", "3s");
    assert!(text.contains(r#"timeout=3s zk=Some("a") own=Some("1")"#), "{text}");
    let text = child("MPRPC_ZKIP", "b");
    assert!(text.contains(r#"timeout=1s zk=Some("b")"#), "{text}");
    let text = child("MPRPC_TIMEOUT", "soon");
    assert!(text.contains("error=MPRPC_TIMEOUT: timeout = soon: want a time"), "{text}");
    fs::remove_file(conf).expect("it was made above");
}

/// Lines made of pieces that matter to some step, from a fixed seed.
#[test]
fn any_text_is_read_or_refused_in_one_line() {
    let pieces = [
        "rpcserverport",
        "zkIp",
        "timeout",
        "max_body",
        "=",
        "=",
        "=",
        " ",
        "\t",
        "#",
        " #",
        "[",
        "]",
        "\r\n",
        "\n",
        "\n",
        "\n",
        "1",
        "99999999999999999999999",
        "s",
        "k",
        ":",
        "/",
        ",",
        "é",
        "\u{feff}",
        "\u{2028}",
        "\0",
        "\u{1b}[2J",
        "%",
        "\"",
        "-",
    ];
    let mut seed = 7_u64;
    let mut accepted = 0;
    for _ in 0..3000 {
        let mut text = String::new();
        for _ in 0..24 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text += pieces[(seed >> 33) as usize % pieces.len()];
        }
        match MprpcConfig::parse(&text, "f") {
            Ok(config) => {
                accepted += 1;
                let lines = config.warnings().iter();
                assert!(
                    lines.clone().all(|line| !line.contains(['\n', '\0', '\u{1b}', '\u{2028}'])),
                    "{text:?}"
                );
            }
            Err(error) => {
                let line = error.to_string();
                assert!(
                    line.starts_with("f:") && !line.contains(['\n', '\0', '\u{1b}', '\u{2028}']),
                    "{line:?}"
                );
            }
        }
    }
    assert!((1..2999).contains(&accepted), "both happened: {accepted}");
}
