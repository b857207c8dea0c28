//! How a request that came in finds its handler: inline, or through the worker pool.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    config::{LegacyClose, Settings},
    connection::{
        ConnId, Connection, Dispatch, Incoming, Known, Mailbox, Quota,
        mailbox::Account,
        server::{ServerConnection, ServerSettings},
    },
    error::Error,
    interceptor::{ServerInterceptor, admit},
    reactor::{Accept, LogLimit},
    service::{ServerCall, Service},
    status::Status,
    table::{Route, ServiceTable},
    wire::Wire,
    worker::{self, Submitted},
};

use super::watch::Watch;

/// Makes the connections of the provider.
pub(super) struct Server {
    /// For connections to come.
    settings: Mutex<Arc<ServerSettings>>,
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl Server {
    /// A server of `table`, with its workers started; its connections will be on reactors with these mailboxes.
    pub(super) fn new(
        settings: &Settings,
        instance: u64,
        table: ServiceTable,
        interceptors: Vec<Arc<dyn ServerInterceptor>>,
        mailboxes: Vec<Arc<Mailbox>>,
    ) -> Result<Self, Error> {
        let (threads, limit) = (settings.worker_threads, settings.max_queue);
        let watch = Arc::new(Watch::start(table.paths(), settings.slow_handler)?);
        let table = Arc::new(table);
        let run = {
            let (table, watch) = (table.clone(), watch.clone());
            move |job: Box<Job>, now| job.run(&table, &watch, now)
        };
        let workers = worker::Pool::start("mprpc-worker", threads, limit, run)
            .map_err(|error| Error::Io("cannot start the worker threads".into(), error))?;
        let dispatcher = Dispatcher {
            watch,
            table,
            interceptors,
            gathered: Mutex::default(),
            workers,
            mailboxes,
            max_total_calls: AtomicU64::new(settings.max_total_calls as u64),
            full: AtomicBool::new(false),
            memory: Quota::new(settings.max_memory),
            log: Log::default(),
        };
        let own = Arc::new(server_settings(settings, instance, &dispatcher.memory));
        Ok(Self { settings: Mutex::new(own), dispatcher: Arc::new(dispatcher) })
    }

    /// Takes over the settings that can change while calls run. Connections that are there keep theirs.
    pub(super) fn change(&self, settings: &Settings, instance: u64) {
        let dispatcher = &self.dispatcher;
        dispatcher.workers.set_limit(settings.max_queue);
        dispatcher.max_total_calls.store(settings.max_total_calls as u64, Ordering::Relaxed);
        dispatcher.memory.set_limit(settings.max_memory);
        dispatcher.watch.set_slow(settings.slow_handler);
        let new = Arc::new(server_settings(settings, instance, &dispatcher.memory));
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = new;
    }
}

impl Accept for Server {
    fn accept(
        &self,
        id: ConnId,
        mailbox: &Arc<Mailbox>,
        peer: SocketAddr,
        now: Instant,
    ) -> Box<dyn Connection> {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dispatch = self.dispatcher.clone();
        Box::new(ServerConnection::new(id, Some(peer), settings, dispatch, mailbox.clone(), now))
    }

    fn end_turn(&self, now: Instant) -> Option<Instant> {
        self.dispatcher.end_turn(now)
    }
}

/// Brings calls to their handlers: inline, or gathered and handed to the workers once a turn.
pub(super) struct Dispatcher {
    pub(super) table: Arc<ServiceTable>,
    interceptors: Vec<Arc<dyn ServerInterceptor>>,
    gathered: Mutex<Vec<(u64, Box<Job>)>>,
    workers: worker::Pool<Box<Job>>,
    /// Those of the reactors, which know how many calls are open.
    mailboxes: Vec<Arc<Mailbox>>,
    max_total_calls: AtomicU64,
    /// That many calls were open when a turn ended.
    full: AtomicBool,
    /// Bytes that connections and their calls hold.
    memory: Arc<Quota>,
    watch: Arc<Watch>,
    log: Log,
}

/// Each kind of line may come once in a while.
#[derive(Default)]
struct Log {
    queue: Mutex<LogLimit>,
    calls: Mutex<LogLimit>,
    memory: Mutex<LogLimit>,
    caps: Mutex<LogLimit>,
}

/// A call for a worker. It is large, and moved often: in a box.
struct Job {
    /// The number of the method.
    number: usize,
    call: ServerCall<'static>,
}

impl Dispatcher {
    /// Calls that were not answered yet.
    fn open(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.open_calls()).sum()
    }

