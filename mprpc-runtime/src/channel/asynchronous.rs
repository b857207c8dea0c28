//! Asynchronous calls: posted to the peer's shared connection, which a client reactor drives.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    Attempts, Failed, MprpcChannel,
    encode::{self, Head, Payload},
    peer::{Placed, Shared, random},
};
use crate::{
    connection::{
        CancelToken, Command,
        call::{Completion, Failure, Outcome, Received},
        cancel::CancelGuard,
        links::{self, Links},
    },
    controller::CallOptions,
    descriptor::MethodDescriptor,
    error::{Error, Ran},
    reactor,
    rpc_channel::{Call, Done},
    status::Status,
    wire::{Wire, buf::Output, mux, spare},
};

/// One call, from its start to its end, over all its attempts.
pub(super) struct AsyncCall {
    channel: MprpcChannel,
    attempts: Attempts,
    options: CallOptions,
    /// The request for the wire of the present attempt, and where in it the message lies and what is linked.
    frame: Vec<u8>,
    /// The frame in place of `frame` once the connection has it, too.
    shared_frame: Bytes,
    message: std::ops::Range<usize>,
    links: Links,
    /// What the head of that request says, if a request of the next call may begin with the same one.
    head: Option<(&'static MethodDescriptor, Duration)>,
    /// The state of the service in which it is so placed for sure, while the peer is well.
    sole: Option<u64>,
    /// Where the present attempt goes, and on which connection.
    placed: Option<Placed>,
    shared: Option<Arc<Shared>>,
    guard: Option<CancelGuard>,
    done: Option<Done>,
}

thread_local! {
    /// While a callback runs, the call that it is told of. The call that it starts, which often is the same again,
    /// takes over the memory, and the way to the peer.
    static ENDED: Cell<Option<Box<AsyncCall>>> = const { Cell::new(None) };
}

impl AsyncCall {
    pub(super) fn start(channel: &MprpcChannel, call: &Call<'_>, done: Done) {
        let mut this = Self::new(channel, call, done);
        let now = this.attempts.began;
        let may = this.attempts.may_start(call, &channel.shared.client, now);
        match may.and_then(|()| this.place()) {
            Err(failure) => this.fail(failure),
            Ok(first) => {
                this.attempts.marks[0] = first.then(Instant::now);
                this.links.clear();
                if let Some(fields) = encode::fields(call.request, this.attempts.size, this.wire()) {
                    let links = Cell::default();
                    this.encode(&Payload::Linked(call.request, &fields, &links), now);
                    this.links = links.take();
                    mux::finish_linked(&mut this.frame, links::total(&this.links));
                } else {
                    this.encode(&Payload::Message(call.request), now);
                }
                this.post(channel);
            }
        }
    }

    fn new(channel: &MprpcChannel, call: &Call<'_>, done: Done) -> Box<Self> {
        let attempts = Attempts::new(call, channel.timeout);
        let (options, done) = (call.options.clone(), Some(done));
        // There is none while the thread ends.
        match ENDED.try_with(Cell::take).ok().flatten() {
            Some(mut this) if Arc::ptr_eq(&this.channel.shared, &channel.shared) => {
                this.channel.balance = channel.balance;
                (this.attempts, this.options, this.done) = (attempts, options, done);
                this
            }
            _ => Box::new(Self {
                channel: channel.clone(),
                attempts,
                options,
                frame: Vec::new(),
                shared_frame: Bytes::new(),
                message: 0..0,
                links: Links::new(),
                head: None,
                sole: None,
                placed: None,
                shared: None,
                guard: None,
                done,
            }),
        }
    }

    /// Chooses a peer. Returns whether this is the first call of the service.
    fn place(&mut self) -> Result<bool, Failure> {
        let (service, first) = self.channel.service(self.attempts.method);
        let now = self.attempts.since;
        let sole = service.sole(&*self.channel.shared.registry);
        if let Some(placed) = &mut self.placed
            && self.sole.is_some()
            && self.sole == sole
            && placed.peer.health.is_up()
        {
            placed.again(now, false);
            return Ok(first);
        }
        self.sole = sole;
        self.channel.pick(service, &self.attempts, |peer, measured| match &mut self.placed {
            Some(placed) if Arc::ptr_eq(&placed.peer, peer) => placed.again(now, measured),
            placed => {
                *placed = Some(Placed::new(peer.clone(), now, measured));
                self.shared = None;
            }
        })?;
        Ok(first)
    }

