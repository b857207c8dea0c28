//! The ledger: what became of each call, and what may never be.

use std::time::{Duration, Instant};

use mprpc_runtime::{Code, Ran, connection::call::Failure};

use crate::plan::{CallPlan, Kind, Plan};

/// What is written down of one call.
#[derive(Default)]
struct Entry {
    began: Option<Instant>,
    outcome: Option<Result<(), Failure>>,
    attempts: Vec<Attempt>,
}

#[derive(Default)]
struct Attempt {
    runs: u32,
    /// It was said not to have run.
    denied: bool,
}

/// All calls of a seed.
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    retries: u64,
    charged: u64,
}

/// A rule is broken.
pub(crate) type Breach = String;

impl Ledger {
    pub(crate) fn new(calls: usize) -> Self {
        Self { entries: (0..calls).map(|_| Entry::default()).collect(), retries: 0, charged: 0 }
    }

    pub(crate) fn begin(&mut self, call: usize, now: Instant) {
        self.entries[call].began = Some(now);
    }

    pub(crate) fn is_over(&self, call: usize) -> bool {
        self.entries[call].outcome.is_some()
    }

    /// Another attempt of `call` begins. Gives its number.
    pub(crate) fn attempt(&mut self, call: usize) -> usize {
        let attempts = &mut self.entries[call].attempts;
        attempts.push(Attempt::default());
        self.retries += u64::from(attempts.len() > 1);
        attempts.len() - 1
    }

    /// How often calls were tried again.
    pub(crate) fn retries(&self) -> u64 {
        self.retries
    }

    /// A retry is paid for by the budget.
    pub(crate) fn charge(&mut self) {
        self.charged += 1;
    }

    /// The handler runs.
    pub(crate) fn ran(&mut self, call: usize, attempt: usize, plan: &CallPlan) -> Result<(), Breach> {
        let entry = self.entries.get_mut(call).ok_or("a handler runs for no call")?;
        let this = entry.attempts.get_mut(attempt).ok_or("a handler runs for no attempt")?;
        this.runs += 1;
        if this.runs > 1 {
            return Err(format!("attempt {attempt} of call {call} runs twice"));
        }
        if this.denied {
            return Err(format!(
                "attempt {attempt} of call {call} runs; the caller was told that it did not"
            ));
        }
        let runs: u32 = entry.attempts.iter().map(|attempt| attempt.runs).sum();
        if runs > 1 && !plan.idempotent {
            return Err(format!("call {call}, which is not idempotent, runs {runs} times"));
        }
        Ok(())
    }

    /// An attempt ended with a failure.
    pub(crate) fn failed(&mut self, call: usize, attempt: usize, failure: &Failure) -> Result<(), Breach> {
        let this = &mut self.entries[call].attempts[attempt];
        this.denied |= failure.ran == Ran::No;
        if this.denied && this.runs > 0 {
            let status = &failure.status;
            return Err(format!("attempt {attempt} of call {call} ran, and is said not to have: {status}"));
        }
        Ok(())
    }

    /// The call ended.
    pub(crate) fn end(
        &mut self,
        call: usize,
        outcome: Result<(), Failure>,
        plan: &CallPlan,
        now: Instant,
    ) -> Result<(), Breach> {
        let entry = &mut self.entries[call];
        if entry.outcome.is_some() {
            return Err(format!("call {call} ends twice"));
        }
        let began = entry.began.ok_or("a call ends that never began")?;
        let took = now.duration_since(began);
        if took > plan.timeout + SLACK {
            return Err(format!("call {call} ends after {took:?} of {:?}", plan.timeout));
        }
        let runs: u32 = entry.attempts.iter().map(|attempt| attempt.runs).sum();
        match &outcome {
            Ok(()) if runs == 0 => return Err(format!("call {call} is answered and never ran")),
            Ok(()) if !matches!(plan.kind, Kind::Inline | Kind::Work) => {
                return Err(format!("call {call}, a {:?}, succeeds", plan.kind));
            }
            Err(failure) => {
                let (code, text) = (failure.status.code(), &failure.status);
                let own = match code {
                    Code::Cancelled => plan.cancel_after.is_some() || plan.kind == Kind::Hold,
                    Code::Internal => plan.kind == Kind::Forget,
                    Code::NotFound => plan.kind == Kind::Fail,
                    Code::DeadlineExceeded | Code::Unavailable | Code::ResourceExhausted => true,
                    _ => false,
                };
                if !own {
                    return Err(format!("call {call}, a {:?}, fails with {text}", plan.kind));
                }
                if code == Code::DeadlineExceeded && took + SLACK < plan.timeout {
                    return Err(format!("call {call} fails after {took:?} of {:?}: {text}", plan.timeout));
                }
            }
            Ok(()) => {}
        }
        entry.outcome = Some(outcome);
        Ok(())
    }

    /// What must hold when everything is over.
    pub(crate) fn close(&self, plan: &Plan) -> Result<(), Breach> {
        for (call, entry) in self.entries.iter().enumerate() {
            match &entry.outcome {
                None => return Err(format!("call {call} hangs")),
                Some(Err(failure)) if plan.calm => {
                    return Err(format!("call {call} fails in a rolling restart: {}", failure.status));
                }
                Some(Err(failure)) if plan.is_aftermath(call) => {
                    return Err(format!("call {call} fails when all is well again: {}", failure.status));
                }
                Some(_) => {}
            }
        }
        let calls = self.entries.len() as u64;
        // Each caller's budget begins with ten.
        if self.charged > calls / 10 + 10 * plan.callers as u64 {
            return Err(format!(
                "{} retries of {calls} calls, not counting what reached nobody",
                self.charged
            ));
        }
        Ok(())
    }

    /// How many calls were answered, and how many failed.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let answered = |entry: &&Entry| matches!(entry.outcome, Some(Ok(())));
        let answered = self.entries.iter().filter(answered).count();
        (answered, self.entries.len() - answered)
    }
}

/// Virtual time is exact. A deadline travels in microseconds.
pub(crate) const SLACK: Duration = Duration::from_micros(2);
