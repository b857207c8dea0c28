//! The provider: serves services on an address and publishes them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
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
    reactor::{self, Acceptor, ReactorOptions},
    registry::{Publication, zookeeper::route_to},
    service::Service,
    table::ServiceTable,
};

mod dispatch;
mod limits;
mod reload;
mod running;
mod watch;

use dispatch::Server;

pub use running::RunningProvider;

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
        let max_connections = room_for(self.app.config());
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
fn room_for(config: &MprpcConfig) -> usize {
    let wanted = config.settings().max_connections;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused only where the hard limit is above what the kernel allows; then the soft one stays.
    let _ = setrlimit(Resource::Nofile, limit);
    let limit = getrlimit(Resource::Nofile).current.and_then(|n| usize::try_from(n).ok());
    let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(RESERVED));
    if room < wanted {
        // Nobody asked for the default.
        let level = config.get("max_connections").map_or(log::Level::Info, |_| log::Level::Warn);
        log::log!(
            level,
            "max_connections = {wanted} is lowered to {room} by the limit of descriptors (ulimit -n)"
        );
    }
    wanted.min(room)
}

/// Connections that may wait to be accepted; the kernel's own limit holds, too.
const BACKLOG: u32 = 4096;
/// Descriptors for everything but connections.
const RESERVED: usize = 100;
