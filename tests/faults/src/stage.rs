//! What a row has to play with: processes of this program, their ledger, and a word about what happens now.

use std::{
    ffi::OsStr,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use mprpc_tests::{Process, TempDir};
use rustix::process::{Pid, Signal, kill_process};

use crate::ledger::{Ledger, Tally};

/// The stage of one row. Processes started on it end with their values, and with this program.
pub(crate) struct Stage {
    /// Whether the short form is wanted.
    pub(crate) quick: bool,
    dir: TempDir,
    doing: Mutex<String>,
    ledger: Mutex<Ledger>,
    closed: AtomicBool,
}

impl Stage {
    pub(crate) fn new(quick: bool) -> Self {
        let dir = TempDir::new();
        let ledger = Mutex::new(Ledger::of(dir.path()));
        Self { quick, dir, doing: Mutex::new("start".into()), ledger, closed: AtomicBool::new(false) }
    }

    /// A directory for this row's files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// How long something is broken: `quick` seconds in the short form, else `full`; in the full form
    /// `FAULTS_OUTAGE` says otherwise.
    pub(crate) fn seconds(&self, quick: u64, full: u64) -> Duration {
        let full = longer().map_or(full, |seconds| seconds.max(full));
        Duration::from_secs(if self.quick { quick } else { full })
    }

    /// Says what happens from now on; the progress shows it.
    pub(crate) fn say(&self, what: impl Into<String>) {
        let what = what.into();
        println!("   -> {what}");
        *lock(&self.doing) = what;
    }

    /// What happens now.
    pub(crate) fn doing(&self) -> String {
        lock(&self.doing).clone()
    }

    /// The calls of this stage's callers, as of now.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        let mut ledger = lock(&self.ledger);
        ledger.update();
        ledger
    }

    /// What the role of this name has logged.
    pub(crate) fn log(&self, name: &str) -> String {
        let files = std::fs::read_dir(self.dir().join(name)).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }

    /// The ledger, counted.
    pub(crate) fn tally(&self) -> Tally {
        self.ledger().tally(Duration::MAX)
    }

    /// Starts `faults provider` and waits until it serves. `name` is what its replies say; settings are
    /// those of `mprpc.conf`, and `faults_work_ms`, how long the handler takes. It listens on a port that the system chooses unless `rpcserverport` is given.
    pub(crate) fn provider(&self, name: &str, settings: &[(&str, &str)]) -> Process {
        let mut process = self.role("provider", name, settings);
        process.wait_line("RpcProvider start service at", READY);
        process
    }

    /// Starts `faults caller` and waits until a call was answered. Own settings: `faults_rate` (calls a
    /// second, default 200), `faults_threads` (default 4), `faults_mixed` (true: every other thread calls asynchronously).
    pub(crate) fn caller(&self, name: &str, settings: &[(&str, &str)]) -> Process {
        let mut process = self.role("caller", name, settings);
        process.wait_line("answered", READY);
        process
    }

    /// Starts a sub-command of this program with a configuration file of its own.
    pub(crate) fn role(&self, role: &str, name: &str, settings: &[(&str, &str)]) -> Process {
        self.role_by(&[], role, name, settings)
    }

    /// The same, by a program that becomes ours, such as `ip netns exec`.
    pub(crate) fn role_by(&self, by: &[&str], role: &str, name: &str, settings: &[(&str, &str)]) -> Process {
        let ledger = self.dir().to_str().expect("a plain name");
        let logs = self.dir().join(name);
        std::fs::create_dir_all(&logs).expect("a directory for logs");
        let parent = std::process::id().to_string();
        let own = [
            ("faults_parent", &*parent),
            ("log_dir", logs.to_str().expect("a plain name")),
            ("faults_name", name),
            ("faults_ledger", ledger),
        ];
        let lines = settings.iter().chain(&own).map(|(key, value)| format!("{key} = {value}\n"));
        let conf = self.dir().join(format!("{name}.conf"));
        std::fs::write(&conf, lines.collect::<String>()).expect("a configuration file");
        let program = std::env::current_exe().expect("this program has a path");
        let mut words = by.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().expect("one at least"));
        command.args(words).arg(role).arg("-i").arg(conf);
        self.start(command)
    }

    /// Starts any program. One that is not a role of this program may outlive us if we are killed.
    pub(crate) fn start(&self, command: Command) -> Process {
        assert!(!self.closed.load(Ordering::SeqCst), "the row is over");
        Process::start(command)
    }

    /// No more processes.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// The seconds that `FAULTS_OUTAGE` wants long faults to last.
pub(crate) fn longer() -> Option<u64> {
    std::env::var("FAULTS_OUTAGE").ok()?.parse().ok()
}

/// How long it takes until `done`; `None` if it takes longer than `limit`.
pub(crate) fn until(limit: Duration, mut done: impl FnMut() -> bool) -> Option<Duration> {
    let began = Instant::now();
    loop {
        let good = done();
        let took = began.elapsed();
        match good {
            true => return Some(took),
            false if took > limit => return None,
            false => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A port that is free and not of those that the system gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let from = (std::process::id() % 1000) as u16;
    (0..1000).map(|n| 30_000 + (from + n) % 1000).find(free).expect("a free port")
}

/// Ends every child of this process: a row that was given up left them. Their values hold their ids until then.
pub(crate) fn kill_children() {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1));
        if parent == Some(&std::process::id().to_string()) {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a process to say that it works, on a machine that is busy.
const READY: Duration = Duration::from_secs(20);
