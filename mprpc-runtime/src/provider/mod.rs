//! The provider: serves services on an address and publishes them.

use std::{
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};

use crate::{
    application::MprpcApplication,
    config::{MprpcConfig, Settings},
    error::Error,
    interceptor::ServerInterceptor,
    reactor::{self, Accepting, Acceptor, Handle, ReactorOptions},
    registry::{Publication, zookeeper::route_to},
    service::Service,
    table::ServiceTable,
};

mod dispatch;
mod limits;
mod reload;
mod watch;

use dispatch::Server;

/// Serves what it is told of, until a signal or `stop` ends it.
///
/// See the crate's documentation for an example.
pub struct RpcProvider {
    app: MprpcApplication,
    table: ServiceTable,
    interceptors: Vec<Arc<dyn ServerInterceptor>>,
    addr: SocketAddr,
    weight: u32,
    zone: String,
}

impl RpcProvider {
    /// A provider on the address that the configuration says.
    pub fn new(app: &MprpcApplication) -> Self {
        let settings = app.settings();
        Self {
            app: app.clone(),
            table: ServiceTable::default(),
            interceptors: Vec::new(),
            addr: settings.server_addr(),
            weight: settings.weight.into(),
            zone: settings.zone.clone(),
        }
    }

    /// Publishes another weight than the configuration's; see [`RunningProvider::set_weight`].
    pub fn set_weight(&mut self, weight: u32) {
        self.weight = weight;
    }

    /// Publishes another zone than the configuration's; see [`RunningProvider::set_zone`].
    pub fn set_zone(&mut self, zone: impl Into<String>) {
        self.zone = zone.into();
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

    /// Lets at most `limit` calls of a service that was notified, `package.Service`, or of one of its methods,
    /// `package.Service/Method`, be open at once; further ones are refused, and callers may try elsewhere.
    /// `max_concurrency` in the configuration says it for operators, and goes over this.
    ///
    /// # Errors
    /// There is no such service or method.
    pub fn limit_concurrency(&mut self, name: &str, limit: usize) -> Result<(), Error> {
        if self.table.cap(name, limit) { Ok(()) } else { Err(nothing_to_limit(name, &self.table)) }
    }

    /// Has `interceptor` see every call of the services, whenever those were notified.
    pub fn intercept(&mut self, interceptor: impl ServerInterceptor + 'static) {
        self.interceptors.push(Arc::new(interceptor));
    }

    /// Serves until SIGTERM or SIGINT, then drains: running calls finish, at most for
    /// `drain_timeout`. A second signal ends the process at once. SIGHUP reads the configuration file
    /// again, see [`RunningProvider::reload`].
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
        if self.app.config().file().is_some() {
            caught.add_signal(SIGHUP).map_err(signals)?;
        }
        let mut running = self.start()?;
        for _ in caught.forever().take_while(|signal| *signal == SIGHUP) {
            if let Err(error) = running.reload() {
                log::error!("reload: {error}; everything stays as it was");
            }
        }
        second.store(true, Ordering::SeqCst);
        running.stop()
    }

    /// Serves in the background and returns.
    ///
    /// # Errors
    /// As `run`, but for the end.
    pub fn start(mut self) -> Result<RunningProvider, Error> {
        if self.table.is_empty() {
            return Err(Error::Usage("a provider needs a service: call notify_service before run".into()));
        }
        let settings = self.app.settings();
        for (name, _) in &settings.max_concurrency {
            if !self.table.is_capped(name) && !self.table.cap(name, usize::MAX) {
                return Err(nothing_to_limit(name, &self.table));
            }
        }
        self.table.set_caps(&settings.max_concurrency);
        let acceptor = Acceptor::bind(self.addr, BACKLOG)?;
        let addr = acceptor.local_addr();
        let max_connections = room_for(settings.max_connections);
        let (spin, user_timeout) = (settings.spin_us, settings.request_timeout);
        let options = ReactorOptions { spin, user_timeout, ..Default::default() };
        let reactors = reactor::Pool::start("mprpc-io", settings.io_threads, &options)?;
        let mailboxes = reactors.handles().iter().map(|handle| handle.mailbox().clone()).collect();
        let server =
            Arc::new(Server::new(settings, self.app.instance(), self.table, self.interceptors, mailboxes)?);
        let accepting = acceptor.run(&reactors, server.clone(), max_connections)?;
        accepting.set_limits(max_connections, settings.max_address_connections);
        log::info!("{}", limits::worst_case(settings, max_connections));
        let publication = Publication {
            addr: advertised(settings, addr),
            instance: self.app.instance(),
            services: server.dispatcher.table.names(),
            weight: self.weight,
            zone: self.zone,
            legacy: settings.legacy,
        };
        let published = Mutex::default();
        let (config, accepting) = (self.app.config().clone(), Some(accepting));
        let running = RunningProvider { app: self.app, config, server, reactors, accepting, addr, published };
        // Whoever reads the announcement may start a caller, which should find us.
        *running.published() = Some(publication.clone());
        running.app.registry()?.publish(publication)?;
        running.announce();
        Ok(running)
    }
}

