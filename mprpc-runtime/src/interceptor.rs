//! Interceptors: code of an application's own around every call, such as tokens, logs and counters.
//!
//! On the caller's side they wrap a channel, on the server's they stand before the service table. A
//! channel or provider without any does nothing for them.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use protobuf::MessageDyn;

use crate::{
    connection::{Incoming, Metadata, ReplyExtras, Ticket},
    controller::CallOptions,
    descriptor::MethodDescriptor,
    error::{Error, Ran},
    reactor,
    rpc_channel::{Call, Done, RpcChannel},
    stages::Stages,
    status::{Code, Status},
};

/// Sees every call of a channel, whichever form it has: blocking, callback, future or batch. Its methods
/// run on the caller's thread or on a reactor's: they must not block.
///
/// ```
/// use mprpc_runtime::{ClientInterceptor, Outgoing, Status};
/// struct Token(String);
/// impl ClientInterceptor for Token {
///     fn starts(&self, call: &mut Outgoing<'_>) -> Result<(), Status> {
///         call.metadata.set("token", self.0.as_str());
///         Ok(())
///     }
/// }
/// # fn f(channel: mprpc_runtime::MprpcChannel) {
/// let channel = channel.intercept(Token("secret".into()));
/// # }
/// ```
pub trait ClientInterceptor: Send + Sync {
    /// A call is about to be made.
    ///
    /// # Errors
    /// Ends the call with this status: it is not made, and `ended` does not hear of it.
    fn starts(&self, _call: &mut Outgoing<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// A call that started has ended, after all its attempts. Of a callback or a future it hears before
    /// the response is parsed.
    fn ended(&self, _call: &Ended<'_>) {}
}

/// A call before it is made.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outgoing<'a> {
    /// What is called.
    pub method: &'static MethodDescriptor,
    /// What goes along with the request.
    pub metadata: &'a mut Metadata,
}

/// A call that has ended, as its caller sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ended<'a> {
    /// What was called.
    pub method: &'static MethodDescriptor,
    /// What came along with the response; nothing if the call failed.
    pub metadata: &'a Metadata,
    /// Why it failed, if it did.
    pub error: Option<&'a Error>,
    /// Where the time went.
    pub stages: Option<&'a Stages>,
    /// From `starts` to the end.
    pub elapsed: Duration,
}

impl Ended<'_> {
    /// The code that the call ended with.
    pub fn code(&self) -> Code {
        self.error.map_or(Code::Ok, Error::code)
    }
}

/// A channel whose calls an interceptor sees. Of several, the one added last is the outermost: it
/// sees a call first and its end last.
#[derive(Clone)]
pub struct Intercepted<C> {
    channel: C,
    interceptor: Arc<dyn ClientInterceptor>,
}

impl<C: RpcChannel> Intercepted<C> {
    /// `channel`, whose calls `interceptor` sees.
    pub fn new(channel: C, interceptor: impl ClientInterceptor + 'static) -> Self {
        Self { channel, interceptor: Arc::new(interceptor) }
    }

    /// The same channel with another interceptor around it.
    #[must_use]
    pub fn intercept(self, interceptor: impl ClientInterceptor + 'static) -> Intercepted<Self> {
        Intercepted::new(self, interceptor)
    }

    /// Has the interceptor look at the call. Gives the options to make it with.
    fn starts(&self, call: &Call<'_>) -> Result<CallOptions, Error> {
        let mut options = call.options.clone();
        let given = options.change();
        given.timed = true;
        match self.interceptor.starts(&mut Outgoing { method: call.method, metadata: &mut given.metadata }) {
            Ok(()) => Ok(options),
            Err(status) => {
                let allowed = call.timeout(self.channel.default_timeout());
                Err(call.error(status, Ran::No, Duration::ZERO, allowed))
            }
        }
    }
}

impl<C: RpcChannel> RpcChannel for Intercepted<C> {
    fn call_method(&self, call: Call<'_>, done: Done) {
        let options = match self.starts(&call) {
            Ok(options) => options,
            Err(error) => return done(Err(error)),
        };
        let (began, method, interceptor) = (reactor::now(), call.method, self.interceptor.clone());
        let told: Done = Box::new(move |result| {
            let (none, elapsed) = (Metadata::new(), reactor::now().saturating_duration_since(began));
            let metadata = result.as_ref().map_or(&none, |received| &received.metadata);
            let stages = result.as_ref().map_or_else(stages_of, |received| received.stages.as_deref());
            let ended = Ended { method, metadata, error: result.as_ref().err(), stages, elapsed };
            // One that panics must not keep the caller waiting for ever.
            if catch_unwind(AssertUnwindSafe(|| interceptor.ended(&ended))).is_err() {
                log::error!("{}: an interceptor panicked at the end of a call", method.path());
            }
            done(result);
        });
        self.channel.call_method(Call { options: &options, ..call }, told);
    }

