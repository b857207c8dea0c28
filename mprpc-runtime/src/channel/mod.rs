//! The channel: finds who serves a call, carries it there, and tries elsewhere what did not run.
//!
//! ```text
//!   stub -> MprpcChannel -> services: who serves it (registry snapshot) -> Peer
//!                 blocking call     -> a connection from the peer's pool, driven by the calling thread
//!                 asynchronous call -> the peer's shared connection, driven by a client reactor
//! ```

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use protobuf::MessageDyn;

use crate::{
    application::MprpcApplication,
    config::{LegacyEmpty, LegacyEnd},
    connection::{ReplyExtras, call::Failure, client::ClientSettings},
    descriptor::MethodDescriptor,
    error::{CallError, Error, Ran},
    reactor,
    registry::{Endpoint, Registry, direct::DirectRegistry},
    rpc_channel::{Call, Done, RpcChannel, refuse_on_reactor},
    status::Status,
    wire::Wire,
};

mod asynchronous;
mod blocking;
mod encode;
mod peer;
mod services;

use asynchronous::AsyncCall;
use peer::Peer;
use services::ServiceState;

/// Carries calls over the network. Clones share connections; all of it may be used from any thread.
#[derive(Clone)]
pub struct MprpcChannel(Arc<Shared>);

struct Shared {
    app: MprpcApplication,
    registry: Arc<dyn Registry>,
    client: Arc<ClientSettings>,
    /// Few, and asked for by each call: found by comparing names, which are mostly one address.
    services: RwLock<Vec<(&'static str, Arc<ServiceState>)>>,
    peers: Mutex<HashMap<(SocketAddr, Wire), Arc<Peer>>>,
}

impl MprpcChannel {
    /// A channel to whoever the application's registry names; in direct mode, to the configured
    /// address. Nothing is dialled before the first call.
    ///
    /// # Errors
    /// A required registry cannot be reached.
    pub fn new(app: &MprpcApplication) -> Result<Self, Error> {
        Ok(Self::on(app, app.registry()?))
    }

    /// A channel to these addresses, whatever the configuration says, which speak mux.
    pub fn to(app: &MprpcApplication, addrs: impl IntoIterator<Item = SocketAddr>) -> Self {
        let endpoint = |addr| Endpoint::new(addr, Wire::Mux);
        Self::on(app, Arc::new(DirectRegistry::new(addrs.into_iter().map(endpoint).collect())))
    }

    /// A channel to what `registry` knows.
    pub fn on(app: &MprpcApplication, registry: Arc<dyn Registry>) -> Self {
        let settings = app.settings();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let client = ClientSettings {
            instance: app.instance(),
            max_header: small(settings.max_header),
            max_body: small(settings.max_body),
            // Room for a few calls of the largest size: a caller that sends more is told.
            max_output: settings.max_output.max(4 * settings.max_body),
            connect_timeout: settings.connect_timeout,
            request_timeout: settings.request_timeout,
            ping_interval: settings.ping_interval,
            legacy_quiet: settings.legacy_end == LegacyEnd::Quiet,
            legacy_empty: settings.legacy_empty == LegacyEmpty::Default,
        };
        Self(Arc::new(Shared {
            app: app.clone(),
            registry,
            client: Arc::new(client),
            services: RwLock::default(),
            peers: Mutex::default(),
        }))
    }

    /// The peer for the next attempt of a call.
    fn pick(&self, call: &Attempts, now: Instant) -> Result<Arc<Peer>, Failure> {
        let service = self.service(call);
        // A reactor cannot wait for a first look-up; it takes what is known.
        let deadline = if reactor::on_reactor_thread() { now } else { call.deadline };
        let snapshot = self
            .0
            .registry
            .lookup(&service.name, deadline)
            .map_err(|error| Failure { ran: Ran::No, status: Status::unavailable(error.to_string()) })?;
        service.pick(&snapshot, call, now, |addr, wire| self.peer(addr, wire))
    }

    fn service(&self, call: &Attempts) -> Arc<ServiceState> {
        let name = call.method.service;
        let find = |services: &[(&str, Arc<ServiceState>)]| {
            services.iter().find(|(known, _)| *known == name).map(|(_, service)| service.clone())
        };
        let known = find(&self.0.services.read().unwrap_or_else(PoisonError::into_inner));
        known.unwrap_or_else(|| {
            let mut services = self.0.services.write().unwrap_or_else(PoisonError::into_inner);
            find(&services).unwrap_or_else(|| {
                let service = Arc::new(ServiceState::new(call.method));
                services.push((name, service.clone()));
                service
            })
        })
    }