    /// Calls that wait for a worker or run on one.
    pub(super) fn busy(&self) -> usize {
        self.workers.busy()
    }

    /// What became of the calls so far; as of the end of the reactors, once they have ended.
    pub(super) fn account(&self) -> Account {
        let accounts = self.mailboxes.iter().map(|mailbox| mailbox.account());
        accounts.fold(Account::default(), |sum, one| Account {
            finished: sum.finished + one.finished,
            open: sum.open + one.open,
        })
    }

    /// Hands the calls gathered in a turn to the workers. Gives the time at which to do so again.
    fn end_turn(&self, now: Instant) -> Option<Instant> {
        let full = self.open() >= self.max_total_calls.load(Ordering::Relaxed);
        if full != self.full.load(Ordering::Relaxed) {
            self.full.store(full, Ordering::Relaxed);
        }
        if self.memory.is_over() {
            let (used, limit) = (self.memory.used(), self.memory.limit());
            let text = || format!("{used} bytes are held (max_memory = {limit}): large requests are refused");
            warn(&self.log.memory, now, text);
        }
        let gathered = self.gathered();
        if gathered.is_empty() && self.workers.queued() == 0 {
            return None;
        }
        self.submit(gathered, now)
    }

    fn submit(&self, mut gathered: MutexGuard<'_, Vec<(u64, Box<Job>)>>, now: Instant) -> Option<Instant> {
        let Submitted { refused, again } = self.workers.submit(&mut gathered, now);
        // Answering takes locks and wakes reactors, which must not wait for this one.
        drop(gathered);
        if !refused.is_empty() {
            warn(&self.log.queue, now, || "calls are refused: the worker queue is full (max_queue)".into());
        }
        for job in refused {
            job.refuse("the worker queue is full (max_queue)");
        }
        again
    }

    /// Ends the workers, waiting for those that run until `deadline`.
    pub(super) fn stop(&self, deadline: Instant) {
        self.workers.stop(deadline);
    }

    fn gathered(&self) -> MutexGuard<'_, Vec<(u64, Box<Job>)>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a call of `route` must not begin now; else it holds its shares of the quotas.
    fn refusal(&self, route: &Route, incoming: &mut Incoming<'_>) -> Option<String> {
        if self.full.load(Ordering::Relaxed) {
            let limit = self.max_total_calls.load(Ordering::Relaxed);
            let text = format!("{limit} calls are open here (max_total_calls)");
            warn(&self.log.calls, incoming.received, || format!("calls are refused: {text}"));
            return Some(text);
        }
        for cap in &route.caps {
            let Some(share) = cap.quota.take(1) else {
                let text = format!("{} has {} calls already (max_concurrency)", cap.name, cap.quota.limit());
                warn(&self.log.caps, incoming.received, || format!("calls are refused: {text}"));
                return Some(text);
            };
            incoming.ticket.hold(share);
        }
        None
    }
}

impl Dispatch for Dispatcher {
    fn recognize(&self, meta: &[u8], last: usize) -> Option<Known> {
        self.table.recognize(meta, last)
    }

    fn dispatch(&self, mut incoming: Incoming<'_>) {
        let wire = incoming.ticket.wire().unwrap_or(Wire::Mux);
        let (service, method) = (incoming.service, incoming.method);
        let known = incoming.known_at.and_then(|at| self.table.recognized(at, service, method));
        let Some(route) = known.or_else(|| self.table.find(wire, service, method)) else {
            let text = format!("{}/{} is not served here", incoming.service, incoming.method);
            return incoming.ticket.fail(Status::unimplemented(text));
        };
        if !self.interceptors.is_empty() {
            let Some(admitted) = admit(&self.interceptors, route.method, incoming) else { return };
            incoming = admitted;
        }
        let limited = self.full.load(Ordering::Relaxed) || !route.caps.is_empty();
        if limited && let Some(text) = self.refusal(route, &mut incoming) {
            return incoming.ticket.fail(Status::resource_exhausted(text).with_retryable(true));
        }
        let (client, now) = (incoming.client, incoming.received);
        if route.inline {
            self.watch.begin(route.number, true, now);
            handle(&*route.service, route.index, || ServerCall::new(route.method, incoming, false));
            return Watch::end();
        }
        let call = ServerCall::new(route.method, incoming, true).into_owned();
        let mut job = Box::new(Job { number: route.number, call });
        let mut gathered = self.gathered();
        job.call.waits(self.workers.queued() + gathered.len());
        gathered.push((client, job));
        if gathered.len() >= GATHER {
            // A turn may bring any number of calls; what the queue does not take must not pile up here.
            // When to look again is what the end of the turn says.
            self.submit(gathered, now);
        }
    }

