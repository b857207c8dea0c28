//! The universal test of this group: while a fault goes on, an honest client's calls are all answered in
//! time, and the provider lives and grows little.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mprpc_runtime::{MprpcApplication, MprpcChannel};
use mprpc_tests::{
    Process, address_in, echo,
    proto::{echo::Text, echo_mprpc::EchoServiceRpc_Stub},
};

use crate::{row::Outcome, stage::Stage, usage::Usage};

/// A provider of this group and where it listens.
pub(crate) struct Provider {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
}

impl Provider {
    /// # Panics
    /// It does not start.
    pub(crate) fn start(stage: &Stage, name: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_by(stage, &[], name, settings)
    }

    /// The same, by a program that becomes ours.
    pub(crate) fn start_by(stage: &Stage, by: &[&str], name: &str, settings: &[(&str, &str)]) -> Self {
        let mut process = stage.role_by(by, "serve", name, settings);
        let line = process.wait_line("RpcProvider start service at", Duration::from_secs(20));
        Self { addr: address_in(&line), process }
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::of(self.process.id())
    }

    /// Whether its process still runs, which its kernel entry tells even of a zombie.
    pub(crate) fn lives(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }
}

/// An honest client that calls at a steady rate, and who looks at the provider's memory meanwhile.
pub(crate) struct Watch {
    addr: SocketAddr,
    pid: u32,
    before: u64,
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    took: Arc<Mutex<Vec<Duration>>>,
    failed: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
    /// The most that one call in a hundred may take.
    p99: Duration,
    /// The most that the provider may grow by.
    pub(crate) growth_mib: f64,
    /// Keeps logger and threads of the client.
    _app: MprpcApplication,
}

impl Watch {
    /// Warms the provider up, so that what it keeps for good is there, then begins.
    pub(crate) fn start(stage: &Stage, provider: &Provider) -> Self {
        let app = client(&[("timeout", "5s")]);
        let (addr, pid) = (provider.addr, provider.process.id());
        let channel = MprpcChannel::to(&app, [addr]);
        let stub = EchoServiceRpc_Stub::new(channel.clone());
        for _ in 0..500 {
            let _ = stub.echo(&Text { text: "warm".into(), ..Default::default() });
        }
        let mut watch = Self {
            addr,
            pid,
            before: Usage::of(pid).rss_kib,
            most: Arc::default(),
            over: Arc::default(),
            took: Arc::default(),
            failed: Arc::default(),
            threads: Vec::new(),
            p99: Duration::from_millis(if stage.quick { 100 } else { 50 }),
            growth_mib: 16.0,
            _app: app,
        };
        for _ in 0..CALLERS {
            let (stub, over) = (EchoServiceRpc_Stub::new(channel.clone()), watch.over.clone());
            let (took, failed) = (watch.took.clone(), watch.failed.clone());
            watch.threads.push(thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    match stub.echo(&Text { text: "honest".into(), ..Default::default() }) {
                        Ok(_) => lock(&took).push(began.elapsed()),
                        Err(error) => lock(&failed).push(error.to_string()),
                    }
                    thread::sleep(GAP);
                }
            }));
        }
        let (most, over) = (watch.most.clone(), watch.over.clone());
        watch.threads.push(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(rss(pid), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        }));
        watch
    }

    /// Ends the client and says what it saw: calls, memory, life.
    pub(crate) fn end(mut self, outcome: &mut Outcome, provider: &Provider) {
        self.over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("the watch does not panic"));
        let (mut took, failed) = (lock(&self.took).split_off(0), lock(&self.failed).split_off(0));
        took.sort_unstable();
        let p99 = percentile(&took, 99.0);
        if let Some(first) = failed.first() {
            outcome.check(false, format!("{} honest calls failed, such as: {first}", failed.len()));
        }
        outcome.check(took.len() > 50, format!("{} honest calls answered", took.len()));
        outcome.check(p99 <= self.p99, format!("p99 {:.1} ms", p99.as_secs_f64() * 1e3));
        let grown = self.grown_kib() as f64 / 1024.0;
        outcome.check(grown <= self.growth_mib, format!("grown by {grown:.1} MiB"));
        if !provider.lives() {
            outcome.check(false, format!("the provider at {} died", self.addr));
        }
    }

    /// The most that the provider has had above what it began with.
    pub(crate) fn grown_kib(&self) -> u64 {
        self.most.load(Ordering::Relaxed).max(rss(self.pid)).saturating_sub(self.before)
    }
}

/// An application for callers in this process.
pub(crate) fn client(settings: &[(&str, &str)]) -> MprpcApplication {
    echo::app(&[settings, &[("log_level", "off")]].concat())
}

/// The value below which `percent` of the sorted `values` lie.
pub(crate) fn percentile(values: &[Duration], percent: f64) -> Duration {
    let at = (values.len() as f64 * percent / 100.0) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Resident memory of a process; 0 if it has ended.
pub(crate) fn rss(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const CALLERS: usize = 4;
const GAP: Duration = Duration::from_millis(5);
