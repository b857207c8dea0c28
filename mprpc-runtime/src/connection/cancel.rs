//! Cancelling: a flag that one side of a call raises and the other side sees.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::stages::ServerStages;

/// A flag that is raised once, with callbacks for those who cannot poll it. Clones share the flag.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    raised: AtomicBool,
    next: AtomicU64,
    hooks: Mutex<Vec<(u64, Hook)>>,
    /// At a server: how many calls were before this one when it came.
    behind: AtomicU64,
    /// At a server: after how many microseconds its handler began, plus one; 0 if it did not.
    began: AtomicU64,
}

type Hook = Box<dyn FnOnce() + Send>;

/// Keeps a callback of a token; dropping it takes the callback back.
pub struct CancelGuard(CancelToken, u64);

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag and runs the callbacks, the first time it is called.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        let hooks = std::mem::take(&mut *self.hooks());
        for (_, hook) in hooks {
            // The hooks are others' code; one that panics must not keep the rest from running.
            let _ = catch_unwind(AssertUnwindSafe(hook));
        }
    }

    /// Whether `cancel` was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Runs `hook` when the flag is raised, on the thread that raises it; at once if it was.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        self.add(Box::new(hook));
    }

    /// Like `on_cancel`, until the guard is dropped: for tokens that outlive what they can cancel.
    pub fn guard(&self, hook: impl FnOnce() + Send + 'static) -> CancelGuard {
        CancelGuard(self.clone(), self.add(Box::new(hook)))
    }

    /// The call waits for a worker, behind so many others.
    pub(crate) fn waits(&self, behind: usize) {
        self.0.behind.store(behind as u64, Ordering::Relaxed);
    }

    /// A worker took the call after it had waited so long. Before `is_cancelled` decides whether it runs:
    /// then either that says no, or who cancels it sees that it runs.
    pub(crate) fn begins(&self, waited: Duration) {
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX - 1);
        self.0.began.store(us + 1, Ordering::SeqCst);
    }

    /// Where the time went of a call that came `since` ago and is not answered.
    pub(crate) fn stages(&self, since: Duration) -> ServerStages {
        let began = self.0.began.load(Ordering::SeqCst).checked_sub(1).map(Duration::from_micros);
        ServerStages {
            queue: began.unwrap_or(since),
            behind: u32::try_from(self.0.behind.load(Ordering::Relaxed)).unwrap_or(u32::MAX),
            handler: began.map(|began| since.saturating_sub(began)),
            unfinished: began.is_some(),
        }
    }

    fn add(&self, hook: Hook) -> u64 {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let mut hooks = self.hooks();
        // Under the lock, so that a `cancel` in between sees the hook, or we see its flag.
        if self.is_cancelled() {
            drop(hooks);
            hook();
        } else {
            hooks.push((id, hook));
        }
        id
    }

    fn hooks(&self) -> MutexGuard<'_, Vec<(u64, Hook)>> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        let mut hooks = self.0.hooks();
        let at = hooks.iter().position(|(id, _)| *id == self.1);
        let hook = at.map(|at| hooks.swap_remove(at));
        // What the hook owns may reach for this token again when it is dropped.
        drop(hooks);
        drop(hook);
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_runs_once_whether_set_before_or_after() {
        let token = CancelToken::new();
        let ran = Arc::new(Mutex::new(0));
        let (one, two) = (ran.clone(), ran.clone());
        token.on_cancel(move || *one.lock().unwrap() += 1);
        token.cancel();
        token.cancel();
        token.on_cancel(move || *two.lock().unwrap() += 10);
        assert_eq!(*ran.lock().unwrap(), 11);
    }
}
