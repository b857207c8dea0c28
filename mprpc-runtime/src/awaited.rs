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

    /// Brings the value. Only the first counts.
    pub(crate) fn bring(&self, value: T) {
        let mut state = self.lock();
        if state.arrived {
            return;
        }
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

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        task::Wake,
        time::Duration,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn soon() -> Instant {
        Instant::now() + LONG
    }

    fn until(what: &str, is: impl Fn() -> bool) {
        let end = soon();
        while !is() {
            assert!(Instant::now() < end, "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_first_value_is_taken_whether_it_came_before_or_later() {
        let awaited = Arc::new(Awaited::new());
        assert_eq!(awaited.wait(Instant::now()), None);
        let (waits, began) = (awaited.clone(), Instant::now());
        let waiter = thread::spawn(move || waits.wait(soon()));
        until("it sleeps", || awaited.lock().sleeper.is_some());
        awaited.bring(1);
        awaited.bring(2);
        assert_eq!(waiter.join().expect("no panic"), Some(1));
        assert!(began.elapsed() < LONG / 2, "it was woken");
        assert!(awaited.has_arrived());
        let early = Awaited::new();
        early.bring(3);
        assert_eq!(early.wait(Instant::now()), Some(3));
    }

    #[test]
    fn a_task_is_woken() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let (awaited, count) = (Awaited::new(), Arc::new(Count(AtomicUsize::new(0))));
        let waker = Waker::from(count.clone());
        let context = &Context::from_waker(&waker);
        assert_eq!(awaited.poll(context), Poll::Pending);
        awaited.bring(1);
        assert_eq!(count.0.load(SeqCst), 1);
        assert_eq!(awaited.poll(context), Poll::Ready(1));
    }

    #[test]
    fn who_was_woken_wakes_the_next() {
        let all: Vec<_> = (0..20).map(|_| Arc::new(Awaited::new())).collect();
        let began = Instant::now();
        let wait = |awaited: &Arc<Awaited<()>>| {
            let awaited = awaited.clone();
            thread::spawn(move || awaited.wait(soon()))
        };
        let waiters: Vec<_> = all.iter().map(wait).collect();
        until("all sleep", || all.iter().all(|awaited| awaited.lock().sleeper.is_some()));
        wakes::begin();
        all.iter().for_each(|awaited| awaited.bring(()));
        wakes::share_noted();
        // The only one that this thread wakes.
        wakes::help();
        waiters.into_iter().for_each(|waiter| assert_eq!(waiter.join().expect("no panic"), Some(())));
        assert!(began.elapsed() < LONG / 2, "they were woken");
        wakes::end();
    }
}
