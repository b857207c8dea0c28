//! How a caller makes a call: chooses, sends, judges, tries again; the channel's way, in virtual time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    Code, Ran, Status,
    balance::{Draw, Fit, Health, Policy, Repeat, Standing, Verdict},
    connection::{Command, call::Failure},
    wire::mux::{END, Kind as Frame, RequestMeta, finish_frame, start_frame},
};
use protobuf::Message;

use crate::{
    bug::Bug,
    caller::{Carried, Current, Ended},
    host::mark,
    ledger::{Breach, SLACK},
    net::End,
    plan::Mode,
    world::{Event, World},
};

impl World {
    pub(crate) fn begin_call(&mut self, call: usize) -> Result<(), Breach> {
        self.ledger.begin(call, self.now);
        self.calls[call].deadline = Some(self.now + self.plan.calls[call].timeout);
        self.callers[self.plan.calls[call].caller].budget.earn();
        self.try_call(call)?;
        let at = self.deadline(call) + SLACK;
        self.schedule(at, Event::Over(call));
        Ok(())
    }

    pub(crate) fn cancel_call(&mut self, call: usize) -> Result<(), Breach> {
        if self.ledger.is_over(call) {
            return Ok(());
        }
        self.calls[call].cancelled = true;
        if let Some(current) = self.calls[call].current {
            self.with(current.socket, |conn, now| conn.post(Command::Cancel(tag(call)), &[], now))?;
        }
        self.schedule(self.now, Event::Over(call));
        Ok(())
    }

    /// By now the call must have ended: by its deadline, or because it was cancelled.
    pub(crate) fn check_over(&self, call: usize) -> Result<(), Breach> {
        if self.ledger.is_over(call) { Ok(()) } else { Err(format!("call {call} goes on")) }
    }

    fn deadline(&self, call: usize) -> Instant {
        self.calls[call].deadline.unwrap_or(self.epoch)
    }

    /// Makes another attempt, the first one included.
    fn try_call(&mut self, call: usize) -> Result<(), Breach> {
        let plan = self.plan.clone();
        let plan = &plan.calls[call];
        if self.now >= self.deadline(call) {
            return self.end_call(call, Err(did_not_run(Status::deadline_exceeded("no time is left"))));
        }
        let host = self.pick(call, plan.caller)?;
        let attempt = self.ledger.attempt(call);
        self.calls[call].began.push(self.now);
        self.health(plan.caller, host).begin();
        let (socket, reused) = match plan.mode {
            Mode::Asynchronous => (self.shared(plan.caller, host)?, false),
            Mode::Blocking => match self.take_idle(plan.caller, host)? {
                Some(socket) => (socket, true),
                None => (self.dial(plan.caller, host), false),
            },
        };
        self.say(|| {
            format!("call {call} ({:?}) attempt {attempt} to host {host} by socket {socket}", plan.kind)
        });
        self.calls[call].current = Some(Current { attempt, host, socket, began: self.now, reused });
        let deadline = match self.bug {
            Some(Bug::ForgottenDeadline) if attempt > 0 => self.now + plan.timeout,
            _ => self.deadline(call),
        };
        let frame = self.frame(call, attempt, deadline);
        let done = Box::new(Carried { call, attempt, frame, outbox: self.outbox.clone() });
        let start = Command::Start { tag: tag(call), deadline, empty_ok: false, done };
        self.with(socket, |conn, now| conn.post(start, &[], now))
    }

    fn frame(&mut self, call: usize, attempt: usize, deadline: Instant) -> Vec<u8> {
        let plan = &self.plan.calls[call];
        let remaining = deadline.duration_since(self.now).as_micros();
        let meta = RequestMeta {
            service: "simulated.Service",
            method: plan.kind.name(),
            timeout_us: u64::try_from(remaining).ok(),
            ..Default::default()
        };
        let mut frame = Vec::with_capacity(100 + plan.request);
        let start = start_frame(&mut frame, Frame::Request, END, 0, |out| meta.encode(out));
        let message = mark(call, attempt, plan.request);
        message.write_to_vec(&mut frame).expect("memory takes it");
        finish_frame(&mut frame, start);
        frame
    }

