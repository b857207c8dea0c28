//! The common part of all generated stubs: a channel, and how to call through it.

use std::{fmt, sync::Arc};

use protobuf::MessageFull;

use crate::{
    connection::{CancelToken, ReplyExtras, call::Received},
    controller::{CallOptions, MprpcController},
    descriptor::MethodDescriptor,
    error::Error,
    interceptor::{ClientInterceptor, Intercepted},
    pending::Pending,
    rpc_channel::{Call, RpcChannel, extras, parse_response, refuse_on_reactor},
    wakes,
};

/// What a generated `XxxRpc_Stub` wraps. Cheap to clone.
#[derive(Clone)]
pub struct Stub {
    channel: Arc<dyn RpcChannel>,
    options: CallOptions,
}

impl Stub {
    /// A stub that calls through `channel`.
    pub fn new(channel: impl RpcChannel + 'static) -> Self {
        Self { channel: Arc::new(channel), options: CallOptions::new() }
    }

    /// The same stub with these options in place of all that it had.
    #[must_use]
    pub fn with(&self, options: CallOptions) -> Self {
        Self { channel: self.channel.clone(), options }
    }

    /// The same stub, whose calls `interceptor` sees.
    #[must_use]
    pub fn intercept(&self, interceptor: impl ClientInterceptor + 'static) -> Self {
        let channel = Arc::new(Intercepted::new(self.channel.clone(), interceptor));
        Self { channel, options: self.options.clone() }
    }

    /// The same stub, whose calls report to `controller` and end when it is cancelled.
    #[must_use]
    pub fn controlled_by(&self, controller: &mut MprpcController) -> Self {
        let mut options = self.options.clone();
        let given = options.change();
        given.cancel = Some(controller.token());
        given.controller = Some(controller.clone());
        given.timed = true;
        self.with(options)
    }

    /// Calls and waits.
    ///
    /// # Errors
    /// The call failed; see [`Error::did_not_run`].
    pub fn call<Q, R>(&self, method: &'static MethodDescriptor, request: &Q) -> Result<R, Error>
    where
        Q: MessageFull,
        R: MessageFull,
    {
        let mut response = R::new();
        let call = Call { method, request, options: &self.options };
        let result = self.channel.call_blocking(call, &mut response);
        match &self.options.given().controller {
            None => result.map(|_| response),
            Some(controller) => {
                let (result, extras) = match result {
                    Ok(extras) => (Ok(response), extras),
                    Err(error) => (Err(error), ReplyExtras::default()),
                };
                controller.record(&result, extras);
                result
            }
        }
    }

    /// Calls and returns; `done` gets the result on a thread that it must not block.
    pub fn call_async<Q, R>(
        &self,
        method: &'static MethodDescriptor,
        request: &Q,
        done: impl FnOnce(Result<R, Error>) + Send + 'static,
    ) where
        Q: MessageFull,
        R: MessageFull,
    {
        self.begin(method, request, &self.options, |result| {
            // Others who were answered shall not wait for what it does.
            wakes::wake_noted();
            done(result);
        });
    }

    /// Calls and returns a future, which also can be waited for.
    pub fn start<Q, R>(&self, method: &'static MethodDescriptor, request: &Q) -> Pending<R>
    where
        Q: MessageFull,
        R: MessageFull,
    {
        let mut options = self.options.clone();
        // A token of its own: cancelling or dropping this call is no reason to end its siblings.
        let own = CancelToken::new();
        let given = options.change().cancel.replace(own.clone());
        let guard = given.map(|token| {
            let own = own.clone();
            token.guard(move || own.cancel())
        });
        let allowed = Call { method, request, options: &options }.timeout(self.channel.default_timeout());
        let pending = Pending::new(method, own, allowed);
        let awaited = pending.awaited();
        self.begin(method, request, &options, move |result| {
            drop(guard);
            awaited.bring(result);
        });
        pending
    }

    /// Makes many calls at once and waits for all. The results stand in the order of the requests.
    pub fn batch<Q, R>(&self, method: &'static MethodDescriptor, requests: &[Q]) -> Vec<Result<R, Error>>
    where
        Q: MessageFull,
        R: MessageFull,
    {
        if refuse_on_reactor(method).is_err() {
            return requests.iter().filter_map(|_| refuse_on_reactor(method).err().map(Err)).collect();
        }
        let started: Vec<Pending<R>> = requests.iter().map(|request| self.start(method, request)).collect();
        started.into_iter().map(Pending::wait).collect()
    }

    fn begin<Q, R>(
        &self,
        method: &'static MethodDescriptor,
        request: &Q,
        options: &CallOptions,
        done: impl FnOnce(Result<R, Error>) + Send + 'static,
    ) where
        Q: MessageFull,
        R: MessageFull,
    {
        let call = Call { method, request, options };
        let controller = options.given().controller.clone();
        let parse = move |received: Received<'_>| {
            let mut response = R::new();
            parse_response(method, &received.body, &mut response)?;
            Ok(response)
        };
        self.channel.call_method(
            call,
            Box::new(move |result| {
                let Some(controller) = controller else {
                    return done(result.and_then(parse));
                };
                let beside = result.as_ref().map(extras).unwrap_or_default();
                let result = result.and_then(parse);
                controller.record(&result, beside);
                done(result);
            }),
        );
    }
}

impl fmt::Debug for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stub").field("options", &self.options).finish_non_exhaustive()
    }
}
