//! The provider: serves services on an address and publishes them.

use std::{
    io::Write,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};

use crate::{
    application::MprpcApplication,
    config::{LegacyClose, Settings},
    connection::{
        ConnId, Connection, Dispatch, Incoming, Mailbox,
        server::{ServerConnection, ServerSettings},
    },
    error::Error,
    reactor::{self, Accept, Accepting, Acceptor, Handle, ReactorOptions},
    registry::{Publication, zookeeper::route_to},
    service::{ServerCall, Service},
    status::Status,
    table::{Route, ServiceTable},
    wire::Wire,
    worker,
};

/// Serves what it is told of, until a signal or `stop` ends it.
///
/// See the crate's documentation for an example.
pub struct RpcProvider {
    app: MprpcApplication,
    table: ServiceTable,
    addr: SocketAddr,
}

impl RpcProvider {
    /// A provider on the address that the configuration says.
    pub fn new(app: &MprpcApplication) -> Self {
        Self { app: app.clone(), table: ServiceTable::default(), addr: app.settings().server_addr() }
    }

    /// Binds `addr` instead of the configuration's address.
    pub fn bind(&mut self, addr: SocketAddr) {
        self.addr = addr;
    }

    /// Serves `service`. Its methods run on the worker pool, but for those that the .proto file
    /// declares inline.
    ///
    /// # Errors
    /// The service was notified already.
    pub fn notify_service(&mut self, service: impl Service + 'static) -> Result<(), Error> {
        self.notify(Arc::new(service), false)
    }

    /// Serves `service`; all its methods run on the reactors' threads and must not block.
    ///
    /// # Errors
    /// The service was notified already.
    pub fn notify_inline(&mut self, service: impl Service + 'static) -> Result<(), Error> {
        self.notify(Arc::new(service), true)
    }

    fn notify(&mut self, service: Arc<dyn Service>, inline: bool) -> Result<(), Error> {
        let name = service.descriptor().full_name;
        if let Some(other) = self.table.add(service, inline)? {
            log::warn!("{name} and {other} have one short name: the legacy wire serves neither");
        }
        log::info!("service_name:{name}");
        Ok(())
    }

    /// Serves until SIGTERM or SIGINT, then drains: running calls finish, at most for
    /// `drain_timeout`. A second signal ends the process at once.
    ///
    /// # Errors
    /// No service was notified, the address cannot be bound, a required registry cannot be
    /// reached, or calls were cut at the end.
    pub fn run(self) -> Result<(), Error> {
        let signals = |error| Error::Io("cannot handle signals".into(), error);
        let second = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_shutdown(signal, 1, second.clone()).map_err(signals)?;
        }
        let mut caught = Signals::new([SIGTERM, SIGINT]).map_err(signals)?;
        let running = self.start()?;
        caught.forever().next();
        second.store(true, Ordering::SeqCst);
        running.stop()
    }

    /// Serves in the background and returns.
    ///
    /// # Errors
    /// As `run`, but for the end.
    pub fn start(self) -> Result<RunningProvider, Error> {
        if self.table.is_empty() {
            return Err(Error::Usage("a provider needs a service: call notify_service before run".into()));
        }
        let settings = self.app.settings();
        let threads = |error| Error::Io("cannot start the provider's threads".into(), error);
        let acceptor = Acceptor::bind(self.addr, BACKLOG)?;
        let addr = acceptor.local_addr();
        let max_connections = raise_descriptor_limit(settings.max_connections);
        let options = ReactorOptions { spin: settings.spin_us, ..Default::default() };
        let reactors = reactor::Pool::start("mprpc-io", settings.io_threads, &options)?;
        let workers =
            worker::Pool::start("mprpc-worker", settings.worker_threads, settings.max_queue, Job::run)
                .map_err(threads)?;
        let server = Arc::new(Server {
            settings: Arc::new(server_settings(settings, self.app.instance())),
            dispatcher: Arc::new(Dispatcher {
                table: self.table,
                gathered: Mutex::default(),
                workers,
                running: Arc::default(),
            }),
        });
        let accepting = acceptor.run(&reactors, server.clone(), max_connections)?;
        let running = RunningProvider {
            app: self.app,
            server,
            reactors,
            accepting: Some(accepting),
            addr,
            published: false,
        };
        running.announce();
        running.publish()
    }
}

