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
    dial, nodes, random,
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
    /// How many nodes of others were taken away from here.
    evicted: u32,
    trouble: Option<String>,
}

impl Publisher {
    /// Takes what is to be published from now on; what is published beyond that goes.
    pub(super) fn want(&mut self, wanted: &Wanted) {
        self.mirror = wanted.mirror;
        for node in self.nodes.values_mut() {
            node.claim.role = node.claim.role.old();
        }
        for (path, claim) in wanted.claims() {
            let (due, paused, failures, trouble) = Default::default();
            let evicted = self.nodes.get(&path).map_or(0, |old| old.evicted);
            let node = Node { claim, due, paused, failures, evicted, trouble };
            self.nodes.insert(path, node);
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
            let outcome = self.ensure(&path, &mut node, client, session);
            match outcome {
                Ok(None) if role <= Role::OldInstance => continue,
                Ok(due) => node.due = due,
                Err(Failure::Refused(error)) => node.due = node.refused(&path, &format!("{error:?}")),
                Err(Failure::Lost | Failure::Late) => {}
            }
            self.nodes.insert(path, node);
            if let Err(failure @ (Failure::Lost | Failure::Late)) = outcome {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Looks and acts until the node is as it should be; else gives when to go on.
    fn ensure(
        &mut self,
        path: &str,
        node: &mut Node,
        client: &Client,
        session: i64,
    ) -> Result<Option<Instant>, Failure> {
        let Claim { role, addr, id, .. } = node.claim;
        if role == Role::Mirror && !self.is_published(addr) {
            return Ok(Some(Instant::now() + PAUSE));
        }
        if role == Role::Instance && !self.proven.contains(&(addr, id)) {
            if let Err(why) = prove(addr, id) {
                return Ok(node.refused(path, &why));
            }
            self.proven.push((addr, id));
        }
        let mut answer = None;
        for _ in 0..ROUNDS {
            let found = client.read(path)?;
            let data = Some(&*node.claim.data);
            let verdict = node.claim.judge(found.as_ref(), session, answer, node.evicted);
            if matches!(verdict, Verdict::Write(_) | Verdict::Delete(_)) && answer.take().is_some() {
                node.evicted += 1;
                log::warn!("{path}: evicting the node of another process, which is not at {addr}");
            }
            match verdict {
                Verdict::Leave if role == Role::Instance => {
                    let who = found.and_then(|found| nodes::instance_addr(&found.data)).unwrap_or(addr);
                    let why = match answer {
                        Some(Answer::Process(process)) if process == id => {
                            format!(
                                "another machine keeps publishing {who}, which leads to this process here"
                            )
                        }
                        _ => format!("the process at {who} holds it"),
                    };
                    return Ok(node.refused(path, &format!("{why}: do two `advertise` one address?")));
                }
                Verdict::Keep | Verdict::Leave => {
                    (node.paused, node.failures, node.trouble) = (false, 0, None);
                    return Ok(None);
                }
                Verdict::Ask(addr) => answer = Some(dial::who_answers(addr)),
                Verdict::Create
                    if role == Role::Mirror && !node.paused && self.mirror == MirrorPolicy::Yield =>
                {
                    node.paused = true;
                    return Ok(Some(Instant::now() + Duration::from_millis(random() % YIELD_MS)));
                }
                Verdict::Create => match (client.create(path, &node.claim.data)?, role) {
                    (false, _) => {} // somebody was faster: look again
                    (true, Role::Kept) => log::info!("made {path} again"),
                    (true, _) => log::info!("published {path} at {addr}"),
                },
                Verdict::Write(version) => client.change(path, version, data)?,
                Verdict::Delete(version) => client.change(path, version, None)?,
            }
        }
        Ok(Some(Instant::now() + PAUSE)) // somebody works against us
    }

    fn is_published(&self, addr: SocketAddr) -> bool {
        let unsettled = |node: &Node| node.claim.role == Role::Instance && node.due.is_some();
        !self.nodes.values().any(|node| node.claim.addr == addr && unsettled(node))
    }
}

impl Node {
    /// Says why at the first, second, fourth, ... time, and gives when to try again.
    fn refused(&mut self, path: &str, why: &str) -> Option<Instant> {
        self.failures += 1;
        let text = format!("{path} is not as it should be: {why}");
        if self.failures.is_power_of_two() {
            log::error!("{text}; trying again");
        }
        self.trouble = Some(text);
        Some(Instant::now() + PAUSE * (1 << self.failures.min(3)))
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
const PAUSE: Duration = Duration::from_secs(1);
/// How long a free legacy name is left to others, at most.
const YIELD_MS: u64 = 300;
