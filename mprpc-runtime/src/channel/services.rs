//! The services a channel calls: who serves each, and who gets the next call.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    Attempts,
    crowd::Crowd,
    peer::{Peer, random},
};
use crate::{
    balance::{self, Draw, Endpoints, Fit, Policy, Standing, mix},
    connection::call::Failure,
    descriptor::MethodDescriptor,
    error::Ran,
    registry::{Endpoint, Registry, ServiceName, Snapshot},
    status::Status,
    wire::Wire,
};

/// One service as the channel knows it.
pub(super) struct ServiceState {
    pub(super) name: ServiceName,
    pub(super) callers: Crowd,
    known: RwLock<Known>,
    /// The registry's edition that `known` is as of.
    edition: AtomicU64,
    /// Of `known`, if all calls go to one peer while that is well; else 0. No two are the same, of whatever service.
    sole: AtomicU64,
    seed: u64,
    turn: AtomicU64,
}

/// Who serves, with their peers; members and endpoints stand in the same order.
#[derive(Default)]
struct Known {
    snapshot: Arc<Snapshot>,
    members: Vec<Member>,
    endpoints: Endpoints,
    /// While the registry is doubted: when to look again whether those that it lost still answer.
    look_again: Option<Instant>,
    warned: Option<Instant>,
}

struct Member {
    endpoint: Endpoint,
    peer: Arc<Peer>,
    /// The registry lists it no longer, since then.
    lost: Option<Instant>,
}

/// What choosing needs of the channel.
pub(super) trait Peers {
    /// The peer at an address.
    fn peer(&self, addr: SocketAddr, wire: Wire) -> Arc<Peer>;
    /// Finds out in the background whether it lives.
    fn check(&self, peer: &Peer, now: Instant);
}

impl ServiceState {
    pub(super) fn new(method: &'static MethodDescriptor, share_above: usize) -> Self {
        let name = ServiceName {
            full: method.service.to_owned(),
            short: method.short_service().to_owned(),
            methods: Vec::new(),
        };
        let (known, edition) = (RwLock::default(), AtomicU64::new(u64::MAX));
        let callers = Crowd::new(share_above);
        Self {
            name,
            callers,
            known,
            edition,
            sole: AtomicU64::new(0),
            seed: random(),
            turn: AtomicU64::new(0),
        }
    }