/// A provider that serves in the background. Dropping it stops it.
pub struct RunningProvider {
    app: MprpcApplication,
    server: Arc<Server>,
    reactors: reactor::Pool,
    accepting: Option<Accepting>,
    addr: SocketAddr,
    published: bool,
}

impl RunningProvider {
    /// The address that it serves on, with the port that was chosen.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Drains and ends: callers are told, running calls finish, at most for `drain_timeout`.
    ///
    /// # Errors
    /// Calls were cut because `drain_timeout` was over.
    pub fn stop(mut self) -> Result<(), Error> {
        let cut = self.shut_down();
        if cut == 0 {
            return Ok(());
        }
        let limit = self.app.settings().drain_timeout;
        Err(Error::Usage(format!("{cut} calls were cut: drain_timeout = {limit:?} was over")))
    }

    fn announce(&self) {
        for line in self.app.config().describe() {
            log::info!("{line}");
        }
        // A closed stdout is no reason not to serve.
        let _ = writeln!(std::io::stdout(), "RpcProvider start service at {}", self.addr);
        log::info!("RpcProvider start service at {}", self.addr);
    }

    fn publish(mut self) -> Result<Self, Error> {
        let settings = self.app.settings();
        let addr = advertised(settings, self.addr);
        self.app.registry()?.publish(Publication {
            addr,
            instance: self.app.instance(),
            services: self.server.dispatcher.table.names(),
            weight: 100,
            legacy: settings.legacy,
        })?;
        self.published = true;
        Ok(self)
    }

    /// Returns how many calls were cut.
    fn shut_down(&mut self) -> usize {
        let began = Instant::now();
        let deadline = began + self.app.settings().drain_timeout;
        let registry = self.app.registry().ok().filter(|_| std::mem::take(&mut self.published));
        if let Some(registry) = &registry {
            registry.drain(deadline);
        }
        if let Some(accepting) = self.accepting.take() {
            accepting.stop(LEAVE);
        }
        let connections = self.reactors.connections();
        let running = &self.server.dispatcher.running;
        let before = running.load(Ordering::SeqCst);
        self.reactors.handles().iter().for_each(Handle::drain_all);
        let busy = || self.reactors.connections() > 0 || running.load(Ordering::SeqCst) > 0;
        while busy() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let cut = running.load(Ordering::SeqCst);
        self.reactors.stop(LEAVE);
        self.server.dispatcher.workers.stop(if cut == 0 { Instant::now() + LEAVE } else { deadline });
        if let Some(registry) = registry {
            registry.withdraw(Instant::now() + LEAVE);
        }
        let (finished, seconds) = (before.saturating_sub(cut), began.elapsed().as_secs_f64());
        if connections + before > 0 || cut > 0 {
            log::info!(
                "drained: {connections} connections, {finished} calls finished, {cut} cut, {seconds:.1} s"
            );
        }
        cut
    }
}

impl Drop for RunningProvider {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Makes the connections of the provider.
struct Server {
    settings: Arc<ServerSettings>,
    dispatcher: Arc<Dispatcher>,
}

impl Accept for Server {
    fn accept(
        &self,
        id: ConnId,
        mailbox: &Arc<Mailbox>,
        peer: SocketAddr,
        now: Instant,
    ) -> Box<dyn Connection> {
        let (settings, dispatch) = (self.settings.clone(), self.dispatcher.clone());
        Box::new(ServerConnection::new(id, Some(peer), settings, dispatch, mailbox.clone(), now))
    }

