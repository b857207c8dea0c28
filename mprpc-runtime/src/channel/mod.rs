//! The channel: finds who serves a call, carries it there, and tries elsewhere what did not run.
//!
//! ```text
//!   stub -> MprpcChannel -> services: who serves it (registry snapshot), who of them (balance) -> Peer
//!                 blocking call     -> a connection from the peer's pool, driven by the calling thread;
//!                                      one of very many at a time: as if it were asynchronous
//!                 asynchronous call -> the peer's shared connection, driven by a client reactor
//! ```
//!
//! How an attempt ended goes to the peer's health, and so does what its connections find out: that it
//! refused, fell silent, drains, is back. A peer in doubt is asked in the background: on the shared connection,
//! or, if it is the connecting that is in doubt, on a new one.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use protobuf::MessageDyn;

use crate::{
    application::MprpcApplication,
    balance::{Budget, Policy, Verdict},
    config::{LegacyEmpty, LegacyEnd},
    connection::{ReplyExtras, call::Failure, client::ClientSettings},
    descriptor::MethodDescriptor,
    error::Error,
    interceptor::{ClientInterceptor, Intercepted},
    reactor,
    registry::{Endpoint, Registry, direct::DirectRegistry},
    rpc_channel::{Call, Done, RpcChannel, call_and_wait, refuse_on_reactor},
    wire::Wire,
};

mod asynchronous;
mod attempts;
mod blocking;
mod crowd;
mod dial;
mod encode;
mod peer;
mod services;

use asynchronous::AsyncCall;
use attempts::{Attempts, Failed};
use peer::{Peer, Placed};
use services::{Peers, ServiceState};

/// Carries calls over the network. Clones share connections; all of it may be used from any thread.
#[derive(Clone)]
pub struct MprpcChannel {
    shared: Arc<Shared>,
    timeout: Duration,
    balance: Policy,
}

struct Shared {
    app: MprpcApplication,
    registry: Arc<dyn Registry>,
    client: Arc<ClientSettings>,
    /// Where its asynchronous calls are driven.
    reactor: OnceLock<reactor::Handle>,
    /// Few, never forgotten, and asked for by each call: found by comparing names, without a lock.
    services: OnceLock<Box<Service>>,
    /// Kept by the services that they serve.
    peers: Mutex<HashMap<(SocketAddr, Wire), Weak<Peer>>>,
    budget: Budget,
}

impl Shared {
    /// One for all connections: callbacks of a channel follow each other, and a call that one of them
    /// starts wakes nobody.
    fn reactor(&self) -> Result<&reactor::Handle, Error> {
        let pool = self.app.clients()?;
        Ok(self.reactor.get_or_init(|| pool.next().clone()))
    }
}

/// One of a list of services.
struct Service {
    name: &'static str,
    state: ServiceState,
    next: OnceLock<Box<Self>>,
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
        let endpoints = addrs.into_iter().map(|addr| Endpoint::new(addr, Wire::Mux)).collect();
        let source = "the list of addresses that the program gave".into();
        Self::on(app, Arc::new(DirectRegistry::new(endpoints, source)))
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
        let shared = Shared {
            app: app.clone(),
            registry,
            client: Arc::new(client),
            reactor: OnceLock::new(),
            services: OnceLock::new(),
            peers: Mutex::default(),
            budget: Budget::default(),
        };
        Self { shared: Arc::new(shared), timeout: settings.timeout, balance: settings.balance }
    }

    /// The same channel, on the same connections, for calls that are allowed this time unless they or
    /// their method say otherwise.
    ///
    /// ```no_run
    /// # fn f(channel: &mprpc_runtime::MprpcChannel) {
    /// let hasty = channel.with_timeout(std::time::Duration::from_millis(200));
    /// # }
    /// ```
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same channel, on the same connections, which chooses among providers in this way instead
    /// of the configuration's (`balance`).
    #[must_use]
    pub fn with_balance(&self, balance: Policy) -> Self {
        Self { balance, ..self.clone() }
    }

    /// The same channel, on the same connections, whose calls `interceptor` sees.
    #[must_use]
    pub fn intercept(&self, interceptor: impl ClientInterceptor + 'static) -> Intercepted<Self> {
        Intercepted::new(self.clone(), interceptor)
    }

    /// Chooses who gets the next attempt of a call of `service`, where `place` places it.
    fn pick<P>(
        &self,
        service: &ServiceState,
        call: &Attempts,
        place: impl FnOnce(&Arc<Peer>, bool) -> P,
    ) -> Result<P, Failure> {
        // A reactor cannot wait for a first look-up; it takes what is known.
        let deadline = if reactor::on_reactor_thread() { call.since } else { call.deadline };
        service.pick(&*self.shared.registry, deadline, self.balance, call, self, place)
    }

    /// The service of a method, and whether this is the first call of it.
    fn service(&self, method: &'static MethodDescriptor) -> (&ServiceState, bool) {
        let (mut first, mut place) = (false, &self.shared.services);
        loop {
            let service = place.get_or_init(|| {
                first = true;
                let share_above = self.shared.app.settings().share_above;
                let (state, next) = (ServiceState::new(method, share_above), OnceLock::new());
                Box::new(Service { name: method.service, state, next })
            });
            if service.name == method.service {
                return (&service.state, first);
            }
            place = &service.next;
        }
    }

    /// Notes what the end of an attempt says about its peer.
    fn judge(&self, placed: Placed, failed: &Failed, attempts: &Attempts, now: Instant) {
        let (peer, verdict) = (placed.peer.clone(), failed.verdict());
        if verdict == Verdict::Late && peer.wire == Wire::Mux {
            // It may be slow, or dead: it is asked, on a connection that this call did not use.
            self.check(&peer, now);
        }
        if placed.failed(verdict, attempts.allowed, now) {
            self.service(attempts.method).0.eject(&peer, now);
        }
    }
}