    /// Chooses a peer for the next attempt of a call, which `place` places there; it is also told whether there
    /// are others. One that is known to be bad, or failed this very call, is taken only if there is no other.
    /// The registry is asked who serves only if its edition has changed since.
    pub(super) fn pick<P>(
        &self,
        registry: &dyn Registry,
        deadline: Instant,
        policy: Policy,
        call: &Attempts,
        peers: &impl Peers,
        place: impl FnOnce(&Arc<Peer>, bool) -> P,
    ) -> Result<P, Failure> {
        let now = call.since;
        let mut known = self.read();
        let edition = registry.edition();
        if known.is_doubted(now) || !self.is_as_of(edition) {
            drop(known);
            let snapshot = registry
                .lookup(&self.name, deadline)
                .map_err(|error| Failure { ran: Ran::No, status: Status::unavailable(error.to_string()) })?;
            let mut old = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if old.is_doubted(now) || !Arc::ptr_eq(&old.snapshot, &snapshot) {
                old.renew(&self.name.full, &snapshot, now, peers);
                self.sole.store(old.sole(), Ordering::Release);
                self.callers.set_sharable(old.members.iter().all(|member| member.endpoint.wire == Wire::Mux));
            }
            if let Some(edition) = edition {
                self.edition.store(edition, Ordering::Release);
            }
            drop(old);
            known = self.read();
        }
        let others = known.members.len() > 1;
        // Of one, nothing is drawn.
        let turn = if others { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let draw = Draw { now, turn, random: mix(self.seed.wrapping_add(turn)) };
        let fit = |at: usize| {
            let Member { endpoint, peer, .. } = &known.members[at];
            match &endpoint.methods {
                Some(methods) if !methods.contains(call.method.name) => Fit::No,
                _ if call.tried.contains(&peer.addr) => Fit::Tried,
                _ => Fit::Yes,
            }
        };
        let choice = known
            .endpoints
            .pick(policy, draw, fit)
            .ok_or_else(|| nobody(call.method, &registry.source(&self.name)))?;
        if choice.ailing {
            for at in known.endpoints.to_probe(now, random()) {
                let peer = &known.members[at].peer;
                peer.discard_idle(now);
                peers.check(peer, now);
            }
        }
        Ok(place(&known.members[choice.index].peer, others))
    }

    /// Names the state in which all calls go to one peer while that is well; `None` if this is no such state.
    pub(super) fn sole(&self, registry: &dyn Registry) -> Option<u64> {
        // In this order: what belongs to an edition is there before it.
        let newest = self.is_as_of(registry.edition());
        Some(self.sole.load(Ordering::Acquire)).filter(|sole| newest && *sole != 0)
    }

    fn is_as_of(&self, edition: Option<u64>) -> bool {
        edition == Some(self.edition.load(Ordering::Acquire))
    }

    /// Ejects a peer whose calls fail, if not too many are ejected already.
    pub(super) fn eject(&self, peer: &Peer, now: Instant) {
        if self.read().endpoints.eject(&peer.health, now, random()) {
            log::warn!("{}: calls at {} fail, it gets none for a while", self.name.full, peer.addr);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether it is time to look again whether those that the registry lost still answer.
    fn is_doubted(&self, now: Instant) -> bool {
        self.look_again.is_some_and(|at| now >= at)
    }

    /// See [`ServiceState::sole`].
    fn sole(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let [Member { endpoint, .. }] = &self.members[..] else { return 0 };
        let every = endpoint.methods.is_none() && endpoint.weight > 0 && !endpoint.draining;
        if every && self.look_again.is_none() { NEXT.fetch_add(1, Ordering::Relaxed) } else { 0 }
    }

    /// Takes over what the registry says. If it suddenly lists none, or lost half of those before,
    /// and these answer, they are kept while they do: the registry is wrong, or was emptied.
    fn renew(&mut self, service: &str, snapshot: &Arc<Snapshot>, now: Instant, peers: &impl Peers) {
        let place = |endpoint: &Endpoint| (endpoint.addr, endpoint.wire);
        let listed: HashSet<_> = snapshot.endpoints.iter().map(place).collect();
        let mut gone = std::mem::take(&mut self.members);
        let before = gone.len();
        gone.retain(|member| !listed.contains(&place(&member.endpoint)));
        let sudden = gone.len() * 2 >= before;
        let age =
            |since: Option<Instant>| since.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        gone.retain(|member| {
            let doubted = member.lost.is_some() || sudden;
            doubted && age(member.lost) < LONGEST_DOUBT && member.answers(now)
        });
        for member in &mut gone {
            // If it said so itself, its health knows; the registry is not believed.
            member.endpoint.draining = false;
            member.lost.get_or_insert(now);
            peers.check(&member.peer, now);
        }
        self.look_again = (!gone.is_empty()).then(|| now + LOOK_PAUSE);
        // At the second look: most that went did go, and do not answer by then.
        let sure = gone.iter().any(|member| age(member.lost) >= LOOK_PAUSE);
        if sure && self.warned.is_none_or(|at| age(Some(at)) >= WARN_PAUSE) {
            self.warned = Some(now);
            let some: Vec<_> = gone.iter().take(3).map(|member| member.peer.addr).collect();
            log::warn!(
                "the registry lists {} providers of {service} and no longer {} others, such as {some:?}, which \
                 answer: they are called while they do, for {LONGEST_DOUBT:?} at most",
                listed.len(),
                gone.len(),
            );
        }
        let listed = snapshot.endpoints.iter().map(|endpoint| Member {
            peer: peers.peer(endpoint.addr, endpoint.wire),
            endpoint: endpoint.clone(),
            lost: None,
        });
        self.members = listed.chain(gone).collect();
        let endpoints = self.members.iter().map(|member| balance::Endpoint {
            health: member.peer.health.clone(),
            weight: member.endpoint.weight,
            draining: member.endpoint.draining,
        });
        self.endpoints = Endpoints::new(endpoints.collect());
        self.snapshot = snapshot.clone();
    }
}

impl Member {
    /// Whether it was reached, and nothing says that it does not answer.
    fn answers(&self, now: Instant) -> bool {
        let health = &self.peer.health;
        health.was_reached() && matches!(health.standing(now), Standing::Up | Standing::Returning)
    }
}

fn nobody(method: &MethodDescriptor, source: &str) -> Failure {
    let text = format!("nobody serves {}, says {source}", method.path());
    Failure { ran: Ran::No, status: Status::unavailable(text) }
}

/// For how long the registry is doubted.
const LONGEST_DOUBT: Duration = Duration::from_secs(600);
/// How often those that it lost are asked whether they live.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
const WARN_PAUSE: Duration = Duration::from_secs(30);
