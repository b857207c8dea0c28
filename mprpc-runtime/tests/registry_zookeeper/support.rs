//! What the registry's tests share: a provider that answers a dial-back, a look at the znodes as
//! other programs see them, and servers that may be killed.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    registry::{Publication, Registry, ServiceName, Snapshot, ZooKeeperOptions, ZooKeeperRegistry},
    wire::mux::{HEADER_LEN, Header, Hello},
};
use zookeeper::{Acl, CreateMode, ZooKeeper};

/// The server that the environment names; says so when there is none.
pub(crate) fn server() -> Option<String> {
    let server = std::env::var("MPRPC_TEST_ZK").ok();
    if server.is_none() {
        eprintln!("skipped: MPRPC_TEST_ZK names no ZooKeeper");
    }
    server
}

pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

pub(crate) fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub(crate) fn soon() -> Instant {
    Instant::now() + ms(5000)
}

/// Waits for something to come true.
#[track_caller]
pub(crate) fn eventually(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(ms(10));
    }
}

pub(crate) fn user_service() -> ServiceName {
    service("fixbug.UserServiceRpc", &["Login", "Register"])
}

pub(crate) fn service(full: &str, methods: &[&str]) -> ServiceName {
    ServiceName {
        full: full.into(),
        short: full.rsplit('.').next().expect("a last part").into(),
        methods: methods.iter().map(|m| (*m).into()).collect(),
    }
}

/// A process that says who it is, on a port of its own.
pub(crate) struct Provider {
    pub(crate) addr: SocketAddr,
    pub(crate) instance: u64,
    stop: Arc<AtomicBool>,
}

impl Provider {
    pub(crate) fn start() -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), random() | 1)
    }

    pub(crate) fn at(addr: SocketAddr, instance: u64) -> Self {
        let listener = TcpListener::bind(addr).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(ms(1000)));
                let mut header = [0; HEADER_LEN];
                if stream.read_exact(&mut header).is_err() {
                    continue;
                }
                let Ok(Some(header)) = Header::decode(&header) else {
                    continue;
                };
                let mut meta = vec![0; usize::from(header.meta_len)];
                let mut hello = Vec::new();
                Hello { version: 1, instance, ..Hello::default() }.write(&mut hello);
                let _ = stream.read_exact(&mut meta).and_then(|()| stream.write_all(&hello));
            }
        });
        Self { addr, instance, stop }
    }

    pub(crate) fn publication(&self) -> Publication {
        Publication {
            addr: self.addr,
            instance: self.instance,
            services: vec![user_service()],
            weight: 100,
            zone: String::new(),
            legacy: true,
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.addr);
    }
}

/// A corner of a server, and the znodes in it as another program sees them.
pub(crate) struct Corner {
    pub(crate) server: String,
    pub(crate) chroot: String,
    pub(crate) zk: Arc<ZooKeeper>,
}

impl Drop for Corner {
    fn drop(&mut self) {
        if thread::panicking() {
            // Closing waits for the server, which the test that failed may have stopped.
            std::mem::forget(Arc::clone(&self.zk));
        }
    }
}

impl Corner {
    pub(crate) fn of(server: &str) -> Self {
        let chroot = format!("/test-{:016x}", random());
        let root = connect(server);
        make(&root, &chroot, b"", CreateMode::Persistent);
        let zk = Arc::new(connect(&format!("{server}{chroot}")));
        Self { server: server.into(), chroot, zk }
    }

    pub(crate) fn options(&self) -> ZooKeeperOptions {
        let hosts = self.server.split(',').map(Into::into).collect();
        ZooKeeperOptions { chroot: self.chroot.clone(), app: "test".into(), ..ZooKeeperOptions::new(hosts) }
    }

    pub(crate) fn registry(&self) -> Arc<ZooKeeperRegistry> {
        ZooKeeperRegistry::start(self.options()).expect("options that make sense")
    }

    /// Data, owner and version of a node.
    pub(crate) fn get(&self, path: &str) -> Option<(String, i64, i32)> {
        let (data, stat) = self.zk.get_data(path, false).ok()?;
        let text = String::from_utf8_lossy(&data).into_owned();
        Some((text, stat.ephemeral_owner, stat.version))
    }

    pub(crate) fn text(&self, path: &str) -> Option<String> {
        Some(self.get(path)?.0)
    }

    /// Makes a node as a C++ provider does, and what is above it.
    pub(crate) fn put(&self, path: &str, data: &[u8]) {
        self.put_with(&self.zk, path, data, CreateMode::Ephemeral);
    }

    pub(crate) fn put_with(&self, zk: &ZooKeeper, path: &str, data: &[u8], mode: CreateMode) {
        for (end, _) in path.match_indices('/').skip(1) {
            let (parent, open) = (&path[..end], Acl::open_unsafe().clone());
            let _ = self.zk.create(parent, vec![], open, CreateMode::Persistent);
        }
        make(zk, path, data, mode);
    }