/// A provider that serves in the background. Dropping it stops it.
pub struct RunningProvider {
    app: MprpcApplication,
    /// The application's, or what was reread since.
    config: MprpcConfig,
    server: Arc<Server>,
    reactors: reactor::Pool,
    accepting: Option<Accepting>,
    addr: SocketAddr,
    /// What stands in the registry.
    published: Mutex<Option<Publication>>,
}

impl RunningProvider {
    /// The address that it serves on, with the port that was chosen.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Asks callers for another share of calls, from now on: 100 is normal, 0 asks for none as long as
    /// there are others. Returns when that is published, or after some seconds; what fails then is
    /// tried again. Running calls go on.
    ///
    /// # Errors
    /// A weight above 10,000, and the old one stays. With `require_registry`, a first try that failed.
    pub fn set_weight(&self, weight: u32) -> Result<(), Error> {
        self.republish(|publication| publication.weight = weight)
    }

    /// Tells callers of another zone, as `set_weight` does of another weight.
    ///
    /// # Errors
    /// Anything but at most 64 letters, digits, `.`, `_` and `-`; and as `set_weight`.
    pub fn set_zone(&self, zone: impl Into<String>) -> Result<(), Error> {
        self.republish(|publication| publication.zone = zone.into())
    }

    fn republish(&self, edit: impl FnOnce(&mut Publication)) -> Result<(), Error> {
        // Held throughout, or of two that change it at a time one would undo the other's.
        let mut published = self.published();
        let Some(mut publication) = published.clone() else { return Ok(()) };
        edit(&mut publication);
        publication.check()?;
        *published = Some(publication.clone());
        self.app.registry()?.publish(publication)
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
        let limit = self.config.settings().drain_timeout;
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

    fn published(&self) -> MutexGuard<'_, Option<Publication>> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many calls were cut: those that had no answer, whoever was to give it.
    fn shut_down(&mut self) -> u64 {
        let Some(accepting) = self.accepting.take() else { return 0 };
        let began = Instant::now();
        let deadline = began + self.config.settings().drain_timeout;
        let dispatcher = &self.server.dispatcher;
        let before = dispatcher.ended();
        let registry = self.published().take().map(|one| one.addr).zip(self.app.registry().ok());
        if let Some((addr, registry)) = &registry {
            // Without ZooKeeper nobody can be told; the time belongs to the calls that run.
            registry.drain(*addr, deadline.min(began + LEAVE));
        }
        accepting.stop(deadline.min(began + 2 * LEAVE).saturating_duration_since(Instant::now()));
        let connections = self.reactors.connections();
        self.reactors.handles().iter().for_each(Handle::drain_all);
        while self.reactors.connections() + dispatcher.busy() > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let (busy, finished) = (dispatcher.busy() as u64, dispatcher.ended() - before);
        // Who was in time may take leave properly; else the end was promised for now.
        let leave = if Instant::now() < deadline { LEAVE } else { HURRY };
        let stuck = !self.reactors.stop(leave);
        // A handler whose caller is gone is cut, too, and so is one that blocks its reactor.
        let cut = dispatcher.cut().max(busy).max(stuck.into());
        dispatcher.stop(if cut == 0 { Instant::now() + leave } else { deadline });
        if let Some((addr, registry)) = registry {
            registry.withdraw(addr, Instant::now() + leave);
        }
        let seconds = began.elapsed().as_secs_f64();
        log::info!(
            "drained: {connections} connections, {finished} calls finished, {cut} cut, {seconds:.1} s"
        );
        // A handler that is stuck may hold the application, and with it the end of the logger.
        log::logger().flush();
        cut
    }
}

impl Drop for RunningProvider {
    fn drop(&mut self) {
        self.shut_down();
    }
}

fn nothing_to_limit(name: &str, table: &ServiceTable) -> Error {
    let served = table.paths().join(", ");
    Error::Config(format!("max_concurrency: {name}: want a service or method of {served}"))
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

/// Raises the process's limit of descriptors as far as it may, and returns how many of the wanted
/// connections that leaves room for.
fn room_for(wanted: usize) -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where the hard limit is above what the kernel allows; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, limit);
    let limit = getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok());
    let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(RESERVED));
    if room < wanted {
        log::warn!("max_connections = {wanted} is lowered to {room} by the limit of descriptors (ulimit -n)");
    }
    wanted.min(room)
}

/// Connections that may wait to be accepted; the kernel's own limit holds, too.
const BACKLOG: u32 = 4096;
/// Descriptors for everything but connections.
const RESERVED: usize = 100;
/// How long the end waits for threads and for the registry.
const LEAVE: Duration = Duration::from_secs(1);
/// The same once `drain_timeout` is over.
const HURRY: Duration = Duration::from_millis(100);
