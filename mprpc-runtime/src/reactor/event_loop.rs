//! The loop of one reactor. Each turn waits once and touches only connections with something to do:
//!
//! ```text
//!   wait -> posts and orders -> events, resumed reads -> timers -> posts made meanwhile
//!        -> one write each, intents -> end_turn hooks
//! ```

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    io, mem,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use super::{
    Accept, LogLimit, ReactorOptions,
    handle::{Make, Order, Place, REACTOR, next_id},
    slot::{End, Slot},
    timers::Timers,
};
use crate::{
    connection::{Command, ConnId, Mailbox, mailbox::Posts},
    wire::buf::Output,
};

pub(super) struct EventLoop {
    poll: Poll,
    mailbox: Arc<Mailbox>,
    options: ReactorOptions,
    slots: HashMap<ConnId, Box<Slot>, BuildHasherDefault<IdHasher>>,
    /// Who accepted the connections that live here, and how many each.
    servers: Vec<(Arc<dyn Accept>, usize)>,
    tools: Tools,
    ends: LogLimit,
    stopped: bool,
}

/// What the steps of a connection need beside its slot.
struct Tools {
    now: Instant,
    scratch: Vec<u8>,
    /// Memory for output, lent to connections that have some.
    spares: Vec<Vec<u8>>,
    timers: Timers,
    /// Connections with work for which no event will come, or one has.
    ready: Vec<ConnId>,
    /// Connections touched in this turn.
    dirty: Vec<ConnId>,
}

