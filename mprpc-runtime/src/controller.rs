//! Controllers and options: what goes along with a call beside its messages.
//!
//! `CallOptions` and `MprpcController` are the caller's, `Controller` is the handler's.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    connection::{CancelToken, Metadata, ReplyExtras},
    descriptor::MethodDescriptor,
    error::Error,
    stages::Stages,
    status::Code,
};

/// How a call is to be made. What is not set here comes from the method's options in the .proto
/// file, then from the channel ([`with_timeout`](crate::MprpcChannel::with_timeout)), then from the
/// configuration.
///
/// ```
/// use std::time::Duration;
/// let options = mprpc_runtime::CallOptions::new().timeout(Duration::from_millis(200));
/// ```
#[derive(Clone, Debug, Default)]
pub struct CallOptions(Option<Arc<Given>>);

/// What was set. Shared, as each asynchronous call keeps its options to the end.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: Metadata,
    pub(crate) attachment: Bytes,
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) controller: Option<MprpcController>,
    pub(crate) idempotent: Option<bool>,
    pub(crate) detached: bool,
    /// Somebody wants to know where the time went.
    pub(crate) timed: bool,
}

static NOTHING: Given = Given {
    timeout: None,
    metadata: Metadata::new(),
    attachment: Bytes::new(),
    cancel: None,
    controller: None,
    idempotent: None,
    detached: false,
    timed: false,
};

impl CallOptions {
    /// Options that change nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time from the call to the decoded reply. Never infinite: more than a year counts as one.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.change().timeout = Some(timeout.min(Duration::from_secs(365 * 24 * 3600)));
        self
    }

    /// Whether the call may be repeated although its first attempt perhaps ran, whatever the .proto
    /// file says of the method (`(mprpc.idempotent)`).
    #[must_use]
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.change().idempotent = Some(idempotent);
        self
    }

    /// The call may outlast the handler that makes it. Otherwise what a handler's own caller left of
    /// its time bounds the calls that the handler makes on its thread.
    #[must_use]
    pub fn detached(mut self) -> Self {
        self.change().detached = true;
        self
    }

    /// Sends a key and a value along with the request. A key is 1 to 128 ASCII letters, digits, `-`,
    /// `_` and `.`; with another one the call fails before it is sent.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.change().metadata.set(key, value);
        self
    }

    /// Sends bytes beside the message, which spares serializing them.
    #[must_use]
    pub fn attachment(mut self, bytes: impl Into<Bytes>) -> Self {
        self.change().attachment = bytes.into();
        self
    }

    /// Ends the call when `token` is cancelled.
    #[must_use]
    pub fn cancel_with(mut self, token: CancelToken) -> Self {
        self.change().cancel = Some(token);
        self
    }

    pub(crate) fn given(&self) -> &Given {
        self.0.as_deref().unwrap_or(&NOTHING)
    }

    pub(crate) fn change(&mut self) -> &mut Given {
        Arc::make_mut(self.0.get_or_insert_with(|| Arc::new(NOTHING.clone())))
    }
}

/// The caller's controller as people know it from the C++ framework: it remembers how the last
/// call made under it ended. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct MprpcController(Arc<Mutex<Outcome>>);

#[derive(Debug, Default)]
struct Outcome {
    failure: Option<(Code, String)>,
    extras: ReplyExtras,
    cancel: CancelToken,
}

impl MprpcController {
    /// A controller that has seen no call.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the last call failed.
    pub fn failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// Why the last call failed; empty if it did not.
    pub fn error_text(&self) -> String {
        self.lock().failure.as_ref().map_or_else(String::new, |(_, text)| text.clone())
    }

    /// The code that the last call ended with.
    pub fn code(&self) -> Code {
        self.lock().failure.as_ref().map_or(Code::Ok, |(code, _)| *code)
    }

    /// Marks the call as failed, as C++ code does.
    pub fn set_failed(&mut self, text: impl Into<String>) {
        self.lock().failure = Some((Code::Unknown, text.into()));
    }

    /// Forgets everything, so that the controller can go along with another call.
    pub fn reset(&mut self) {
        *self.lock() = Outcome::default();
    }

    /// Ends the calls made under this controller, here and, as far as it can still be reached, at
    /// the server. May be called from any thread, on a clone.
    pub fn start_cancel(&self) {
        let cancel = self.lock().cancel.clone();
        cancel.cancel();
    }

    /// Whether `start_cancel` was called since the last `reset`.
    pub fn is_canceled(&self) -> bool {
        self.lock().cancel.is_cancelled()
    }

