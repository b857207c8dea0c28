//! A call that runs: wait for it, poll it, await it, or cancel it.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::{
    awaited::Awaited,
    connection::CancelToken,
    descriptor::MethodDescriptor,
    error::{Error, Ran},
    rpc_channel::{SLACK, call_error, refuse_on_reactor},
    status::{Code, Status},
};

/// The future of a response. Needs no executor of its own: `wait` blocks, `.await` works on any.
/// Dropping it cancels the call.
#[must_use = "dropping a pending call cancels it"]
#[derive(Debug)]
pub struct Pending<T> {
    awaited: Arc<Awaited<Result<T, Error>>>,
    cancel: CancelToken,
    method: &'static MethodDescriptor,
    began: Instant,
    allowed: Duration,
}

impl<T> Pending<T> {
    pub(crate) fn new(method: &'static MethodDescriptor, cancel: CancelToken, allowed: Duration) -> Self {
        Self { awaited: Arc::new(Awaited::new()), cancel, method, began: Instant::now(), allowed }
    }

    /// Where the result has to be brought.
    pub(crate) fn awaited(&self) -> Arc<Awaited<Result<T, Error>>> {
        self.awaited.clone()
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
        self.awaited.wait(limit).unwrap_or_else(|| Err(self.late()))
    }

    /// Whether the call has ended, so that `wait` would not block.
    pub fn is_ready(&self) -> bool {
        self.awaited.has_arrived()
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
        self.awaited.poll(context)
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if !self.is_ready() {
            self.cancel.cancel();
        }
    }
}