    fn hold(&self, client: u64, held: bool) {
        if held { self.workers.hold(client) } else { self.workers.release(client) }
    }
}

impl Job {
    fn run(self, table: &ServiceTable, watch: &Watch, now: Instant) {
        let Self { number, mut call } = self;
        let now = catch_up(now, || call.backlog());
        call.begins(now);
        let controller = call.controller();
        if controller.is_canceled() {
            call.fail(Status::cancelled("cancelled before it ran"));
        } else if controller.deadline().is_some_and(|deadline| now >= deadline) {
            call.fail(Status::deadline_exceeded("the deadline passed in the worker queue; it did not run"));
        } else {
            let (service, index) = table.method(number);
            watch.begin(number, false, now);
            handle(service, index, || call);
            Watch::end();
        }
    }

    fn refuse(self, text: &str) {
        self.call.fail(Status::resource_exhausted(text).with_retryable(true));
    }
}

/// Lets the reactor of a call catch up with the answers given so far, of which `backlog` says the bytes: among
/// those may be more than the peer takes, and then the call has to wait. Gives the time, which was `now`.
fn catch_up(now: Instant, backlog: impl Fn() -> usize) -> Instant {
    if backlog() <= BACKLOG {
        return now;
    }
    (0..MAX_PAUSES).take_while(|_| backlog() > BACKLOG).for_each(|_| thread::sleep(PAUSE));
    Instant::now()
}

/// Runs a handler. Its panic is the end of its call and of nothing else. The call is made where it is
/// needed, as moving it costs more.
#[inline]
fn handle<'a>(service: &dyn Service, index: usize, call: impl FnOnce() -> ServerCall<'a>) {
    if catch_unwind(AssertUnwindSafe(|| service.call_method(index, call()))).is_err() {
        // Unwinding dropped the call's ticket, which answered it.
        static PANICS: Mutex<Option<LogLimit>> = Mutex::new(None);
        let path = service.descriptor().methods[index].path();
        let mut limit = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = limit.get_or_insert_default().pass(Instant::now()) {
            log::error!("{path} panicked; its call was answered INTERNAL{others}");
        }
    }
}

fn warn(limit: &Mutex<LogLimit>, now: Instant, text: impl FnOnce() -> String) {
    let passed = limit.lock().unwrap_or_else(PoisonError::into_inner).pass(now);
    if let Some(others) = passed {
        log::warn!("{}{others}", text());
    }
}

fn server_settings(settings: &Settings, instance: u64, memory: &Arc<Quota>) -> ServerSettings {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ServerSettings {
        instance,
        legacy: settings.legacy,
        legacy_keep: settings.legacy_close == LegacyClose::Keep,
        max_header: small(settings.max_header),
        max_body: small(settings.max_body),
        max_calls: small(settings.max_calls),
        max_input: settings.max_input,
        max_output: settings.max_output,
        memory: memory.clone(),
        request_timeout: settings.request_timeout,
        idle_timeout: settings.idle_timeout,
        min_ping_interval: settings.min_ping_interval,
    }
}

/// Bytes of answers that a reactor may have waiting before a worker begins another of its calls.
const BACKLOG: usize = 4 << 20;
/// How long they look away each time, and how often: a reactor that is stuck does not stop them.
const PAUSE: Duration = Duration::from_micros(100);
const MAX_PAUSES: u32 = 200;
/// Calls that are gathered before the workers get them, though the turn has not ended.
const GATHER: usize = 1024;

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn workers_wait_for_a_reactor_that_is_behind_but_not_for_one_that_is_stuck() {
        let now = Instant::now();
        assert_eq!(catch_up(now, || BACKLOG), now, "as much as may wait");
        assert!(catch_up(now, || BACKLOG + 1) >= now + PAUSE * MAX_PAUSES, "it is stuck");

        let (now, looks) = (Instant::now(), Cell::new(0));
        let taken_up_soon = || {
            looks.set(looks.get() + 1);
            if looks.get() < 4 { BACKLOG + 1 } else { 0 }
        };
        assert!(catch_up(now, taken_up_soon) >= now + PAUSE * 2, "a new time, after the pauses");
        assert_eq!(looks.get(), 4);
    }
}