    /// A key's value in the last response.
    pub fn response_metadata(&self, key: &str) -> Option<Vec<u8>> {
        self.lock().extras.metadata.get(key).map(<[u8]>::to_vec)
    }

    /// The bytes that came beside the last response.
    pub fn response_attachment(&self) -> Vec<u8> {
        self.lock().extras.attachment.clone()
    }

    /// Where the time of the last call went, if it was made at all.
    pub fn stages(&self) -> Option<Stages> {
        self.lock().extras.stages.as_deref().cloned()
    }

    pub(crate) fn token(&self) -> CancelToken {
        self.lock().cancel.clone()
    }

    pub(crate) fn record<T>(&self, result: &Result<T, Error>, extras: ReplyExtras) {
        let mut outcome = self.lock();
        outcome.failure = result.as_ref().err().map(|error| (error.code(), error.to_string()));
        outcome.extras = extras;
        if let Err(Error::Call(call)) = result {
            outcome.extras.stages = call.stages.clone();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Outcome> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handler's controller: what it may want to know of the call it serves.
#[derive(Debug)]
pub struct Controller {
    pub(crate) method: &'static MethodDescriptor,
    pub(crate) deadline: Option<Instant>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) beside: Option<Box<Beside>>,
    pub(crate) reply: Mutex<Option<Box<ReplyExtras>>>,
}

/// What came beside the message. Boxed, as is what goes beside the reply: most calls have neither, and
/// a controller is moved on its way to the handler.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) metadata: Metadata,
    pub(crate) attachment: Bytes,
}

static NOTHING_BESIDE: Beside = Beside { metadata: Metadata::new(), attachment: Bytes::new() };

impl Controller {
    /// The method that was called.
    pub fn method(&self) -> &'static MethodDescriptor {
        self.method
    }

    /// When the caller stops waiting; `None` if it did not say, as legacy callers cannot.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time left until the deadline, zero once it has passed.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The address of the caller; `None` for a caller in this process.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Key and value pairs that the caller sent along.
    pub fn metadata(&self) -> &Metadata {
        &self.beside().metadata
    }

    /// Bytes that the caller sent beside the message.
    pub fn attachment(&self) -> &Bytes {
        &self.beside().attachment
    }

    /// Sends a key and a value along with the response; they are lost if the call fails. Only
    /// letters, digits and `-_.` are allowed in keys, and about 60,000 bytes for all pairs.
    ///
    /// For handlers that return their response. One that has a [`Reply`](crate::Reply) gives them to
    /// `send_with`, for which `into_extras` has what was set here.
    pub fn set_response_metadata(&self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.reply().get_or_insert_default().metadata.set(key, value);
    }

    /// Sends bytes beside the response, as `set_response_metadata` sends pairs.
    pub fn set_response_attachment(&self, bytes: impl Into<Vec<u8>>) {
        self.reply().get_or_insert_default().attachment = bytes.into();
    }

    /// What the handler wants to send beside its response.
    pub fn into_extras(self) -> ReplyExtras {
        self.reply
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or_else(ReplyExtras::default, |extras| *extras)
    }

    fn beside(&self) -> &Beside {
        self.beside.as_deref().unwrap_or(&NOTHING_BESIDE)
    }

    fn reply(&self) -> MutexGuard<'_, Option<Box<ReplyExtras>>> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller is gone or no longer wants the answer.
    ///
    /// A method that runs inline on the reactor cannot learn of it: the reactor that would tell is
    /// the thread it runs on.
    pub fn is_canceled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }

    /// Runs `hook` when the call is cancelled, on a reactor's thread: it must not block. The same
    /// limit as for `is_canceled` holds.
    pub fn notify_on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        if let Some(cancel) = &self.cancel {
            cancel.on_cancel(hook);
        }
    }
}

thread_local! {
    /// The deadline of the handler that runs on this thread.
    static HANDLER_DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// While it lives, calls made on this thread end by a handler's deadline.
pub(crate) struct Inherit(Option<Instant>);

impl Inherit {
    pub(crate) fn from(controller: &Controller) -> Self {
        Self(HANDLER_DEADLINE.replace(controller.deadline))
    }
}

impl Drop for Inherit {
    fn drop(&mut self) {
        HANDLER_DEADLINE.set(self.0);
    }
}

/// The deadline of the handler that runs on this thread, if there is one and it has one.
pub(crate) fn handler_deadline() -> Option<Instant> {
    HANDLER_DEADLINE.get()
}
