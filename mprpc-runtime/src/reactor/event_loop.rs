//! The loop of one reactor. A turn waits once and touches only connections with something to do:
//!
//! ```text
//!   wait -> posts and orders, events -> work -> timers, posts made meanwhile -> work -> end_turn -> see_off, rewatch
//!                                       `-- some: read; they: write, intent --'
//! ```

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    io::{self, ErrorKind},
    iter, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use mio::{Events, Poll, net::TcpStream};
#[cfg(target_os = "linux")]
use socket2::SockRef;

use super::{
    Accept, LogLimit, ReactorOptions, TURN,
    door::{DOOR, Door},
    handle::{Order, REACTOR, next_id},
    reset,
    slot::{End, Slot},
    turn::{READ_BYTES, Turn},
};
use crate::{
    connection::{
        Command, ConnId, Mailbox,
        mailbox::{Posts, Run},
    },
    wakes,
    wire::buf::Output,
};

pub(super) struct EventLoop {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    options: ReactorOptions,
    slots: HashMap<ConnId, Box<Slot>, BuildHasherDefault<IdHasher>>,
    turn: Turn,
    /// Whose connections were touched in this turn.
    servers: Vec<Arc<dyn Accept>>,
    /// When servers want their turn to end, though nothing else may happen.
    recalls: Vec<(Instant, Arc<dyn Accept>)>,
    /// Where it accepts.
    doors: Vec<Weak<Door>>,
    /// Connections that linger, in the order in which they took leave.
    lingering: VecDeque<ConnId>,
    /// How many may.
    max_lingering: usize,
    ends: LogLimit,
    stopped: bool,
}

impl EventLoop {
    pub(super) fn new(poll: Poll, mailbox: Arc<Mailbox>, options: ReactorOptions) -> Self {
        Self {
            poll,
            mailbox,
            options,
            slots: HashMap::default(),
            turn: Turn::new(),
            servers: Vec::new(),
            recalls: Vec::new(),
            doors: Vec::new(),
            lingering: VecDeque::new(),
            max_lingering: MAX_LINGERING,
            ends: LogLimit::default(),
            stopped: false,
        }
    }

    pub(super) fn run(mut self) {
        let (mut events, mut posts) = (Events::with_capacity(EVENTS), Posts::default());
        wakes::begin();
        while !self.stopped {
            if let Err(error) = self.wait(&mut events, &mut posts) {
                log::error!("a reactor stops because it cannot wait for events: {error}");
                break;
            }
            self.turn(&events, &mut posts);
        }
    }

    /// Waits until there is something to do, and takes out what was posted.
    fn wait(&mut self, events: &mut Events, posts: &mut Posts) -> io::Result<()> {
        let idle = self.turn.queue.is_empty();
        let next = self.recalls.iter().map(|(at, _)| *at).chain(self.turn.timers.next()).min();
        if idle && !self.options.spin.is_zero() {
            let spun = Instant::now() + self.options.spin;
            let until = next.map_or(spun, |next| spun.min(next));
            while Instant::now() < until {
                self.poll(events, Some(Duration::ZERO))?;
                if self.mailbox.take(posts, false) || !events.is_empty() {
                    return Ok(());
                }
            }
        }
        // From here on a post wakes us; those made before are seen here. So none is missed.
        let taken = self.mailbox.take(posts, idle);
        let timeout = if taken || !idle {
            Some(Duration::ZERO)
        } else {
            next.map(|at| at.saturating_duration_since(Instant::now()))
        };
        self.poll(events, timeout)?;
        if !taken {
            self.mailbox.take(posts, false);
        }
        Ok(())
    }