    fn peer(&self, addr: SocketAddr, wire: Wire) -> Arc<Peer> {
        let mut peers = self.0.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Peer::new(addr, wire, self.0.app.settings().max_idle));
        peers.entry((addr, wire)).or_insert_with(new).clone()
    }
}

impl RpcChannel for MprpcChannel {
    fn default_timeout(&self) -> Duration {
        self.0.app.settings().timeout
    }

    fn call_method(&self, call: Call<'_>, done: Done) {
        let attempts = Attempts::new(&call, self.default_timeout());
        AsyncCall::start(self.clone(), &call, attempts, done);
    }

    fn call_blocking(&self, call: Call<'_>, response: &mut dyn MessageDyn) -> Result<ReplyExtras, Error> {
        refuse_on_reactor(call.method)?;
        let mut attempts = Attempts::new(&call, self.default_timeout());
        loop {
            let now = Instant::now();
            let failed = match attempts.may_start(&call, now).and_then(|()| self.pick(&attempts, now)) {
                Err(failure) => return Err(attempts.error(failure)),
                Ok(peer) => {
                    attempts.begin(&peer);
                    match blocking::call(&peer, &self.0.client, &call, attempts.deadline, response) {
                        Ok(extras) => return Ok(extras),
                        Err(failed) => failed,
                    }
                }
            };
            if !attempts.may_retry(&failed) {
                return Err(attempts.error(failed.failure));
            }
        }
    }
}

/// One call's attempts: what it is, how long it may take, where it was tried.
struct Attempts {
    method: &'static MethodDescriptor,
    began: Instant,
    allowed: Duration,
    deadline: Instant,
    count: u32,
    peer: Option<SocketAddr>,
    /// Where the call failed; empty, and without memory, for nearly all calls.
    tried: Vec<SocketAddr>,
}

/// An attempt that failed.
struct Failed {
    failure: Failure,
    /// The connection had served others before: that it is gone says nothing about the peer.
    stale: bool,
}

impl Attempts {
    fn new(call: &Call<'_>, default: Duration) -> Self {
        let began = reactor::now();
        let allowed = call.timeout(default);
        let deadline = began + allowed;
        Self { method: call.method, began, allowed, deadline, count: 0, peer: None, tried: Vec::new() }
    }

    /// Refuses what cannot be sent.
    fn may_start(&self, call: &Call<'_>, now: Instant) -> Result<(), Failure> {
        let refuse = |status| Err(Failure { ran: Ran::No, status });
        if now >= self.deadline {
            return refuse(Status::deadline_exceeded("no time was left to send the call"));
        }
        if call.options.given().cancel.as_ref().is_some_and(|token| token.is_cancelled()) {
            return refuse(Status::cancelled("cancelled before it was sent"));
        }
        if !call.request.is_initialized_dyn() {
            let text = format!("the request {} lacks a required field", call.method.request_type);
            return refuse(Status::invalid_argument(text));
        }
        encode::check_size(call).map_err(|status| Failure { ran: Ran::No, status })
    }

    fn begin(&mut self, peer: &Peer) {
        self.count += 1;
        self.peer = Some(peer.addr);
    }

    /// Whether the call did not run and is worth another attempt. Notes where it failed.
    fn may_retry(&mut self, failed: &Failed) -> bool {
        if failed.failure.ran == Ran::Maybe || self.count >= MAX_ATTEMPTS || Instant::now() >= self.deadline {
            return false;
        }
        if !failed.stale {
            self.tried.extend(self.peer);
        }
        true
    }

    fn error(&self, failure: Failure) -> Error {
        Error::Call(Box::new(CallError {
            status: failure.status,
            ran: failure.ran,
            method: self.method.path(),
            peer: self.peer,
            attempt: self.count.max(1),
            elapsed: self.began.elapsed(),
            allowed: self.allowed,
        }))
    }
}

impl fmt::Debug for MprpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MprpcChannel").finish_non_exhaustive()
    }
}

/// Attempts of one call, the first included.
const MAX_ATTEMPTS: u32 = 3;
