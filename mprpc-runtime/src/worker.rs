//! The worker pool: threads for handlers that may block, behind one bounded queue.
//!
//! Jobs wait in `lanes`, so clients have their turns one after the other, and nobody crowds others out.
//!
//! Waking a thread costs more than a short handler. So while handlers are short no more workers are
//! woken than there are cores, and another one only when a job has waited too long: the handlers
//! that run may be blocked. Once handlers are known to be long, every job wakes a worker. Who fell
//! asleep last is woken first, as its memory is still in the caches.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::lanes::Lanes;

/// Threads that run jobs of one kind; those of one client in the order in which they came.
pub struct Pool<J> {
    shared: Arc<Shared<J>>,
}

struct Shared<J> {
    queue: Mutex<Queue<J>>,
    /// One for each worker, which is no longer among the idle ones.
    calls: Vec<Condvar>,
    /// A worker ended.
    ended: Condvar,
    limit: AtomicUsize,
    cores: usize,
    /// Jobs that wait, for those who have not locked the queue.
    waiting: AtomicUsize,
    /// The moving average of how long a job runs, in microseconds.
    usual: AtomicU64,
}

struct Queue<J> {
    lanes: Lanes<J>,
    /// Workers that sleep and were not called, the last to fall asleep at the end.
    idle: Vec<usize>,
    /// Workers that were called and are still about to wake up. Each is good for a job.
    coming: usize,
    workers: usize,
    stopping: bool,
}

/// What became of jobs that were handed over.
pub struct Submitted<J> {
    /// Jobs that had to give way, of those handed over or of those that waited.
    pub refused: Vec<J>,
    /// When the pool wants to be called again, with or without jobs: one that waits by then gets a
    /// worker of its own.
    pub again: Option<Instant>,
}

