//! The application: configuration, logger, registry and client reactors, made once and shared.

use std::{
    ffi::OsString,
    fmt,
    hash::{BuildHasher, RandomState},
    path::Path,
    process::ExitCode,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use crate::{
    config::{LegacyMirror, MprpcConfig, Protocol, Settings},
    error::Error,
    logger::{Logger, LoggerGuard, LoggerOptions},
    reactor::{self, ReactorOptions},
    registry::{
        Endpoint, Registry,
        direct::DirectRegistry,
        zookeeper::{MirrorPolicy, ZkClient, ZooKeeperOptions, ZooKeeperRegistry},
    },
    wire::{Dialect, Wire},
};

/// What every provider and channel of a program shares. Clones are the same application; it ends
/// with the last of them and of the channels and providers made from it.
#[derive(Clone)]
pub struct MprpcApplication(Arc<Shared>);

struct Shared {
    config: MprpcConfig,
    instance: u64,
    registry: Mutex<Option<Started>>,
    clients: OnceLock<reactor::Pool>,
    // Last, so that what the others log while they end is still written.
    _logger: LoggerGuard,
}

/// The registry, once it was asked for.
#[derive(Clone)]
enum Started {
    Direct(Arc<DirectRegistry>),
    ZooKeeper(Arc<ZooKeeperRegistry>),
}

impl MprpcApplication {
    /// Reads the configuration that the command line names (`-i FILE`) and starts the logger.
    ///
    /// # Errors
    /// [`Error::Config`] with file, line, key and value; [`Error::Io`] if the logger cannot start.
    pub fn init(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        Self::from_config(MprpcConfig::from_args(args)?)
    }

    /// The same with a file given by name.
    ///
    /// # Errors
    /// As `init`.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::from_config(MprpcConfig::from_file(path)?)
    }

    /// The same with a configuration made by the program.
    ///
    /// # Errors
    /// As `init`.
    pub fn from_config(config: MprpcConfig) -> Result<Self, Error> {
        let settings = config.settings();
        let logger = Logger::start(LoggerOptions {
            dir: settings.log_dir.clone(),
            level: settings.log_level.as_str(),
            queue: settings.log_queue,
            max_size: settings.log_max_size,
        })?;
        for warning in config.warnings() {
            log::warn!("{warning}");
        }
        // Random enough to tell processes apart, which is all it is for.
        let instance = RandomState::new().hash_one(std::process::id()).max(1);
        Ok(Self(Arc::new(Shared {
            config,
            instance,
            registry: Mutex::default(),
            clients: OnceLock::new(),
            _logger: logger,
        })))
    }

    /// The configuration, also for the application's own keys.
    pub fn config(&self) -> &MprpcConfig {
        &self.0.config
    }

    /// Every setting of the framework with its effective value.
    pub fn settings(&self) -> &Settings {
        self.0.config.settings()
    }

    /// A number that names this application among all processes; not 0.
    pub fn instance(&self) -> u64 {
        self.0.instance
    }

    /// The registry that the configuration names, started when first asked for.
    ///
    /// # Errors
    /// ZooKeeper is required and cannot be reached.
    pub fn registry(&self) -> Result<Arc<dyn Registry>, Error> {
        Ok(match self.started()? {
            Started::Direct(registry) => registry,
            Started::ZooKeeper(registry) => registry,
        })
    }

    /// The same, for what only a registry on ZooKeeper can do, such as another mirror policy at run
    /// time; `None` in direct mode.
    ///
    /// # Errors
    /// As `registry`.
    ///
    /// ```no_run
    /// # use mprpc_runtime::{MprpcApplication, registry::MirrorPolicy};
    /// # fn f(app: MprpcApplication) -> Result<(), mprpc_runtime::Error> {
    /// if let Some(registry) = app.zookeeper()? {
    ///     registry.set_mirror(MirrorPolicy::Hold); // C++ callers stay with this process
    /// }
    /// # Ok(()) }
    /// ```
    pub fn zookeeper(&self) -> Result<Option<Arc<ZooKeeperRegistry>>, Error> {
        Ok(match self.started()? {
            Started::Direct(_) => None,
            Started::ZooKeeper(registry) => Some(registry),
        })
    }

    /// A client for znodes of the program's own, at the ZooKeeper of the configuration.
    ///
    /// # Errors
    /// The configuration names none, or it cannot be reached.
    pub fn zk_client(&self) -> Result<ZkClient, Error> {
        let direct = || Error::Config("zookeeperip: want a host; without one there is no ZooKeeper".into());
        ZkClient::start(self.zookeeper_options().ok_or_else(direct)?)
    }

    fn started(&self) -> Result<Started, Error> {
        let mut slot = self.0.registry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(registry) = &*slot {
            return Ok(registry.clone());
        }
        let registry = match self.zookeeper_options() {
            Some(options) => Started::ZooKeeper(ZooKeeperRegistry::start(options)?),
            None => {
                let endpoints = direct_endpoints(self.settings());
                Started::Direct(Arc::new(DirectRegistry::new(endpoints, self.direct_source())))
            }
        };
        Ok(slot.insert(registry).clone())
    }

    /// Where the addresses of direct mode stand.
    fn direct_source(&self) -> String {
        let no_file = || "no file: -i FILE names one".into();
        let file = self.config().file().map_or_else(no_file, |file| format!("{file:?}"));
        let keys = "rpcserverport or peers name whom to call, or zookeeperip who knows";
        format!("the configuration ({file}), where {keys}")
    }

    /// How the configuration wants ZooKeeper to be used, if at all.
    fn zookeeper_options(&self) -> Option<ZooKeeperOptions> {
        let settings = self.settings();
        let zookeeper = settings.zookeeper.as_ref()?;
        Some(ZooKeeperOptions {
            chroot: zookeeper.chroot.clone(),
            auth: zookeeper.auth.clone(),
            session_timeout: settings.zookeepertimeout,
            mirror: mirror(settings),
            require: settings.require_registry,
            cache: settings.registry_cache.clone(),
            app: program(),
            ..ZooKeeperOptions::new(zookeeper.hosts.clone())
        })
    }

    /// The reactors of this application's asynchronous calls, started when first asked for.
    pub(crate) fn clients(&self) -> Result<&reactor::Pool, Error> {
        if let Some(pool) = self.0.clients.get() {
            return Ok(pool);
        }
        let settings = self.settings();
        let (spin, user_timeout) = (settings.spin_us, settings.request_timeout);
        let options = ReactorOptions { spin, user_timeout, ..Default::default() };
        let pool = reactor::Pool::start("mprpc-client", settings.client_threads, &options)?;
        // A second thread may have been faster; then this pool ends at once.
        Ok(self.0.clients.get_or_init(|| pool))
    }
}

