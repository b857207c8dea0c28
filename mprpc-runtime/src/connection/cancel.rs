//! Cancelling: a flag that one side of a call raises and the other side sees.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// A flag that is raised once, with callbacks for those who cannot poll it. Clones share the flag.
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    raised: AtomicBool,
    hooks: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl CancelToken {
    /// A token that nobody has cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Raises the flag and runs the callbacks, the first time it is called.
    pub fn cancel(&self) {
        self.0.raised.store(true, Ordering::SeqCst);
        let hooks = std::mem::take(&mut *self.hooks());
        for hook in hooks {
            hook();
        }
    }

    /// Whether `cancel` was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.raised.load(Ordering::SeqCst)
    }

    /// Runs `hook` when the flag is raised, on the thread that raises it; at once if it was.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut hooks = self.hooks();
        // Under the lock, so that a `cancel` in between sees either the hook or us the flag.
        if self.is_cancelled() {
            drop(hooks);
            hook();
        } else {
            hooks.push(Box::new(hook));
        }
    }

    fn hooks(&self) -> std::sync::MutexGuard<'_, Vec<Box<dyn FnOnce() + Send>>> {
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("CancelToken")
            .field(&self.is_cancelled())
            .finish()
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
