//! One seed's world: its clock, its events in order, and everything that they happen to.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mprpc_runtime::{
    balance::mix,
    connection::{Command, ConnId, mailbox::Posts},
};

use crate::{
    bug::Bug,
    caller::{Caller, Ended, Progress},
    host::Host,
    ledger::{Breach, Ledger},
    net::Socket,
    plan::Plan,
    rng::Rng,
};

/// What can happen. A number is that of a call, a socket, a host or a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Call(usize),
    Cancel(usize),
    /// A call must have ended by now.
    Over(usize),
    Connect(usize),
    Accept(usize),
    Arrive(usize),
    Drop(usize),
    Timer(usize),
    /// A handler is through: host, life, number of the job.
    Done(usize, u64, u64),
    Fault(usize),
    /// The end of a stall or of a partition.
    Resume(usize),
    /// Another process starts on the host.
    Start(usize),
    /// The host's drain is over at the latest.
    Exit(usize, u64),
    /// All is quiet, everybody may go.
    Leave,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) epoch: Instant,
    pub(crate) rng: Rng,
    pub(crate) plan: Arc<Plan>,
    pub(crate) bug: Option<Bug>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) callers: Vec<Caller>,
    pub(crate) calls: Vec<Progress>,
    pub(crate) ledger: Ledger,
    /// Sockets to look after before time goes on.
    pub(crate) dirty: Vec<usize>,
    pub(crate) outbox: Arc<Mutex<Vec<Ended>>>,
    pub(crate) sizes: Arc<Vec<usize>>,
    pub(crate) sequence: u64,
    pub(crate) spins: u32,
    pub(crate) talks: bool,
    pub(crate) leaving: bool,
    queue: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    events: u64,
    trace: u64,
}

