//! The in-process channel: a stub joined to services without a socket, for tests and for services
//! that live in one process.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use crate::{
    connection::{Body, Incoming, Ticket, call::append_message},
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
/// The handler runs to its end even if it misses the deadline; the call fails then all the same.
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
        let ticket = Ticket::local(move |outcome| {
            done(match outcome {
                Ok(_) if Instant::now() >= deadline => {
                    Err(error(Status::deadline_exceeded("the handler took too long"), Ran::Maybe))
                }
                Ok(received) => Ok(received),
                Err(failure) => Err(error(failure.status, failure.ran)),
            });
        });
        let mut cancel = call.options.given().cancel.clone();
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
    }
}

impl fmt::Debug for InProcessChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcessChannel")
    }
}