impl fmt::Debug for MprpcApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MprpcApplication").field("instance", &self.0.instance).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(clients) = self.clients.get() {
            clients.stop(STOP);
        }
    }
}

/// Runs a program: `MprpcApplication::init` with the command line, then `run`. What looks wrong in the
/// configuration but is accepted is printed as well as logged. An error is printed on one line; the
/// exit status is 2 for the configuration and 1 for anything else.
///
/// ```no_run
/// use std::process::ExitCode;
/// use mprpc_runtime::{MprpcChannel, MprpcApplication};
///
/// fn main() -> ExitCode {
///     mprpc_runtime::main(|app: MprpcApplication| {
///         let _channel = MprpcChannel::new(&app)?;
///         Ok(())
///     })
/// }
/// ```
pub fn main(run: impl FnOnce(MprpcApplication) -> Result<(), Error>) -> ExitCode {
    let warn = |app: &MprpcApplication| {
        app.config().warnings().iter().for_each(|text| eprintln!("warning: {text}"));
    };
    match MprpcApplication::init(std::env::args_os()).inspect(warn).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// The program's name, for people who look at its nodes.
fn program() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn direct_endpoints(settings: &Settings) -> Vec<Endpoint> {
    let wire = match settings.protocol {
        Protocol::Mux => Wire::Mux,
        Protocol::Legacy => Wire::Legacy(Dialect::LittleEndian),
        Protocol::LegacyBe => Wire::Legacy(Dialect::BigEndian),
        Protocol::LegacyVarint => Wire::Legacy(Dialect::Varint),
    };
    let own = [settings.server_addr()];
    let addrs = if settings.peers.is_empty() { &own } else { &settings.peers[..] };
    addrs.iter().filter(|addr| addr.port() != 0).map(|addr| Endpoint::new(*addr, wire)).collect()
}

/// What the registry calls `legacy_mirror`.
pub(crate) fn mirror(settings: &Settings) -> MirrorPolicy {
    match settings.legacy_mirror {
        LegacyMirror::Off => MirrorPolicy::Off,
        LegacyMirror::Yield => MirrorPolicy::Yield,
        LegacyMirror::Hold => MirrorPolicy::Hold,
    }
}
/// How long an ending application waits for its threads.
const STOP: Duration = Duration::from_secs(2);
