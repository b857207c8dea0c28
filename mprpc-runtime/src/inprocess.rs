//! The in-process channel: a stub joined to services without a socket, for tests and for services
//! that live in one process.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, TryRecvError},
    },
    thread,
    time::Instant,
};

use crate::{
    connection::{
        Body, Incoming, Ticket,
        call::{MAX_METADATA, Received, append_message},
    },
    error::{Error, Ran},
    rpc_channel::{Call, DEFAULT_TIMEOUT, Done, RpcChannel, call_error},
    service::{ServerCall, Service},
    status::Status,
    table::ServiceTable,
    wire::Wire,
};

/// Calls services of this process, on the calling thread. Messages are serialized and parsed as on
/// the wire, so that what works here works there.
///
/// A call whose time is over before it runs does not run. A handler runs to its end even if it misses the
/// deadline; the call fails then all the same. While an answer is deferred, a thread of the call's own watches its time.
#[derive(Clone)]
pub struct InProcessChannel(Arc<ServiceTable>);

impl InProcessChannel {
    /// A channel to one service.
    pub fn new(service: impl Service + 'static) -> Self {
        let mut table = ServiceTable::default();
        table.add(Arc::new(service), true).expect("an empty table takes any service");
        Self(Arc::new(table))
    }
}

impl RpcChannel for InProcessChannel {
    fn call_method(&self, call: Call<'_>, done: Done) {
        let began = Instant::now();
        let (method, allowed) = (call.method, call.timeout(DEFAULT_TIMEOUT));
        let error = move |status, ran| -> Error { call_error(method, status, ran, began.elapsed(), allowed) };
        let Some(route) = self.0.find(Wire::Mux, method.service, method.name) else {
            let text = format!("{} is not served here", method.path());
            return done(Err(error(Status::unimplemented(text), Ran::No)));
        };
        let mut request = Vec::new();
        call.request.compute_size_dyn();
        if let Err(wrong) = append_message(call.request, &mut request) {
            return done(Err(error(Status::invalid_argument(wrong.to_string()), Ran::No)));
        }
        let deadline = began + allowed;
        let given = call.options.given();
        if let Err(wrong) = given.metadata.check(MAX_METADATA) {
            return done(Err(error(Status::invalid_argument(wrong), Ran::No)));
        }
        if given.cancel.as_ref().is_some_and(|cancel| cancel.is_cancelled()) {
            return done(Err(error(Status::cancelled("cancelled before it ran"), Ran::No)));
        }
        if Instant::now() >= deadline {
            return done(Err(error(Status::deadline_exceeded("no time was left to run the call"), Ran::No)));
        }
        // Whoever ends the call first takes it out: the answer, the deadline or a cancel.
        let end: End = Arc::new(Mutex::new(Some(done)));
        let (answered, unanswered) = mpsc::channel::<()>();
        let (late, gone) = (end.clone(), end.clone());
        let guard = given.cancel.as_ref().map(|cancel| {
            cancel.guard(move || {
                finish(&gone, Err(error(Status::cancelled("cancelled by the caller"), Ran::Maybe)))
            })
        });
        let ticket = Ticket::local(move |outcome| {
            let _ended = (answered, guard);
            finish(
                &end,
                match outcome {
                    Ok(_) if Instant::now() >= deadline => {
                        Err(error(Status::deadline_exceeded("the handler took too long"), Ran::Maybe))
                    }
                    Ok(received) => Ok(received),
                    Err(failure) => Err(error(failure.status, failure.ran)),
                },
            );
        });
        let mut cancel = given.cancel.clone();
        let cancellable = cancel.is_some();
        let incoming = Incoming {
            service: method.service,
            method: method.name,
            known_at: None,
            body: Body::Shared(request.into()),
            attachment: &call.options.given().attachment,
            metadata: call.options.given().metadata.clone(),
            deadline: Some(deadline),
            received: began,
            peer: None,
            client: 0,
            cancel: &mut cancel,
            ticket,
        };
        let call = ServerCall::new(route.method, incoming, cancellable);
        let run = AssertUnwindSafe(|| route.service.call_method(route.index, call));
        if catch_unwind(run).is_err() {
            // Unwinding dropped the call's ticket, which answered it.
            log::error!("{} panicked; its call was answered INTERNAL", method.path());
        }
        if unanswered.try_recv() == Err(TryRecvError::Empty) {
            let watch = move || {
                if unanswered.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
                    let status =
                        Status::deadline_exceeded("the deadline passed before the deferred answer came");
                    finish(&late, Err(error(status, Ran::Maybe)));
                }
            };
            if let Err(failed) = thread::Builder::new().name("mprpc-late".into()).spawn(watch) {
                log::error!("no thread to watch the time of a deferred answer: {failed}");
            }
        }
    }
}

type End = Arc<Mutex<Option<Done>>>;

fn finish(end: &End, result: Result<Received<'_>, Error>) {
    let done = end.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(done) = done {
        done(result);
    }
}

impl fmt::Debug for InProcessChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcessChannel")
    }
}