    fn default_timeout(&self) -> Duration {
        self.channel.default_timeout()
    }

    fn call_blocking(&self, call: Call<'_>, response: &mut dyn MessageDyn) -> Result<ReplyExtras, Error> {
        let options = self.starts(&call)?;
        let began = Instant::now();
        let result = self.channel.call_blocking(Call { options: &options, ..call }, response);
        let (none, elapsed) = (Metadata::new(), began.elapsed());
        let metadata = result.as_ref().map_or(&none, |extras| &extras.metadata);
        self.interceptor.ended(&Ended {
            method: call.method,
            metadata,
            error: result.as_ref().err(),
            stages: result.as_ref().map_or_else(stages_of, |extras| extras.stages.as_deref()),
            elapsed,
        });
        result
    }
}

impl<C: fmt::Debug> fmt::Debug for Intercepted<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intercepted").field("channel", &self.channel).finish_non_exhaustive()
    }
}

fn stages_of(error: &Error) -> Option<&Stages> {
    if let Error::Call(call) = error { call.stages.as_deref() } else { None }
}

/// Sees every call of a service that a provider serves, on either wire. Of several, the one added first
/// sees a call first.
pub trait ServerInterceptor: Send + Sync {
    /// A call came in. Runs on a reactor's thread, before the call waits for a worker: it must not block.
    ///
    /// # Errors
    /// Answers the call with this status. Its handler does not run; interceptors that were asked before
    /// hear of the end, this one and those behind it do not.
    fn arrived(&self, _call: &mut Arrived<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// A call is being answered, by its handler or in its place. Runs on the thread that answers.
    fn answered(&self, _call: &Answered<'_>) {}
}

/// A call that came in.
#[derive(Debug)]
#[non_exhaustive]
pub struct Arrived<'a> {
    /// What is called.
    pub method: &'static MethodDescriptor,
    /// Who calls; `None` for a caller in this process.
    pub peer: Option<SocketAddr>,
    /// When the caller stops waiting, if it said so.
    pub deadline: Option<Instant>,
    /// What the handler will see as the caller's; none on the legacy wire.
    pub metadata: &'a mut Metadata,
}

/// A call and its end, as its server sees them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answered<'a> {
    /// What was called.
    pub method: &'static MethodDescriptor,
    /// Who called.
    pub peer: Option<SocketAddr>,
    /// Why it failed, if it did. A caller that has cancelled does not get to see it.
    pub failure: Option<&'a Status>,
    /// From the arrival to the answer.
    pub elapsed: Duration,
}

impl Answered<'_> {
    /// The code that the call ended with.
    pub fn code(&self) -> Code {
        self.failure.map_or(Code::Ok, Status::code)
    }
}

/// Has all of `interceptors` look at a call; `None` if one refused it, which has answered it.
pub(crate) fn admit<'a>(
    interceptors: &[Arc<dyn ServerInterceptor>],
    method: &'static MethodDescriptor,
    mut incoming: Incoming<'a>,
) -> Option<Incoming<'a>> {
    let (peer, received) = (incoming.peer, incoming.received);
    for interceptor in interceptors {
        let mut call =
            Arrived { method, peer, deadline: incoming.deadline, metadata: &mut incoming.metadata };
        // One that panics must not take the reactor with it.
        let admitted = catch_unwind(AssertUnwindSafe(|| interceptor.arrived(&mut call)));
        let panicked = |_| Err(Status::internal("an interceptor of the server panicked"));
        if let Err(status) = admitted.unwrap_or_else(panicked) {
            incoming.ticket.fail(status);
            return None;
        }
        let interceptor = interceptor.clone();
        incoming.ticket = Ticket::watched(incoming.ticket, move |failure| {
            let elapsed = Instant::now().saturating_duration_since(received);
            let call = Answered { method, peer, failure, elapsed };
            if catch_unwind(AssertUnwindSafe(|| interceptor.answered(&call))).is_err() {
                log::error!("{}: an interceptor panicked at the answer", method.path());
            }
        });
    }
    Some(incoming)
}
