//! The worker pool: threads for handlers that may block, behind one bounded queue.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

/// Threads that run jobs of one kind, in the order in which they came.
pub struct Pool<J> {
    shared: Arc<Shared<J>>,
}

struct Shared<J> {
    queue: Mutex<Queue<J>>,
    /// A job came, or the pool stops.
    work: Condvar,
    /// A worker ended.
    ended: Condvar,
    limit: usize,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    idle: usize,
    workers: usize,
    stopping: bool,
}

impl<J: Send + 'static> Pool<J> {
    /// Starts threads called `NAME-0` and so on. At most `limit` jobs wait.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(
        name: &str,
        threads: usize,
        limit: usize,
        run: impl Fn(J) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), idle: 0, workers: 0, stopping: false });
        let shared = Shared { queue, work: Condvar::new(), ended: Condvar::new(), limit };
        let pool = Self { shared: Arc::new(shared) };
        let run = Arc::new(run);
        for n in 0..threads {
            let (shared, run) = (pool.shared.clone(), run.clone());
            let work = move || shared.work_off(&*run);
            thread::Builder::new().name(format!("{name}-{n}")).spawn(work)?;
            pool.shared.lock().workers += 1; // it ends only when the pool does
        }
        Ok(pool)
    }

    /// Hands over as many of `jobs` as the queue takes, in one go with one wake-up. What stays in
    /// `jobs` was refused.
    pub fn submit(&self, jobs: &mut Vec<J>) {
        let mut queue = self.shared.lock();
        if queue.stopping {
            return;
        }
        let room = self.shared.limit.saturating_sub(queue.jobs.len()).min(jobs.len());
        queue.jobs.extend(jobs.drain(..room));
        let wake = room > 0 && queue.idle > 0;
        drop(queue);
        if wake {
            self.shared.work.notify_one();
        }
    }

    /// Jobs that wait.
    pub fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Lets the workers finish what is queued and ends them. Returns whether they did by
    /// `deadline`; a worker that is stuck is left behind.
    pub fn stop(&self, deadline: Instant) -> bool {
        let mut queue = self.shared.lock();
        queue.stopping = true;
        self.shared.work.notify_all();
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.shared.ended.wait_timeout_while(queue, left, |queue| queue.workers > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.workers == 0
    }
}

impl<J> Shared<J> {
    fn work_off(&self, run: &dyn Fn(J)) {
        while let Some(job) = self.next() {
            // A job answers its call when it is dropped, also by unwinding.
            if catch_unwind(AssertUnwindSafe(|| run(job))).is_err() {
                log::error!("a handler panicked; its call was answered INTERNAL");
            }
        }
        self.lock().workers -= 1;
        self.ended.notify_all();
    }

    fn next(&self) -> Option<J> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                // This job may block: pass the wake-up on before running it.
                let wake = !queue.jobs.is_empty() && queue.idle > 0;
                drop(queue);
                if wake {
                    self.work.notify_one();
                }
                return Some(job);
            }
            if queue.stopping {
                return None;
            }
            queue.idle += 1;
            queue = self.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Drop for Pool<J> {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.work.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn jobs_beyond_the_limit_come_back() {
        let (go, wait) = crossbeam_channel::bounded::<()>(0);
        let (done, results) = crossbeam_channel::unbounded();
        let pool = Pool::start("test", 1, 2, move |n: u32| {
            wait.recv_timeout(Duration::from_secs(10)).unwrap();
            done.send(n).unwrap();
        })
        .unwrap();
        pool.submit(&mut vec![0]);
        while pool.queued() > 0 {
            thread::yield_now();
        }
        let mut jobs = vec![1, 2, 3, 4];
        pool.submit(&mut jobs);
        assert_eq!(jobs, [3, 4]);
        for n in 0..3 {
            go.send(()).unwrap();
            assert_eq!(results.recv_timeout(Duration::from_secs(10)), Ok(n));
        }
        assert!(pool.stop(Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (done, results) = crossbeam_channel::unbounded();
        let pool = Pool::start("test", 1, 10, move |n: u32| {
            assert_ne!(n, 1, "planted");
            done.send(n).unwrap();
        })
        .unwrap();
        pool.submit(&mut vec![1, 2]);
        assert_eq!(results.recv_timeout(Duration::from_secs(10)), Ok(2));
    }
}
