//! Who plays in most rows: three providers, and 64 callers that make 2,000 calls a second.

use std::{net::SocketAddr, time::Duration};

use mprpc_tests::{Process, address_in};
use rustix::process::Signal;

use crate::{
    ledger::{End, now},
    row::Outcome,
    stage::Stage,
};

/// Three providers and a process that calls them, half of its threads blocking, half asynchronous.
pub(crate) struct Cast {
    pub(crate) providers: Vec<Process>,
    pub(crate) addrs: Vec<SocketAddr>,
    caller: Process,
}

/// What a call is allowed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);
pub(crate) const NAMES: [&str; 3] = ["first", "second", "third"];

/// Settings of a provider whose handlers take a while, so that there are always calls in flight.
pub(crate) const BUSY: [(&str, &str); 3] =
    [("worker_threads", "32"), ("faults_work_ms", "5"), ("log_level", "info")];

impl Cast {
    /// Starts all, and lets the calls run for a moment.
    pub(crate) fn start(stage: &Stage) -> Self {
        let providers: Vec<_> = NAMES.iter().map(|name| stage.provider(name, &BUSY)).collect();
        Self::with(stage, providers)
    }

    /// The same with these providers.
    pub(crate) fn with(stage: &Stage, mut providers: Vec<Process>) -> Self {
        let addrs: Vec<_> = providers.iter_mut().map(address).collect();
        let peers: Vec<String> = addrs.iter().map(SocketAddr::to_string).collect();
        let settings = [
            ("peers", &*peers.join(", ")),
            ("timeout", "1s"),
            ("faults_rate", "2000"),
            ("faults_threads", "64"),
            ("faults_mixed", "true"),
        ];
        let caller = stage.caller("caller", &settings);
        std::thread::sleep(Duration::from_secs(1));
        Self { providers, addrs, caller }
    }

    /// Sends a signal to a provider. Gives the time before and after it.
    pub(crate) fn signal(&self, provider: usize, signal: Signal) -> (u64, u64) {
        let before = now();
        self.providers[provider].signal(signal);
        (before, now())
    }

    /// Ends the calls, then judges all of them: each has one outcome, in time, and ran at most once.
    pub(crate) fn end(self, stage: &Stage, outcome: &mut Outcome) {
        self.caller.terminate();
        self.caller.finish(Duration::from_secs(10));
        judge(stage, outcome, TIMEOUT);
        for (text, n) in stage.ledger().failures().into_iter().take(5) {
            println!("   {n} x {text}");
        }
    }

    /// When the last of the calls that failed at a provider began, of those that began in `from..to`.
    pub(crate) fn last_failure(&self, stage: &Stage, provider: usize, from: u64, to: u64) -> Option<u64> {
        let at = format!(" at {},", self.addrs[provider]);
        let failed = |end: &End| matches!(end, End::Failed(text) if text.contains(&at));
        let ledger = stage.ledger();
        let calls = ledger.calls(from, to).filter(|entry| entry.ends.iter().any(|(_, end)| failed(end)));
        calls.map(|entry| entry.began).max()
    }
}

/// The ledger's own check: every call has one outcome, 99.9 % at most 50 ms after the deadline, all at most 250 ms; no
/// reply is another call's and no handler runs twice for one.
pub(crate) fn judge(stage: &Stage, outcome: &mut Outcome, timeout: Duration) {
    let ledger = stage.ledger();
    let (near, far) = (ledger.tally(timeout + NEAR), ledger.tally(timeout + FAR));
    let all = near.answered + near.failed + near.open;
    outcome.check(near.late * 1000 <= all, format!("{} of {all} over 50 ms late", near.late));
    outcome.check(far.is_honest() && far.open == 0, format!("{far}, {} without an end", far.open));
}

/// The address that a provider said it serves on.
pub(crate) fn address(provider: &mut Process) -> SocketAddr {
    address_in(&provider.wait_line("RpcProvider start service at", Duration::from_secs(20)))
}

/// A difference of two times of the ledger.
pub(crate) fn between(from: u64, to: u64) -> Duration {
    Duration::from_micros(to.saturating_sub(from))
}

const NEAR: Duration = Duration::from_millis(50);
const FAR: Duration = Duration::from_millis(250);
