//! The watchdog: names handlers that run longer than they should, while they do.
//!
//! Whoever runs handlers has a seat and notes there what began when: two plain stores to memory of
//! its own. One thread looks at the seats now and then, and sleeps while nothing happens.

use std::{
    cell::{Cell, OnceCell},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use crate::error::Error;

/// The way to the watchdog. It ends with this.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    epoch: Instant,
    /// The paths of the methods, by their numbers.
    names: Vec<String>,
    /// How long a worker may take, in nanoseconds.
    slow: AtomicU64,
    seats: Mutex<Vec<Arc<Seat>>>,
    asleep: AtomicBool,
    stopping: AtomicBool,
}

/// What one thread runs.
struct Seat {
    thread: String,
    inline: bool,
    /// One more than the method's number; 0 for none.
    running: AtomicUsize,
    /// Nanoseconds since the epoch.
    since: AtomicU64,
}

/// What the watchdog remembers of a seat.
#[derive(Default)]
struct Seen {
    since: u64,
    /// After how many nanoseconds it speaks of what runs there.
    next: u64,
}

/// What a thread has of its own seat.
struct Place {
    seat: Arc<Seat>,
    /// What `since` says. Inline calls of one turn begin at one time, which is converted once.
    since: Cell<Instant>,
}

thread_local! {
    /// Threads that run handlers belong to one provider, so to one watchdog.
    static PLACE: OnceCell<Place> = const { OnceCell::new() };
}

impl Watch {
    /// Starts to watch for methods of these names that take longer than `slow`.
    pub(super) fn start(names: Vec<String>, slow: Duration) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            names,
            slow: AtomicU64::new(nanos(slow)),
            seats: Mutex::default(),
            asleep: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let watching = shared.clone();
        let thread = thread::Builder::new().name("mprpc-watch".into()).spawn(move || watching.run());
        let thread = thread.map_err(|error| Error::Io("cannot start the watchdog".into(), error))?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    pub(super) fn set_slow(&self, slow: Duration) {
        self.shared.slow.store(nanos(slow), Ordering::Relaxed);
    }

    /// The handler of this number begins now on this thread. `end` must follow.
    pub(super) fn begin(&self, number: usize, inline: bool, now: Instant) {
        // `with` is not inlined everywhere. A thread that ends needs no watching.
        let _ = PLACE.try_with(|place| {
            let epoch = self.shared.epoch;
            let Place { seat, since } =
                place.get_or_init(|| Place { seat: self.shared.seat(inline), since: Cell::new(epoch) });
            if since.replace(now) != now {
                seat.since.store(nanos(now.saturating_duration_since(epoch)), Ordering::Relaxed);
                self.wake();
            }
            seat.running.store(number + 1, Ordering::Release);
        });
    }

    /// The handler that began last on this thread has ended.
    pub(super) fn end() {
        let _ = PLACE.try_with(|place| {
            if let Some(place) = place.get() {
                place.seat.running.store(0, Ordering::Release);
            }
        });
    }

    /// Something begins: the watchdog is to look, if it sleeps.
    fn wake(&self) {
        if self.shared.asleep.load(Ordering::Relaxed) {
            self.shared.asleep.store(false, Ordering::Relaxed);
            self.thread.unpark();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl Shared {
    fn seat(&self, inline: bool) -> Arc<Seat> {
        let thread = thread::current().name().unwrap_or("?").to_owned();
        let (running, since) = Default::default();
        let seat = Arc::new(Seat { thread, inline, running, since });
        self.seats.lock().unwrap_or_else(PoisonError::into_inner).push(seat.clone());
        seat
    }

    fn run(&self) {
        let mut seen = Vec::new();
        while !self.stopping.load(Ordering::Relaxed) {
            let active = self.look(&mut seen);
            // What began between the look and this woke nobody: there is one more look before the long sleep.
            let was_asleep = self.asleep.swap(!active, Ordering::Relaxed);
            thread::park_timeout(if !active && was_asleep { SLEEP } else { TICK });
        }
    }

    /// Looks at all seats. Returns whether anything has run since the last time.
    fn look(&self, seen: &mut Vec<Seen>) -> bool {
        let seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.resize_with(seats.len(), Seen::default);
        let now = nanos(self.epoch.elapsed());
        let (mut active, mut lines) = (false, 0);
        for (seat, seen) in seats.iter().zip(seen) {
            let running = seat.running.load(Ordering::Acquire);
            let since = seat.since.load(Ordering::Relaxed);
            let slow = if seat.inline { nanos(INLINE) } else { self.slow.load(Ordering::Relaxed) };
            active |= running > 0 || since != seen.since;
            if since != seen.since {
                *seen = Seen { since, next: slow };
            }
            let ran = now.saturating_sub(since);
            if running > 0 && ran >= seen.next {
                // Once, and then ever more rarely.
                seen.next = ran.saturating_mul(10);
                lines += 1;
                if lines <= MAX_LINES {
                    seat.report(&self.names[running - 1], Duration::from_nanos(ran));
                }
            }
        }
        if lines > MAX_LINES {
            log::warn!("{} more handlers run that long", lines - MAX_LINES);
        }
        active
    }
}

impl Seat {
    fn report(&self, name: &str, ran: Duration) {
        let (thread, seconds) = (&self.thread, ran.as_secs_f64());
        if self.inline {
            log::warn!("{name} runs inline and has blocked the reactor {thread} for {seconds:.2} s");
        } else {
            log::warn!("{name} has been running on {thread} for {seconds:.2} s (slow_handler)");
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How often the watchdog looks while handlers run, and while none does.
const TICK: Duration = Duration::from_millis(25);
const SLEEP: Duration = Duration::from_secs(10);
/// An inline handler holds up everybody on its reactor.
const INLINE: Duration = Duration::from_millis(50);
/// Lines that one look may write.
const MAX_LINES: usize = 4;