    fn end_turn(&self) {
        self.dispatcher.end_turn();
    }
}

/// Brings calls to their handlers: inline, or gathered and handed to the workers once a turn.
struct Dispatcher {
    table: ServiceTable,
    gathered: Mutex<Vec<Job>>,
    workers: worker::Pool<Job>,
    /// Calls that wait for a worker or run on one.
    running: Arc<AtomicUsize>,
}

/// A call for a worker.
struct Job {
    route: Route,
    call: Option<ServerCall<'static>>,
    running: Arc<AtomicUsize>,
}

impl Dispatch for Dispatcher {
    fn dispatch(&self, incoming: Incoming<'_>) {
        let wire = incoming.ticket.wire().unwrap_or(Wire::Mux);
        let Some(route) = self.table.find(wire, incoming.service, incoming.method) else {
            let text = format!("{}/{} is not served here", incoming.service, incoming.method);
            return incoming.ticket.fail(Status::unimplemented(text));
        };
        let call = ServerCall::new(route.method, incoming, !route.inline);
        if route.inline {
            run_inline(route, call);
            return;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let (route, running) = (route.clone(), self.running.clone());
        let job = Job { route, call: Some(call.into_owned()), running };
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }

    fn end_turn(&self) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered.is_empty() {
            return;
        }
        self.workers.submit(&mut gathered);
        for job in gathered.drain(..) {
            job.refuse();
        }
    }
}

impl Job {
    fn run(mut self) {
        let Some(call) = self.call.take() else { return };
        let controller = call.controller();
        if controller.is_canceled() {
            call.fail(Status::cancelled("cancelled before it ran"));
        } else if controller.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            call.fail(Status::deadline_exceeded("the deadline passed in the worker queue; it did not run"));
        } else {
            self.route.service.call_method(self.route.index, call);
        }
    }

    fn refuse(mut self) {
        if let Some(call) = self.call.take() {
            let text = "the worker queue is full (max_queue)";
            call.fail(Status::resource_exhausted(text).with_retryable(true));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

fn run_inline(route: &Route, call: ServerCall<'_>) {
    let run = AssertUnwindSafe(|| route.service.call_method(route.index, call));
    if catch_unwind(run).is_err() {
        // Unwinding dropped the call's ticket, which answered it.
        log::error!("{} panicked; its call was answered INTERNAL", route.method.path());
    }
}

fn server_settings(settings: &Settings, instance: u64) -> ServerSettings {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ServerSettings {
        instance,
        legacy: settings.legacy,
        legacy_keep: settings.legacy_close == LegacyClose::Keep,
        max_header: small(settings.max_header),
        max_body: small(settings.max_body),
        max_calls: small(settings.max_calls),
        max_output: settings.max_output,
        request_timeout: settings.request_timeout,
        idle_timeout: settings.idle_timeout,
        min_ping_interval: settings.min_ping_interval,
    }
}

/// The address to publish: the configured one, else the bound one, else the address of this
/// machine on the way to ZooKeeper.
fn advertised(settings: &Settings, bound: SocketAddr) -> SocketAddr {
    if let Some(addr) = settings.advertise {
        let port = if addr.port() == 0 { bound.port() } else { addr.port() };
        return SocketAddr::new(addr.ip(), port);
    }
    let first = settings.zookeeper.as_ref().and_then(|zookeeper| zookeeper.hosts.first());
    match first.filter(|_| bound.ip().is_unspecified()).and_then(|host| route_to(host)) {
        Some(ip) => SocketAddr::new(ip, bound.port()),
        None => bound,
    }
}

/// Raises the process's limit of descriptors as far as it may, and returns how many connections
/// that leaves room for.
fn raise_descriptor_limit(wanted: usize) -> usize {
    let limit = raise_limit();
    let room = limit.saturating_sub(RESERVED);
    if room < wanted {
        log::warn!(
            "max_connections = {wanted} is lowered to {room}: this process may open {limit} descriptors"
        );
    }
    wanted.min(room)
}

fn raise_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where the hard limit is above what the kernel allows; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

/// Connections that may wait to be accepted; the kernel's own limit holds, too.
const BACKLOG: u32 = 4096;
/// Descriptors for everything but connections.
const RESERVED: usize = 100;
/// How long the end waits for threads and for the registry.
const LEAVE: Duration = Duration::from_secs(1);