    pub(crate) fn connect(&self) -> ZooKeeper {
        connect(&format!("{}{}", self.server, self.chroot))
    }
}

pub(crate) fn connect(to: &str) -> ZooKeeper {
    ZooKeeper::connect(to, Duration::from_secs(10), |_| {}).expect("a server")
}

fn make(zk: &ZooKeeper, path: &str, data: &[u8], mode: CreateMode) {
    zk.create(path, data.to_vec(), Acl::open_unsafe().clone(), mode)
        .unwrap_or_else(|e| panic!("{path}: {e:?}"));
}

/// How many requests the server took on the connections that its list shows with `mark`.
pub(crate) fn requests(server: &str, mark: &str) -> u64 {
    let mut stream = TcpStream::connect(server).expect("the server");
    let mut answer = String::new();
    stream.write_all(b"cons").and_then(|()| stream.read_to_string(&mut answer)).expect("an answer");
    let lines = answer.lines().filter(|line| line.contains(mark));
    let counts =
        lines.filter_map(|line| line.split("recved=").nth(1)?.split(',').next()?.parse::<u64>().ok());
    counts.sum()
}

pub(crate) fn instance_path(addr: SocketAddr) -> String {
    format!("/mprpc/services/fixbug.UserServiceRpc/instances/{addr}")
}

pub(crate) fn addrs(snapshot: &Snapshot) -> Vec<SocketAddr> {
    snapshot.endpoints.iter().map(|e| e.addr).collect()
}

pub(crate) fn look(registry: &ZooKeeperRegistry) -> Arc<Snapshot> {
    registry.lookup(&user_service(), soon()).expect("a look-up")
}

/// A server of one test, which the test may stop, hang and start again.
pub(crate) struct OwnServer {
    port: u16,
    dir: PathBuf,
}

impl OwnServer {
    /// Prepares one on free ports; not started. Sessions last 0.4 to 4 s. The ports are not of those
    /// that systems give to outgoing connections, which could take one while the server is down.
    pub(crate) fn new() -> Self {
        let block = |_| 10_000 + (random() % 600) as u16 * 32;
        let free = |port: &u16| {
            [0, 1, 2, 10, 11, 12, 20, 21, 22]
                .iter()
                .all(|n| TcpListener::bind(("127.0.0.1", port + n)).is_ok())
        };
        let port = (0..100).map(block).find(free).expect("a block of free ports");
        let dir = std::env::temp_dir().join(format!("mprpc-zk-{port}-{}", std::process::id()));
        Self { port, dir }
    }

    pub(crate) fn started() -> Self {
        let server = Self::new();
        server.run("start");
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn run(&self, command: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/zk.sh");
        let output = Command::new(script)
            .args(command.split(' '))
            .env("ZK_PORT", self.port.to_string())
            .env("ZK_DIR", &self.dir)
            .env("ZK_TICK", "200")
            .output()
            .expect("zk.sh");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "zk.sh {command}: {text}");
    }

    pub(crate) fn signal(&self, signal: &str) {
        self.signal_to(1, signal);
    }

    /// Signals a member of an ensemble, counted from 1.
    pub(crate) fn signal_to(&self, member: u16, signal: &str) {
        let pid = std::fs::read_to_string(self.dir.join(format!("{member}/pid"))).expect("a pid file");
        let status = Command::new("kill").args([signal, pid.trim()]).status();
        assert!(status.expect("kill").success());
        if signal == "-STOP" {
            // A thread on the other core may answer yet.
            let stopped = || {
                let tasks = std::fs::read_dir(format!("/proc/{}/task", pid.trim())).expect("tasks");
                tasks.flatten().all(|task| {
                    let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
                })
            };
            eventually(ms(5000), "stopped", stopped);
        }
        if signal == "-KILL" {
            let process = format!("/proc/{}/cmdline", pid.trim());
            let dead = || {
                std::fs::read(&process).is_ok_and(|line| line.is_empty())
                    || !std::path::Path::new(&process).exists()
            };
            eventually(ms(5000), "dead", dead);
        }
    }

    pub(crate) fn member(&self, member: u16) -> String {
        format!("127.0.0.1:{}", self.port + member - 1)
    }

    /// Which member of an ensemble leads it.
    pub(crate) fn leader(&self) -> u16 {
        let leads = |member: &u16| {
            let mut stream = TcpStream::connect(self.member(*member)).expect("a member");
            let mut answer = String::new();
            stream.write_all(b"srvr").and_then(|()| stream.read_to_string(&mut answer)).expect("an answer");
            answer.contains("Mode: leader")
        };
        (1..=3).find(leads).expect("a leader")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if self.dir.exists() {
            self.run("stop");
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}
