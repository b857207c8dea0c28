//! What most rows of the group need: a ZooKeeper, programs that know it, and a look at the znodes.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use mprpc_tests::{Process, address_in};

use crate::{ledger::Tally, nodes::Nodes, stage::Stage, usage::Usage, zk::Zk};

/// Where providers of the matrix's service stand.
pub(super) const INSTANCES: &str = "/mprpc/services/mprpc.tests.EchoService/instances";
/// Where C++ callers look for it.
pub(super) const LEGACY: &str = "/EchoService";

pub(super) struct Scene<'a> {
    pub(super) stage: &'a Stage,
    pub(super) zk: Zk,
    /// `zookeeperip` of the programs.
    pub(super) hosts: String,
    /// `zookeepertimeout` of the programs.
    pub(super) session: Duration,
}

impl<'a> Scene<'a> {
    /// One server with a tick of 200 ms, and sessions of 4 s.
    pub(super) fn new(stage: &'a Stage) -> Self {
        Self::on(stage, Zk::standalone())
    }

    pub(super) fn on(stage: &'a Stage, zk: Zk) -> Self {
        let (hosts, session) = (zk.hosts(), 20 * zk.tick());
        Self { stage, zk, hosts, session }
    }

    /// Starts a provider with these settings, too, and gives its address.
    pub(super) fn provider(&self, name: &str, more: &[(&str, &str)]) -> (Process, SocketAddr) {
        let mut process = self.role("provider", name, more);
        let line = process.wait_line("RpcProvider start service at", Duration::from_secs(20));
        (process, address_in(&line))
    }

    /// Starts a caller with these settings, too, and waits until it was answered.
    pub(super) fn caller(&self, name: &str, more: &[(&str, &str)]) -> Process {
        let timeout = self.timeout();
        self.stage.caller(name, &self.settings(more, &timeout))
    }

    /// Starts a role that answers no calls, such as `looker`.
    pub(super) fn role(&self, role: &str, name: &str, more: &[(&str, &str)]) -> Process {
        let timeout = self.timeout();
        self.stage.role(role, name, &self.settings(more, &timeout))
    }

    fn timeout(&self) -> String {
        format!("{}s", self.session.as_secs())
    }

    /// Of equal keys the first wins.
    fn settings<'b>(&'b self, more: &[(&'b str, &'b str)], timeout: &'b str) -> Vec<(&'b str, &'b str)> {
        [more, &[("zookeeperip", &*self.hosts), ("zookeepertimeout", timeout)]].concat()
    }

    /// Ends a caller, whose calls may take `limit` each, and counts all calls of the row.
    pub(super) fn end(&self, caller: Process, limit: Duration) -> Tally {
        caller.terminate();
        caller.finish(Duration::from_secs(15));
        let ledger = self.stage.ledger();
        for (text, times) in ledger.failures().iter().take(5) {
            println!("      {times} x {text}");
        }
        ledger.tally(limit)
    }

    /// The time-out of a session, two ticks of the server that measures it, and a second.
    pub(super) fn expiry(&self) -> Duration {
        self.session + 2 * self.zk.tick() + Duration::from_secs(1)
    }

    pub(super) fn nodes(&self) -> Nodes {
        Nodes::at(&self.zk.hosts())
    }

    /// Shows the znodes as they are.
    pub(super) fn show(&self, nodes: &Nodes, when: &str) {
        println!("      znodes {when}:");
        nodes.table(&[INSTANCES, LEGACY]).lines().for_each(|line| println!("        {line}"));
    }
}

/// CPU time within `time` of the threads that are the registry's and the crate's, of each of these processes.
pub(super) fn registry_cpu<const N: usize>(processes: [&Process; N], time: Duration) -> [Duration; N] {
    let names = ["mprpc-registry", "mprpc-zookeeper", "io", "event"];
    let (end, look) = (Instant::now() + time, || processes.map(|process| Usage::of(process.id())));
    let (mut last, mut total) = (look(), [Duration::ZERO; N]);
    assert!(last.iter().all(|usage| usage.threads.values().any(|(name, _)| name == names[0])), "other names");
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(200)); // some threads live for a short time
        let next = look();
        for n in 0..N {
            total[n] += next[n].cpu_since(&last[n], &names);
        }
        last = next;
    }
    total
}

/// Whether all calls were answered, rightly and in time.
pub(super) fn all_answered(tally: Tally) -> bool {
    tally.is_honest() && (tally.failed, tally.open) == (0, 0) && tally.answered > 0
}

/// What a provider says, as a warning or an error, of a node that it cannot have.
pub(super) fn complaint(stage: &Stage, name: &str) -> Option<String> {
    let log = stage.log(name);
    let mut loud = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    let line = loud.find(|line| line.contains("advertise") && line.contains("not as it should be"))?;
    line.split("should be: ").last().map(Into::into)
}
