//! How a request that came in finds its handler: inline, or through the worker pool.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::{
    config::{LegacyClose, Settings},
    connection::{
        ConnId, Connection, Dispatch, Incoming, Mailbox,
        server::{ServerConnection, ServerSettings},
    },
    reactor::Accept,
    service::ServerCall,
    status::Status,
    table::{Route, ServiceTable},
    wire::Wire,
    worker,
};

/// Makes the connections of the provider.
pub(super) struct Server {
    settings: Arc<ServerSettings>,
    pub(super) dispatcher: Arc<Dispatcher>,
}

impl Server {
    /// A server of `table`, with its workers started.
    pub(super) fn new(settings: &Settings, instance: u64, table: ServiceTable) -> io::Result<Self> {
        let workers =
            worker::Pool::start("mprpc-worker", settings.worker_threads, settings.max_queue, Job::run)?;
        let dispatcher = Dispatcher { table, gathered: Mutex::default(), workers, running: Arc::default() };
        Ok(Self { settings: Arc::new(server_settings(settings, instance)), dispatcher: Arc::new(dispatcher) })
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
        let (settings, dispatch) = (self.settings.clone(), self.dispatcher.clone());
        Box::new(ServerConnection::new(id, Some(peer), settings, dispatch, mailbox.clone(), now))
    }

    fn end_turn(&self, now: Instant) -> Option<Instant> {
        self.dispatcher.end_turn(now)
    }
}

/// Brings calls to their handlers: inline, or gathered and handed to the workers once a turn.
pub(super) struct Dispatcher {
    pub(super) table: ServiceTable,
    gathered: Mutex<Vec<Job>>,
    workers: worker::Pool<Job>,
    /// Calls that wait for a worker or run on one.
    running: Arc<AtomicUsize>,
}

/// A call for a worker.
struct Job {
    route: Route,
    call: Option<ServerCall<'static>>,
    running: Arc<AtomicUsize>,
}

impl Dispatcher {
    /// Calls that wait for a worker or run on one.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    /// Hands the calls gathered in a turn to the workers. Gives the time at which to do so again.
    fn end_turn(&self, now: Instant) -> Option<Instant> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered.is_empty() && self.running() == 0 {
            return None;
        }
        let again = self.workers.submit(&mut gathered, now);
        if !gathered.is_empty() {
            // Answering takes locks and wakes reactors, which must not wait for this one.
            let refused = std::mem::take(&mut *gathered);
            drop(gathered);
            refused.into_iter().for_each(Job::refuse);
        }
        again
    }

    /// Ends the workers, waiting for those that run until `deadline`.
    pub(super) fn stop(&self, deadline: Instant) {
        self.workers.stop(deadline);
    }
}

impl Dispatch for Dispatcher {
    fn dispatch(&self, incoming: Incoming<'_>) {
        let wire = incoming.ticket.wire().unwrap_or(Wire::Mux);
        let Some(route) = self.table.find(wire, incoming.service, incoming.method) else {
            let text = format!("{}/{} is not served here", incoming.service, incoming.method);
            return incoming.ticket.fail(Status::unimplemented(text));
        };
        let call = ServerCall::new(route.method, incoming, !route.inline);
        if route.inline {
            run_inline(route, call);
            return;
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let (route, running) = (route.clone(), self.running.clone());
        let job = Job { route, call: Some(call.into_owned()), running };
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).push(job);
    }
}

impl Job {
    fn run(mut self) {
        let Some(call) = self.call.take() else { return };
        let controller = call.controller();
        if controller.is_canceled() {
            call.fail(Status::cancelled("cancelled before it ran"));
        } else if controller.deadline().is_some_and(|deadline| Instant::now() >= deadline) {
            call.fail(Status::deadline_exceeded("the deadline passed in the worker queue; it did not run"));
        } else {
            self.route.service.call_method(self.route.index, call);
        }
    }

    fn refuse(mut self) {
        if let Some(call) = self.call.take() {
            let text = "the worker queue is full (max_queue)";
            call.fail(Status::resource_exhausted(text).with_retryable(true));
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

fn run_inline(route: &Route, call: ServerCall<'_>) {
    let run = AssertUnwindSafe(|| route.service.call_method(route.index, call));
    if catch_unwind(run).is_err() {
        // Unwinding dropped the call's ticket, which answered it.
        log::error!("{} panicked; its call was answered INTERNAL", route.method.path());
    }
}

fn server_settings(settings: &Settings, instance: u64) -> ServerSettings {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    ServerSettings {
        instance,
        legacy: settings.legacy,
        legacy_keep: settings.legacy_close == LegacyClose::Keep,
        max_header: small(settings.max_header),
        max_body: small(settings.max_body),
        max_calls: small(settings.max_calls),
        max_output: settings.max_output,
        request_timeout: settings.request_timeout,
        idle_timeout: settings.idle_timeout,
        min_ping_interval: settings.min_ping_interval,
    }
}
