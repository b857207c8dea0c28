//! A call that runs: wait for it, poll it, await it, or cancel it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    connection::CancelToken,
    descriptor::MethodDescriptor,
    error::{Error, Ran},
    rpc_channel::{call_error, refuse_on_reactor},
    status::{Code, Status},
};

/// The future of a response. Needs no executor of its own: `wait` blocks, `.await` works on any.
/// Dropping it cancels the call.
#[must_use = "dropping a pending call cancels it"]
#[derive(Debug)]
pub struct Pending<T> {
    shared: Arc<Shared<T>>,
    cancel: CancelToken,
    method: &'static MethodDescriptor,
    began: Instant,
    allowed: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    result: Option<Result<T, Error>>,
    ended: bool,
    waker: Option<Waker>,
}

impl<T> Pending<T> {
    pub(crate) fn new(method: &'static MethodDescriptor, cancel: CancelToken, allowed: Duration) -> Self {
        let state = State { result: None, ended: false, waker: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        Self { shared, cancel, method, began: Instant::now(), allowed }
    }

    pub(crate) fn shared(&self) -> Arc<Shared<T>> {
        self.shared.clone()
    }

    /// Waits for the response.
    ///
    /// # Errors
    /// As a blocking call; also if called on a reactor's thread, which it would stall.
    ///
    /// # Panics
    /// If the result was taken already by polling the future.
    pub fn wait(self) -> Result<T, Error> {
        if let Err(error) = refuse_on_reactor(self.method) {
            // The call itself is under way.
            let status = Status::new(Code::FailedPrecondition, error.to_string());
            return Err(call_error(self.method, status, Ran::Maybe, self.began.elapsed(), self.allowed));
        }
        let limit = self.began + self.allowed + SLACK;
        let mut state = self.shared.lock();
        loop {
            if state.ended {
                return state.result.take().expect("a result is taken once");
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                return Err(self.late());
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the call has ended, so that `wait` would not block.
    pub fn is_ready(&self) -> bool {
        self.shared.lock().ended
    }

    /// Ends the call with CANCELLED, here and at the server.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    fn late(&self) -> Error {
        let status = Status::deadline_exceeded("the channel did not end the call in time");
        call_error(self.method, status, Ran::Maybe, self.began.elapsed(), self.allowed)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        match state.result.take() {
            Some(result) => Poll::Ready(result),
            None => {
                assert!(!state.ended, "a pending call was polled after it had ended");
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if !self.is_ready() {
            self.cancel.cancel();
        }
    }
}

impl<T> Shared<T> {
    pub(crate) fn complete(&self, result: Result<T, Error>) {
        let mut state = self.lock();
        state.result = Some(result);
        state.ended = true;
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How much later than promised a channel may end a call before the wait gives up on it.
const SLACK: Duration = Duration::from_millis(250);
