//! No wake-up is missed, nothing is handed over twice or not at all, whatever the threads' order.
//! A missed wake-up shows as a deadlock, which shuttle reports with the schedule that led to it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use mprpc_models::{
    connection::{
        CancelToken, Command, ConnId, Mailbox,
        call::{Completion, Outcome},
        mailbox::Posts,
    },
    wire::buf::Output,
    worker::Pool,
};
use shuttle::{
    check_pct, check_random,
    sync::{Condvar, Mutex},
    thread,
};
use std::time::{Duration, Instant};

/// Random orders find most; few preemptions at bad moments find the rest (Burckhardt, PCT, 2010).
fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    check_random(model.clone(), 1500);
    check_pct(model, 1500, 3);
}

/// What mio's waker is to a reactor: once woken it does not sleep, the next time.
#[derive(Default)]
struct Waker(Mutex<bool>, Condvar);

impl Waker {
    fn wake(&self) {
        *self.0.lock().expect("no panic") = true;
        self.1.notify_one();
    }

    fn sleep(&self) {
        let mut woken = self.0.lock().expect("no panic");
        while !*woken {
            woken = self.1.wait(woken).expect("no panic");
        }
        *woken = false;
    }
}

/// A reactor's turns until `done` says so: take what is posted, sleep when there is nothing.
fn turns(mailbox: &Mailbox, waker: &Waker, mut each: impl FnMut(Command, &[u8]), done: impl Fn() -> bool) {
    let mut posts = Posts::default();
    while !done() {
        if mailbox.take(&mut posts, true) {
            posts.drain(|_, command, bytes| each(command, bytes));
        } else {
            waker.sleep();
        }
    }
}

fn mailbox() -> (Arc<Mailbox>, Arc<Waker>, Arc<AtomicUsize>) {
    let (waker, wakes) = (Arc::new(Waker::default()), Arc::new(AtomicUsize::new(0)));
    let (w, n) = (waker.clone(), wakes.clone());
    let wake = move || {
        n.fetch_add(1, SeqCst);
        w.wake();
    };
    (Arc::new(Mailbox::new(usize::MAX, wake)), waker, wakes)
}

#[test]
fn no_post_is_overlooked_and_each_sleep_costs_one_wake_up() {
    check(|| {
        let (mailbox, waker, wakes) = mailbox();
        for id in 0..3 {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                for n in 0..2_u8 {
                    mailbox.post(ConnId(id), Command::Cancel(1), |out| out.push(n));
                }
            });
        }
        let (taken, sleeps) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut posts = Posts::default();
        while taken.load(SeqCst) < 6 {
            if mailbox.take(&mut posts, true) {
                posts.drain(|_, _, bytes| {
                    assert_eq!(bytes.len(), 1, "each post with its own bytes");
                    taken.fetch_add(1, SeqCst);
                });
            } else {
                sleeps.fetch_add(1, SeqCst);
                waker.sleep();
            }
        }
        assert!(wakes.load(SeqCst) <= sleeps.load(SeqCst), "who is awake is not woken");
    });
}

/// Counts its outcomes.
struct Done(Arc<AtomicUsize>);

impl Completion for Done {
    fn frame(&self) -> &[u8] {
        &[]
    }

    fn complete(self: Box<Self>, _: Outcome<'_>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn a_call_that_is_posted_while_the_reactor_stops_ends_once() {
    check(|| {
        let (mailbox, ..) = mailbox();
        let ended = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (mailbox, ended) = (mailbox.clone(), ended.clone());
                thread::spawn(move || {
                    let done = Box::new(Done(ended));
                    let start = Command::Start { tag: 0, deadline: Instant::now(), empty_ok: false, done };
                    mailbox.post(ConnId(1), start, |_| ());
                })
            })
            .collect();
        let mut posts = Posts::default();
        for last in [false, true] {
            if last {
                mailbox.close(&mut posts);
            } else {
                mailbox.take(&mut posts, true);
            }
            posts.drain(|_, command, _| command.undeliverable());
        }
        callers.into_iter().for_each(|caller| caller.join().expect("no panic"));
        assert_eq!(ended.load(SeqCst), 2);
    });
}

#[test]
fn answers_of_a_turn_and_answers_by_post_are_each_given_once() {
    check(|| {
        let (mailbox, waker, _) = mailbox();
        let answered = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (1..=3)
            .map(|call| {
                let mailbox = mailbox.clone();
                thread::spawn(move || mailbox.answer(ConnId(7), call, false, |out| out.push(call as u8)))
            })
            .collect();
        // The reactor handles bytes of that connection: calls above 3 began in this turn.
        let mut out = Output::default();
        mailbox.lend(ConnId(7), 3);
        thread::yield_now();
        mailbox.answer(ConnId(7), 4, false, |out| out.push(4));
        mailbox.answer(ConnId(8), 5, false, |out| out.push(5));
        mailbox.reclaim(&mut out, |call, _| {
            assert_eq!(
                call, 4,
                "others answer by post: those of other threads, and other connections' calls"
            );
            answered.fetch_add(1, SeqCst);
        });
        assert_eq!((out.pending(), answered.load(SeqCst)), (&[4][..], 1));
        let count = answered.clone();
        let each = |command, bytes: &[u8]| {
            let Command::Answer { call, .. } = command else { panic!("only answers are posted") };
            assert_eq!(bytes, [call as u8]);
            count.fetch_add(1, SeqCst);
        };
        turns(&mailbox, &waker, each, || answered.load(SeqCst) == 5);
        assert_eq!(mailbox.ended(), 5);
        workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    });
}