    /// Chooses a host, and checks that none that is known to be bad is preferred.
    fn pick(&mut self, call: usize, caller: usize) -> Result<usize, Breach> {
        let (now, random) = (self.now, self.rng.next());
        let tried = &self.calls[call].tried;
        let this = &mut self.callers[caller];
        this.turn += 1;
        let draw = Draw { now, turn: this.turn, random };
        let fit = |at: usize| if tried.contains(&at) { Fit::Tried } else { Fit::Yes };
        let choice = this.endpoints.pick(Policy::P2c, draw, fit).ok_or("there are hosts")?;
        let host = match self.bug {
            Some(Bug::KnownBad) => (random % self.hosts.len() as u64) as usize,
            _ => choice.index,
        };
        let is_well = |health: &Health| matches!(health.standing(now), Standing::Up | Standing::Returning);
        let list = this.endpoints.list();
        if !is_well(&list[host].health) && list.iter().any(|endpoint| is_well(&endpoint.health)) {
            let standing = list[host].health.standing(now);
            return Err(format!("call {call} goes to host {host}, which is {standing:?}; there are others"));
        }
        if choice.ailing {
            let probes: Vec<usize> = this.endpoints.to_probe(now, random).collect();
            for host in probes {
                self.check(caller, host)?;
            }
        }
        Ok(host)
    }

    /// The socket that asynchronous calls to a host share; dialled anew if there is none that takes calls.
    fn shared(&mut self, caller: usize, host: usize) -> Result<usize, Breach> {
        if let Some(socket) = self.callers[caller].shared[host] {
            if self.link_takes_calls(socket) {
                return Ok(socket);
            }
            self.with(socket, |conn, now| conn.post(Command::Drain, &[], now))?;
        }
        let socket = self.dial(caller, host);
        self.callers[caller].shared[host] = Some(socket);
        Ok(socket)
    }

    /// Asks a host whether it lives, not too often.
    fn check(&mut self, caller: usize, host: usize) -> Result<(), Breach> {
        let checked = &mut self.callers[caller].checked[host];
        if checked.is_some_and(|at| self.now < at + CHECK_PAUSE) {
            return Ok(());
        }
        *checked = Some(self.now);
        let socket = self.shared(caller, host)?;
        self.with(socket, |conn, now| conn.post(Command::Ping, &[], now))
    }

    fn link_takes_calls(&self, socket: usize) -> bool {
        matches!(&self.sockets[socket].end, Some(End::Caller(_, link)) if link.takes_calls())
    }

    /// A connection of the pool that is as good as new: what lies in its socket is read first.
    fn take_idle(&mut self, caller: usize, host: usize) -> Result<Option<usize>, Breach> {
        let standing = self.health(caller, host).standing(self.now);
        if matches!(standing, Standing::Silent | Standing::Down | Standing::Draining) {
            for socket in std::mem::take(&mut self.callers[caller].idle[host]) {
                self.close(socket, false);
            }
        }
        while let Some(socket) = self.callers[caller].idle[host].pop() {
            self.sockets[socket].parked = false;
            self.turn(socket)?;
            if self.is_idle(socket) {
                return Ok(Some(socket));
            }
            self.close(socket, false);
        }
        Ok(None)
    }

    fn is_idle(&self, socket: usize) -> bool {
        matches!(&self.sockets[socket].end, Some(End::Caller(conn, _)) if conn.is_idle() && conn.takes_calls())
    }

    /// An attempt ended: what that says of the host, and whether there will be another.
    pub(crate) fn attempt_ended(&mut self, ended: Ended) -> Result<(), Breach> {
        let Ended { call, attempt, result } = ended;
        let current = self.calls[call].current.take();
        let Some(current) = current.filter(|current| current.attempt == attempt) else {
            return Err(format!("attempt {attempt} of call {call} ends, which is not under way"));
        };
        let (plan, whole) = (self.plan.clone(), self.plan.clone());
        let plan = &plan.calls[call];
        let result = match result {
            Ok(Some(whose)) if whose == (call, attempt) => Ok(()),
            Ok(whose) => return Err(format!("call {call}, attempt {attempt} gets the reply of {whose:?}")),
            Err(failure) => Err(failure),
        };
        let verdict = verdict(&result);
        let took = match verdict {
            Verdict::Failed => plan.timeout,
            _ => self.now.duration_since(current.began),
        };
        let health = self.health(plan.caller, current.host);
        if health.end(verdict, took, self.now) {
            let random = self.rng.next();
            self.callers[plan.caller].endpoints.eject(&health, self.now, random);
        }
        if verdict == Verdict::Late {
            // Slow, or dead: it is asked, on a connection that a blocking call did not use.
            self.check(plan.caller, current.host)?;
        }
        // What the pool gave may have been stale, which says nothing about the host.
        let stale = current.reused && !self.is_idle(current.socket);
        if plan.mode == Mode::Blocking {
            self.hand_back(call, current, whole.calls[call].caller)?;
        }
        let mut failure = match result {
            Ok(()) => return self.end_call(call, Ok(())),
            Err(failure) => failure,
        };
        if self.bug == Some(Bug::FalseDenial) && failure.status.code() == Code::Unavailable {
            failure.ran = Ran::No;
        }
        self.say(|| format!("call {call} attempt {attempt}: {:?} {}", failure.ran, failure.status));
        self.ledger.failed(call, attempt, &failure)?;
        self.note_drain(current, plan.caller, &failure);
        if !self.may_retry(call, &failure) {
            return self.end_call(call, Err(failure));
        }
        if !stale {
            self.calls[call].tried.push(current.host);
        }
        if self.bug == Some(Bug::DoubleDelivery) {
            self.end_call(call, Err(failure))?;
        }
        self.try_call(call)
    }

