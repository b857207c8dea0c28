//! ZooKeeper servers of one row, and a look at their znodes as another program sees them.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::stage::until;

/// Servers that a row may stop, hang and start again. They end with this value, or with `scripts/faults.sh`.
pub(crate) struct Zk {
    port: u16,
    kind: &'static str,
    tick: Duration,
    dir: PathBuf,
    /// A port of the block that no server uses: the rest looks free to other runs while a server is down.
    _kept: TcpListener,
}

impl Zk {
    /// Starts one server. Its tick is 200 ms: sessions last 0.4 to 4 s.
    pub(crate) fn standalone() -> Self {
        Self::with_tick(Duration::from_millis(200))
    }

    /// Starts one server of which sessions last up to 20 of these ticks.
    pub(crate) fn with_tick(tick: Duration) -> Self {
        Self::start("standalone", tick)
    }

    /// Starts three, with a tick of 200 ms.
    pub(crate) fn ensemble() -> Self {
        Self::start("ensemble", Duration::from_millis(200))
    }

    fn start(kind: &'static str, tick: Duration) -> Self {
        // Not of those ports that systems give to outgoing connections, which could take one while a server is down.
        let free = |port: &u16| (0..23).all(|n| TcpListener::bind(("127.0.0.1", port + n)).is_ok());
        let keep = |port: u16| Some((port, TcpListener::bind(("127.0.0.1", port + 5)).ok()?));
        let from = (std::process::id() % 600) as u16;
        let mut blocks = (0..600).map(|n| 10_000 + (from + n) % 600 * 32).filter(free);
        let (port, kept) = blocks.find_map(keep).expect("a block of free ports");
        let base = std::env::var_os("FAULTS_ZK").map_or_else(std::env::temp_dir, PathBuf::from);
        let zk = Self { port, kind, tick, dir: base.join(format!("zk-{port}")), _kept: kept };
        zk.run(&["start", kind]);
        zk
    }

    /// Starts again what was killed.
    pub(crate) fn restart(&self) {
        self.run(&["start", self.kind]);
    }

    /// Its unit of time: a session ends up to two later than it should.
    pub(crate) fn tick(&self) -> Duration {
        self.tick
    }

    /// What `zookeeperip` should say.
    pub(crate) fn hosts(&self) -> String {
        let members = if self.kind == "ensemble" { 3 } else { 1 };
        (1..=members).map(|n| self.host(n)).collect::<Vec<_>>().join(",")
    }

    /// The address of one server, counted from 1.
    pub(crate) fn host(&self, member: u16) -> String {
        format!("127.0.0.1:{}", self.port + member - 1)
    }

    /// Sends a signal to a server; after `KILL` waits for its end.
    pub(crate) fn signal(&self, member: u16, signal: Signal) {
        let text = std::fs::read_to_string(self.dir.join(format!("{member}/pid"))).expect("a pid file");
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("a running server");
        if signal == Signal::KILL {
            let line = format!("/proc/{}/cmdline", text.trim());
            let dead = || std::fs::read(&line).map_or(true, |line| line.is_empty());
            until(Duration::from_secs(5), dead).expect("a killed server ends");
        }
    }

    /// The answer to a four-letter word.
    pub(crate) fn ask(&self, member: u16, word: &str) -> String {
        let mut answer = String::new();
        let stream = TcpStream::connect(self.host(member));
        let _ = stream.and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(word.as_bytes())?;
            stream.read_to_string(&mut answer)
        });
        answer
    }

    /// Which server of an ensemble leads.
    pub(crate) fn leader(&self) -> u16 {
        (1..=3).find(|n| self.ask(*n, "srvr").contains("Mode: leader")).expect("a leader")
    }

    fn run(&self, args: &[&str]) {
        let mut command = Command::new(mprpc_tests::root().join("scripts/zk.sh"));
        command
            .args(args)
            .env("ZK_PORT", self.port.to_string())
            .env("ZK_DIR", &self.dir)
            .env("ZK_TICK", "200");
        let output = command.output().expect("zk.sh can be run");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "zk.sh {args:?}: {text}");
    }
}

impl Drop for Zk {
    fn drop(&mut self) {
        self.run(&["stop"]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