#[test]
fn every_job_runs_once_and_the_pool_ends() {
    check(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        let pool = Pool::start("w", 3, 100, move |n: usize, _| {
            thread::yield_now();
            count.fetch_add(n, SeqCst);
        });
        let pool = Arc::new(pool.expect("threads"));
        let (other, mut now) = (pool.clone(), Instant::now());
        let submitter =
            thread::spawn(move || _ = other.submit(&mut vec![(1, 100), (2, 1000)], Instant::now()));
        let mut jobs = vec![(1, 1), (3, 10)];
        // As a reactor does: called again when it was asked for, at most.
        while let Some(at) = pool.submit(&mut jobs, now).again {
            now = now.max(at);
            thread::yield_now();
        }
        submitter.join().expect("no panic");
        // Nobody calls `submit` any more; what waits is run before the workers end.
        assert!(pool.stop(Instant::now() + Duration::from_secs(3600)));
        assert_eq!(ran.load(SeqCst), 1111);
        assert_eq!(pool.queued(), 0);
    });
}

#[test]
fn a_job_is_not_left_waiting_while_workers_sleep() {
    check(|| {
        let done = Arc::new(Waker::default());
        let signal = done.clone();
        let pool = Pool::start("w", 2, 100, move |(), _| signal.wake()).expect("threads");
        let (mut jobs, mut now) = (vec![(1, ())], Instant::now());
        while let Some(at) = pool.submit(&mut jobs, now).again {
            now = now.max(at);
            thread::yield_now();
        }
        done.sleep(); // before anybody stops the pool
        assert!(pool.stop(Instant::now() + Duration::from_secs(3600)));
    });
}

#[test]
fn a_job_of_a_client_that_is_held_and_released_is_not_left_waiting() {
    check(|| {
        let done = Arc::new(Waker::default());
        let signal = done.clone();
        let pool = Pool::start("w", 2, 100, move |(), _| signal.wake()).expect("threads");
        let pool = Arc::new(pool);
        let (other, mut now) = (pool.clone(), Instant::now());
        // Another reactor's connection comes and goes meanwhile.
        let stranger = thread::spawn(move || {
            other.hold(2);
            other.release(2);
        });
        let mut jobs = vec![(1, ())];
        pool.submit(&mut jobs, now);
        pool.hold(1);
        thread::yield_now();
        pool.release(1);
        // Who releases is in a reactor's turn, at the end of which it submits.
        while let Some(at) = pool.submit(&mut jobs, now).again {
            now = now.max(at);
            thread::yield_now();
        }
        done.sleep(); // before anybody stops the pool
        stranger.join().expect("no panic");
        pool.hold(1);
        pool.submit(&mut vec![(1, ())], now);
        assert!(pool.stop(Instant::now() + Duration::from_secs(3600)));
        done.sleep(); // what is held when the pool stops is run, too
    });
}

#[test]
fn a_hook_runs_once_if_its_call_is_cancelled_and_its_guard_takes_it_back() {
    check(|| {
        let (token, ran, guarded) =
            (CancelToken::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let cancels: Vec<_> = (0..2)
            .map(|_| {
                let token = token.clone();
                thread::spawn(move || token.cancel())
            })
            .collect();
        let (one, two) = (ran.clone(), guarded.clone());
        token.on_cancel(move || _ = one.fetch_add(1, SeqCst));
        let guard = token.guard(move || _ = two.fetch_add(1, SeqCst));
        drop(guard);
        cancels.into_iter().for_each(|cancel| cancel.join().expect("no panic"));
        assert!(token.is_cancelled());
        assert_eq!(ran.load(SeqCst), 1);
        assert!(guarded.load(SeqCst) <= 1);
    });
}

/// Two jobs wait for the third: more than there are cores, so only its waiting wakes a worker for it.
#[test]
fn jobs_that_block_do_not_keep_the_next_from_a_worker() {
    check(|| {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let door = gate.clone();
        let run = move |opens: bool, _| {
            let mut open = door.0.lock().expect("no panic");
            *open |= opens;
            door.1.notify_all();
            while !*open {
                open = door.1.wait(open).expect("no panic");
            }
        };
        let pool = Pool::start("w", 3, 100, run).expect("threads");
        let (mut jobs, mut now) = (vec![(1, false), (1, false), (1, true)], Instant::now());
        while let Some(at) = pool.submit(&mut jobs, now).again {
            now = now.max(at);
            thread::yield_now();
        }
        assert!(pool.stop(Instant::now() + Duration::from_secs(3600)));
        assert!(*gate.0.lock().expect("no panic"));
    });
}
