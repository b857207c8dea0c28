//! Several reactors that share their connections out among them.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Handle, Reactor, ReactorOptions};
use crate::error::Error;

/// Reactors of equal standing. Dropping it stops them, without waiting.
pub struct Pool {
    handles: Vec<Handle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
    /// Accepted sockets inherit it from their listener.
    pub(super) user_timeout: Duration,
}

impl Pool {
    /// Starts `n` reactors, at least one, on threads named `prefix-0`, `prefix-1` and so on.
    ///
    /// # Errors
    /// The system gives no more threads or descriptors. Those started already are stopped.
    pub fn start(prefix: &str, n: usize, options: &ReactorOptions) -> Result<Self, Error> {
        let user_timeout = options.user_timeout;
        let (handles, threads, next) = (Vec::new(), Mutex::default(), AtomicUsize::new(0));
        let mut pool = Self { handles, threads, next, user_timeout };
        for i in 0..n.max(1) {
            let name = format!("{prefix}-{i}");
            let (handle, thread) = Reactor::start(&name, options.clone())
                .map_err(|e| Error::Io(format!("cannot start the thread {name}"), e))?;
            pool.handles.push(handle);
            pool.threads().push(thread);
        }
        Ok(pool)
    }

    /// The reactor whose turn it is.
    pub fn next(&self) -> &Handle {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }

    /// All of them.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Connections of all of them.
    pub fn connections(&self) -> usize {
        self.handles.iter().map(Handle::connections).sum()
    }

    /// Stops the reactors and waits until their threads have ended, at most for `limit`. Returns
    /// whether all have. Does not wait for the thread that it is called on.
    pub fn stop(&self, limit: Duration) -> bool {
        self.handles.iter().for_each(Handle::stop);
        let deadline = Instant::now() + limit;
        let me = thread::current().id();
        for thread in self.threads().drain(..).filter(|t| t.thread().id() != me) {
            if !join(thread, deadline) {
                return false;
            }
        }
        true
    }

    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.handles.iter().for_each(Handle::stop);
    }
}

/// Waits for the end of a thread until `deadline`. Returns whether it came.
pub(super) fn join(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    // An end by panic is an end.
    let _ = thread.join();
    true
}
