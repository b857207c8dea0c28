//! What is known of one endpoint: how busy and how fast it is, and whether it is well.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::retry::{jitter, pause};

/// Whether an endpoint is fit for calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Standing {
    /// It is, as far as is known; also one that was never tried.
    Up = 0,
    /// It was not, and gets a part of its calls that grows.
    Returning = 1,
    /// Too many of its calls failed. It returns by itself after a while.
    Ejected = 2,
    /// It said that it takes no new calls.
    Draining = 3,
    /// It does not answer pings.
    Silent = 4,
    /// It could not be connected.
    Down = 5,
}

/// What the end of a call says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered, with a response or with a failure that is the call's own.
    Answered,
    /// It answered that it is unable to, or the connection broke.
    Failed,
    /// The deadline passed.
    Late,
    /// It has too much to do. It is not unwell, but no other call should hurry there.
    Refused,
    /// Nothing: the call was cancelled, or never got there.
    Nothing,
}

/// The health of one endpoint. The hot path reads and writes atomics only.
#[derive(Debug)]
pub struct Health {
    epoch: Instant,
    in_flight: AtomicU32,
    /// Latency in microseconds; in the low half when it was measured, in milliseconds since `epoch`.
    speed: AtomicU64,
    /// The moving share of calls that failed, in 1/65,536.
    errors: AtomicU32,
    /// Calls that failed in a row.
    streak: AtomicU32,
    /// The last call to end failed or was refused.
    fails: AtomicBool,
    reached: AtomicBool,
    standing: AtomicU8,
    story: Mutex<Story>,
}

/// What is needed only while the endpoint is unwell.
#[derive(Debug)]
struct Story {
    /// When the present standing began.
    since: Instant,
    /// When an ejection ends, or the next probe is due.
    until: Instant,
    /// Connects that failed, or pings that were not answered, in a row.
    failures: u32,
    /// Ejections that followed each other closely, and when the last was.
    ejections: u32,
    ejected: Option<Instant>,
}

impl Health {
    /// An endpoint that was never tried.
    pub fn new(now: Instant) -> Self {
        let story = Story { since: now, until: now, failures: 0, ejections: 0, ejected: None };
        Self {
            epoch: now,
            in_flight: AtomicU32::new(0),
            speed: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            streak: AtomicU32::new(0),
            fails: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            standing: AtomicU8::new(Standing::Up as u8),
            story: Mutex::new(story),
        }
    }

    /// A call goes there. `end` or `leave` must follow.
    pub fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A call ended that took this long; if it failed, the time that it was allowed counts. Returns
    /// whether the endpoint should be ejected, see [`super::Endpoints::eject`].
    pub fn end(&self, verdict: Verdict, took: Duration, now: Instant) -> bool {
        if verdict != Verdict::Nothing {
            // The first call paid for the connection, too.
            let first = !self.reached.swap(true, Ordering::Relaxed) && verdict == Verdict::Answered;
            // What began before it came back says how long it was away.
            let away = || now.checked_sub(took).is_none_or(|began| began < self.story().since);
            if verdict != Verdict::Answered || self.is_up() || !away() {
                self.measure(verdict, if first { Duration::ZERO } else { took }, now);
            }
        }
        self.leave();
        if verdict == Verdict::Answered {
            self.answered(now);
            return false;
        }
        if verdict == Verdict::Nothing {
            return false;
        }
        self.fails.store(true, Ordering::Relaxed);
        if verdict == Verdict::Refused {
            return false;
        }
        let errors = self.errors.load(Ordering::Relaxed);
        let errors = errors + (ALL - errors) / SMOOTH;
        self.errors.store(errors, Ordering::Relaxed);
        let streak = self.streak.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        streak >= MAX_STREAK || errors > MAX_ERRORS
    }