/// What a seed came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    pub(crate) retries: u64,
    pub(crate) faults: usize,
    /// Two runs of a seed have the same.
    pub(crate) trace: u64,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, talks: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Arc::new(Plan::new(&mut rng));
        let epoch = Instant::now();
        let sizes = Arc::new(plan.calls.iter().map(|call| call.response).collect());
        let mut world = Self {
            now: epoch,
            epoch,
            rng,
            bug,
            sockets: Vec::new(),
            hosts: (0..plan.hosts).map(|_| Host::new(&plan, 1, &sizes, bug)).collect(),
            callers: (0..plan.callers).map(|number| Caller::new(&plan, number, epoch)).collect(),
            calls: plan.calls.iter().map(|_| Progress::default()).collect(),
            ledger: Ledger::new(plan.calls.len()),
            dirty: Vec::new(),
            outbox: Arc::default(),
            sizes,
            sequence: 0,
            spins: 0,
            talks,
            leaving: false,
            queue: BinaryHeap::new(),
            events: 0,
            trace: 0,
            plan: plan.clone(),
        };
        for (n, call) in plan.calls.iter().enumerate() {
            world.schedule(epoch + call.at, Event::Call(n));
            if let Some(after) = call.cancel_after {
                world.schedule(epoch + call.at + after, Event::Cancel(n));
            }
        }
        for (n, fault) in plan.faults.iter().enumerate() {
            world.schedule(epoch + fault.at, Event::Fault(n));
        }
        world.schedule(epoch + plan.quiet + Duration::from_secs(30), Event::Leave);
        world
    }

    /// Runs the world to its end.
    ///
    /// # Errors
    /// A rule was broken.
    pub(crate) fn run(mut self) -> Result<Report, Breach> {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now = self.now.max(at);
            self.events += 1;
            let since = self.now.duration_since(self.epoch);
            self.trace = mix(self.trace ^ since.as_nanos() as u64 ^ (event_number(event) << 40));
            if self.talks {
                eprintln!("{:>12.6} {event:?}", since.as_secs_f64());
            }
            let result = self.happen(event).and_then(|()| self.settle());
            result.map_err(|breach| format!("at {:.6} s: {breach}", since.as_secs_f64()))?;
            if self.events > MAX_EVENTS {
                return Err(format!("after {MAX_EVENTS} events the end is not near"));
            }
        }
        self.ledger.close(&self.plan)?;
        if let Some(at) = self.sockets.iter().position(|socket| socket.end.is_some()) {
            return Err(format!("socket {at} stays open when everybody has left"));
        }
        if self.hosts.iter().any(|host| !host.running.is_empty() || !host.queue.is_empty()) {
            return Err("a handler stays when everybody has left".into());
        }
        let (answered, failed) = self.ledger.counts();
        let faults = self.plan.faults.len();
        Ok(Report { answered, failed, retries: self.ledger.retries(), faults, trace: self.trace })
    }

    pub(crate) fn schedule(&mut self, at: Instant, event: Event) {
        // Events of one time come in the order in which they were made.
        let number = self.sequence;
        self.sequence += 1;
        self.queue.push(Reverse((at, number, event)));
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.talks {
            eprintln!("             {}", what());
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Breach> {
        match event {
            Event::Call(call) => self.begin_call(call),
            Event::Cancel(call) => self.cancel_call(call),
            Event::Over(call) => self.check_over(call),
            Event::Connect(socket) => self.connect(socket),
            Event::Accept(socket) | Event::Arrive(socket) | Event::Drop(socket) | Event::Timer(socket)
                if self.stalled(socket).is_some() =>
            {
                let until = self.stalled(socket).unwrap_or(self.now);
                self.schedule(until, event);
                Ok(())
            }
            Event::Accept(socket) => self.accept(socket),
            Event::Arrive(socket) => self.arrive(socket),
            Event::Drop(socket) => self.drop_unread(socket),
            Event::Timer(socket) => self.timer(socket),
            Event::Done(host, life, job) => self.handler_done(host, life, job),
            Event::Fault(fault) => self.fault(fault),
            Event::Resume(host) => self.resume(host),
            Event::Start(host) => self.start_host(host),
            Event::Exit(host, life) => self.exit_host(host, life),
            Event::Leave => self.leave(),
        }
    }

    /// Until when the process that owns the socket stands still, if it does.
    pub(crate) fn stalled(&self, socket: usize) -> Option<Instant> {
        let host = &self.hosts[self.sockets[socket].host];
        let own = !socket.is_multiple_of(2) && self.sockets[socket].life == host.life;
        host.stalled.filter(|until| own && *until > self.now)
    }

    /// Does all that follows at once from what just happened.
    fn settle(&mut self) -> Result<(), Breach> {
        loop {
            let mut moved = false;
            while let Some(socket) = self.dirty.pop() {
                moved = true;
                self.turn(socket)?;
            }
            for host in 0..self.hosts.len() {
                moved |= self.deliver_posts(host)?;
                moved |= self.take_jobs(host)?;
            }
            let ended = std::mem::take(&mut *self.outbox.lock().unwrap_or_else(PoisonError::into_inner));
            for ended in ended {
                moved = true;
                self.attempt_ended(ended)?;
            }
            if !moved {
                return Ok(());
            }
        }
    }

    /// What handlers posted reaches the connections.
    fn deliver_posts(&mut self, host: usize) -> Result<bool, Breach> {
        if self.hosts[host].stalled.is_some_and(|until| until > self.now) {
            return Ok(false);
        }
        let mut posts = Posts::default();
        if !self.hosts[host].mailbox.take(&mut posts, false) {
            return Ok(false);
        }
        let mut list: Vec<(ConnId, Command, Vec<u8>)> = Vec::new();
        posts.drain(|conn, command, bytes| list.push((conn, command, bytes.to_vec())));
        for (conn, command, bytes) in list {
            self.with(conn.0 as usize, |conn, now| conn.post(command, &bytes, now))?;
        }
        Ok(true)
    }
}

fn event_number(event: Event) -> u64 {
    match event {
        Event::Call(n) => 16 * n as u64,
        Event::Cancel(n) => 16 * n as u64 + 1,
        Event::Connect(n) => 16 * n as u64 + 2,
        Event::Accept(n) => 16 * n as u64 + 3,
        Event::Arrive(n) => 16 * n as u64 + 4,
        Event::Drop(n) => 16 * n as u64 + 5,
        Event::Timer(n) => 16 * n as u64 + 6,
        Event::Done(n, _, job) => 16 * (n as u64 + 8 * job) + 7,
        Event::Fault(n) => 16 * n as u64 + 8,
        Event::Resume(n) => 16 * n as u64 + 9,
        Event::Start(n) => 16 * n as u64 + 10,
        Event::Exit(n, _) => 16 * n as u64 + 11,
        Event::Leave => 12,
        Event::Over(n) => 16 * n as u64 + 13,
    }
}

/// Many times what a seed takes.
const MAX_EVENTS: u64 = 1_000_000;
