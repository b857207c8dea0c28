//! A channel that fails by plan, around any other: for tests of what an application does then.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{RecvTimeoutError, bounded};

use crate::{
    balance::mix,
    connection::{Body, CancelToken, ReplyExtras, call::Received},
    descriptor::MethodDescriptor,
    error::{Error, Ran},
    rpc_channel::{Call, Done, RpcChannel, call_error, extras},
    status::Status,
};

/// What goes wrong with a call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The answer comes so much later; not at all if the deadline passes meanwhile.
    Delay(Duration),
    /// It fails with this status before the handler runs: [`Error::did_not_run`].
    Fail(Status),
    /// The handler runs, but its answer is replaced by this failure.
    FailAfter(Status),
    /// The handler runs, but its answer is lost: the call ends at its deadline.
    DropAnswer,
}

/// Which calls go wrong, and how. The first rule that fits a call decides.
///
/// The same calls in the same order meet the same faults.
#[derive(Clone, Debug, Default)]
pub struct FaultPlan {
    seed: u64,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    method: Option<String>,
    when: When,
    fault: Fault,
    /// Calls that it was asked about.
    count: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Every(u64),
    OneIn(u64),
}

impl FaultPlan {
    /// A plan without faults. The seed decides about [`one_in`](Self::one_in).
    pub fn new(seed: u64) -> Self {
        Self { seed, rules: Vec::new() }
    }

    /// Every `n`th call of those that no earlier rule took; with 1 all of them, with 0 none.
    #[must_use]
    pub fn every(self, n: u64, fault: Fault) -> Self {
        self.rule(When::Every(n), fault)
    }

    /// One in `n` calls of those that no earlier rule took, as the seed draws them; with 0 none.
    #[must_use]
    pub fn one_in(self, n: u64, fault: Fault) -> Self {
        self.rule(When::OneIn(n), fault)
    }

    /// Makes the rule before it one for calls of this method only, named as the .proto file does.
    #[must_use]
    pub fn of(mut self, method: &str) -> Self {
        if let Some(rule) = self.rules.last_mut() {
            rule.method = Some(method.into());
        }
        self
    }

    fn rule(mut self, when: When, fault: Fault) -> Self {
        self.rules.push(Rule { method: None, when, fault, count: Arc::default() });
        self
    }

    fn fault(&self, method: &MethodDescriptor) -> Option<&Fault> {
        let fits = |rule: &&Rule| {
            if rule.method.as_ref().is_some_and(|name| name != method.name) {
                return false;
            }
            let count = rule.count.fetch_add(1, Ordering::Relaxed) + 1;
            match rule.when {
                When::Every(n) => n > 0 && count.is_multiple_of(n),
                When::OneIn(n) => n > 0 && mix(self.seed ^ mix(count)).is_multiple_of(n),
            }
        };
        self.rules.iter().find(fits).map(|rule| &rule.fault)
    }
}

/// A channel whose calls go wrong as a plan says.
///
/// # Examples
/// ```
/// # use mprpc_runtime::*;
/// # use protobuf::well_known_types::wrappers::StringValue;
/// # static ECHO: ServiceDescriptor = ServiceDescriptor::new("demo.EchoRpc", "EchoRpc", &[MethodDescriptor::new(
/// #     "demo.EchoRpc", "Echo", "google.protobuf.StringValue", "google.protobuf.StringValue",
/// # )]);
/// # struct Echo;
/// # impl Service for Echo {
/// #     fn descriptor(&self) -> &'static ServiceDescriptor { &ECHO }
/// #     fn call_method(&self, _method: usize, call: ServerCall<'_>) {
/// #         call.run(|_: Controller, request: StringValue, reply: Reply<StringValue>| reply.send(Ok(request)));
/// #     }
/// # }
/// // No port, no thread, no waiting: a service of this process, whose second call fails.
/// let plan = FaultPlan::new(1).every(2, Fault::Fail(Status::unavailable("planted"))).of("Echo");
/// let stub = Stub::new(FaultyChannel::new(InProcessChannel::new(Echo), plan));
/// let call = || stub.call::<_, StringValue>(&ECHO.methods[0], &StringValue::new());
/// assert!(call().is_ok());
/// let error = call().unwrap_err();
/// assert!(error.code() == Code::Unavailable && error.did_not_run());
/// assert!(call().is_ok());
/// ```
#[derive(Clone)]
pub struct FaultyChannel(Arc<Inner>);