    /// The call is no longer there, whatever its end said.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that a call was answered, which says less than `end`: not in which time, which matters only
    /// beside others'. `leave` must follow.
    #[inline]
    pub fn answered(&self, now: Instant) {
        if self.fails() || self.errors.load(Ordering::Relaxed) > 0 || !self.is_up() {
            self.note_answer(now);
        }
    }

    fn note_answer(&self, now: Instant) {
        if self.fails() {
            self.fails.store(false, Ordering::Relaxed);
        }
        let errors = self.errors.load(Ordering::Relaxed);
        if errors > 0 {
            // Two threads may overwrite each other's step; an average can bear that.
            self.errors.store(errors - errors.div_ceil(SMOOTH), Ordering::Relaxed);
            self.streak.store(0, Ordering::Relaxed);
        }
        self.heard(now);
    }

    /// Calls that have not ended.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the last call to end there failed or was refused.
    pub(super) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// How long calls take, in microseconds; 0 if that is not known. What nobody measured anew
    /// halves every second, and is replaced by the next measurement: who was slow once gets a chance.
    pub fn latency_us(&self, now: Instant) -> u64 {
        let speed = self.speed.load(Ordering::Relaxed);
        let age = self.millis(now).saturating_sub(speed as u32) / 1000;
        (speed >> 32).checked_shr(age).unwrap_or(0)
    }

    /// Whether it was ever reached: a connection opened, or a call ended.
    pub fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// Whether it is `Up`, without a look at the time.
    pub fn is_up(&self) -> bool {
        self.load() == Standing::Up
    }

    /// Whether it is fit for calls.
    pub fn standing(&self, now: Instant) -> Standing {
        match self.load() {
            Standing::Ejected => {
                let mut story = self.story();
                if now >= story.until && self.load() == Standing::Ejected {
                    // Two more failures, not five, end this trial.
                    self.streak.store(MAX_STREAK - 2, Ordering::Relaxed);
                    self.errors.store(MAX_ERRORS / 2, Ordering::Relaxed);
                    self.become_of(&mut story, Standing::Returning, now);
                }
                self.load()
            }
            Standing::Returning => {
                let mut story = self.story();
                if now >= story.since + STEPS * STEP && self.load() == Standing::Returning {
                    self.become_of(&mut story, Standing::Up, now);
                }
                self.load()
            }
            other => other,
        }
    }

    /// While it returns: whether this call is one of the part that it gets.
    pub fn takes_its_share(&self, now: Instant, random: u64) -> bool {
        let since = self.story().since;
        let step = now.saturating_duration_since(since).as_millis() / STEP.as_millis();
        random % 8 < 1 << step.min(3)
    }

    /// Its calls fail: none go there for a while, which doubles each time from 1 s to 30 s.
    pub(super) fn eject(&self, now: Instant, random: u64) -> bool {
        let mut story = self.story();
        if !matches!(self.load(), Standing::Up | Standing::Returning) {
            return false;
        }
        let long_ago = |at: Instant| now.saturating_duration_since(at) > FORGET;
        story.ejections = if story.ejected.is_none_or(long_ago) { 0 } else { story.ejections + 1 };
        story.ejected = Some(now);
        story.until = now + jitter((EJECTION * (1 << story.ejections.min(5))).min(LONGEST_EJECTION), random);
        self.become_of(&mut story, Standing::Ejected, now);
        true
    }

    /// It could not be connected, or the connection ended before it said a word. Of those who waited
    /// for one connect all may say so; the first counts.
    pub fn connect_failed(&self, now: Instant, random: u64) {
        self.fail(Standing::Down, now, random);
    }

    /// It did not answer a ping.
    pub fn fell_silent(&self, now: Instant, random: u64) {
        self.fail(Standing::Silent, now, random);
    }

    /// It said that it takes no new calls.
    pub fn drains(&self, now: Instant, random: u64) {
        self.fail(Standing::Draining, now, random);
    }

