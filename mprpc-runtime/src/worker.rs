//! The worker pool: threads for handlers that may block, behind one bounded queue.
//!
//! Waking a thread costs more than a short handler. So while handlers are short no more workers are
//! woken than there are cores, and another one only when a job has waited too long: the handlers
//! that run may be blocked. Once handlers are known to be long, every job wakes a worker.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
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
    cores: usize,
    /// The moving average of how long a job runs, in microseconds.
    usual: AtomicU64,
}

struct Queue<J> {
    /// With the time at which each came.
    jobs: VecDeque<(Instant, J)>,
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
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (work, ended, usual) = (Condvar::new(), Condvar::new(), AtomicU64::new(0));
        let pool = Self { shared: Arc::new(Shared { queue, work, ended, limit, cores, usual }) };
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
    /// `jobs` was refused. While jobs wait and workers sleep, it gives the time at which it wants
    /// to be called again, with or without jobs: one that waits by then gets a worker of its own.
    pub fn submit(&self, jobs: &mut Vec<J>, now: Instant) -> Option<Instant> {
        let mut queue = self.shared.lock();
        if queue.stopping {
            return None;
        }
        let room = self.shared.limit.saturating_sub(queue.jobs.len()).min(jobs.len());
        queue.jobs.extend(jobs.drain(..room).map(|job| (now, job)));
        let late = queue.jobs.front().is_some_and(|(since, _)| now >= *since + PATIENCE);
        let wake = self.shared.wants_another(&queue) || (late && queue.idle > 0);
        let again = (!queue.jobs.is_empty() && queue.idle > 0).then(|| now + PATIENCE);
        drop(queue);
        if wake {
            self.shared.work.notify_one();
        }
        again
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
            let began = Instant::now();
            // A job answers its call when it is dropped, also by unwinding.
            if catch_unwind(AssertUnwindSafe(|| run(job))).is_err() {
                log::error!("a handler panicked; its call was answered INTERNAL");
            }
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX).min(1 << 40);
            // Two workers may overwrite each other's step; an average can bear that.
            let usual = self.usual.load(Ordering::Relaxed);
            self.usual.store((7 * usual + took) / 8, Ordering::Relaxed);
        }
        self.lock().workers -= 1;
        self.ended.notify_all();
    }

    fn next(&self) -> Option<J> {
        let mut queue = self.lock();
        loop {
            if let Some((_, job)) = queue.jobs.pop_front() {
                // This job may block: pass the wake-up on before running it.
                let wake = self.wants_another(&queue);
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

    fn wants_another(&self, queue: &Queue<J>) -> bool {
        let long = self.usual.load(Ordering::Relaxed) >= LONG_US;
        !queue.jobs.is_empty() && queue.idle > 0 && (long || queue.workers - queue.idle < self.cores)
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

/// How long a job may wait for one of the workers that are awake.
const PATIENCE: Duration = Duration::from_millis(1);
/// A job that runs as long as this, in microseconds, is worth a wake-up.
const LONG_US: u64 = 50;

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
        pool.submit(&mut vec![0], Instant::now());
        while pool.queued() > 0 {
            thread::yield_now();
        }
        let mut jobs = vec![1, 2, 3, 4];
        pool.submit(&mut jobs, Instant::now());
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
        pool.submit(&mut vec![1, 2], Instant::now());
        assert_eq!(results.recv_timeout(Duration::from_secs(10)), Ok(2));
    }
}
