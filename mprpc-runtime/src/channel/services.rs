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
    registry::{ServiceName, Snapshot},
    status::Status,
    wire::Wire,
};

/// A snapshot with the peers of its endpoints, in the same order.
type Known = (Arc<Snapshot>, Arc<[Arc<Peer>]>);

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
        Self { name, known: Mutex::new((Arc::default(), Arc::from([]))), turn: AtomicUsize::new(0) }
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
        let peers = self.peers(snapshot, peer);
        let endpoints = &snapshot.endpoints;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut second = None;
        for n in 0..peers.len() {
            let at = (turn.wrapping_add(n)) % peers.len();
            let (endpoint, peer) = (&endpoints[at], &peers[at]);
            if endpoint.methods.as_ref().is_some_and(|methods| !methods.contains(call.method.name)) {
                continue;
            }
            let tried = call.tried.contains(&peer.addr);
            if !tried && !endpoint.draining && !peer.is_bad(now) {
                return Ok(peer.clone());
            }
            // Draining beats bad, because a draining peer at least answers.
            let rank = (tried, peer.is_bad(now), endpoint.draining);
            if second.as_ref().is_none_or(|(best, _)| rank < *best) {
                second = Some((rank, peer.clone()));
            }
        }
        second.map(|(_, peer)| peer).ok_or_else(|| self.nobody(call.method))
    }

    fn peers(
        &self,
        snapshot: &Arc<Snapshot>,
        peer: impl Fn(SocketAddr, Wire) -> Arc<Peer>,
    ) -> Arc<[Arc<Peer>]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&known.0, snapshot) {
            let peers = snapshot.endpoints.iter().map(|endpoint| peer(endpoint.addr, endpoint.wire));
            *known = (snapshot.clone(), peers.collect());
        }
        known.1.clone()
    }

    fn nobody(&self, method: &MethodDescriptor) -> Failure {
        let text = format!(
            "nobody serves {}: no provider is registered, and in direct mode rpcserverport must name one",
            method.path()
        );
        Failure { ran: Ran::No, status: Status::unavailable(text) }
    }
}
