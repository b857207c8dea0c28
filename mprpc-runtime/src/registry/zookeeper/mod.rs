//! The registry on ZooKeeper: publishes this process and knows who else serves.
//!
//! ```text
//!   publish drain withdraw          lookup ------------------------------> snapshots
//!            |                        | first time                             ^
//!            v                        v                                        |
//!   +----------------- desk ----------------+   Desk, Stop, Ask (zk_client)    | deliver
//!                     ^    |                                                   |
//!            outcome  |    v                                                   |
//!   mprpc-registry: keeper --- event ---> session (pure): Open Restore Audit Work Abandon
//!                     |    |
//!                     |    +--> publisher --- node found ---> claim (pure): Create Write Delete ...
//!                     |    +--> views: two directories each - nodes (pure): endpoint or rubbish
//!                     |    +--> cache: files for a start without ZooKeeper; outage: what the log hears
//!                     v
//!   mprpc-zookeeper: client, one for each session; bounded requests in, Link and Node news out
//!                     |
//!   the crate's threads "io", parked (probe) while no server answers, and "event"
//! ```
//!
//! The `zookeeper` crate is the cause of all this. What it does, and what is done about it:
//!
//! - It forgets watches and authentication when it reconnects, and takes a new session without a word:
//!   after each `Joined` the session says `Restore`, and all is done as if nothing were known.
//! - It waits for answers without end: `Client::call` does not; who is late is abandoned.
//! - It dials without pause, in one order, and waits for its first host for ever: hosts are probed and
//!   shuffled before it is let loose, and its I/O thread is parked while none serves.
//! - It cannot be closed without a server, and closing may hang: a thread of the client's own does that.
//! - It is dead for good when its session ends, and its threads may die without a word: news of the
//!   first, and lost requests for longer than a session for the second, get a new client.
//! - It takes a session for lost if it was too busy to ping: an audit every 4/5 of the time-out, and
//!   between them little else; programs' own requests have a session of their own.
//! - It piles up the closures of lost watches and overflows its request numbers: a client is replaced
//!   after 100 reconnections or 2^30 requests.
//! - It panics on what it does not expect, and breaks on answers above 2 MiB: calls are caught, long
//!   lists are refused, and paths and sizes are checked before they are sent.

use std::{
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Sender, bounded};

use super::{Publication, Registry, ServiceName, Snapshot};
use crate::error::Error;

mod cache;
mod claim;
mod client;
mod desk;
mod dial;
mod directory;
mod keeper;
mod nodes;
mod outage;
mod probe;
mod publisher;
mod session;
mod view;
mod zk_client;

use cache::Cache;
use desk::{Shared, Wanted};
pub use dial::route_to;
use keeper::{Keeper, Work};
use session::Session;
pub use zk_client::ZkClient;

/// How to reach ZooKeeper and what to do there.
#[derive(Clone)]
pub struct ZooKeeperOptions {
    /// `host:port` of each server.
    pub hosts: Vec<String>,
    /// The node below which everything stands, such as `/test`; empty for the root.
    pub chroot: String,
    /// Scheme and credentials, such as `digest` and `user:password`.
    pub auth: Option<(String, String)>,
    /// How long ZooKeeper keeps the nodes of a process that fell silent. The server may have limits
    /// of its own; below 10 s, it should be known that they are lower.
    pub session_timeout: Duration,
    /// Whether C++ callers find this process.
    pub mirror: MirrorPolicy,
    /// Fail, instead of serving unpublished, when ZooKeeper cannot be reached at start.
    pub require: bool,
    /// The directory where the services that were looked up are remembered, for a start without
    /// ZooKeeper; made if it is missing.
    pub cache: Option<PathBuf>,
    /// The program's name, for people who look at the nodes.
    pub app: String,
}

/// Whether this process puts its address at the legacy name of a method, where C++ callers look.
/// One process has the name at a time; a name that another address holds is never touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MirrorPolicy {
    /// Never.
    Off,
    /// When the name is free and stays free for a moment.
    #[default]
    Yield,
    /// As soon as the name is free, to win against a C++ provider that restarts.
    Hold,
}

/// The registry on ZooKeeper. One for each process; see the module's picture.
pub struct ZooKeeperRegistry {
    shared: Arc<Shared>,
    inbox: Sender<Message>,
    options: ZooKeeperOptions,
}

/// What the keeper is told.
enum Message {
    /// News of the connection, and of which client's.
    Link(u64, session::Event),
    /// News of the node at this path, and whether it is gone.
    Node(String, bool),
    /// What somebody wants to be done in between.
    Ask(zk_client::Ask),
    /// Something lies on the desk.
    Desk,
    /// End, and close the session, at this time at the latest.
    Stop(Instant),
}

impl ZooKeeperOptions {
    /// The usual: no chroot, no authentication, a session of 10 s, a mirror that yields.
    pub fn new(hosts: Vec<String>) -> Self {
        Self {
            hosts,
            chroot: String::new(),
            auth: None,
            session_timeout: Duration::from_secs(10),
            mirror: MirrorPolicy::default(),
            require: false,
            cache: None,
            app: String::new(),
        }
    }

    /// Whether a ZooKeeper is on another machine, where callers may be, too.
    fn is_remote(&self) -> bool {
        self.hosts.iter().any(|host| {
            let name = host.rsplit_once(':').map_or("", |(name, _)| name);
            let ip = name.trim_matches(['[', ']']).parse::<IpAddr>();
            name != "localhost" && !ip.is_ok_and(|ip| ip.is_loopback())
        })
    }
}