    fn wire(&self) -> Wire {
        self.placed.as_ref().map_or(Wire::Mux, |placed| placed.peer.wire)
    }

    fn encode(&mut self, payload: &Payload<'_>, now: Instant) {
        let given = self.options.given();
        let size = HEAD_GUESS + self.attempts.size as usize - payload.linked();
        let mut frame = std::mem::take(&mut self.frame);
        if !self.shared_frame.is_empty() {
            frame = spare::unshare(std::mem::take(&mut self.shared_frame)).unwrap_or_default();
        }
        if frame.capacity() > 4 * size {
            // It was a much larger one's.
            frame = Vec::new();
        }
        let (method, remaining) = (self.attempts.method, self.attempts.remaining(now));
        let (metadata, attachment) = (&given.metadata, &given.attachment);
        let plain = self.wire() == Wire::Mux && metadata.is_empty() && attachment.is_empty();
        let same = |head: (&_, _)| ptr::eq(head.0, method) && head.1 == remaining;
        self.message = if plain && !frame.is_empty() && self.head.is_some_and(same) {
            encode::replace(&mut frame, self.message.start, payload)
        } else {
            frame.clear();
            frame.reserve(size);
            let head = Head { method, remaining, metadata, attachment };
            encode::request(&mut frame, self.wire(), 0, &head, payload)
        };
        self.head = plain.then_some((method, remaining));
        self.frame = frame;
    }

    /// Has the request sent by the reactor of `channel`, which is the call's own.
    fn post(mut self: Box<Self>, channel: &MprpcChannel) {
        let reactor = match channel.shared.reactor() {
            Ok(reactor) => reactor,
            Err(error) => return self.end(Err(error)),
        };
        let shared = self.connection(reactor);
        let (conn, limit) = (shared.conn, shared.link.max_body());
        if let Err(failure) = encode::check_peer(self.attempts.size, limit) {
            return self.fail(failure);
        }
        let tag = match &self.options.given().cancel {
            None => 0,
            Some(token) => {
                let tag = NEXT_TAG.fetch_add(1, Ordering::Relaxed);
                let to = reactor.clone();
                self.guard = Some(token.guard(move || {
                    to.mailbox().post(conn, Command::Cancel(tag), |_| ());
                }));
                tag
            }
        };
        let deadline = self.attempts.patience(self.wire());
        let empty_ok = self.attempts.method.empty_response;
        let token = self.options.given().cancel.clone();
        let start = Command::Start { tag, deadline, empty_ok, done: self };
        match reactor.mailbox().try_post(conn, start) {
            Err(Command::Start { done, .. }) => {
                let text = "this process ends, or too many of its calls wait to be sent";
                done.complete(Err(Failure { ran: Ran::No, status: Status::resource_exhausted(text) }));
            }
            // Cancelled before there was a call to cancel.
            Ok(()) if token.is_some_and(|token| token.is_cancelled()) => {
                reactor.mailbox().post(conn, Command::Cancel(tag), |_| ());
            }
            _ => {}
        }
    }

    /// The connection of the present attempt.
    fn connection(&mut self, reactor: &reactor::Handle) -> &Shared {
        let peer = &self.placed.as_ref().expect("it was placed").peer;
        self.attempts.begin(peer);
        let dial = || peer.shared(reactor, &self.channel.shared.client);
        let shared = self.shared.take().filter(|shared| shared.link.takes_calls());
        self.shared.insert(shared.unwrap_or_else(dial))
    }