impl EventLoop {
    pub(super) fn new(poll: Poll, mailbox: Arc<Mailbox>, options: ReactorOptions) -> Self {
        Self {
            poll,
            mailbox,
            options,
            slots: HashMap::default(),
            servers: Vec::new(),
            tools: Tools {
                now: Instant::now(),
                scratch: vec![0; SCRATCH],
                spares: Vec::new(),
                timers: Timers::default(),
                ready: Vec::new(),
                dirty: Vec::new(),
            },
            ends: LogLimit::default(),
            stopped: false,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut posts = Posts::default();
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
        let idle = self.tools.ready.is_empty();
        if idle && !self.options.spin.is_zero() {
            let until = Instant::now() + self.options.spin;
            while Instant::now() < until {
                self.poll(events, Some(Duration::ZERO))?;
                if self.mailbox.take(posts, false) || !events.is_empty() {
                    return Ok(());
                }
            }
        }
        // From here on a post wakes us. Those made before are seen here, so none is missed.
        let taken = self.mailbox.take(posts, idle);
        let timeout = if taken || !idle {
            Some(Duration::ZERO)
        } else {
            let next = self.tools.timers.next();
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
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    fn turn(&mut self, events: &Events, posts: &mut Posts) {
        self.tools.now = Instant::now();
        self.deliver(posts);
        for event in events {
            if let Some(slot) = self.slots.get_mut(&ConnId(event.token().0 as u64)) {
                slot.note(event);
                self.tools.list(slot);
            }
        }
        self.each(|tools| &mut tools.ready, Self::work);
        while let Some((at, id)) = self.tools.timers.due(self.tools.now) {
            self.timeout(id, at);
        }
        // Callbacks of this turn start calls: their bytes leave with the rest. A callback that
        // starts calls for ever must not hold up the others.
        for _ in 0..POST_ROUNDS {
            if !self.mailbox.take(posts, false) {
                break;
            }
            self.deliver(posts);
        }
        self.each(|tools| &mut tools.dirty, |this, id| this.step(id, |slot, tools| tools.settle(slot)));
        self.end_turn();
        let slots = &self.slots;
        self.tools
            .timers
            .tidy(slots.len(), |at, id| slots.get(&id).is_some_and(|slot| slot.timer == Some(at)));
    }

    fn deliver(&mut self, posts: &mut Posts) {
        posts.drain(|id, command, bytes| {
            if id == REACTOR {
                return self.obey(command);
            }
            let mut command = Some(command);
            self.step(id, |slot, tools| {
                tools.lend(slot.connection.output());
                if let Some(command) = command.take() {
                    slot.connection.post(command, bytes, tools.now);
                }
                tools.mark(slot);
                Ok(())
            });
            if let Some(command) = command {
                guarded(|| command.undeliverable());
            }
        });
    }

    fn obey(&mut self, command: Command) {
        let Command::Custom(order) = command else {
            return command.undeliverable();
        };
        match order.downcast().map(|order| *order) {
            Ok(Order::Adopt(stream, peer, accept, place)) => {
                self.adopt(TcpStream::from_std(stream), peer, accept, place);
            }
            Ok(Order::Connect(id, peer, make, place)) => self.connect(id, peer, make, place),
            Ok(Order::Broadcast(make)) => {
                let ids: Vec<ConnId> = self.slots.keys().copied().collect();
                for id in ids {
                    self.step(id, |slot, tools| {
                        slot.connection.post(make(), &[], tools.now);
                        tools.mark(slot);
                        Ok(())
                    });
                }
            }
            Ok(Order::Stop) => self.stopped = true,
            Err(_) => {}
        }
    }

    fn adopt(&mut self, stream: TcpStream, peer: SocketAddr, accept: Arc<dyn Accept>, place: Place) {
        let (id, now) = (next_id(), self.tools.now);
        let connection = guarded(|| accept.accept(id, &self.mailbox, peer, now));
        if let Some(connection) = connection {
            match self.servers.iter_mut().find(|(a, _)| Arc::ptr_eq(a, &accept)) {
                Some((_, live)) => *live += 1,
                None => self.servers.push((accept.clone(), 1)),
            }
            self.insert(Slot::new(id, stream, peer, connection, Some(accept), place));
        }
    }

    fn connect(&mut self, id: ConnId, peer: SocketAddr, make: Make, place: Place) {
        let now = self.tools.now;
        let Some(mut connection) = guarded(|| make(id, self.mailbox.clone(), now)) else {
            return;
        };
        match TcpStream::connect(peer) {
            Ok(stream) => self.insert(Slot::new(id, stream, peer, connection, None, place)),
            Err(error) => {
                guarded(|| connection.lost(&error, now));
            }
        }
    }

    fn insert(&mut self, slot: Slot) {
        let (id, user_timeout) = (slot.id, self.options.user_timeout);
        self.slots.insert(id, Box::new(slot));
        let registry = self.poll.registry();
        // Once, for both directions: from here on the slot remembers.
        let both = Interest::READABLE | Interest::WRITABLE;
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let registered = slot
            .set_options(user_timeout)
            .and_then(|()| registry.register(&mut slot.stream, Token(id.0 as usize), both));
        self.step(id, |slot, tools| {
            registered?;
            tools.mark(slot);
            Ok(())
        });
    }

    fn work(&mut self, id: ConnId) {
        self.step(id, |slot, tools| {
            slot.listed = false;
            tools.lend(slot.connection.output());
            slot.work(&mut tools.scratch, tools.now)?;
            tools.mark(slot);
            // What a peer asked is answered before the next connection is looked at; calls of our
            // own wait for the end of the turn, which may bring more.
            if slot.accept.is_some() {
                tools.settle(slot)?;
            }
            Ok(())
        });
    }

    fn timeout(&mut self, id: ConnId, at: Instant) {
        self.step(id, |slot, tools| {
            if slot.timer == Some(at) {
                slot.timer = None;
                if slot.connection.next_timeout().is_some_and(|at| at <= tools.now) {
                    tools.lend(slot.connection.output());
                    slot.connection.timeout(tools.now);
                }
                tools.mark(slot);
            }
            Ok(())
        });
    }

    /// Runs one step of a connection, if it is still there, and removes it if that ended it.
    fn step(&mut self, id: ConnId, step: impl FnOnce(&mut Slot, &mut Tools) -> Result<(), End>) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        match guarded(|| step(slot, &mut self.tools)) {
            Some(Ok(())) => {}
            Some(Err(End::Closed)) => self.remove(id, None),
            Some(Err(End::Lost(error))) => self.remove(id, Some(&error)),
            None => {
                // Or the next connection to answer would send out what this one left behind.
                self.mailbox.reclaim(&mut Vec::new(), |_, _| {});
                self.remove(id, Some(&io::Error::other("a panic in the connection")));
            }
        }
    }

    fn remove(&mut self, id: ConnId, lost: Option<&io::Error>) {
        let Some(mut slot) = self.slots.remove(&id) else {
            return;
        };
        let now = self.tools.now;
        guarded(|| {
            if let Some(error) = lost {
                slot.connection.lost(error, now);
                log::debug!("the connection with {} is lost: {error}", slot.peer);
            }
            slot.connection.output().clear();
            self.tools.keep(slot.connection.output());
            if let Some(reason) = slot.connection.reason()
                && let Some(others) = self.ends.pass(now)
            {
                log::warn!("the connection with {} ends: {reason}{others}", slot.peer);
            }
            if let Some(accept) = &slot.accept {
                accept.closed(slot.peer, slot.connection.reason());
            }
        });
        let mut servers = self.servers.iter_mut();
        if let Some(accept) = &slot.accept
            && let Some((_, live)) = servers.find(|(a, _)| Arc::ptr_eq(a, accept))
        {
            *live -= 1;
        }
    }

    fn end_turn(&mut self) {
        for (accept, _) in &self.servers {
            guarded(|| accept.end_turn());
        }
        self.servers.retain(|(_, live)| *live > 0);
        if let Some(hook) = &self.options.end_turn {
            guarded(|| hook());
        }
    }

    /// Empties a list of `tools`, whose memory stays; `f` may fill it again, for the next time.
    fn each(&mut self, list: fn(&mut Tools) -> &mut Vec<ConnId>, mut f: impl FnMut(&mut Self, ConnId)) {
        let mut ids = mem::take(list(&mut self.tools));
        for id in ids.drain(..) {
            f(self, id);
        }
        ids.append(list(&mut self.tools));
        *list(&mut self.tools) = ids;
    }
}

impl Drop for EventLoop {
    /// However the loop ends: no call that was ever posted stays without an outcome.
    fn drop(&mut self) {
        let mut posts = Posts::default();
        self.mailbox.close(&mut posts);
        let error = io::Error::other("the reactor has stopped");
        let ids: Vec<ConnId> = self.slots.keys().copied().collect();
        for id in ids {
            self.remove(id, Some(&error));
        }
        posts.drain(|_, command, _| {
            guarded(|| command.undeliverable());
        });
        self.end_turn();
    }
}

impl Tools {
    fn list(&mut self, slot: &mut Slot) {
        if !mem::replace(&mut slot.listed, true) {
            self.ready.push(slot.id);
        }
    }

    fn mark(&mut self, slot: &mut Slot) {
        if !mem::replace(&mut slot.dirty, true) {
            self.dirty.push(slot.id);
        }
    }

    /// Once for everything that happened to the connection since the last time.
    fn settle(&mut self, slot: &mut Slot) -> Result<(), End> {
        if !mem::take(&mut slot.dirty) {
            return Ok(());
        }
        slot.settle(&mut self.scratch, self.now)?;
        self.keep(slot.connection.output());
        let wanted = slot.connection.next_timeout();
        self.timers.schedule(slot.id, &mut slot.timer, wanted);
        if slot.has_work() {
            self.list(slot);
        }
        Ok(())
    }

    fn lend(&mut self, output: &mut Output) {
        if output.buffer().capacity() == 0
            && let Some(memory) = self.spares.pop()
        {
            output.provide(memory);
        }
    }

    fn keep(&mut self, output: &mut Output) {
        if let Some(memory) = output.reclaim()
            && self.spares.len() < SPARES
            && memory.capacity() <= SPARE_BYTES
        {
            self.spares.push(memory);
        }
    }
}

/// Keeps a panic of somebody else's code away from the loop.
fn guarded<T>(f: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(f));
    result.inspect_err(|_| log::error!("a panic on a reactor thread was caught; this is a bug")).ok()
}

/// Ids rise by one: multiplying by an odd number spreads them without a collision in the low bits,
/// and fills the high ones, which the table uses too.
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
const SCRATCH: usize = 64 << 10;
const POST_ROUNDS: usize = 16;

/// At most 32 MiB of memory for output stay with a reactor after a burst. Large buffers count most:
/// getting them anew costs a page fault every 4 KiB.
const SPARES: usize = 16;
const SPARE_BYTES: usize = 2 << 20;