    /// The next attempt must know at once that the host drains.
    fn note_drain(&self, current: Current, caller: usize, failure: &Failure) {
        let Some(End::Caller(_, link)) = &self.sockets[current.socket].end else { return };
        if link.drains() && failure.ran == Ran::No {
            let watcher = &self.callers[caller].watchers[current.host];
            self.health(caller, current.host).drains(self.now, watcher.random());
        }
    }

    fn may_retry(&mut self, call: usize, failure: &Failure) -> bool {
        let plan = &self.plan.calls[call];
        let idempotent = plan.idempotent || self.bug == Some(Bug::RetryAfterRun);
        let repeat = Repeat::of(failure.ran, &failure.status, idempotent);
        let may = repeat != Repeat::No
            && !self.calls[call].cancelled
            && self.calls[call].began.len() < MAX_ATTEMPTS
            && self.now < self.deadline(call)
            && (repeat == Repeat::Free || self.callers[plan.caller].budget.spend());
        if may && repeat == Repeat::Budgeted {
            self.ledger.charge();
        }
        may
    }

    /// A blocking call is over: its connection goes to the pool if nothing is wrong with it.
    fn hand_back(&mut self, call: usize, current: Current, caller: usize) -> Result<(), Breach> {
        let socket = current.socket;
        self.turn(socket)?;
        let idle = &self.callers[caller].idle[current.host];
        if self.is_idle(socket) && !self.calls[call].cancelled && idle.len() < MAX_IDLE && !self.leaving {
            self.sockets[socket].parked = true;
            self.callers[caller].idle[current.host].push(socket);
        } else {
            self.close(socket, false);
        }
        Ok(())
    }

    fn end_call(&mut self, call: usize, outcome: Result<(), Failure>) -> Result<(), Breach> {
        self.say(|| format!("call {call} ends: {:?}", outcome.as_ref().map_err(|failure| &failure.status)));
        self.ledger.end(call, outcome, &self.plan.calls[call], self.now)
    }

    pub(crate) fn health(&self, caller: usize, host: usize) -> Arc<Health> {
        self.callers[caller].endpoints.list()[host].health.clone()
    }

    /// Everybody leaves: what is still open says goodbye.
    pub(crate) fn leave(&mut self) -> Result<(), Breach> {
        self.leaving = true;
        for socket in (0..self.sockets.len()).step_by(2) {
            self.sockets[socket].parked = false;
            self.with(socket, |conn, now| conn.post(Command::Drain, &[], now))?;
        }
        Ok(())
    }
}

/// As the channel judges.
fn verdict(result: &Result<(), Failure>) -> Verdict {
    let Err(Failure { ran, status }) = result else { return Verdict::Answered };
    match (ran, status.code()) {
        (_, Code::DeadlineExceeded) => Verdict::Late,
        (Ran::No, _) if status.retryable() => Verdict::Refused,
        // What could not be connected is told by the connection.
        (Ran::No, _) | (_, Code::Cancelled) => Verdict::Nothing,
        (_, Code::Unavailable | Code::Internal | Code::DataLoss) => Verdict::Failed,
        (_, Code::ResourceExhausted) => Verdict::Refused,
        _ => Verdict::Answered,
    }
}

fn did_not_run(status: Status) -> Failure {
    Failure { ran: Ran::No, status }
}

/// Names a call to its connection, which takes 0 for none.
fn tag(call: usize) -> u64 {
    call as u64 + 1
}

const MAX_ATTEMPTS: usize = 3;
const MAX_IDLE: usize = 8;
const CHECK_PAUSE: Duration = Duration::from_millis(50);