    fn poll(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn turn(&mut self, events: &Events, posts: &mut Posts) {
        self.turn.now = Instant::now();
        TURN.set(Some(self.turn.now));
        posts.drain_runs(|id, run| self.post(id, run));
        let mut knock = false;
        for event in events {
            knock |= event.token() == DOOR;
            if let Some(slot) = self.slots.get_mut(&ConnId(event.token().0 as u64)) {
                slot.note(event);
                self.turn.touch(slot);
            }
        }
        self.work(posts);
        // After those who left: who has fewest connections shall have the next.
        if knock {
            self.answer_doors(posts);
        }
        // After reading: what a deadline waits for may have come.
        while let Some((at, id)) = self.turn.timers.due(self.turn.now) {
            self.step(id, |slot, turn| slot.timeout(at, turn));
        }
        // Callbacks have started calls: their bytes leave now, in one write each.
        self.mailbox.take(posts, false);
        posts.drain_runs(|id, run| self.post(id, run));
        self.work(posts);
        self.end_turn();
        self.see_off();
        self.rewatch();
        wakes::wake_noted();
        let slots = &self.slots;
        self.turn
            .timers
            .tidy(slots.len(), |at, id| slots.get(&id).is_some_and(|slot| slot.timer == Some(at)));
    }

    /// Works once on each connection in the queue; who is not done goes to its end. Some are read from, then those are
    /// written to: so the system's code stays in the processor's cache, and a peer that wakes finds more than one answer.
    /// An inline handler that takes long delays the answers of its group, too. `posts` are empty, before and after.
    fn work(&mut self, posts: &mut Posts) {
        let mut left = self.turn.queue.len();
        while left > 0 {
            let (mut group, mut output) = (0, 0);
            while group < left.min(GROUP) && output <= READ_BYTES {
                let id = self.turn.queue[group];
                group += 1;
                let mut waiting = 0;
                self.step(id, |slot, turn| slot.take_in(turn).map(|()| waiting = slot.waiting()));
                wakes::wake_noted();
                // Behind much they wait until some of it is out.
                if waiting <= READ_BYTES {
                    self.post_own(id, posts);
                }
                output += waiting;
            }
            left -= group;
            for _ in 0..group {
                if let Some(id) = self.turn.queue.pop_front() {
                    self.step(id, Slot::send_out);
                }
            }
        }
    }

    /// Posts the calls that callbacks of a connection have started on it, if no other such call waits.
    fn post_own(&mut self, id: ConnId, posts: &mut Posts) {
        if self.mailbox.take_own(id, posts) {
            posts.drain_runs(|id, run| self.post(id, run));
        }
    }

    fn post(&mut self, id: ConnId, run: &mut Run<'_>) {
        if id == REACTOR {
            return run.for_each(|(command, _)| self.obey(command));
        }
        self.step(id, |slot, turn| {
            slot.post(&mut *run, turn);
            Ok(())
        });
        // The connection is gone.
        for (command, _) in run {
            guarded(|| command.undeliverable());
        }
    }

    fn obey(&mut self, command: Command) {
        let Command::Custom(order) = command else {
            return command.undeliverable();
        };
        if let Ok(order) = order.downcast::<Order>() {
            self.carry_out(*order);
        }
    }

    fn carry_out(&mut self, order: Order) {
        let now = self.turn.now;
        match order {
            Order::Adopt(stream, peer, accept, place) => {
                let (id, stream) = (next_id(), TcpStream::from_std(stream));
                if let Some(c) = guarded(|| accept.accept(id, &self.mailbox, peer, now)) {
                    self.insert(Slot::new(id, (stream, peer), c, Some(accept), place));
                }
            }
            Order::Listen(door) => {
                self.doors.retain(|door| door.strong_count() > 0);
                self.doors.push(door);
                // A connect may have told us of it before we knew.
                self.answer_doors(&mut Posts::default());
            }
            Order::Connect(id, peer, make, place) => {
                let made = guarded(|| make(id, self.mailbox.clone(), now));
                match (made, TcpStream::connect(peer)) {
                    (Some(c), Ok(s)) => self.insert(Slot::new(id, (s, peer), c, None, place)),
                    (Some(mut c), Err(error)) => {
                        guarded(|| c.lost(&error, now));
                    }
                    (None, _) => {}
                }
            }
            Order::Broadcast(make) => {
                // Nobody shall wait for the end of connections because the FIN was seen late.
                self.max_lingering = 0;
                for id in mem::take(&mut self.lingering) {
                    self.slots.get_mut(&id).into_iter().for_each(|slot| slot.hurry());
                }
                for id in self.ids() {
                    self.step(id, |slot, turn| {
                        slot.post(iter::once((make(), &[][..])), turn);
                        Ok(())
                    });
                }
            }
            Order::Stop => self.stopped = true,
        }
    }

    /// Accepts who waits at the doors; keeps those who shall be here, sends the others on.
    fn answer_doors(&mut self, posts: &mut Posts) {
        let here = self.mailbox.clone();
        let doors = mem::take(&mut self.doors);
        for door in doors.iter().filter_map(Weak::upgrade) {
            door.answer(&here, |handle, order| {
                if Arc::ptr_eq(handle.mailbox(), &here) {
                    self.carry_out(order);
                    // Its request is mostly there; to look whether others wait may wait.
                    self.work(posts);
                } else {
                    handle.order(order);
                }
            });
        }
        self.doors = doors;
    }

    /// Looks who of those that linger may go. FINs come in about the order in which they were asked for: one look in
    /// vain ends it, or slow peers would cost much.
    fn see_off(&mut self) {
        while let Some(&id) = self.lingering.front() {
            self.step(id, Slot::look);
            if self.slots.contains_key(&id) {
                break;
            }
            self.lingering.pop_front();
        }
    }

    /// Has the system tell of connections that are new, and no more of those that may linger.
    fn rewatch(&mut self) {
        let mut changed = mem::take(&mut self.turn.rewatch);
        for id in changed.drain(..) {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let done = if slot.may_linger() && self.lingering.len() < self.max_lingering {
                self.lingering.push_back(id);
                slot.linger(self.poll.registry())
            } else {
                slot.watch(self.poll.registry())
            };
            if let Err(error) = done {
                self.remove(id, Some(&error));
            }
        }
        self.turn.rewatch = changed;
    }

    fn insert(&mut self, slot: Slot) {
        let (id, ready) = (slot.id, self.set_up(&slot));
        self.slots.insert(id, Box::new(slot));
        self.step(id, |slot, turn| {
            turn.touch(slot);
            Ok(ready?)
        });
    }

    fn set_up(&self, slot: &Slot) -> io::Result<()> {
        if cfg!(target_os = "linux") && slot.is_accepted() {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        SockRef::from(&slot.stream).set_tcp_user_timeout(Some(self.options.user_timeout))?;
        slot.stream.set_nodelay(true)
    }

    /// Runs one step of a connection, if it is still there, and removes it if that ended it.
    fn step(&mut self, id: ConnId, step: impl FnOnce(&mut Slot, &mut Turn) -> Result<(), End>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        if let Some(accept) = &slot.accept
            && !self.servers.iter().any(|a| Arc::ptr_eq(a, accept))
        {
            self.servers.push(accept.clone());
        }
        match guarded(|| step(slot, &mut self.turn)) {
            Some(Ok(())) => {}
            Some(Err(End::Closed)) => self.remove(id, None),
            Some(Err(End::Lost(error))) => self.remove(id, Some(&error)),
            None => {
                // Or the next connection to answer would send out what this one left behind.
                self.mailbox.reclaim(&mut Output::default(), |_, _| {});
                reset(&slot.stream);
                self.remove(id, Some(&io::Error::other("a panic in the connection")));
            }
        }
    }

    fn remove(&mut self, id: ConnId, lost: Option<&io::Error>) {
        let Some(mut slot) = self.slots.remove(&id) else {
            return;
        };
        guarded(|| {
            let peer = slot.peer.get();
            if let Some(error) = lost {
                slot.connection.lost(error, self.turn.now);
                log::debug!("the connection with {peer} is lost: {error}");
            }
            let reason = slot.connection.reason();
            if let Some(reason) = reason
                && let Some(others) = self.ends.pass(self.turn.now)
            {
                log::warn!("the connection with {peer} ends: {reason}{others}");
            }
            if let Some(accept) = &slot.accept {
                accept.closed(peer, reason);
            }
        });
    }

    fn end_turn(&mut self) {
        let now = self.turn.now;
        for (at, accept) in mem::take(&mut self.recalls) {
            if now < at {
                self.recalls.push((at, accept));
            } else if !self.servers.iter().any(|a| Arc::ptr_eq(a, &accept)) {
                self.servers.push(accept);
            }
        }
        for accept in self.servers.drain(..) {
            self.recalls.retain(|(_, a)| !Arc::ptr_eq(a, &accept));
            if let Some(at) = guarded(|| accept.end_turn(now)).flatten() {
                self.recalls.push((at, accept));
            }
        }
    }

    fn ids(&self) -> Vec<ConnId> {
        self.slots.keys().copied().collect()
    }
}

impl Drop for EventLoop {
    /// However the loop ends: no call that was ever posted stays without an outcome.
    fn drop(&mut self) {
        let mut posts = Posts::default();
        self.mailbox.close(&mut posts);
        let error = io::Error::other("the reactor has stopped");
        for id in self.ids() {
            guarded(|| self.slots.get_mut(&id).into_iter().for_each(|slot| slot.cut(self.turn.now)));
            self.remove(id, Some(&error));
        }
        posts.drain(|_, command, _| {
            guarded(|| command.undeliverable());
        });
        self.end_turn();
        wakes::end();
    }
}

/// Keeps a panic in somebody else's code away from the loop.
fn guarded<T>(f: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(f));
    if result.is_err() {
        log::error!("a panic on a reactor thread was caught; this is a bug");
    }
    result.ok()
}

/// Ids rise by one: multiplying by an odd number spreads them over the bits that a table uses.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("ids are hashed by write_u64");
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

const EVENTS: usize = 1024;
/// Connections that are read from before the first of them is written to.
const GROUP: usize = 16;
/// Connections that may linger at a time.
pub(super) const MAX_LINGERING: usize = 64;
