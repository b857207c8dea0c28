//! Keeps this process's nodes as they should be.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Change, MirrorPolicy,
    claim::{self, Answer, Found, Mine, Verdict},
    client::{Client, Failure, Watch},
    desk::Wanted,
    dial, random,
};

/// All nodes of this process, by path.
#[derive(Default)]
pub(super) struct Publisher {
    nodes: BTreeMap<String, Node>,
    /// Addresses that lead to the process that was meant.
    proven: BTreeSet<(SocketAddr, u64)>,
    mirror: MirrorPolicy,
}

struct Node {
    role: Role,
    addr: SocketAddr,
    id: u64,
    data: Vec<u8>,
    /// Nothing is to be done until there is news.
    settled: bool,
    /// Its change or end will be told.
    watched: bool,
    /// A free name was left to others for a moment.
    paused: bool,
    failures: u32,
    trouble: Option<String>,
    due: Instant,
}

/// What a node is for. The order is the order of work: old callers are sent away first, and sent
/// here last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    OldMirror,
    OldInstance,
    Instance,
    Mirror,
}

enum Outcome {
    Settled,
    Later(Duration),
    Refused(String),
}

impl Publisher {
    /// Takes what is to be published from now on; what is published beyond that goes.
    pub(super) fn want(&mut self, wanted: &Wanted, now: Instant) {
        self.mirror = wanted.mirror;
        for node in self.nodes.values_mut() {
            node.role = if node.is_mirror() {
                Role::OldMirror
            } else {
                Role::OldInstance
            };
            (node.settled, node.due) = (false, now);
        }
        for (path, role, addr, id, data) in wanted.nodes() {
            let node = self
                .nodes
                .entry(path)
                .or_insert_with(|| Node::new(addr, id, now));
            (node.role, node.addr, node.id, node.data) = (role, addr, id, data);
        }
    }

    /// Checks every node again. With a new connection the watches are gone, too.
    pub(super) fn recheck(&mut self, watches_lost: bool, now: Instant) {
        for node in self.nodes.values_mut() {
            node.watched &= !watches_lost;
            if node.settled || watches_lost {
                (node.settled, node.due) = (false, now);
            }
        }
    }

    /// Takes news of a node.
    pub(super) fn changed(&mut self, path: &str, change: Change, now: Instant) {
        if let Some(node) = self
            .nodes
            .get_mut(path)
            .filter(|_| change != Change::Children)
        {
            (node.watched, node.settled, node.due) = (false, false, now);
        }
    }