impl<J: Send + 'static> Pool<J> {
    /// Starts threads called `NAME-0` and so on. At most `limit` jobs wait. `run` gets a job and the
    /// time at which it begins.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn start(
        name: &str,
        threads: usize,
        limit: usize,
        run: impl Fn(J, Instant) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let idle = Vec::with_capacity(threads);
        let lanes = Lanes::default();
        let queue = Mutex::new(Queue { lanes, idle, coming: 0, workers: 0, stopping: false });
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let calls = (0..threads).map(|_| Condvar::new()).collect();
        let (ended, limit) = (Condvar::new(), AtomicUsize::new(limit));
        let (waiting, usual) = (AtomicUsize::new(0), AtomicU64::new(0));
        let pool = Self { shared: Arc::new(Shared { queue, calls, ended, limit, cores, waiting, usual }) };
        let run = Arc::new(run);
        for n in 0..threads {
            let (shared, run) = (pool.shared.clone(), run.clone());
            let work = move || shared.work_off(n, &*run);
            thread::Builder::new().name(format!("{name}-{n}")).spawn(work)?;
            pool.shared.lock().workers += 1; // it ends only when the pool does
        }
        Ok(pool)
    }

    /// Hands over `jobs`, each with its client, in one go with one wake-up.
    pub fn submit(&self, jobs: &mut Vec<(u64, J)>, now: Instant) -> Submitted<J> {
        let mut refused = Vec::new();
        let mut queue = self.shared.lock();
        if queue.stopping {
            return Submitted { refused, again: None };
        }
        let limit = self.shared.limit.load(Ordering::Relaxed);
        for (client, job) in jobs.drain(..) {
            refused.extend(queue.lanes.push(client, now, job, limit));
        }
        let late = queue.lanes.oldest().is_some_and(|since| now >= since + PATIENCE);
        let again = self.shared.leave(queue, late).then(|| now + PATIENCE);
        Submitted { refused, again }
    }

    /// Keeps the jobs of `client` from beginning, those that wait and those to come, until `release`.
    pub fn hold(&self, client: u64) {
        let mut queue = self.shared.lock();
        if !queue.stopping {
            queue.lanes.hold(client);
            self.shared.waiting.store(queue.lanes.ready(), Ordering::Relaxed);
        }
    }

    /// Lets the jobs of `client` begin again. If any wait, `submit` is to be called soon: this wakes one worker at most.
    pub fn release(&self, client: u64) {
        let mut queue = self.shared.lock();
        queue.lanes.release(client);
        self.shared.leave(queue, false);
    }

    /// Jobs that wait for a worker and nothing else, or a moment ago did.
    pub fn queued(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    /// Jobs that wait or run.
    pub fn busy(&self) -> usize {
        let queue = self.shared.lock();
        queue.lanes.len() + queue.workers - queue.idle.len()
    }

    /// Changes how many jobs may wait. Those beyond stay.
    pub fn set_limit(&self, limit: usize) {
        self.shared.limit.store(limit, Ordering::Relaxed);
    }

    /// Lets the workers finish what is queued and ends them. Returns whether they did by
    /// `deadline`; a worker that is stuck is left behind.
    pub fn stop(&self, deadline: Instant) -> bool {
        let queue = self.shared.end();
        let left = deadline.saturating_duration_since(Instant::now());
        let waited = self.shared.ended.wait_timeout_while(queue, left, |queue| queue.workers > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.workers == 0
    }
}

impl<J> Shared<J> {
    fn work_off(&self, worker: usize, run: &dyn Fn(J, Instant)) {
        let mut began = Instant::now();
        while let Some(job) = self.next(worker, &mut began) {
            // A job answers its call when it is dropped, also by unwinding.
            if catch_unwind(AssertUnwindSafe(|| run(job, began))).is_err() {
                log::error!("a handler panicked; its call was answered INTERNAL");
            }
            let ended = Instant::now();
            let took = ended.saturating_duration_since(began).as_micros();
            let took = u64::try_from(took).unwrap_or(u64::MAX).min(1 << 40);
            // Two workers may overwrite each other's step; an average can bear that.
            let usual = self.usual.load(Ordering::Relaxed);
            self.usual.store((7 * usual + took) / 8, Ordering::Relaxed);
            began = ended;
        }
        self.lock().workers -= 1;
        self.ended.notify_all();
    }

    /// Waits for the next job, which begins at `now`: to look at the clock is worth it only after it waited.
    fn next(&self, worker: usize, now: &mut Instant) -> Option<J> {
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.lanes.pop() {
                // This job may block: pass the wake-up on before running it.
                self.leave(queue, false);
                return Some(job);
            }
            if queue.stopping {
                return None;
            }
            queue.idle.push(worker);
            let asleep = |queue: &mut Queue<J>| queue.idle.contains(&worker);
            queue = self.calls[worker].wait_while(queue, asleep).unwrap_or_else(PoisonError::into_inner);
            queue.coming -= 1;
            *now = Instant::now();
        }
    }

    /// Ends work on the queue. Calls a worker if more jobs wait than workers are about to wake up, and one more should
    /// run them. Returns whether there are jobs that nobody was called for, though somebody could be.
    fn leave(&self, mut queue: MutexGuard<'_, Queue<J>>, late: bool) -> bool {
        let ready = queue.lanes.ready();
        self.waiting.store(ready, Ordering::Relaxed);
        let long = || self.usual.load(Ordering::Relaxed) >= LONG_US;
        let few = || queue.workers - queue.idle.len() < self.cores;
        let wanted = ready > 0 && (late || (ready > queue.coming && (long() || few())));
        let called = if wanted { queue.idle.pop() } else { None };
        queue.coming += usize::from(called.is_some());
        let left = ready > queue.coming && !queue.idle.is_empty();
        drop(queue);
        if let Some(worker) = called {
            self.calls[worker].notify_one();
        }
        left
    }

    /// Nothing is held any longer, nothing comes any more.
    fn end(&self) -> MutexGuard<'_, Queue<J>> {
        let mut queue = self.lock();
        queue.stopping = true;
        queue.lanes.release_all();
        queue.coming += queue.idle.len();
        queue.idle.clear();
        self.calls.iter().for_each(Condvar::notify_one);
        queue
    }

    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Drop for Pool<J> {
    fn drop(&mut self) {
        drop(self.shared.end());
    }
}