struct Inner {
    channel: Box<dyn RpcChannel>,
    plan: FaultPlan,
}

impl FaultyChannel {
    /// `channel`, with the faults of `plan`.
    pub fn new(channel: impl RpcChannel + 'static, plan: FaultPlan) -> Self {
        Self(Arc::new(Inner { channel: Box::new(channel), plan }))
    }
}

impl RpcChannel for FaultyChannel {
    fn default_timeout(&self) -> Duration {
        self.0.channel.default_timeout()
    }

    fn call_method(&self, call: Call<'_>, done: Done) {
        let (began, allowed) = (Instant::now(), call.timeout(self.default_timeout()));
        let answered = match self.0.plan.fault(call.method) {
            None => done,
            Some(Fault::Fail(status)) => {
                return done(Err(call.error(status.clone(), Ran::No, began.elapsed(), allowed)));
            }
            Some(Fault::FailAfter(status)) => {
                let error = call.error(status.clone(), Ran::Maybe, began.elapsed(), allowed);
                Box::new(move |_: Result<Received<'_>, Error>| done(Err(error)))
            }
            Some(Fault::Delay(by)) => late(call, Some(*by), (began, allowed), done),
            Some(Fault::DropAnswer) => late(call, None, (began, allowed), done),
        };
        self.0.channel.call_method(call, answered);
    }
}

/// Holds the outcome back in a thread of its own; for ever if it is not said how long.
fn late(call: Call<'_>, by: Option<Duration>, (began, allowed): (Instant, Duration), done: Done) -> Done {
    let (method, cancel) = (call.method, call.options.given().cancel.clone());
    Box::new(move |result| {
        let result = result.map(|received| {
            let extras = extras(&received);
            (received.body.into_owned(), extras)
        });
        let end = move || {
            let left = (began + allowed).saturating_duration_since(Instant::now());
            let failure = match wait(cancel.as_ref(), by.unwrap_or(left).min(left)) {
                Wait::Cancelled => Status::cancelled("cancelled by the caller"),
                Wait::Over if by.is_none_or(|by| by >= left) => {
                    Status::deadline_exceeded("the answer was late by plan")
                }
                Wait::Over => return pass_on(result, done),
            };
            done(Err(call_error(method, failure, Ran::Maybe, began.elapsed(), allowed)));
        };
        if let Err(error) = thread::Builder::new().name("mprpc-late".into()).spawn(end) {
            log::error!("no thread to hold an answer back: {error}; its call ends late");
        }
    })
}

enum Wait {
    Over,
    Cancelled,
}

fn wait(cancel: Option<&CancelToken>, time: Duration) -> Wait {
    let (tell, told) = bounded(1);
    let hook = tell.clone();
    let _guard = cancel.map(|token| {
        token.guard(move || {
            // Refused if the wait is over.
            let _ = hook.try_send(());
        })
    });
    match told.recv_timeout(time) {
        Ok(()) => Wait::Cancelled,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Wait::Over,
    }
}

type Owned = (Body<'static>, ReplyExtras);

fn pass_on(result: Result<Owned, Error>, done: Done) {
    match result {
        Err(error) => done(Err(error)),
        Ok((body, extras)) => {
            let attachment = &extras.attachment;
            let (metadata, stages) = (extras.metadata.clone(), extras.stages.clone());
            done(Ok(Received { body, attachment, metadata, stages }));
        }
    }
}

impl fmt::Debug for FaultyChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyChannel").field(&self.0.plan).finish()
    }
}