impl ZooKeeperRegistry {
    /// Starts the registry's thread, which connects and keeps trying.
    ///
    /// # Errors
    /// No host; and, with `require`, no ZooKeeper that can be reached.
    pub fn start(options: ZooKeeperOptions) -> Result<Arc<Self>, Error> {
        if options.hosts.is_empty() {
            return Err(Error::Config("zookeeperip: no host is named".into()));
        }
        let shared = Arc::new(Shared::default());
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let first = shared.change(|wanted| {
            (wanted.mirror, wanted.app) = (options.mirror, options.app.clone());
            wanted.start = since.map_or(0, |since| since.as_millis());
        });
        // Full only while the keeper is stuck; then news of nodes is lost until the next audit.
        let (sender, inbox) = bounded(4096);
        let keeper = Keeper {
            cache: Cache::new(&options),
            options: options.clone(),
            shared: shared.clone(),
            inbox,
            sender: sender.clone(),
            session: Session::new(options.session_timeout, Instant::now(), random()),
            work: Work::default(),
        };
        let thread = thread::Builder::new().name("mprpc-registry".into());
        let thread = thread.spawn(|| keeper.run());
        thread.map_err(|error| Error::Io("no thread for the registry".into(), error))?;
        let registry = Arc::new(Self { shared, inbox: sender, options });
        if registry.options.require {
            let deadline = Instant::now() + FIRST_ATTEMPT;
            registry.shared.tried(first, deadline)?;
        }
        Ok(registry)
    }

    /// Changes the policy of the legacy names, at once.
    pub fn set_mirror(&self, mirror: MirrorPolicy) {
        self.change(|wanted| wanted.mirror = mirror);
    }

    /// Ends the registry and closes its session, and with it everything published. Known services
    /// stay known. Returns at `deadline` at the latest; what is not gone then goes with the
    /// session's time-out.
    pub fn stop(&self, deadline: Instant) {
        let stop = Message::Stop(deadline);
        if self.inbox.send_deadline(stop, deadline).is_ok() {
            self.shared.wait(deadline, |desk| desk.stopped);
        }
    }

    fn change(&self, edit: impl FnOnce(&mut Wanted)) -> u64 {
        let change = self.shared.change(edit);
        let _ = self.inbox.try_send(Message::Desk); // full: the keeper looks at the desk anyway
        change
    }

    /// Has the publication carried out from now on; gives the number of that change.
    fn want(&self, publication: Publication) -> Result<u64, Error> {
        let addr = publication.addr;
        publication.check()?;
        publication.services.iter().try_for_each(nodes::check_names)?;
        let unfit =
            |text: &str| Err(Error::Config(format!("{addr} cannot be dialled from elsewhere: {text}")));
        if addr.ip().is_loopback() && self.options.is_remote() {
            return unfit(
                "set `rpcserverip` to an address of this machine that callers reach, or to 0.0.0.0, which takes them \
                 all; and `advertise` if callers use another than the way to ZooKeeper begins with",
            );
        }
        if !nodes::dialable(addr) {
            return unfit("set `advertise` to the address that callers use");
        }
        if publication.legacy && nodes::mirror_text(addr).is_none() {
            log::warn!("C++ callers know IPv4 only and will not find {addr}");
        }
        Ok(self.change(|wanted| {
            wanted.forget(addr);
            wanted.publications.push(publication);
        }))
    }
}

impl Registry for ZooKeeperRegistry {
    fn publish(&self, publication: Publication) -> Result<(), Error> {
        let change = self.want(publication)?;
        let tried = self.shared.tried(change, Instant::now() + FIRST_ATTEMPT);
        match tried {
            Err(why) if !self.options.require => {
                // Who starts a program looks here, not into the log. Not `eprintln`: stderr may be closed.
                let _ = writeln!(io::stderr(), "warning: not published yet, trying on: {why}");
                Ok(())
            }
            tried => tried,
        }
    }

    fn republish(&self, publication: Publication) -> Result<(), Error> {
        self.want(publication).map(drop)
    }

    fn set_mirror(&self, mirror: MirrorPolicy) {
        Self::set_mirror(self, mirror);
    }

    fn drain(&self, addr: SocketAddr, deadline: Instant) {
        let change = self.change(|wanted| wanted.draining.push(addr));
        self.shared.done(change, deadline);
    }

    fn withdraw(&self, addr: SocketAddr, deadline: Instant) {
        let change = self.change(|wanted| wanted.forget(addr));
        self.shared.done(change, deadline);
    }

    fn lookup(&self, service: &ServiceName, deadline: Instant) -> Result<Arc<Snapshot>, Error> {
        if let Some(snapshot) = self.shared.known(&service.full) {
            return Ok(snapshot);
        }
        nodes::check_names(service)?;
        if self.shared.ask(service) {
            let _ = self.inbox.try_send(Message::Desk);
        }
        self.shared.first(&service.full, deadline)
    }

    fn source(&self, service: &ServiceName) -> String {
        let (hosts, dir) = (self.options.hosts.join(","), nodes::instances_dir(service));
        format!("ZooKeeper at {hosts}, {}{dir}", self.options.chroot)
    }

    fn edition(&self) -> Option<u64> {
        Some(self.shared.edition())
    }
}

impl Drop for ZooKeeperRegistry {
    fn drop(&mut self) {
        self.stop(Instant::now() + Duration::from_secs(1));
    }
}

/// Any number: each `RandomState` has other keys.
fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// How long `start` and `publish` wait for the first attempt: to probe a host, to open a session,
/// to dial back.
const FIRST_ATTEMPT: Duration = Duration::from_millis(4500);
