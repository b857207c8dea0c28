//! The services a channel calls: who serves each, and whose turn it is.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::{Attempts, peer::Peer};
use crate::{
    connection::call::Failure,
    descriptor::MethodDescriptor,
    error::Ran,
    registry::{Endpoint, ServiceName, Snapshot},
    status::Status,
    wire::Wire,
};

/// A snapshot with the peers of its endpoints, in the same order.
type Known = (Arc<Snapshot>, Vec<Arc<Peer>>);

/// One service as the channel knows it.
pub(super) struct ServiceState {
    pub(super) name: ServiceName,
    known: Mutex<Known>,
    turn: AtomicUsize,
}

impl ServiceState {
    pub(super) fn new(method: &'static MethodDescriptor) -> Self {
        let name = ServiceName {
            full: method.service.to_owned(),
            short: method.short_service().to_owned(),
            methods: Vec::new(),
        };
        Self { name, known: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// The next peer in turn that serves the method. One that is known to be bad, is draining or
    /// failed this very call is taken only if there is no other.
    pub(super) fn pick(
        &self,
        snapshot: &Arc<Snapshot>,
        call: &Attempts,
        now: Instant,
        peer: impl Fn(SocketAddr, Wire) -> Arc<Peer>,
    ) -> Result<Arc<Peer>, Failure> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known.0, snapshot) {
            let peers = snapshot.endpoints.iter().map(|endpoint| peer(endpoint.addr, endpoint.wire));
            *known = (snapshot.clone(), peers.collect());
        }
        let peers = &known.1;
        let serves = |endpoint: &Endpoint| {
            endpoint.methods.as_ref().is_none_or(|methods| methods.contains(call.method.name))
        };
        // Lower is better; a draining peer at least answers.
        let flaws = |(endpoint, peer): &(&Endpoint, &Arc<Peer>)| {
            (call.tried.contains(&peer.addr), peer.is_bad(now), endpoint.draining)
        };
        let all = || snapshot.endpoints.iter().zip(peers.iter()).filter(|(endpoint, _)| serves(endpoint));
        let count = peers.len().max(1);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let next = snapshot.endpoints.iter().zip(peers.iter()).nth(turn % count);
        if let Some((_, peer)) = next.filter(|each| serves(each.0) && flaws(each) == Default::default()) {
            return Ok(peer.clone());
        }
        // The turn of one that cannot be taken goes round among the best of the others.
        let best = |least| all().filter(move |each| flaws(each) == least);
        let least = all().map(|each| flaws(&each)).min().unwrap_or_default();
        let turn = (turn / count) % best(least).count().max(1);
        best(least).nth(turn).map(|(_, peer)| peer.clone()).ok_or_else(|| self.nobody(call.method))
    }

    fn nobody(&self, method: &MethodDescriptor) -> Failure {
        let text = format!(
            "nobody serves {}: no provider is registered, and in direct mode rpcserverport must name one",
            method.path()
        );
        Failure { ran: Ran::No, status: Status::unavailable(text) }
    }
}
