//! What befalls hosts: faults, and the work of their handlers.

use std::time::Duration;

use mprpc_runtime::{
    Status,
    connection::{Command, mailbox::Posts},
};

use crate::{
    bug::Bug,
    host::{Host, Job},
    ledger::Breach,
    plan::{DRAIN_TIMEOUT, Fault, Kind},
    world::{Event, World},
};

impl World {
    pub(crate) fn fault(&mut self, number: usize) -> Result<(), Breach> {
        let plan = self.plan.faults[number].clone();
        let (host, until) = (plan.host, self.now + plan.lasts);
        self.say(|| format!("{:?} of host {host} for {:?}", plan.what, plan.lasts));
        match plan.what {
            Fault::Cut | Fault::CutAll => {
                let mut links = self.open_sockets(host);
                if plan.what == Fault::Cut && !links.is_empty() {
                    links = vec![links[self.rng.index(links.len())]];
                }
                for socket in links {
                    self.cut(socket);
                }
            }
            Fault::Partition { to, from } => {
                for (direction, blocked) in [to, from].into_iter().enumerate() {
                    if blocked {
                        let old = self.hosts[host].blocked[direction];
                        self.hosts[host].blocked[direction] = old.max(Some(until));
                    }
                }
                self.schedule(until, Event::Resume(host));
            }
            Fault::Stall => {
                self.hosts[host].stalled = self.hosts[host].stalled.max(Some(until));
                self.schedule(until, Event::Resume(host));
            }
            Fault::Slow => self.hosts[host].slow_until = Some(until),
            Fault::Kill => {
                if self.hosts[host].up {
                    self.kill(host);
                    self.schedule(until, Event::Start(host));
                }
            }
            Fault::Drain => match self.hosts[host].stalled.filter(|until| *until > self.now) {
                Some(later) => self.schedule(later, Event::Fault(number)),
                None => self.drain(host, plan.lasts)?,
            },
        }
        Ok(())
    }

    /// The host's ends of its connections, those included that it has not accepted yet.
    fn open_sockets(&self, host: usize) -> Vec<usize> {
        let of_host = |at: &usize| {
            let socket = &self.sockets[*at];
            socket.host == host && !socket.closed && socket.life == self.hosts[host].life
        };
        (1..self.sockets.len()).step_by(2).filter(of_host).collect()
    }

    fn drain(&mut self, host: usize, pause: Duration) -> Result<(), Breach> {
        let this = &mut self.hosts[host];
        if !this.up || this.drain_until.is_some() {
            return Ok(());
        }
        (this.listens, this.drain_until, this.pause) = (false, Some(self.now + DRAIN_TIMEOUT), pause);
        let (life, patience) = (
            this.life,
            match self.bug {
                Some(Bug::HastyExit) => Duration::from_millis(20),
                _ => DRAIN_TIMEOUT,
            },
        );
        self.schedule(self.now + patience, Event::Exit(host, life));
        for socket in self.open_sockets(host) {
            self.with(socket, |conn, now| conn.post(Command::Drain, &[], now))?;
        }
        self.exit_if_drained(host);
        Ok(())
    }

    pub(crate) fn exit_if_drained(&mut self, host: usize) {
        let this = &self.hosts[host];
        let busy = !this.running.is_empty() || !this.queue.is_empty();
        if this.drain_until.is_some() && !busy && self.open_sockets(host).is_empty() {
            let life = this.life;
            self.schedule(self.now, Event::Exit(host, life));
        }
    }

    pub(crate) fn exit_host(&mut self, host: usize, life: u64) -> Result<(), Breach> {
        let this = &self.hosts[host];
        if this.life != life || !this.up {
            return Ok(());
        }
        if let Some(until) = this.stalled.filter(|until| *until > self.now) {
            self.schedule(until, Event::Exit(host, life));
            return Ok(());
        }
        let at = self.now + this.pause;
        self.kill(host);
        self.schedule(at, Event::Start(host));
        Ok(())
    }

    /// The process is gone. Its kernel closes what it had open.
    fn kill(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        (this.up, this.listens, this.stalled, this.drain_until) = (false, false, None, None);
        // Nobody hears the answers that its calls give while they are dropped.
        this.mailbox.close(&mut Posts::default());
        this.queue.clear();
        this.running.clear();
        for socket in self.open_sockets(host) {
            let accepted = self.sockets[socket].end.is_some();
            self.close(socket, !accepted);
        }
    }

    pub(crate) fn start_host(&mut self, host: usize) -> Result<(), Breach> {
        let old = &self.hosts[host];
        let mut new = Host::new(&self.plan, old.life + 1, &self.sizes, self.bug);
        (new.blocked, new.slow_until) = (old.blocked, old.slow_until);
        self.hosts[host] = new;
        Ok(())
    }