    /// Notes what the outcome says about the peer. Returns the failure with what it takes to
    /// decide about another attempt.
    fn judge(&mut self, mut failure: Failure, now: Instant) -> Failed {
        let Some((placed, shared)) = self.placed.take().zip(self.shared.take()) else {
            return Failed { failure, stale: false };
        };
        let (peer, link) = (&placed.peer, &shared.link);
        // The connection tells this, too, but only when all its calls have ended.
        if link.drains() && failure.ran == Ran::No {
            peer.health.drains(now, random());
        }
        let stale = link.was_open() && !link.takes_calls();
        if let Some(why) = link.failure() {
            // There never was a connection that could have said so.
            failure.status = Status::unavailable(why);
        }
        let failed = Failed { failure, stale };
        self.channel.judge(placed, &failed, &self.attempts, now);
        failed
    }

    /// Notes when the connection was open. If it opened in this very turn, nobody said so yet.
    fn mark_open(&mut self, answered: bool) {
        let open = self.shared.as_ref().and_then(|shared| shared.link.opened_at());
        let marks = &mut self.attempts.marks;
        marks[2] = open.or_else(|| marks[1].filter(|_| answered));
    }

    fn again(mut self: Box<Self>) -> Result<(), (Box<Self>, Failure)> {
        let now = Instant::now();
        self.attempts.renew(now);
        if self.options.given().cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            let status = Status::cancelled("cancelled by the caller");
            return Err((self, Failure { ran: Ran::No, status }));
        }
        if let Err(failure) = self.place() {
            return Err((self, failure));
        }
        self.guard = None;
        let shared = std::mem::take(&mut self.shared_frame);
        let old = if shared.is_empty() { std::mem::take(&mut self.frame).into() } else { shared };
        let message = links::join(old.slice(..self.message.end), &self.links).concat();
        self.links.clear();
        self.encode(&Payload::Bytes(&message[self.message.start..]), now);
        let channel = self.channel.clone();
        self.post(&channel);
        Ok(())
    }

    fn fail(self: Box<Self>, failure: Failure) {
        let error = self.attempts.error(failure);
        self.end(Err(error));
    }

    /// Tells the caller.
    fn end(mut self: Box<Self>, result: Result<Received<'_>, Error>) {
        self.guard = None;
        if let Some(done) = self.done.take() {
            let ended = result.is_ok();
            let _ = ENDED.try_with(|slot| slot.set(Some(self).filter(|_| ended)));
            run(done, result);
            let _ = ENDED.try_with(Cell::take);
        }
    }
}

impl Completion for AsyncCall {
    fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn share(&mut self, id: u64, output: &mut Output) -> bool {
        if self.links.is_empty() && self.frame.len() < mux::LARGE {
            return false;
        }
        mux::set_call_id(&mut self.frame, id);
        self.shared_frame = std::mem::take(&mut self.frame).into();
        let pieces = links::join(self.shared_frame.clone(), &self.links);
        pieces.into_iter().for_each(|piece| output.share(piece));
        true
    }

    fn started(&mut self, now: Instant) {
        // To find out who serves the call takes time only before the first one, which it then says.
        let known = self.attempts.marks[0].unwrap_or(self.attempts.since);
        self.attempts.marks = [Some(known), Some(now), None];
    }

    fn complete(mut self: Box<Self>, outcome: Outcome<'_>) {
        let failure = match outcome {
            Ok(mut received) => {
                if self.options.given().timed {
                    self.mark_open(true);
                    let server = received.stages.take().and_then(|stages| stages.server);
                    received.stages = Some(self.attempts.stages(reactor::now(), server));
                }
                if let Some(placed) = &mut self.placed {
                    placed.answered(reactor::now());
                }
                return self.end(Ok(received));
            }
            Err(failure) => failure,
        };
        self.mark_open(false);
        let failed = self.judge(failure, reactor::now());
        if !self.attempts.may_retry(&failed, &self.channel.shared.budget) {
            self.fail(failed.failure);
        } else if let Err((this, failure)) = self.again() {
            this.fail(failure);
        }
    }
}

/// Runs the caller's callback, which must not take the reactor down.
fn run(done: Done, result: Result<Received<'_>, Error>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        log::error!("the callback of a call panicked");
    }
}

/// What the header of a request takes with common names.
const HEAD_GUESS: usize = 96;

static NEXT_TAG: AtomicU64 = AtomicU64::new(1);
