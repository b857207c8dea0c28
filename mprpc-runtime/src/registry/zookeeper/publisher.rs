//! Keeps this process's nodes as they should be.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    MirrorPolicy,
    claim::{Answer, Claim, Role, Verdict},
    client::{Client, Failure},
    desk::Wanted,
    dial, random,
};

/// All nodes of this process, by path.
#[derive(Default)]
pub(super) struct Publisher {
    nodes: BTreeMap<String, Node>,
    /// Addresses that lead to the process that was meant.
    proven: Vec<(SocketAddr, u64)>,
    mirror: MirrorPolicy,
}

struct Node {
    claim: Claim,
    /// When there is something to do, if there is.
    due: Option<Instant>,
    /// A free name was left to others for a moment.
    paused: bool,
    failures: u32,
    trouble: Option<String>,
}

enum Outcome {
    Settled,
    Later(Duration),
    Refused(String),
}

impl Publisher {
    /// Takes what is to be published from now on; what is published beyond that goes.
    pub(super) fn want(&mut self, wanted: &Wanted) {
        self.mirror = wanted.mirror;
        for node in self.nodes.values_mut() {
            node.claim.role = match node.claim.role {
                Role::Mirror | Role::OldMirror => Role::OldMirror,
                Role::Instance | Role::OldInstance => Role::OldInstance,
            };
        }
        for (path, claim) in wanted.claims() {
            self.nodes.insert(path, Node::new(claim));
        }
        self.recheck();
    }

    /// Has every node checked.
    pub(super) fn recheck(&mut self) {
        let now = Some(Instant::now());
        self.nodes.values_mut().for_each(|node| node.due = now);
    }

    /// Takes news of a node.
    pub(super) fn changed(&mut self, path: &str) {
        if let Some(node) = self.nodes.get_mut(path) {
            node.due = Some(Instant::now());
        }
    }

    /// When there is something to do, if there is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.nodes.values().filter_map(|node| node.due).min()
    }

    /// Why something is not as it should be, if it is so for longer.
    pub(super) fn trouble(&self) -> Option<String> {
        self.nodes.values().find_map(|node| node.trouble.clone())
    }

    /// Does what is due.
    pub(super) fn work(&mut self, client: &Client, session: i64) -> Result<(), Failure> {
        let now = Instant::now();
        let due = self.nodes.iter().filter(|(_, node)| node.due.is_some_and(|due| due <= now));
        let mut order: Vec<_> = due.map(|(path, node)| (node.claim.role, path.clone())).collect();
        order.sort();
        for (role, path) in order {
            let Some(mut node) = self.nodes.remove(&path) else {
                continue;
            };
            let lost = match self.ensure(&path, &mut node, client, session) {
                Ok(Outcome::Settled) if role <= Role::OldInstance => continue,
                Ok(outcome) => {
                    node.take(outcome, &path);
                    None
                }
                Err(failure @ Failure::Refused(_)) => {
                    node.take(Outcome::Refused(format!("{failure:?}")), &path);
                    None
                }
                Err(failure) => Some(failure),
            };
            self.nodes.insert(path, node);
            lost.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Looks and acts until the node is as it should be.
    fn ensure(
        &mut self,
        path: &str,
        node: &mut Node,
        client: &Client,
        session: i64,
    ) -> Result<Outcome, Failure> {
        let Claim { role, addr, id, .. } = node.claim;
        if role == Role::Mirror && !self.is_published(addr) {
            return Ok(Outcome::Later(Duration::from_secs(1)));
        }
        if role == Role::Instance && !self.proven.contains(&(addr, id)) {
            if let Err(why) = prove(addr, id) {
                return Ok(Outcome::Refused(why));
            }
            self.proven.push((addr, id));
        }
        let mut answer = None;
        for _ in 0..ROUNDS {
            let found = client.read(path)?;
            let data = &node.claim.data;
            match node.claim.judge(found.as_ref(), session, answer) {
                Verdict::Leave if role == Role::Instance => {
                    let text = "another process holds the name: do two advertise one address?";
                    return Ok(Outcome::Refused(text.into()));
                }
                Verdict::Keep | Verdict::Leave => {
                    node.paused = false;
                    return Ok(Outcome::Settled);
                }
                Verdict::Ask(addr) => answer = Some(dial::who_answers(addr)),
                Verdict::Create if role == Role::Mirror && !node.paused && self.yields() => {
                    node.paused = true;
                    return Ok(Outcome::Later(Duration::from_millis(random() % YIELD_MS)));
                }
                Verdict::Create => {
                    client.create(path, data)?;
                    log::info!("published {path} at {addr}");
                }
                Verdict::Write(version) => client.write(path, data, version)?,
                Verdict::Delete(version) => {
                    client.delete(path, version)?;
                    log::info!("took {path} at {addr} away");
                }
            }
        }
        Ok(Outcome::Later(Duration::from_secs(1))) // somebody works against us
    }

    fn is_published(&self, addr: SocketAddr) -> bool {
        let unsettled = |node: &Node| node.claim.role == Role::Instance && node.due.is_some();
        !self.nodes.values().any(|node| node.claim.addr == addr && unsettled(node))
    }

    fn yields(&self) -> bool {
        self.mirror == MirrorPolicy::Yield
    }
}

impl Node {
    fn new(claim: Claim) -> Self {
        Self { claim, due: None, paused: false, failures: 0, trouble: None }
    }

    fn take(&mut self, outcome: Outcome, path: &str) {
        let now = Instant::now();
        match outcome {
            Outcome::Settled => (self.due, self.failures, self.trouble) = (None, 0, None),
            Outcome::Later(pause) => self.due = Some(now + pause),
            Outcome::Refused(why) => {
                self.failures += 1;
                let text = format!("{path} is not as it should be: {why}");
                if self.failures.is_power_of_two() {
                    log::warn!("{text}; trying again");
                }
                self.trouble = Some(text);
                self.due = Some(now + Duration::from_secs(1 << self.failures.min(3)));
            }
        }
    }
}

/// Whether callers who dial `addr` reach the process `id`.
fn prove(addr: SocketAddr, id: u64) -> Result<(), String> {
    let who = match dial::who_answers(addr) {
        Answer::Process(who) if who == id => return Ok(()),
        Answer::Process(_) => "another mprpc process answers",
        Answer::Stranger => "something else answers",
        Answer::Nobody => "nobody answers",
    };
    Err(format!("{who} at {addr}: set `advertise` to an address that leads to this process"))
}

/// How often a node may change under our hands before we let it rest.
const ROUNDS: u32 = 10;
/// How long a free legacy name is left to others, at most.
const YIELD_MS: u64 = 300;
