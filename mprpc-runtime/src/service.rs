//! Services: what a provider serves, and how a call reaches its handler and its answer the caller.

use std::{
    collections::HashSet,
    marker::PhantomData,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use protobuf::MessageFull;

use crate::{
    connection::{Body, Incoming, ReplyExtras, Ticket},
    controller::{Beside, Controller, Inherit},
    descriptor::{MethodDescriptor, ServiceDescriptor},
    stages::ServerStages,
    status::Status,
    wire::Wire,
};

/// Something that serves calls. Generated code implements it; so may proxies and mocks.
pub trait Service: Send + Sync {
    /// What it serves.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Serves a call of the method at this place in the descriptor.
    fn call_method(&self, method: usize, call: ServerCall<'_>);
}

/// One call on its way to its handler.
#[derive(Debug)]
pub struct ServerCall<'a> {
    controller: Controller,
    body: Body<'a>,
    ticket: Ticket,
    run: Run,
}

/// When a worker took a call.
#[derive(Clone, Copy, Debug)]
struct Run {
    came: Instant,
    behind: usize,
    /// `None` if it runs on the reactor, or in its caller's process.
    began: Option<Instant>,
}

impl<'a> ServerCall<'a> {
    /// A call of `method`, as `incoming` has it. Unless it is `cancellable`, its controller never
    /// says that it is cancelled, which spares making a token.
    pub fn new(method: &'static MethodDescriptor, incoming: Incoming<'a>, cancellable: bool) -> Self {
        let cancel = cancellable.then(|| incoming.cancel.get_or_insert_default().clone());
        let bare = incoming.metadata.is_empty() && incoming.attachment.is_empty();
        let beside = (!bare).then(|| {
            let attachment = Bytes::copy_from_slice(incoming.attachment);
            Box::new(Beside { metadata: incoming.metadata, attachment })
        });
        let (deadline, peer, reply) = (incoming.deadline, incoming.peer, Mutex::default());
        let controller = Controller { method, deadline, peer, cancel, beside, reply };
        let run = Run { came: incoming.received, behind: 0, began: None };
        Self { controller, body: incoming.body, ticket: incoming.ticket, run }
    }

    /// The same call, free of the reactor's read buffer.
    pub fn into_owned(self) -> ServerCall<'static> {
        let Self { controller, body, ticket, run } = self;
        ServerCall { controller, body: body.into_owned(), ticket, run }
    }

    /// The call waits for a worker, behind so many others.
    pub(crate) fn waits(&mut self, behind: usize) {
        self.run.behind = behind;
        if let Some(cancel) = &self.controller.cancel {
            cancel.waits(behind);
        }
    }

    /// A worker takes the call. Before it asks whether the call is cancelled.
    pub(crate) fn begins(&mut self, now: Instant) {
        self.run.began = Some(now);
        if let Some(cancel) = &self.controller.cancel {
            cancel.begins(now.saturating_duration_since(self.run.came));
        }
    }

    /// Bytes of other answers that its reactor has to take up before this call's.
    pub(crate) fn backlog(&self) -> usize {
        self.ticket.backlog()
    }

    /// What is known of the call beside its message.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// The serialized request, for services that pass it on.
    pub fn body(&self) -> &[u8] {
        self.body.as_slice()
    }

    /// Parses the request and gives it to `handler`. A request that cannot be parsed is answered
    /// with INVALID_ARGUMENT.
    pub fn run<Q: MessageFull, R: MessageFull>(self, handler: impl FnOnce(Controller, Q, Reply<R>)) {
        let mut request = Q::new();
        let method = self.controller.method;
        match self.body.parse_into(&mut request) {
            Ok(()) => {
                let reply = Reply { ticket: self.ticket, method, run: self.run, message: PhantomData };
                let _inherit = Inherit::from(&self.controller);
                handler(self.controller, request, reply);
            }
            Err(error) => {
                let text = format!("the request is no {}: {error}", method.request_type);
                self.ticket.fail(Status::invalid_argument(text));
            }
        }
    }

    /// Answers that there is no such method.
    pub fn unimplemented(self) {
        let path = self.controller.method.path();
        self.ticket.fail(Status::unimplemented(format!("{path} is not implemented")));
    }

    /// Answers with a failure, without running a handler.
    pub fn fail(self, status: Status) {
        self.ticket.fail(status);
    }
}

/// The right, and the duty, to answer a call with an `R`. May be kept and used from any thread.
/// Dropped unused, it answers with INTERNAL.
#[derive(Debug)]
pub struct Reply<R> {
    ticket: Ticket,
    method: &'static MethodDescriptor,
    run: Run,
    message: PhantomData<fn(R)>,
}

impl<R: MessageFull> Reply<R> {
    /// Answers the call.
    pub fn send(self, result: Result<R, Status>) {
        self.send_with(result, &ReplyExtras::default());
    }

    /// Answers the call with more than a message.
    pub fn send_with(mut self, result: Result<R, Status>, extras: &ReplyExtras) {
        if let Some(stages) = self.run.stages() {
            self.ticket.tell_stages(stages);
        }
        match result {
            Err(status) => self.ticket.fail(status),
            Ok(response) => {
                let legacy = matches!(self.ticket.wire(), Some(Wire::Legacy(_)));
                let size = self.ticket.answer(&response, extras);
                if legacy && size > CPP_READS {
                    warn_of_cut_reply(self.method, size);
                }
            }
        }
    }
}

impl Run {
    /// Where the time went, if that is worth a word. The clock is read here in place of the deadline's
    /// check, for which the time at which the worker began is good enough.
    fn stages(&self) -> Option<ServerStages> {
        let began = self.began?;
        let queue = began.saturating_duration_since(self.came);
        let handler = began.elapsed();
        let behind = u32::try_from(self.behind).unwrap_or(u32::MAX);
        let worth = queue + handler >= SHORT;
        worth.then_some(ServerStages { queue, behind, handler: Some(handler), unfinished: false })
    }
}

fn warn_of_cut_reply(method: &'static MethodDescriptor, size: u64) {
    static WARNED: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.get_or_insert_default().insert(method.path()) {
        let path = method.path();
        log::warn!(
            "{path}: a reply of {size} bytes on the legacy wire; C++ callers read {CPP_READS} and cut the rest"
        );
    }
}

/// A call that took less than this at its server says nothing about where the time went.
const SHORT: Duration = Duration::from_millis(1);
/// What a C++ caller reads of a reply, in one `recv`.
const CPP_READS: u64 = 1024;
