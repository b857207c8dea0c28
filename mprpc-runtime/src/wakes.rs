//! Waking many threads: those that are awake help.
//!
//! To wake a thread takes longer than all else that a reactor does for a small answer. A reactor that has read many answers
//! therefore first notes whom to wake, then begins with it, and each that is awake wakes one more before it goes on.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::Thread,
};

thread_local! {
    /// On threads that note whom to wake: whom.
    static NOTED: RefCell<Option<Vec<Thread>>> = const { RefCell::new(None) };
}

/// Whom to wake, for whoever comes first. As many as sleep, at most.
static DUE: Mutex<VecDeque<Thread>> = Mutex::new(VecDeque::new());
/// Whether there are any: mostly not, and then nobody needs the lock.
static ANY_DUE: AtomicBool = AtomicBool::new(false);

/// From now on this thread notes whom to wake. It has to call [`wake_noted`] soon after each time that it may have.
pub(crate) fn begin() {
    NOTED.set(Some(Vec::new()));
}

/// Wakes all that this thread has noted. It notes nobody any more.
pub(crate) fn end() {
    wake_noted();
    NOTED.set(None);
}

/// Wakes a thread that is parked, or is going to be; or notes that it has to be.
pub(crate) fn wake(thread: Thread) {
    let mut thread = Some(thread);
    // The list is gone while this thread ends.
    let _ = NOTED.try_with(|noted| {
        if let Some(noted) = &mut *noted.borrow_mut() {
            noted.extend(thread.take());
        }
    });
    thread.iter().for_each(Thread::unpark);
}

/// Wakes all that this thread has noted.
#[inline]
pub(crate) fn wake_noted() {
    let noted = NOTED.try_with(|noted| noted.borrow().as_ref().map_or(0, Vec::len)).unwrap_or(0);
    if noted > 0 {
        share_noted();
        while help() {}
    }
}

/// Lets all that this thread has noted be woken by whoever calls `help`.
pub(crate) fn share_noted() {
    let mut due = due();
    NOTED.with_borrow_mut(|noted| noted.iter_mut().for_each(|noted| due.extend(noted.drain(..))));
    ANY_DUE.store(!due.is_empty(), Relaxed);
}

/// Wakes one of those that are due. Returns whether there was one.
pub(crate) fn help() -> bool {
    if !ANY_DUE.load(Relaxed) {
        return false;
    }
    let mut due = due();
    let thread = due.pop_front();
    ANY_DUE.store(!due.is_empty(), Relaxed);
    drop(due);
    thread.iter().for_each(Thread::unpark);
    thread.is_some()
}

fn due() -> MutexGuard<'static, VecDeque<Thread>> {
    DUE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    /// Threads that are parked, and count themselves once they are woken; not by chance before `limit`.
    fn sleepers(count: usize, awake: &Arc<AtomicUsize>) -> Vec<thread::JoinHandle<()>> {
        let sleep = |awake: Arc<AtomicUsize>| {
            thread::park_timeout(Duration::from_secs(20));
            awake.fetch_add(1, SeqCst);
        };
        (0..count)
            .map(|_| {
                let awake = awake.clone();
                thread::spawn(move || sleep(awake))
            })
            .collect()
    }

    #[test]
    fn who_was_noted_sleeps_on_until_all_are_woken() {
        for count in [1, 2, 50] {
            let (awake, began) = (Arc::default(), Instant::now());
            let sleepers = sleepers(count, &awake);
            begin();
            sleepers.iter().for_each(|sleeper| wake(sleeper.thread().clone()));
            thread::sleep(Duration::from_millis(20));
            assert_eq!(awake.load(SeqCst), 0, "they are only noted");
            wake_noted();
            wake_noted();
            sleepers.into_iter().for_each(|sleeper| sleeper.join().expect("it wakes"));
            assert!(began.elapsed() < Duration::from_secs(10), "{count} were woken, not late");
            end();
        }
    }

    #[test]
    fn a_thread_that_notes_nobody_wakes_at_once() {
        let (awake, began) = (Arc::default(), Instant::now());
        let sleepers = sleepers(1, &awake);
        wake(sleepers[0].thread().clone());
        sleepers.into_iter().for_each(|sleeper| sleeper.join().expect("it wakes"));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
