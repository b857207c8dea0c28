//! Asynchronous calls: posted to the peer's shared connection, which a client reactor drives.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    Attempts, Failed, MprpcChannel,
    encode::{self, Head, Payload},
    peer::{Placed, Shared, random},
};
use crate::{
    connection::{
        CancelToken, Command,
        call::{Completion, Failure, Outcome},
        cancel::CancelGuard,
    },
    controller::CallOptions,
    error::Ran,
    reactor,
    rpc_channel::{Call, Done},
    status::Status,
    wire::Wire,
};

/// One call, from its start to its end, over all its attempts.
pub(super) struct AsyncCall {
    channel: MprpcChannel,
    attempts: Attempts,
    options: CallOptions,
    /// The request for the wire of the present attempt, and where in it the message lies.
    frame: Vec<u8>,
    message: std::ops::Range<usize>,
    wire: Wire,
    target: Option<(Placed, Arc<Shared>)>,
    guard: Option<CancelGuard>,
    done: Done,
}

impl AsyncCall {
    pub(super) fn start(channel: MprpcChannel, call: &Call<'_>, mut attempts: Attempts, done: Done) {
        let now = attempts.began;
        let may = attempts.may_start(call, &channel.shared.client, now);
        let picked = may.and_then(|()| {
            let (service, first) = channel.service(attempts.method);
            let picked = channel.pick(service, &attempts, now);
            attempts.marks[0] = first.then(Instant::now);
            picked
        });
        let placed = match picked {
            Ok(placed) => placed,
            Err(failure) => return finish(done, Err(attempts.error(failure))),
        };
        let mut this = Box::new(Self {
            channel,
            attempts,
            options: call.options.clone(),
            frame: Vec::new(),
            message: 0..0,
            wire: placed.peer.wire,
            target: None,
            guard: None,
            done,
        });
        this.encode(&Payload::Message(call.request), now);
        this.post(placed);
    }

    fn encode(&mut self, payload: &Payload<'_>, now: Instant) {
        let given = self.options.given();
        let mut frame = Vec::with_capacity(HEAD_GUESS + self.attempts.size as usize);
        let head = Head {
            method: self.attempts.method,
            remaining: self.attempts.remaining(now),
            metadata: &given.metadata,
            attachment: &given.attachment,
        };
        self.message = encode::request(&mut frame, self.wire, 0, &head, payload);
        self.frame = frame;
    }

    fn post(mut self: Box<Self>, placed: Placed) {
        self.attempts.begin(&placed.peer);
        let clients = match self.channel.shared.app.clients() {
            Ok(clients) => clients,
            Err(error) => return finish(self.done, Err(error)),
        };
        let shared = placed.peer.shared(clients, &self.channel.shared.client);
        if let Err(failure) = encode::check_peer(self.attempts.size, shared.link.max_body()) {
            return finish(self.done, Err(self.attempts.error(failure)));
        }
        let tag = match &self.options.given().cancel {
            None => 0,
            Some(token) => {
                let tag = NEXT_TAG.fetch_add(1, Ordering::Relaxed);
                let to = shared.clone();
                self.guard = Some(token.guard(move || {
                    to.reactor.mailbox().post(to.conn, Command::Cancel(tag), |_| ());
                }));
                tag
            }
        };
        self.target = Some((placed, shared.clone()));
        let deadline = self.attempts.patience(self.wire);
        let empty_ok = self.attempts.method.empty_response;
        let token = self.options.given().cancel.clone();
        let start = Command::Start { tag, deadline, empty_ok, done: self };
        match shared.reactor.mailbox().try_post(shared.conn, start) {
            Err(Command::Start { done, .. }) => {
                let text = "this process ends, or too many of its calls wait to be sent";
                done.complete(Err(Failure { ran: Ran::No, status: Status::resource_exhausted(text) }));
            }
            // Cancelled before there was a call to cancel.
            Ok(()) if token.is_some_and(|token| token.is_cancelled()) => {
                shared.reactor.mailbox().post(shared.conn, Command::Cancel(tag), |_| ());
            }
            _ => {}
        }
    }

    /// Notes what the outcome says about the peer. Returns the failure with what it takes to
    /// decide about another attempt.
    fn judge(&mut self, mut failure: Failure, now: Instant) -> Failed {
        let Some((placed, shared)) = self.target.take() else {
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
        let open = self.target.as_ref().and_then(|(_, shared)| shared.link.opened_at());
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
        let (service, _) = self.channel.service(self.attempts.method);
        let placed = match self.channel.pick(service, &self.attempts, now) {
            Ok(placed) => placed,
            Err(failure) => return Err((self, failure)),
        };
        self.wire = placed.peer.wire;
        self.guard = None;
        let old = std::mem::take(&mut self.frame);
        let message = self.message.clone();
        self.encode(&Payload::Bytes(&old[message]), now);
        self.post(placed);
        Ok(())
    }
}

impl Completion for AsyncCall {
    fn frame(&self) -> &[u8] {
        &self.frame
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
                let Self { done, target, .. } = *self;
                if let Some((placed, _)) = target {
                    placed.answered(reactor::now());
                }
                return finish(done, Ok(received));
            }
            Err(failure) => failure,
        };
        self.mark_open(false);
        let failed = self.judge(failure, reactor::now());
        if self.attempts.may_retry(&failed, &self.channel.shared.budget) {
            if let Err((this, failure)) = self.again() {
                finish(this.done, Err(this.attempts.error(failure)));
            }
        } else {
            let error = self.attempts.error(failed.failure);
            finish(self.done, Err(error));
        }
    }
}

/// Runs the caller's callback, which must not take the reactor down.
fn finish(done: Done, result: Result<crate::connection::call::Received<'_>, crate::error::Error>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        log::error!("the callback of a call panicked");
    }
}

/// What the header of a request takes with common names.
const HEAD_GUESS: usize = 96;

static NEXT_TAG: AtomicU64 = AtomicU64::new(1);