    /// When there is something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.nodes
            .values()
            .filter(|node| !node.settled)
            .map(|node| node.due)
            .min()
    }

    /// Why something is not as it should be, if it is so for longer.
    pub(super) fn trouble(&self) -> Option<String> {
        self.nodes.values().find_map(|node| node.trouble.clone())
    }

    /// Does what is due.
    pub(super) fn work(
        &mut self,
        client: &Client,
        session: i64,
        watch: &Watch,
    ) -> Result<(), Failure> {
        let mut order: Vec<_> = self
            .nodes
            .iter()
            .map(|(path, node)| (node.role, path.clone()))
            .collect();
        order.sort();
        for (role, path) in order {
            let now = Instant::now();
            let Some(mut node) = self.nodes.remove(&path) else {
                continue;
            };
            let blocked = role == Role::Mirror && !self.is_published(node.addr);
            if !node.settled && node.due <= now && !blocked {
                let outcome = self.ensure(&path, &mut node, client, session, watch);
                match outcome {
                    Err(Failure::Refused(error)) => {
                        node.refused(&path, &format!("refused with {error:?}"))
                    }
                    Err(failure) => {
                        self.nodes.insert(path, node);
                        return Err(failure);
                    }
                    Ok(Outcome::Refused(why)) => node.refused(&path, &why),
                    Ok(Outcome::Later(pause)) => node.due = now + pause,
                    Ok(Outcome::Settled) => {
                        (node.settled, node.failures, node.trouble) = (true, 0, None)
                    }
                }
            } else if blocked {
                node.due = now + Duration::from_secs(1);
            }
            if !(node.settled && role <= Role::OldInstance) {
                self.nodes.insert(path, node);
            }
        }
        Ok(())
    }

    fn is_published(&self, addr: SocketAddr) -> bool {
        let mut instances = self
            .nodes
            .values()
            .filter(|node| node.role == Role::Instance && node.addr == addr);
        instances.all(|node| node.settled)
    }

    /// Looks and acts until the node is as it should be.
    fn ensure(
        &mut self,
        path: &str,
        node: &mut Node,
        client: &Client,
        session: i64,
        watch: &Watch,
    ) -> Result<Outcome, Failure> {
        if node.role == Role::Instance && !self.proven.contains(&(node.addr, node.id)) {
            if let Err(why) = prove(node.addr, node.id) {
                return Ok(Outcome::Refused(why));
            }
            self.proven.insert((node.addr, node.id));
        }
        let (mut answer, mut watching) = (None, false);
        for _ in 0..ROUNDS {
            let found = client.read(path, watching.then(|| watch.clone()))?;
            node.watched |= watching && found.is_some();
            let verdict = node.verdict(found.as_ref(), session, answer);
            match verdict {
                Verdict::Keep | Verdict::Leave
                    if node.role > Role::OldInstance && !node.watched =>
                {
                    watching = true
                }
                Verdict::Leave if node.role == Role::Instance => {
                    return Ok(Outcome::Refused(format!(
                        "{} is held by another process: two processes advertise one address",
                        node.addr
                    )));
                }
                Verdict::Keep | Verdict::Leave => {
                    node.paused = false;
                    return Ok(Outcome::Settled);
                }
                Verdict::Ask(addr) => answer = Some(dial::who_answers(addr)),
                Verdict::Create
                    if node.is_mirror() && self.mirror == MirrorPolicy::Yield && !node.paused =>
                {
                    node.paused = true;
                    return Ok(Outcome::Later(Duration::from_millis(random() % YIELD_MS)));
                }
                Verdict::Create => {
                    client.create(path, node.data.clone())?;
                    log::info!("published {path} at {}", node.addr);
                }
                Verdict::Write(version) => client.write(path, node.data.clone(), version)?,
                Verdict::Delete(version) => {
                    client.delete(path, version)?;
                    log::info!("took {path} away, which said {}", node.addr);
                }
            }
        }
        Ok(Outcome::Later(Duration::from_secs(1)))
    }
}

impl Node {
    fn new(addr: SocketAddr, id: u64, due: Instant) -> Self {
        Self {
            role: Role::Instance,
            addr,
            id,
            data: Vec::new(),
            settled: false,
            watched: false,
            paused: false,
            failures: 0,
            trouble: None,
            due,
        }
    }

    fn is_mirror(&self) -> bool {
        matches!(self.role, Role::Mirror | Role::OldMirror)
    }

    fn verdict(&self, found: Option<&Found>, session: i64, answer: Option<Answer>) -> Verdict {
        let mine = Mine {
            session,
            addr: self.addr,
            id: self.id,
            data: &self.data,
        };
        match self.role {
            Role::Instance => claim::instance(found, mine, answer),
            Role::Mirror => claim::mirror(found, mine),
            Role::OldInstance | Role::OldMirror => claim::removal(found, mine),
        }
    }

    /// Tries again later, and says why at the first, third, ninth, ... time.
    fn refused(&mut self, path: &str, why: &str) {
        let text = format!("not published: {path}: {why}");
        if self.failures == 0 || self.failures.is_power_of_two() {
            log::warn!("{text}; trying again");
        }
        self.failures += 1;
        self.due = Instant::now() + Duration::from_secs(1 << self.failures.min(3));
        self.trouble = Some(text);
    }
}

/// Whether callers who dial `addr` reach the process `id`.
fn prove(addr: SocketAddr, id: u64) -> Result<(), String> {
    let who = match dial::who_answers(addr) {
        Answer::Process(who) if who == id => return Ok(()),
        Answer::Process(_) => "another mprpc process answers there",
        Answer::Stranger => "what answers there is not this process",
        Answer::Nobody => "nobody answers there",
    };
    Err(format!(
        "callers would dial {addr}, but {who}: set `advertise` to an address that leads here"
    ))
}

/// How often a node may change under our hands before we let it rest.
const ROUNDS: u32 = 10;
/// How long a free legacy name is left to others, at most.
const YIELD_MS: u64 = 300;