/// How long a job may wait for one of the workers that are awake.
const PATIENCE: Duration = Duration::from_millis(1);
/// A job that runs as long as this, in microseconds, is worth a wake-up.
const LONG_US: u64 = 50;

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, Sender};

    use super::*;

    #[test]
    fn jobs_beyond_the_limit_come_back() {
        let (pool, go, results) = busy(2);
        assert_eq!(pool.submit(&mut jobs(1, 1..5), Instant::now()).refused, [3, 4]);
        for n in 0..3 {
            go.send(()).unwrap();
            assert_eq!(results.recv_timeout(Duration::from_secs(10)), Ok(n));
        }
        assert!(pool.stop(Instant::now() + Duration::from_secs(10)));
    }

    #[test]
    fn a_heavy_client_neither_delays_nor_displaces_a_light_one() {
        let (pool, go, results) = busy(10);
        let heavy = pool.submit(&mut jobs(1, 1..21), Instant::now());
        assert_eq!(heavy.refused, (11..21).collect::<Vec<_>>());
        // The queue is full: the newest of the heavy client's jobs give way, then shares are equal.
        assert_eq!(pool.submit(&mut jobs(2, 100..103), Instant::now()).refused, [10, 9, 8]);
        assert_eq!(pool.submit(&mut jobs(2, 103..107), Instant::now()).refused, [7, 6, 105, 106]);
        let order: Vec<u32> = (0..11)
            .map(|_| {
                go.send(()).unwrap();
                results.recv_timeout(Duration::from_secs(10)).unwrap()
            })
            .collect();
        assert_eq!(order, [0, 1, 100, 2, 101, 3, 102, 4, 103, 5, 104]);
    }

    #[test]
    fn jobs_of_a_held_client_run_when_it_is_released_or_the_pool_stops() {
        let (done, results) = crossbeam_channel::unbounded();
        let pool = Pool::start("test", 2, 10, move |n: u32, _| done.send(n).unwrap()).unwrap();
        let next = || results.recv_timeout(Duration::from_secs(10)).unwrap();
        pool.hold(1);
        pool.hold(3);
        assert_eq!(pool.submit(&mut jobs(1, 0..3), Instant::now()).again, None, "nothing to look after");
        pool.submit(&mut jobs(2, 10..11), Instant::now());
        assert_eq!((next(), pool.queued()), (10, 0));
        assert!(pool.busy() >= 3, "a drain has to wait for them");
        pool.release(1);
        pool.submit(&mut Vec::new(), Instant::now() + PATIENCE);
        let mut ran = [next(), next(), next()];
        ran.sort_unstable();
        assert_eq!(ran, [0, 1, 2]);
        pool.submit(&mut jobs(3, 20..21), Instant::now());
        assert!(results.is_empty());
        assert!(pool.stop(Instant::now() + Duration::from_secs(10)));
        assert_eq!(next(), 20);
        pool.hold(1); // too late to matter
        assert_eq!(pool.busy(), 0);
    }

    /// A pool of one worker, which has job 0; each job ends with a word to the second and tells the third.
    fn busy(limit: usize) -> (Pool<u32>, Sender<()>, Receiver<u32>) {
        let (go, wait) = crossbeam_channel::bounded(0);
        let (done, results) = crossbeam_channel::unbounded();
        let pool = Pool::start("test", 1, limit, move |n: u32, _| {
            wait.recv_timeout(Duration::from_secs(10)).unwrap();
            done.send(n).unwrap();
        })
        .unwrap();
        pool.submit(&mut jobs(1, 0..1), Instant::now());
        while pool.queued() > 0 {
            thread::yield_now();
        }
        (pool, go, results)
    }

    fn jobs(client: u64, numbers: std::ops::Range<u32>) -> Vec<(u64, u32)> {
        numbers.map(|n| (client, n)).collect()
    }

    /// Waits until all `workers` are asleep.
    fn all_sleep(pool: &Pool<u32>, workers: usize) {
        let end = Instant::now() + Duration::from_secs(10);
        while pool.shared.lock().idle.len() < workers {
            assert!(Instant::now() < end, "a worker does not fall asleep");
            thread::yield_now();
        }
    }

    #[test]
    fn the_worker_that_fell_asleep_last_is_called() {
        let (done, results) = crossbeam_channel::unbounded();
        let name = || thread::current().name().map(str::to_owned);
        let pool = Pool::start("test", 4, 10, move |_: u32, _| done.send(name()).unwrap()).unwrap();
        let mut called = Vec::new();
        for n in 0..20 {
            all_sleep(&pool, 4);
            pool.submit(&mut jobs(1, n..n + 1), Instant::now());
            called.push(results.recv_timeout(Duration::from_secs(10)).unwrap());
        }
        called.dedup();
        assert_eq!(called.len(), 1, "{called:?}");
    }

    #[test]
    fn one_job_calls_one_worker_however_often_it_is_asked_about() {
        let pool = Pool::start("test", 4, 10, move |_: u32, _| {}).unwrap();
        let idle = || pool.shared.lock().idle.len();
        for n in 0..100 {
            all_sleep(&pool, 4);
            let now = Instant::now();
            assert_eq!(pool.submit(&mut jobs(1, n..n + 1), now).again, None, "somebody comes for it");
            pool.submit(&mut Vec::new(), now);
            assert!(idle() >= 3);
        }
        all_sleep(&pool, 4);
        assert_eq!(pool.shared.lock().coming, 0);
    }

    #[test]
    fn a_panic_costs_one_job() {
        let (done, results) = crossbeam_channel::unbounded();
        let pool = Pool::start("test", 1, 10, move |n: u32, _| {
            assert_ne!(n, 1, "planted");
            done.send(n).unwrap();
        })
        .unwrap();
        pool.submit(&mut jobs(1, 1..3), Instant::now());
        assert_eq!(results.recv_timeout(Duration::from_secs(10)), Ok(2));
    }
}