    fn fail(&self, standing: Standing, now: Instant, random: u64) {
        let mut story = self.story();
        let worse = matches!(self.load(), Standing::Down | Standing::Draining | Standing::Silent);
        if worse && now < story.until {
            return;
        }
        story.until = now + pause(story.failures, random);
        story.failures += 1;
        self.become_of(&mut story, standing, now);
    }

    /// A new connection said Hello.
    pub fn opened(&self, now: Instant) {
        self.reached.store(true, Ordering::Relaxed);
        self.come_back(now, |standing| {
            matches!(standing, Standing::Down | Standing::Draining | Standing::Silent)
        });
    }

    /// A silent one spoke again.
    pub fn heard(&self, now: Instant) {
        self.come_back(now, |standing| standing == Standing::Silent);
    }

    fn come_back(&self, now: Instant, from: impl Fn(Standing) -> bool) {
        if from(self.load()) {
            let mut story = self.story();
            if from(self.load()) {
                story.failures = 0;
                self.become_of(&mut story, Standing::Returning, now);
            }
        }
    }

    /// Whether somebody should try to reach it now. True once; then after a pause that grows.
    pub(super) fn wants_probe(&self, now: Instant, random: u64) -> bool {
        if !matches!(self.load(), Standing::Down | Standing::Draining | Standing::Silent) {
            return false;
        }
        let mut story = self.story();
        let due = now >= story.until;
        if due {
            // The probe's failure, if it comes, finds the pause begun already.
            story.until = now + pause(story.failures, random);
            story.failures += 1;
        }
        due
    }

    fn measure(&self, verdict: Verdict, took: Duration, now: Instant) {
        let (speed, millis) = (self.speed.load(Ordering::Relaxed), self.millis(now).max(1));
        let old = speed >> 32;
        // An hour is as long as forever; in 64 bits, as this is in every call's way.
        let took = took.as_secs().min(3600) * 1_000_000 + u64::from(took.subsec_micros());
        let most = if verdict == Verdict::Answered { 4 } else { u64::from(u32::MAX) };
        let replaced = old == 0 || millis.saturating_sub(speed as u32) >= 1000;
        // One slow call is no slow endpoint; several are, soon.
        let new = if replaced { took } else { (3 * old + took.min(most * old)).div_ceil(4) };
        self.speed.store(new << 32 | u64::from(millis), Ordering::Relaxed);
    }

    /// Wraps after 49 days: an estimate of before then fades only with the next call.
    fn millis(&self, at: Instant) -> u32 {
        let age = at.saturating_duration_since(self.epoch);
        (age.as_secs() as u32).wrapping_mul(1000).wrapping_add(age.subsec_millis())
    }

    fn become_of(&self, story: &mut Story, standing: Standing, now: Instant) {
        story.since = now;
        if standing == Standing::Returning {
            // It begins anew, and with few calls: how slow it was must not keep it from them.
            self.speed.store(0, Ordering::Relaxed);
            self.fails.store(false, Ordering::Relaxed);
        }
        self.standing.store(standing as u8, Ordering::Relaxed);
    }

    fn load(&self) -> Standing {
        match self.standing.load(Ordering::Relaxed) {
            0 => Standing::Up,
            1 => Standing::Returning,
            2 => Standing::Ejected,
            3 => Standing::Draining,
            4 => Standing::Silent,
            _ => Standing::Down,
        }
    }

    fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const ALL: u32 = 1 << 16;
/// A call counts for this part of the moving averages of errors.
const SMOOTH: u32 = 16;
/// More failures than answers lately. From none it takes eleven in a row.
const MAX_ERRORS: u32 = ALL / 2;
const MAX_STREAK: u32 = 5;
/// An eighth, a quarter, half of its calls, for this long each.
const STEP: Duration = Duration::from_millis(500);
const STEPS: u32 = 3;
const EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// After this long an ejection is the first one again.
const FORGET: Duration = Duration::from_secs(60);
