//! The trait behind every stub: something that carries a call to a service and brings the answer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protobuf::MessageDyn;

use crate::{
    awaited::Awaited,
    connection::{Body, ReplyExtras, call::Received},
    controller::{CallOptions, handler_deadline},
    descriptor::MethodDescriptor,
    error::{CallError, Error, Ran},
    reactor,
    status::Status,
};

/// One call on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What to call.
    pub method: &'static MethodDescriptor,
    /// With what.
    pub request: &'a dyn MessageDyn,
    /// How.
    pub options: &'a CallOptions,
}

/// Gets the outcome of a call, once.
pub type Done = Box<dyn FnOnce(Result<Received<'_>, Error>) + Send>;

/// Carries calls. `MprpcChannel` does it over the network; write your own for proxies, mocks and
/// decorators.
pub trait RpcChannel: Send + Sync {
    /// Starts a call and returns. `done` runs exactly once, on a thread of the channel or on this
    /// one, at the latest when the time allowed is over; it must not block.
    fn call_method(&self, call: Call<'_>, done: Done);

    /// The time that calls are allowed which say nothing themselves.
    fn default_timeout(&self) -> Duration {
        DEFAULT_TIMEOUT
    }

    /// Makes a call, waits, and parses the answer into `response`. Returns what came beside it.
    ///
    /// # Errors
    /// The call failed; see [`Error::did_not_run`].
    fn call_blocking(&self, call: Call<'_>, response: &mut dyn MessageDyn) -> Result<ReplyExtras, Error> {
        refuse_on_reactor(call.method)?;
        call_and_wait(self, call, response)
    }
}

impl<T: RpcChannel + ?Sized> RpcChannel for Arc<T> {
    fn call_method(&self, call: Call<'_>, done: Done) {
        (**self).call_method(call, done);
    }

    fn default_timeout(&self) -> Duration {
        (**self).default_timeout()
    }

    fn call_blocking(&self, call: Call<'_>, response: &mut dyn MessageDyn) -> Result<ReplyExtras, Error> {
        (**self).call_blocking(call, response)
    }
}

impl Call<'_> {
    /// The time allowed: the caller's, else the method's, else `default`. Inside of a handler no more
    /// than what is left of the handler's own, unless the call is `detached`.
    pub fn timeout(&self, default: Duration) -> Duration {
        let given = self.options.given();
        let timeout = given.timeout.or(self.method.timeout).unwrap_or(default);
        match handler_deadline() {
            Some(deadline) if !given.detached => {
                timeout.min(deadline.saturating_duration_since(reactor::now()))
            }
            _ => timeout,
        }
    }

    /// A failure of this call before any peer was chosen.
    pub fn error(&self, status: Status, ran: Ran, elapsed: Duration, allowed: Duration) -> Error {
        call_error(self.method, status, ran, elapsed, allowed)
    }
}

/// Starts a call on `channel`, waits, and parses the answer.
pub(crate) fn call_and_wait<C: RpcChannel + ?Sized>(
    channel: &C,
    call: Call<'_>,
    response: &mut dyn MessageDyn,
) -> Result<ReplyExtras, Error> {
    let began = Instant::now();
    let allowed = call.timeout(channel.default_timeout());
    let awaited = Arc::new(Awaited::new());
    let bringer = Bringer(awaited.clone());
    channel.call_method(
        call,
        Box::new(move |result| {
            let owned = result.map(|received| {
                let extras = extras(&received);
                (received.body.into_owned(), extras)
            });
            bringer.0.bring(Some(owned));
        }),
    );
    let failed = |status| call.error(status, Ran::Maybe, began.elapsed(), allowed);
    let (body, extras) = match awaited.wait(began + allowed + SLACK) {
        Some(Some(result)) => result?,
        Some(None) => {
            return Err(failed(Status::internal("the channel did not end the call, but forgot it")));
        }
        None => return Err(failed(Status::deadline_exceeded("the channel did not end the call in time"))),
    };
    body.parse_into(response).map_err(|error| failed(unparseable(call.method, &error)))?;
    Ok(extras)
}

/// Brings how a call ended; dropped, that nobody will.
struct Bringer(Arc<Awaited<Option<Owned>>>);

type Owned = Result<(Body<'static>, ReplyExtras), Error>;

impl Drop for Bringer {
    fn drop(&mut self) {
        self.0.bring(None);
    }
}

/// A failed call of which no peer is known.
pub(crate) fn call_error(
    method: &'static MethodDescriptor,
    status: Status,
    ran: Ran,
    elapsed: Duration,
    allowed: Duration,
) -> Error {
    let method = method.path();
    Error::Call(Box::new(CallError {
        status,
        ran,
        method,
        peer: None,
        attempt: 1,
        max_attempts: 1,
        stages: None,
        elapsed,
        allowed,
    }))
}

/// What came beside the message, free of the read buffer.
pub(crate) fn extras(received: &Received<'_>) -> ReplyExtras {
    ReplyExtras {
        metadata: received.metadata.clone(),
        attachment: received.attachment.to_vec(),
        stages: received.stages.clone(),
    }
}

/// Parses a response; one that cannot be parsed is an INTERNAL error of the call.
pub(crate) fn parse_response(
    method: &'static MethodDescriptor,
    body: &Body<'_>,
    response: &mut dyn MessageDyn,
) -> Result<(), Error> {
    body.parse_into(response).map_err(|error| {
        let status = unparseable(method, &error);
        // A clock read for each call, only to say how long this one took, would be too dear.
        call_error(method, status, Ran::Maybe, Duration::ZERO, Duration::ZERO)
    })
}

fn unparseable(method: &MethodDescriptor, error: &protobuf::Error) -> Status {
    Status::internal(format!("the response is no {}: {error}", method.response_type))
}

/// Waiting on a reactor's thread would wait for that very thread.
pub(crate) fn refuse_on_reactor(method: &'static MethodDescriptor) -> Result<(), Error> {
    if !reactor::on_reactor_thread() {
        return Ok(());
    }
    let path = method.path();
    Err(Error::Usage(format!(
        "{path} was called blocking on a reactor's thread, which would stall it: use the callback or the \
         future form there, or run the calling method on the worker pool"
    )))
}

/// The `timeout` setting's default.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much later than promised a channel may end a call before the wait gives up on it.
pub(crate) const SLACK: Duration = Duration::from_millis(250);
