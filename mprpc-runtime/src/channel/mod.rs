//! The channel: finds who serves a call, carries it there, and tries elsewhere what did not run.
//!
//! ```text
//!   stub -> MprpcChannel -> services: who serves it (registry snapshot), who of them (balance) -> Peer
//!                 blocking call     -> a connection from the peer's pool, driven by the calling thread
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
    balance::{Budget, Policy, Repeat, Verdict},
    config::{LegacyEmpty, LegacyEnd},
    connection::{ReplyExtras, call::Failure, client::ClientSettings},
    descriptor::MethodDescriptor,
    error::{CallError, Error, Ran},
    interceptor::{ClientInterceptor, Intercepted},
    reactor,
    registry::{Endpoint, Registry, direct::DirectRegistry},
    rpc_channel::{Call, Done, RpcChannel, refuse_on_reactor},
    stages::{ServerStages, Stages},
    status::{Code, Status},
    wire::Wire,
};

mod asynchronous;
mod blocking;
mod dial;
mod encode;
mod peer;
mod services;

use asynchronous::AsyncCall;
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
                let (state, next) = (ServiceState::new(method), OnceLock::new());
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
        let mut attempts = Attempts::new(&call, self.timeout);
        self.shared.budget.earn();
        let (service, _) = self.service(call.method);
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

/// One call's attempts: what it is, how long it may take, where it was tried.
struct Attempts {
    method: &'static MethodDescriptor,
    began: Instant,
    allowed: Duration,
    deadline: Instant,
    count: u32,
    /// Bytes of the message and the attachment.
    size: u64,
    /// It may be repeated even if it ran.
    idempotent: bool,
    peer: Option<SocketAddr>,
    /// When the present attempt began, and when it was known who serves the call, a connection took
    /// it, that was open.
    since: Instant,
    marks: [Option<Instant>; 3],
    /// Where the call failed; empty, and without memory, for nearly all calls.
    tried: Vec<SocketAddr>,
}

/// An attempt that failed.
struct Failed {
    failure: Failure,
    /// The connection had served others before: that it is gone says nothing about the peer.
    stale: bool,
}

impl Failed {
    /// What it says about the peer.
    fn verdict(&self) -> Verdict {
        let Failure { ran, status } = &self.failure;
        match (ran, status.code()) {
            (_, Code::DeadlineExceeded) => Verdict::Late,
            (Ran::No, _) if status.retryable() => Verdict::Refused,
            // What could not be connected is told by the connection.
            (Ran::No, _) | (_, Code::Cancelled) => Verdict::Nothing,
            (_, Code::Unavailable | Code::Internal | Code::DataLoss) => Verdict::Failed,
            (_, Code::ResourceExhausted) => Verdict::Refused,
            _ => Verdict::Answered,
        }
    }
}

impl Attempts {
    fn new(call: &Call<'_>, default: Duration) -> Self {
        let began = reactor::now();
        let allowed = call.timeout(default);
        let deadline = began + allowed;
        let idempotent = call.options.given().idempotent.unwrap_or(call.method.idempotent);
        let (method, tried) = (call.method, Vec::new());
        Self {
            method,
            began,
            allowed,
            deadline,
            count: 0,
            size: 0,
            idempotent,
            peer: None,
            since: began,
            marks: [None; 3],
            tried,
        }
    }

    /// Refuses what cannot be sent.
    fn may_start(&mut self, call: &Call<'_>, settings: &ClientSettings, now: Instant) -> Result<(), Failure> {
        let refuse = |status| Err(Failure { ran: Ran::No, status });
        if self.allowed.is_zero() {
            return refuse(Status::deadline_exceeded(
                "a timeout of 0 leaves no time to send the call; it must be above (CallOptions::timeout, \
                 MprpcChannel::with_timeout; inside of a handler, what its own caller left)",
            ));
        }
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
        self.size = encode::check(call, settings).map_err(|status| Failure { ran: Ran::No, status })?;
        Ok(())
    }

    /// The next attempt begins.
    fn renew(&mut self, now: Instant) {
        (self.since, self.marks) = (now, [None; 3]);
    }

    /// How much of the time is left, which the request says.
    fn remaining(&self, now: Instant) -> Duration {
        // The first attempt begins with the call: nothing to reckon.
        if now == self.began { self.allowed } else { self.deadline.saturating_duration_since(now) }
    }

    /// Until when a connection waits for the answer: a moment longer than the caller is allowed, as the
    /// server says at the deadline where the time went. What it says later than that is not heard.
    fn patience(&self, wire: Wire) -> Instant {
        match wire {
            Wire::Mux => self.deadline + (self.allowed / 10).min(LAST_WORD),
            Wire::Legacy(_) => self.deadline,
        }
    }

    fn stages(&self, now: Instant, server: Option<ServerStages>) -> Box<Stages> {
        let at = |mark: Instant| mark.saturating_duration_since(self.began);
        // The first attempt begins with the call.
        let before = if self.count > 1 { at(self.since) } else { Duration::ZERO };
        Box::new(Stages::between(before, self.marks.map(|mark| mark.map(at)), at(now), server))
    }

    fn begin(&mut self, peer: &Peer) {
        self.count += 1;
        self.peer = Some(peer.addr);
    }

    /// Whether the call may be repeated and is worth another attempt. Notes where it failed.
    fn may_retry(&mut self, failed: &Failed, budget: &Budget) -> bool {
        let Failure { ran, status } = &failed.failure;
        let repeat = Repeat::of(*ran, status, self.idempotent);
        if repeat == Repeat::No || self.count >= MAX_ATTEMPTS || Instant::now() >= self.deadline {
            return false;
        }
        if repeat == Repeat::Budgeted && !budget.spend() {
            return false;
        }
        if !failed.stale {
            self.tried.extend(self.peer);
        }
        true
    }

    fn error(&self, failure: Failure) -> Error {
        let now = Instant::now();
        let stages = self.peer.map(|_| self.stages(now, failure.status.stages().cloned()));
        Error::Call(Box::new(CallError {
            status: failure.status,
            ran: failure.ran,
            method: self.method.path(),
            peer: self.peer,
            attempt: self.count.max(1),
            max_attempts: MAX_ATTEMPTS,
            stages,
            elapsed: now.saturating_duration_since(self.began),
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
/// How long after the deadline the server's word on it is waited for; less for short deadlines.
const LAST_WORD: Duration = Duration::from_millis(10);