impl Peers for MprpcChannel {
    fn peer(&self, addr: SocketAddr, wire: Wire) -> Arc<Peer> {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(&(addr, wire)).and_then(Weak::upgrade).unwrap_or_else(|| {
            peers.retain(|_, peer| peer.strong_count() > 0);
            let peer = Arc::new(Peer::new(addr, wire, self.shared.app.settings().max_idle));
            peers.insert((addr, wire), Arc::downgrade(&peer));
            peer
        })
    }

    fn check(&self, peer: &Peer, now: Instant) {
        match self.shared.reactor() {
            Ok(reactor) => peer.check(reactor, &self.shared.client, now),
            Err(error) => log::warn!("{} cannot be asked whether it lives: {error}", peer.addr),
        }
    }
}

impl RpcChannel for MprpcChannel {
    fn default_timeout(&self) -> Duration {
        self.timeout
    }

    fn call_method(&self, call: Call<'_>, done: Done) {
        self.shared.budget.earn();
        AsyncCall::start(self, &call, done);
    }

    fn call_blocking(&self, call: Call<'_>, response: &mut dyn MessageDyn) -> Result<ReplyExtras, Error> {
        refuse_on_reactor(call.method)?;
        let (service, _) = self.service(call.method);
        let caller = service.callers.enter();
        if caller.shares && encode::size(&call) <= SMALL {
            let began = Instant::now();
            let result = call_and_wait(self, call, response);
            caller.took(began.elapsed());
            return result;
        }
        let mut attempts = Attempts::new(&call, self.timeout);
        self.shared.budget.earn();
        // The first attempt begins with the call.
        let mut now = attempts.began;
        loop {
            attempts.renew(now);
            let client = &self.shared.client;
            let place = |peer: &Arc<Peer>, measured| Placed::new(peer.clone(), now, measured);
            let picked =
                attempts.may_start(&call, client, now).and_then(|()| self.pick(service, &attempts, place));
            let mut placed = match picked {
                Err(failure) => return Err(attempts.error(failure)),
                Ok(placed) => placed,
            };
            attempts.begin(&placed.peer);
            let (result, end) = blocking::call(&placed.peer, client, &call, (&mut attempts, now), response);
            caller.took(end.saturating_duration_since(now));
            match result {
                Ok(mut extras) => {
                    placed.answered(end);
                    if call.options.given().timed {
                        let server = extras.stages.take().and_then(|stages| stages.server);
                        extras.stages = Some(attempts.stages(end, server));
                    }
                    return Ok(extras);
                }
                Err(failed) => {
                    self.judge(placed, &failed, &attempts, end);
                    if !attempts.may_retry(&failed, &self.shared.budget) {
                        return Err(attempts.error(failed.failure));
                    }
                    now = Instant::now();
                }
            }
        }
    }
}

impl fmt::Debug for MprpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MprpcChannel").finish_non_exhaustive()
    }
}

/// Blocking callers share a connection for requests of so many bytes at most: large ones would be in each other's way.
const SMALL: u64 = 16 << 10;
