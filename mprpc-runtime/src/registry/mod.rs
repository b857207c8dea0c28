//! The registry: where providers publish endpoints and channels look them up.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Instant};

use crate::{error::Error, wire::Wire};

pub mod direct;
pub mod zookeeper;

pub use self::zookeeper::{MirrorPolicy, ZkClient, ZooKeeperOptions, ZooKeeperRegistry, route_to};
pub use direct::DirectRegistry;

/// What a provider publishes: one process, one address, several services.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The address callers dial.
    pub addr: SocketAddr,
    /// This process, as its Hello frames say it.
    pub instance: u64,
    /// Everything served at that address.
    pub services: Vec<ServiceName>,
    /// A heavier endpoint gets more calls; 100 is normal, 10,000 the most, and 0 for when there is no other.
    pub weight: u32,
    /// Where it stands, such as a data centre's name: at most 64 letters, digits, `.`, `_` and `-`;
    /// empty if that does not matter.
    pub zone: String,
    /// Whether the address answers the legacy wire too.
    pub legacy: bool,
}

impl Publication {
    /// Refuses a weight or a zone that callers would not believe.
    ///
    /// # Errors
    /// [`Error::Usage`] with what would be right.
    pub fn check(&self) -> Result<(), Error> {
        let Self { weight, zone, .. } = self;
        if *weight > MAX_WEIGHT {
            return Err(Error::Usage(format!("weight {weight}: want 0 to {MAX_WEIGHT}; 100 is normal")));
        }
        if !is_zone(zone) {
            return Err(Error::Usage(format!("zone {zone:?}: want at most 64 letters, digits, . _ and -")));
        }
        Ok(())
    }
}

/// Whether a zone may be called so: at most 64 letters, digits, `.`, `_` and `-`.
pub fn is_zone(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    text.len() <= 64 && text.bytes().all(plain)
}

/// The names of a service: what the registry needs to know of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceName {
    /// `package.Service`.
    pub full: String,
    /// `Service`, the name that C++ nodes know.
    pub short: String,
    /// Methods as the .proto file spells them. For a look-up, none means any.
    pub methods: Vec<String>,
}

/// One place where a service is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to dial.
    pub addr: SocketAddr,
    /// What to speak there.
    pub wire: Wire,
    /// The share of calls it should get; 100 is normal.
    pub weight: u32,
    /// It finishes what it has and wants no new calls, or left the registry this moment: not to be
    /// taken while there is another.
    pub draining: bool,
    /// Where it stands, as it says itself; empty if it does not say.
    pub zone: String,
    /// Methods served there; `None` for all of the service. C++ nodes register each method apart.
    pub methods: Option<BTreeSet<String>>,
}

impl Endpoint {
    /// An endpoint of normal weight that serves all methods.
    pub fn new(addr: SocketAddr, wire: Wire) -> Self {
        Self { addr, wire, weight: 100, draining: false, zone: String::new(), methods: None }
    }
}

/// Who serves a service, as of some moment. Immutable; a change makes a new one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// In a stable order, by address.
    pub endpoints: Vec<Endpoint>,
}

/// A place to publish and to look up. Implementations: `direct` (the configuration file) and `zookeeper`.
pub trait Registry: Send + Sync {
    /// Publishes and keeps published, through outages, until `withdraw`. Returns when the first
    /// attempt is made, or after some seconds; what fails is tried again. The address must answer by
    /// then: it is dialled before it is published. Another publication of the same address replaces
    /// the first, such as for another weight.
    ///
    /// # Errors
    /// A name, an address, a weight or a zone that cannot be published; and, if the registry is required, an attempt
    /// that failed, such as because another process holds the address.
    fn publish(&self, publication: Publication) -> Result<(), Error>;

    /// Publishes in the place of what stands at the address, without waiting for an attempt if the registry
    /// can do so. Of several the last one stands, and what `drain` and `withdraw` say later holds.
    ///
    /// # Errors
    /// As `publish`, as far as they are known by then.
    fn republish(&self, publication: Publication) -> Result<(), Error> {
        self.publish(publication)
    }

    /// Changes what C++ callers are to find, at once. Nothing where they do not look.
    fn set_mirror(&self, _mirror: MirrorPolicy) {}

    /// Tells callers that `addr` takes no new calls. Returns at `deadline` at the latest.
    fn drain(&self, addr: SocketAddr, deadline: Instant);

    /// Takes out again what was published at `addr`. Returns when it is out, or at `deadline`.
    fn withdraw(&self, addr: SocketAddr, deadline: Instant);

    /// Who serves `service`. The first look-up of a service waits, at most until `deadline`;
    /// later ones return the newest snapshot at once, whatever state the registry is in.
    ///
    /// # Errors
    /// Nothing is known of the service and the registry cannot be asked in time.
    fn lookup(&self, service: &ServiceName, deadline: Instant) -> Result<Arc<Snapshot>, Error>;

    /// Where it looks for a service, for the text of a call that finds nobody.
    fn source(&self, _service: &ServiceName) -> String {
        "the registry".into()
    }

    /// A number that rises whenever `lookup` returns something new, for whichever service: who looked a service up
    /// after it was read need not do so again while it stays. `None` has each call look up.
    fn edition(&self) -> Option<u64> {
        None
    }
}

/// The greatest weight; more is taken for a mistake.
pub const MAX_WEIGHT: u32 = 10_000;
