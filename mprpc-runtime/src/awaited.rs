//! What one thread waits for and another brings.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread::{self, Thread},
    time::Instant,
};

use crate::wakes;

/// A value that is brought once and taken once, by a thread that sleeps until then or by a task that is woken.
/// Who comes late to sleep costs the bringer no system call.
#[derive(Debug)]
pub(crate) struct Awaited<T>(Mutex<State<T>>);

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    arrived: bool,
    sleeper: Option<Thread>,
    waker: Option<Waker>,
}

impl<T> Awaited<T> {
    /// Nothing was brought yet.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { value: None, arrived: false, sleeper: None, waker: None }))
    }

    /// Brings the value.
    pub(crate) fn bring(&self, value: T) {
        let mut state = self.lock();
        state.value = Some(value);
        state.arrived = true;
        let (sleeper, waker) = (state.sleeper.take(), state.waker.take());
        drop(state);
        if let Some(sleeper) = sleeper {
            wakes::wake(sleeper);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the value was brought, also if it was taken since.
    pub(crate) fn has_arrived(&self) -> bool {
        self.lock().arrived
    }

    /// Takes the value, or has the task woken when it is there.
    ///
    /// # Panics
    /// If the value was taken already.
    pub(crate) fn poll(&self, context: &Context<'_>) -> Poll<T> {
        let mut state = self.lock();
        if state.arrived {
            return Poll::Ready(state.value.take().expect(TAKEN_ONCE));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes the value; sleeps until it is there, or until `limit`.
    ///
    /// # Panics
    /// If the value was taken already.
    pub(crate) fn wait(&self, limit: Instant) -> Option<T> {
        let mut slept = false;
        loop {
            let mut state = self.lock();
            if state.arrived {
                let value = state.value.take().expect(TAKEN_ONCE);
                drop(state);
                if slept {
                    wakes::help();
                }
                return Some(value);
            }
            let left = limit.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state.sleeper.get_or_insert_with(thread::current);
            drop(state);
            thread::park_timeout(left);
            slept = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const TAKEN_ONCE: &str = "the result of a pending call is taken once";
