//! A host: the process that serves, with its connections, its worker queue and its handlers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mprpc_runtime::{
    CancelToken, ReplyExtras, Status,
    connection::{ConnId, Dispatch, Incoming, Mailbox, Quota, Ticket, server::ServerSettings},
};
use protobuf::well_known_types::wrappers::BytesValue;

use crate::{
    bug::Bug,
    plan::{Kind, Plan},
};

/// A request that reached a handler or waits for one.
pub(crate) struct Job {
    pub(crate) call: usize,
    pub(crate) attempt: usize,
    pub(crate) conn: ConnId,
    /// What remained of its time when it came.
    pub(crate) remaining: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) cancel: CancelToken,
    /// None once it was answered: inline.
    pub(crate) ticket: Option<Ticket>,
}

/// What comes in while a connection reads.
#[derive(Default)]
pub(crate) struct Gathered {
    pub(crate) jobs: Vec<Job>,
    /// Jobs whose token was raised, by call and attempt.
    pub(crate) cancelled: Vec<(usize, usize)>,
}

/// The service of one process: it notes what comes, and answers inline methods.
pub(crate) struct Handlers {
    pub(crate) gathered: Arc<Mutex<Gathered>>,
    pub(crate) sizes: Arc<Vec<usize>>,
    pub(crate) bug: Option<Bug>,
}

/// One process. The next one on the same host has a `life` one higher.
pub(crate) struct Host {
    pub(crate) life: u64,
    pub(crate) up: bool,
    pub(crate) listens: bool,
    /// Until when the process stands still.
    pub(crate) stalled: Option<Instant>,
    /// Until when no byte passes to it and from it.
    pub(crate) blocked: [Option<Instant>; 2],
    pub(crate) slow_until: Option<Instant>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) handlers: Arc<Handlers>,
    pub(crate) settings: Arc<ServerSettings>,
    pub(crate) queue: VecDeque<Job>,
    /// Jobs that run, each with a number for its end to name it.
    pub(crate) running: Vec<(u64, Job)>,
    pub(crate) drain_until: Option<Instant>,
    /// Between the end of a drain and the next process.
    pub(crate) pause: Duration,
}

impl Host {
    pub(crate) fn new(plan: &Plan, life: u64, sizes: &Arc<Vec<usize>>, bug: Option<Bug>) -> Self {
        let settings = ServerSettings {
            instance: life,
            legacy: true,
            legacy_keep: false,
            max_header: 4000,
            max_body: plan.max_body,
            max_calls: plan.max_calls,
            max_input: 32 << 20,
            max_output: 64 << 10,
            memory: Quota::new(256 << 20),
            request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            min_ping_interval: Duration::from_secs(1),
        };
        let handlers = Handlers { gathered: Arc::default(), sizes: sizes.clone(), bug };
        Self {
            life,
            up: true,
            listens: true,
            stalled: None,
            blocked: [None; 2],
            slow_until: None,
            mailbox: Arc::new(Mailbox::new(usize::MAX, || ())),
            handlers: Arc::new(handlers),
            settings: Arc::new(settings),
            queue: VecDeque::new(),
            running: Vec::new(),
            drain_until: None,
            pause: Duration::ZERO,
        }
    }

    /// The jobs of one connection that are not over.
    pub(crate) fn load(&self, conn: ConnId) -> usize {
        let running = self.running.iter().map(|(_, job)| job);
        self.queue.iter().chain(running).filter(|job| job.conn == conn).count()
    }
}

impl Handlers {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a job as its kind wants it.
    pub(crate) fn answer(&self, ticket: Ticket, call: usize, attempt: usize, kind: Kind) {
        match kind {
            Kind::Inline | Kind::Work => {
                let message = mark(call, attempt, self.sizes[call]);
                ticket.answer(&message, &ReplyExtras::default());
            }
            Kind::Hold => ticket.fail(Status::cancelled("as asked")),
            Kind::Fail => ticket.fail(Status::new(mprpc_runtime::Code::NotFound, "as asked")),
            Kind::Forget => drop(ticket),
        }
    }
}

impl Dispatch for Handlers {
    fn dispatch(&self, incoming: Incoming<'_>) {
        let mut request = BytesValue::new();
        let mark = incoming.body.parse_into(&mut request).ok().and_then(|()| read_mark(&request));
        let Some((call, attempt)) = mark else {
            return incoming.ticket.fail(Status::invalid_argument("a request without a mark"));
        };
        let cancel = CancelToken::new();
        let mut job = Job {
            call,
            attempt,
            conn: ConnId(0),
            remaining: incoming.deadline.map(|at| at.duration_since(incoming.received)),
            deadline: incoming.deadline,
            cancel: cancel.clone(),
            ticket: None,
        };
        if let Some(peer) = incoming.peer {
            job.conn = ConnId(u64::from(peer.port()));
        }
        if incoming.method == Kind::Inline.name() {
            self.answer(incoming.ticket, call, attempt, Kind::Inline);
        } else {
            job.ticket = Some(incoming.ticket);
            if self.bug != Some(Bug::LostCancel) {
                let gathered = self.gathered.clone();
                cancel.on_cancel(move || {
                    let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
                    gathered.cancelled.push((call, attempt));
                });
                *incoming.cancel = Some(cancel);
            }
        }
        self.lock().jobs.push(job);
    }
}

/// A message that says whose it is, with `filler` bytes behind.
pub(crate) fn mark(call: usize, attempt: usize, filler: usize) -> BytesValue {
    let mut message = BytesValue::new();
    message.value.extend_from_slice(&(call as u32).to_le_bytes());
    message.value.push(attempt as u8);
    message.value.resize(MARK + filler, call as u8);
    message
}

/// Call and attempt of a message, if it is whole.
pub(crate) fn read_mark(message: &BytesValue) -> Option<(usize, usize)> {
    let (head, filler) = message.value.split_first_chunk::<MARK>()?;
    let [a, b, c, d, attempt] = *head;
    let call = u32::from_le_bytes([a, b, c, d]) as usize;
    filler.iter().all(|byte| *byte == call as u8).then_some((call, usize::from(attempt)))
}

const MARK: usize = 5;