    /// Bytes pass again, or the process goes on.
    pub(crate) fn resume(&mut self, host: usize) -> Result<(), Breach> {
        for socket in 0..self.sockets.len() {
            if self.sockets[socket].host == host && self.sockets[socket].end.is_some() {
                self.turn(socket)?;
            }
        }
        Ok(())
    }

    /// Takes what came in while connections were read, and gives the workers something to do.
    pub(crate) fn take_jobs(&mut self, host: usize) -> Result<bool, Breach> {
        let gathered = std::mem::take(&mut *self.hosts[host].handlers.lock());
        let any = !gathered.jobs.is_empty() || !gathered.cancelled.is_empty();
        for job in gathered.jobs {
            self.take_job(host, job)?;
        }
        for whose in gathered.cancelled {
            let running = &self.hosts[host].running;
            let found = running.iter().find(|(_, job)| (job.call, job.attempt) == whose);
            if let Some((number, job)) = found.filter(|(_, job)| self.plan.calls[job.call].kind == Kind::Hold)
            {
                let (number, _) = (*number, job);
                self.schedule(self.now + CLEAN_UP, Event::Done(host, self.hosts[host].life, number));
            }
        }
        Ok(any)
    }

    fn take_job(&mut self, host: usize, mut job: Job) -> Result<(), Breach> {
        let call = &self.calls[job.call];
        let began = *call.began.get(job.attempt).ok_or("a request for no attempt")?;
        let deadline = call.deadline.ok_or("a request before its call")?;
        if job.remaining.is_none_or(|remaining| remaining > deadline.duration_since(began)) {
            let (call, left, said) = (job.call, deadline.duration_since(began), job.remaining);
            return Err(format!("call {call} has {left:?} left and says {said:?}"));
        }
        let Some(ticket) = job.ticket.take() else {
            return self.ledger.ran(job.call, job.attempt, &self.plan.calls[job.call]);
        };
        if self.hosts[host].queue.len() >= self.plan.max_queue {
            let status = Status::resource_exhausted("the queue is full").with_retryable(true);
            ticket.fail(status);
            return Ok(());
        }
        job.ticket = Some(ticket);
        let conn = job.conn;
        self.hosts[host].queue.push_back(job);
        let load = self.hosts[host].load(conn);
        if load > self.plan.max_calls as usize {
            return Err(format!("{load} calls of one connection, over max_calls"));
        }
        self.start_jobs(host)
    }

    fn start_jobs(&mut self, host: usize) -> Result<(), Breach> {
        while self.hosts[host].running.len() < self.plan.workers {
            let Some(mut job) = self.hosts[host].queue.pop_front() else { return Ok(()) };
            let refusal = if job.cancel.is_cancelled() {
                Some(Status::cancelled("cancelled before it ran"))
            } else if job.deadline.is_some_and(|deadline| self.now >= deadline) {
                Some(Status::deadline_exceeded("the deadline passed in the queue"))
            } else {
                None
            };
            if let Some(status) = refusal {
                if let Some(ticket) = job.ticket.take() {
                    ticket.fail(status);
                }
                continue;
            }
            let plan = &self.plan.calls[job.call];
            self.ledger.ran(job.call, job.attempt, plan)?;
            let (kind, work) = (plan.kind, plan.work);
            let number = self.sequence;
            self.sequence += 1;
            self.say(|| format!("call {} attempt {} runs on host {host}", job.call, job.attempt));
            self.hosts[host].running.push((number, job));
            if kind != Kind::Hold {
                self.schedule(self.now + work, Event::Done(host, self.hosts[host].life, number));
            }
        }
        Ok(())
    }

    pub(crate) fn handler_done(&mut self, host: usize, life: u64, number: u64) -> Result<(), Breach> {
        let this = &mut self.hosts[host];
        if this.life != life || !this.up {
            return Ok(());
        }
        if let Some(until) = this.stalled.filter(|until| *until > self.now) {
            self.schedule(until, Event::Done(host, life, number));
            return Ok(());
        }
        let Some(at) = this.running.iter().position(|(n, _)| *n == number) else { return Ok(()) };
        let (_, mut job) = this.running.swap_remove(at);
        let (mut call, mut attempt) = (job.call, job.attempt);
        let kind = self.plan.calls[call].kind;
        if self.bug == Some(Bug::CrossedReplies)
            && let Some((_, other)) = this.running.last()
        {
            (call, attempt) = (other.call, other.attempt);
        }
        if let Some(ticket) = job.ticket.take() {
            this.handlers.answer(ticket, call, attempt, kind);
        }
        self.start_jobs(host)?;
        self.exit_if_drained(host);
        Ok(())
    }

    /// The connection breaks: what is on its way is lost, and both ends learn of it.
    fn cut(&mut self, socket: usize) {
        for end in [socket, socket ^ 1] {
            if !self.sockets[end].closed {
                self.sockets[end].lose_inbound();
                self.reset(end);
            }
        }
    }
}

/// How long a handler takes to end once it was cancelled.
const CLEAN_UP: Duration = Duration::from_millis(1);
