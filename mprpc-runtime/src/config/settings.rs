//! The settings: the one table of keys, other spellings, defaults, accepted values and meanings.

use std::{net::IpAddr, net::SocketAddr, path::PathBuf, thread, time::Duration};

use crate::balance::Policy;

use super::value::{
    LegacyClose, LegacyEmpty, LegacyEnd, LegacyMirror, LogLevel, Protocol, Value, ZooKeeperAddress, is_within,
};

/// A row of the table.
pub(super) struct Key {
    /// The key, then its other spelling, in lower case.
    pub(super) names: &'static [&'static str],
    pub(super) default: fn() -> String,
    pub(super) meaning: &'static str,
}

/// `[visibility] key [| "other spelling"]: type = default [, least to most];` under the meaning.
macro_rules! settings {
    ($(#[doc = $meaning:literal] $vis:vis $key:ident $(| $other:literal)?: $type:ty = $default:expr $(, $min:literal to $max:literal)?;)*) => {
        /// Every setting with its effective value; a field is called as its key. Sizes are in bytes.
        #[non_exhaustive]
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(#[doc = $meaning] $vis $key: $type,)*
            /// Where ZooKeeper is: `zookeeperip`, `zookeeperport` and `zookeeperauth` together.
            /// `None` is direct mode.
            pub zookeeper: Option<ZooKeeperAddress>,
        }

        pub(super) const KEYS: &[Key] = &[$(Key {
            names: &[stringify!($key) $(, $other)?],
            default: || $default.to_string(),
            meaning: $meaning,
        }),*];

        impl Settings {
            /// Reads the text that `given` has for a key, else its default. The error is the key
            /// and what it wants.
            pub(super) fn build(
                given: impl Fn(&Key) -> Option<String>,
            ) -> Result<Self, (&'static str, String)> {
                let mut keys = KEYS.iter();
                let mut settings = Self {
                    $($key: {
                        let key = keys.next().expect("fields and KEYS come from one list");
                        let mut text = given(key).unwrap_or_else(key.default);
                        let micros = key.names[0].ends_with("_us");
                        if micros && text.ends_with(|c: char| c.is_ascii_digit()) {
                            text += "us"; // the unit that a key's name says
                        }
                        let read = <$type>::read(&text);
                        $(let read = read.filter(|value| is_within(value, $min, $max));)?
                        let want = if micros { "microseconds, a number such as 50," } else { <$type>::WANT };
                        let range = concat!($(" from ", $min, " to ", $max)?);
                        read.ok_or_else(|| (key.names[0], format!("{want}{range}")))?
                    },)*
                    zookeeper: None,
                };
                settings.join_zookeeper();
                Ok(settings)
            }
        }
    };
}

settings! {
    /// The address that a provider binds; in direct mode the one that a caller dials.
    pub rpcserverip: IpAddr = "127.0.0.1";
    /// The port beside it; 0 lets the system choose, and the provider prints what it chose.
    pub rpcserverport: u16 = 0, "0" to "65535";
    /// Direct mode with several providers: ip:port, ip:port; instead of rpcserverip.
    pub peers: Vec<SocketAddr> = "";
    /// The ip or ip:port that is published; empty is the address that reaches ZooKeeper, port 0 the bound one.
    pub advertise: Option<SocketAddr> = "";

    /// ZooKeeper: h1:p1,h2:p2/chroot; empty is direct mode, without a registry.
    zookeeperip | "zkip": Option<ZooKeeperAddress> = "";
    /// The port of the hosts that name none.
    zookeeperport | "zkport": u16 = 2181, "1" to "65535";
    /// scheme:credentials, such as digest:user:password. Never printed.
    zookeeperauth: Option<(String, String)> = "";
    /// How long ZooKeeper keeps what a silent process published.
    pub zookeepertimeout: Duration = "10s", "2s" to "5m";
    /// The share of calls that a provider should get: 100 is normal, 0 is for when there is no other.
    pub weight: u16 = 100, "0" to "10000";
    /// Where this program stands, such as a data centre's name.
    pub zone: String = "";
    /// Fail at start when the registry cannot be reached, instead of serving and trying on.
    pub require_registry: bool = "false";
    /// A directory where who serves is remembered, for a start without ZooKeeper; empty is nowhere.
    pub registry_cache: Option<PathBuf> = "";

    /// What the peers at direct addresses speak: mux, legacy, legacy-be or legacy-varint.
    pub protocol: Protocol = "mux";
    /// Serve C++ callers on the same port.
    pub legacy: bool = "on";
    /// After a legacy reply: eof closes, keep waits for the next call (some C++ descendants).
    pub legacy_close: LegacyClose = "eof";
    /// The end of a legacy reply: eof, or quiet (nothing follows for a moment) for peers that never close.
    pub legacy_end: LegacyEnd = "eof";
    /// An empty legacy reply: error, or default (a message of defaults, which may hide a dead peer).
    pub legacy_empty: LegacyEmpty = "error";
    /// Nodes that C++ callers look up: off, yield (when the name is free) or hold (at once).
    pub legacy_mirror: LegacyMirror = "yield";

    /// Threads that move bytes.
    pub io_threads: usize = cores(), "1" to "1024";
    /// Threads that drive a client's asynchronous calls; a channel stays with one of them.
    pub client_threads: usize = cores().min(4), "1" to "1024";
    /// Threads that run handlers.
    pub worker_threads: usize = 4 * cores(), "1" to "4096";
    /// How long the reactors poll before they sleep, in microseconds; faster answers for a busy core.
    pub spin_us: Duration = 0, "0" to "1s";

    /// From a call to its decoded reply, unless the call says otherwise.
    pub timeout: Duration = "5s", "1ms" to "1h";
    /// Who of several providers gets a call: p2c (the less busy of two), round_robin, random or weighted.
    pub balance: Policy = "p2c";
    /// For the connection and the peer's Hello.
    pub connect_timeout: Duration = "1s", "1ms" to "5m";
    /// How long a stopping provider waits for running calls.
    pub drain_timeout: Duration = "10s", "0s" to "1h";
    /// For one frame to arrive, and for output to be accepted.
    pub request_timeout: Duration = "10s", "10ms" to "1h";
    /// A handler that runs longer on a worker is named in the log.
    pub slow_handler: Duration = "1s", "10ms" to "24h";
    /// After so long without a byte a connection ends.
    pub idle_timeout: Duration = "300s", "10ms" to "24h";
    /// How often a client pings a connection that is idle.
    pub ping_interval: Duration = "30s", "10ms" to "24h";
    /// Clients are asked not to ping more often.
    pub min_ping_interval: Duration = "1s", "0s" to "1h";

    /// The meta part of one mux frame.
    pub max_header: usize = 65535, "256" to "65535";
    /// The message and attachment of one request or response.
    pub max_body: usize = "4M", "1k" to "1G";
    /// Connections a provider keeps open.
    pub max_connections: usize = 20000, "1" to "10000000";
    /// Calls open at once on one connection.
    pub max_calls: usize = 1024, "1" to "1000000";
    /// Connections of one address, or of one IPv6 network of 64 bits; 0 is no limit.
    pub max_address_connections: usize = 0, "0" to "10000000";
    /// Calls open at once on all connections of a provider.
    pub max_total_calls: usize = 100000, "1" to "100000000";
    /// Calls that are open at once of a service or method: package.Service:100, package.Service/Method:10.
    pub max_concurrency: Vec<(String, usize)> = "";
    /// Calls that wait for a worker.
    pub max_queue: usize = 1024, "1" to "1000000";
    /// Bytes of requests that are not answered yet on one connection before it is no longer read.
    pub max_input: usize = "32M", "1k" to "16G";
    /// Bytes that wait to be written on one connection before it is no longer read and its waiting calls do not begin.
    pub max_output: usize = "1M", "1k" to "1G";
    /// Bytes that all connections of a provider hold; beyond, large requests are refused.
    pub max_memory: usize = "256M", "1M" to "1024G";
    /// Blocking callers of one service above which they share a connection, if their calls are quick; 0: always.
    pub share_above: usize = if cores() <= 4 { 8 * cores() } else { 1_000_000 }, "0" to "1000000";
    /// Idle connections that blocking callers keep to one endpoint.
    pub max_idle: usize = 8, "0" to "10000";

    /// Where the log files go.
    pub log_dir: PathBuf = ".";
    /// The least grave level that is logged: off, error, warn, info, debug or trace.
    pub log_level: LogLevel = "info";
    /// Log records that wait to be written; more are dropped and counted.
    pub log_queue: usize = 8192, "1" to "1000000";
    /// A log file of this size is followed by a new one; 0 is no limit.
    pub log_max_size: usize = 0, "0" to "1024G";
}

impl Settings {
    /// `rpcserverip:rpcserverport`: what a provider binds, and what a caller dials in direct mode.
    pub fn server_addr(&self) -> SocketAddr {
        SocketAddr::new(self.rpcserverip, self.rpcserverport)
    }

    /// Port and credentials join the hosts. They leave their own fields, so that `Debug`, which
    /// [`ZooKeeperAddress`] hides them from, cannot find them there.
    fn join_zookeeper(&mut self) {
        let auth = self.zookeeperauth.take();
        if let Some(mut address) = self.zookeeperip.take() {
            for host in &mut address.hosts {
                let bracket = host.rfind(']').unwrap_or(0);
                if !host[bracket..].contains(':') {
                    *host = format!("{host}:{}", self.zookeeperport);
                }
            }
            address.auth = auth;
            self.zookeeper = Some(address);
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::build(|_| None).expect("the defaults in the table are accepted by their own parsers")
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
