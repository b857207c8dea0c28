//! What a seed stands for: the calls, the faults, and the weather of the network.

use std::time::Duration;

use crate::rng::Rng;

/// How a caller waits for its call, which decides about the connection that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A connection of its own from the pool, which nobody reads while it lies there.
    Blocking,
    /// The connection that all asynchronous calls to the endpoint share.
    Asynchronous,
}

/// What the handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Answers inside the reactor's turn.
    Inline,
    /// Answers after some work, whether or not anybody still wants to know.
    Work,
    /// Never answers on its own: it waits to be cancelled.
    Hold,
    /// Answers with a failure.
    Fail,
    /// Drops the right to answer.
    Forget,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inline => "Inline",
            Self::Work => "Work",
            Self::Hold => "Hold",
            Self::Fail => "Fail",
            Self::Forget => "Forget",
        }
    }
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct CallPlan {
    pub(crate) at: Duration,
    pub(crate) caller: usize,
    pub(crate) mode: Mode,
    pub(crate) kind: Kind,
    pub(crate) work: Duration,
    pub(crate) timeout: Duration,
    pub(crate) cancel_after: Option<Duration>,
    pub(crate) idempotent: bool,
    /// Bytes that the request carries beside its mark, and the response.
    pub(crate) request: usize,
    pub(crate) response: usize,
}

/// One fault; it begins at `at`, and what lasts does so for `lasts`.
#[derive(Clone, Debug)]
pub(crate) struct FaultPlan {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) host: usize,
    pub(crate) what: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One connection to the host is reset at both ends, with what was on its way.
    Cut,
    /// All of them are.
    CutAll,
    /// No byte passes, to the host, from it, or both; they are delivered afterwards, as TCP does.
    Partition { to: bool, from: bool },
    /// The process stands still (SIGSTOP); the kernel goes on.
    Stall,
    /// The process is gone at once (SIGKILL) and another one is there afterwards.
    Kill,
    /// The process drains, ends, and another one is there afterwards.
    Drain,
    /// Every byte takes fifty times as long.
    Slow,
}

/// All that a seed decides before the first event.
pub(crate) struct Plan {
    /// Nothing but drains, one at a time: then no call may fail.
    pub(crate) calm: bool,
    pub(crate) hosts: usize,
    pub(crate) callers: usize,
    pub(crate) workers: usize,
    pub(crate) max_queue: usize,
    pub(crate) max_calls: u32,
    pub(crate) max_body: u32,
    /// The longest way of a byte in a quiet hour.
    pub(crate) delay: Duration,
    pub(crate) calls: Vec<CallPlan>,
    pub(crate) faults: Vec<FaultPlan>,
    /// When the last fault is over.
    pub(crate) quiet: Duration,
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let calm = rng.one_in(4);
        let hosts = rng.within(if calm { 3..5 } else { 1..5 }) as usize;
        let callers = rng.within(1..4) as usize;
        let span = rng.millis(3000..12_000);
        let mut plan = Self {
            calm,
            hosts,
            callers,
            workers: rng.within(2..9) as usize,
            max_queue: if calm { 1000 } else { rng.within(2..64) as usize },
            max_calls: rng.within(if calm { 100..200 } else { 2..64 }) as u32,
            max_body: 32 << 10,
            delay: rng.micros(100..20_000),
            calls: Vec::new(),
            faults: Vec::new(),
            quiet: Duration::ZERO,
        };
        plan.calls = (0..CALLS).map(|_| plan.call(rng, span)).collect();
        plan.faults = if calm { plan.drains(rng) } else { plan.faults(rng, span) };
        let over = plan.faults.iter().map(|fault| fault.at + fault.lasts).max();
        plan.quiet = over.unwrap_or_default().max(span) + PATIENCE;
        // Asked when all is well again: these must be answered.
        for n in 0..AFTERMATH {
            let mut call = plan.call(rng, Duration::from_millis(1));
            call.at += plan.quiet + Duration::from_millis(100 * n);
            (call.kind, call.cancel_after, call.timeout) = (Kind::Work, None, Duration::from_secs(5));
            (call.request, call.response) = (0, 0);
            plan.calls.push(call);
        }
        plan
    }

    /// Whether the call belongs to those that are made when all is well again.
    pub(crate) fn is_aftermath(&self, call: usize) -> bool {
        call >= CALLS
    }

    fn call(&self, rng: &mut Rng, span: Duration) -> CallPlan {
        let kind = match rng.within(0..20) {
            0 if !self.calm => Kind::Hold,
            1 if !self.calm => Kind::Fail,
            2 if !self.calm => Kind::Forget,
            0..8 => Kind::Inline,
            _ => Kind::Work,
        };
        let size = |rng: &mut Rng, most: u64| match rng.within(0..24) {
            0 => rng.within(1000..most),
            1 => rng.within(100..1000),
            _ => rng.within(0..40),
        };
        // A few are over `max_body`.
        let most = if self.calm { 20_000 } else { 36_000 };
        CallPlan {
            at: rng.micros(0..span.as_micros() as u64),
            caller: rng.index(self.callers),
            mode: if rng.one_in(3) { Mode::Blocking } else { Mode::Asynchronous },
            kind,
            work: if rng.one_in(8) { rng.millis(10..400) } else { rng.micros(10..8000) },
            timeout: match rng.within(0..6) {
                _ if self.calm => Duration::from_secs(10),
                0 => rng.micros(1..50_000),
                1 => Duration::from_secs(5),
                _ => rng.millis(50..1500),
            },
            cancel_after: (!self.calm && rng.one_in(12)).then(|| rng.micros(0..300_000)),
            idempotent: rng.one_in(3),
            request: size(rng, most) as usize,
            response: size(rng, most) as usize,
        }
    }

    fn faults(&self, rng: &mut Rng, span: Duration) -> Vec<FaultPlan> {
        let span = span.as_micros() as u64;
        let one = |rng: &mut Rng| FaultPlan {
            at: rng.micros(0..span),
            lasts: rng.millis(20..3000),
            host: rng.index(self.hosts),
            what: match rng.within(0..10) {
                0 | 1 => Fault::Cut,
                2 => Fault::CutAll,
                3 => Fault::Partition { to: true, from: true },
                4 => Fault::Partition { to: rng.one_in(2), from: true },
                5 | 6 => Fault::Stall,
                7 => Fault::Kill,
                8 => Fault::Drain,
                _ => Fault::Slow,
            },
        };
        (0..rng.within(3..9)).map(|_| one(rng)).collect()
    }

    /// A rolling restart.
    fn drains(&self, rng: &mut Rng) -> Vec<FaultPlan> {
        let mut at = rng.millis(100..1500);
        let mut faults = Vec::new();
        for host in 0..self.hosts {
            let lasts = rng.millis(50..1000);
            faults.push(FaultPlan { at, lasts, host, what: Fault::Drain });
            at += lasts + DRAIN_TIMEOUT + rng.millis(500..1500);
        }
        faults
    }
}

/// Calls of a seed, not counting the aftermath.
const CALLS: usize = 200;
const AFTERMATH: u64 = 8;
/// After the last fault, for everybody to recover.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a draining process waits for its calls.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
