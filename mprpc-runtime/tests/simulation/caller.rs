//! A caller: a process that makes calls. It chooses endpoints and tries again as the channel does.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mprpc_runtime::{
    balance::{Budget, Endpoint, Endpoints, Health, mix},
    connection::{
        call::{Completion, Failure, Outcome},
        client::{ClientSettings, Observer},
    },
};
use protobuf::well_known_types::wrappers::BytesValue;

use crate::{host::read_mark, plan::Plan};

/// One calling process.
pub(crate) struct Caller {
    pub(crate) endpoints: Endpoints,
    pub(crate) budget: Budget,
    /// By host: the socket that asynchronous calls share, and those that lie in the pool.
    pub(crate) shared: Vec<Option<usize>>,
    pub(crate) idle: Vec<Vec<usize>>,
    /// Who hears of the connections to each host, and when it was last asked whether it lives.
    pub(crate) watchers: Vec<Arc<Watcher>>,
    pub(crate) checked: Vec<Option<Instant>>,
    pub(crate) settings: Arc<ClientSettings>,
    pub(crate) turn: u64,
}

/// Tells a host's health what connections find out; its random numbers are the seed's.
pub(crate) struct Watcher {
    health: Arc<Health>,
    draws: AtomicU64,
}

impl Watcher {
    pub(crate) fn random(&self) -> u64 {
        mix(self.draws.fetch_add(1, Ordering::Relaxed))
    }
}

impl Observer for Watcher {
    fn opened(&self, now: Instant) {
        self.health.opened(now);
    }

    fn connect_failed(&self, now: Instant) {
        self.health.connect_failed(now, self.random());
    }

    fn drains(&self, now: Instant) {
        self.health.drains(now, self.random());
    }

    fn fell_silent(&self, now: Instant) {
        self.health.fell_silent(now, self.random());
    }

    fn heard(&self, now: Instant) {
        self.health.heard(now);
    }
}

/// A call on its way.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) deadline: Option<Instant>,
    /// When each attempt began.
    pub(crate) began: Vec<Instant>,
    pub(crate) current: Option<Current>,
    /// Hosts where it failed.
    pub(crate) tried: Vec<usize>,
    pub(crate) cancelled: bool,
}

/// The attempt that is under way.
#[derive(Clone, Copy)]
pub(crate) struct Current {
    pub(crate) attempt: usize,
    pub(crate) host: usize,
    pub(crate) socket: usize,
    pub(crate) began: Instant,
    /// The connection had served others before.
    pub(crate) reused: bool,
}

/// How an attempt ended: the mark of the response, or a failure.
pub(crate) struct Ended {
    pub(crate) call: usize,
    pub(crate) attempt: usize,
    pub(crate) result: Result<Option<(usize, usize)>, Failure>,
}

/// What a connection gets with a call, and gives back at its end.
pub(crate) struct Carried {
    pub(crate) call: usize,
    pub(crate) attempt: usize,
    pub(crate) frame: Vec<u8>,
    pub(crate) outbox: Arc<Mutex<Vec<Ended>>>,
}

impl Completion for Carried {
    fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn complete(self: Box<Self>, outcome: Outcome<'_>) {
        let result = outcome.map(|received| {
            let mut message = BytesValue::new();
            received.body.parse_into(&mut message).ok().and_then(|()| read_mark(&message))
        });
        let ended = Ended { call: self.call, attempt: self.attempt, result };
        self.outbox.lock().expect("nobody panics with it").push(ended);
    }
}

impl Caller {
    pub(crate) fn new(plan: &Plan, number: usize, now: Instant) -> Self {
        let endpoint = |_| Endpoint { health: Arc::new(Health::new(now)), weight: 100, draining: false };
        let settings = ClientSettings {
            instance: 1000 + number as u64,
            max_header: 4000,
            max_body: plan.max_body,
            max_output: 256 << 10,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            legacy_quiet: false,
            legacy_empty: false,
        };
        let endpoints = Endpoints::new((0..plan.hosts).map(endpoint).collect());
        let watcher = |endpoint: &Endpoint| {
            Arc::new(Watcher { health: endpoint.health.clone(), draws: AtomicU64::new(number as u64) })
        };
        Self {
            watchers: endpoints.list().iter().map(watcher).collect(),
            checked: vec![None; plan.hosts],
            endpoints,
            budget: Budget::default(),
            shared: vec![None; plan.hosts],
            idle: vec![Vec::new(); plan.hosts],
            settings: Arc::new(settings),
            turn: 0,
        }
    }
}
