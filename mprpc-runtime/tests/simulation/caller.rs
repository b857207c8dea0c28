//! A caller: a process that makes calls. It chooses endpoints and tries again as the channel does.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mprpc_runtime::{
    balance::{Budget, Endpoint, Endpoints, Health},
    connection::{
        call::{Completion, Failure, Outcome},
        client::ClientSettings,
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
    pub(crate) settings: Arc<ClientSettings>,
    pub(crate) turn: u64,
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
        Self {
            endpoints: Endpoints::new((0..plan.hosts).map(endpoint).collect()),
            budget: Budget::default(),
            shared: vec![None; plan.hosts],
            idle: vec![Vec::new(); plan.hosts],
            settings: Arc::new(settings),
            turn: 0,
        }
    }
}
