//! The mailbox of a reactor: how other threads reach its connections, and how answers get out.
//!
//! Everything that concerns a connection and comes from elsewhere is posted here: answers of
//! handlers, calls to start, cancels. Bytes of all posts share one buffer, so posting allocates
//! nothing once that buffer has grown. The reactor is woken only when it sleeps, once.
//!
//! A handler that runs inside a reactor's turn needs no post: its connection opened the mailbox for
//! answers on that thread (`lend`), which are encoded into a buffer that becomes the connection's output
//! (`reclaim`).

use std::{
    any::Any,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
    vec,
};

use bytes::Bytes;

use super::{
    ConnId,
    call::{Completion, Failure},
    lent, own,
};
use crate::{error::Ran, status::Status, wire::buf::Output};

/// What can be posted to a connection.
pub enum Command {
    /// The answer to a call of the peer, as bytes of the wire; `failed` answers have none on the legacy wire.
    Answer {
        /// The peer's id of the call.
        call: u64,
        /// Whether the call failed.
        failed: bool,
        /// The answer in place of the bytes, piece by piece; else there are none.
        pieces: Vec<Bytes>,
    },
    /// A call to start.
    Start {
        /// Names the call for `Cancel`; 0 if it cannot be cancelled.
        tag: u64,
        /// When the call must have ended.
        deadline: Instant,
        /// Whether a legacy reply of no bytes is a message.
        empty_ok: bool,
        /// Has the frame, gets the outcome.
        done: Box<dyn Completion>,
    },
    /// The caller lost interest in the call with this tag.
    Cancel(u64),
    /// Ask the peer for a sign of life.
    Ping,
    /// Take no new calls, finish the running ones, close.
    Drain,
    /// Close now, telling the peer why.
    Close(&'static str),
    /// For connections written outside of this crate.
    Custom(Box<dyn Any + Send>),
}

impl Command {
    /// What becomes of a command whose connection is gone: a call to start ends, and did not run.
    pub fn undeliverable(self) {
        if let Self::Start { done, .. } = self {
            let status = Status::unavailable("the connection is gone");
            done.complete(Err(Failure { ran: Ran::No, status }));
        }
    }
}

/// One reactor's mailbox. Bounded by posts: starting calls is refused beyond the limit; answers
/// are always taken, because the calls they belong to are bounded.
pub struct Mailbox {
    inner: Mutex<Inner>,
    wake: Box<dyn Fn() + Send + Sync>,
    max_posts: usize,
    /// Calls that were begun, and those that were answered since.
    begun: AtomicU64,
    ended: AtomicU64,
    /// While a connection lends: one, for the handler that may run, and one for each answer. Written by that thread.
    in_turn: AtomicU64,
    /// Bytes of the posts that wait, written under the lock.
    waiting: AtomicUsize,
}

/// What became of the calls that were begun here. Each is one or the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Calls whose answer the reactor has taken up.
    pub finished: u64,
    /// Calls that have no answer, and those whose answer waits.
    pub open: u64,
}

/// Posts taken out by the reactor, with the buffer that their bytes lie in.
#[derive(Default)]
pub struct Posts {
    bytes: Vec<u8>,
    /// How many more bytes the pieces of answers have.
    beside: usize,
    list: Vec<Post>,
}

/// For whom, what, and where the bytes that go with it lie in the buffer of all.
pub(super) type Post = (ConnId, Command, Range<usize>);

#[derive(Default)]
struct Inner {
    posts: Posts,
    asleep: bool,
    /// The account as of then.
    closed: Option<Account>,
}

impl Mailbox {
    /// A mailbox that calls `wake` when a post arrives while the reactor sleeps, and takes calls
    /// to start while fewer than `max_posts` posts wait.
    pub fn new(max_posts: usize, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let (begun, ended, in_turn, waiting) = Default::default();
        Self { inner: Mutex::default(), wake: Box::new(wake), max_posts, begun, ended, in_turn, waiting }
    }

    /// Posts `command` to `conn`; `write` appends the bytes that go with it. If the reactor has
    /// stopped, a call to start ends here and now.
    pub fn post(&self, conn: ConnId, command: Command, write: impl FnOnce(&mut Vec<u8>)) {
        let mut inner = self.lock();
        if inner.closed.is_some() {
            drop(inner);
            return command.undeliverable();
        }
        let start = inner.posts.bytes.len();
        write(&mut inner.posts.bytes);
        inner.push(conn, command, start);
        self.release(inner);
    }

    /// Posts a call to start.
    ///
    /// # Errors
    /// Gives `command` back, unposted, if too many posts wait already or the reactor has stopped.
    pub fn try_post(&self, conn: ConnId, command: Command) -> Result<(), Command> {
        let Some(command) = own::post(self, self.max_posts, conn, command) else {
            return Ok(());
        };
        let mut inner = self.lock();
        if inner.closed.is_some() || inner.posts.list.len() >= self.max_posts {
            return Err(command);
        }
        let end = inner.posts.bytes.len();
        inner.push(conn, command, end);
        self.release(inner);
        Ok(())
    }

    /// Answers `call` of `conn`: straight into the connection's output if its thread is handling
    /// that very call, else by a post.
    pub fn answer(&self, conn: ConnId, call: u64, failed: bool, write: impl FnOnce(&mut Vec<u8>)) {
        self.answer_with(conn, call, failed, |out, _| write(out));
    }

    /// The same where `write` may also append the answer's frame piece by piece. Returns whether it needed no post.
    pub(super) fn answer_with(
        &self,
        conn: ConnId,
        call: u64,
        failed: bool,
        write: impl FnOnce(&mut Vec<u8>, &mut Vec<Bytes>),
    ) -> bool {
        if lent::takes(self, conn, call) {
            lent::answer(call, failed, write);
            // Counted by `reclaim`: that the call was begun is not told before that either.
            let in_turn = self.in_turn.load(Ordering::Relaxed) + 1;
            self.in_turn.store(in_turn, Ordering::Relaxed);
            return true;
        }
        let mut inner = self.lock();
        self.end(1);
        if inner.closed.is_none() {
            let mut pieces = Vec::new();
            let start = inner.posts.bytes.len();
            write(&mut inner.posts.bytes, &mut pieces);
            inner.posts.beside += pieces.iter().map(Bytes::len).sum::<usize>();
            inner.push(conn, Command::Answer { call, failed, pieces }, start);
            self.release(inner);
        }
        false
    }

    /// Counts calls that were answered. Only under the lock.
    fn end(&self, calls: u64) {
        self.ended.store(self.ended() + calls, Ordering::Relaxed);
    }

    /// Counts calls that were begun and will be answered here. Only for the thread that calls `take`.
    pub fn begin(&self, calls: u64) {
        self.begun.store(self.begun.load(Ordering::Relaxed) + calls, Ordering::Relaxed);
    }

    /// Calls that were answered here so far.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Calls that were begun and not answered yet, wherever they wait or run.
    pub fn open_calls(&self) -> u64 {
        // In this order: a call that is answered in between must not count twice.
        let ended = self.ended();
        self.begun.load(Ordering::Relaxed).saturating_sub(ended)
    }

    /// What became of the calls so far; once the reactor has stopped, what it was then. Of the turn that the
    /// reactor is in only a handler that runs inside of it is known, and those that it answered.
    pub fn account(&self) -> Account {
        let inner = self.lock();
        inner.closed.unwrap_or_else(|| self.account_now(&inner))
    }

    fn account_now(&self, inner: &Inner) -> Account {
        let answer = |post: &&Post| matches!(post.1, Command::Answer { .. });
        let waiting = inner.posts.list.iter().filter(answer).count() as u64;
        let finished = self.ended().saturating_sub(waiting);
        let begun = self.begun.load(Ordering::Relaxed) + self.in_turn.load(Ordering::Relaxed);
        Account { finished, open: begun.saturating_sub(finished) }
    }

    /// Bytes of answers that the reactor has not taken yet.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Lets calls of `conn` with ids above `above` answer on this thread without a post, until `reclaim`.
    pub fn lend(&self, conn: ConnId, above: u64) {
        lent::lend(self, conn, above);
        self.in_turn.store(1, Ordering::Relaxed);
    }

    /// Ends what `lend` began: tells `each` which calls were answered and whether they failed, and
    /// appends their answers to `out`, without a copy if nothing waits there. Returns whether there were any.
    pub fn reclaim(&self, out: &mut Output, each: impl FnMut(u64, bool)) -> bool {
        lent::reclaim(out, each);
        let ended = self.in_turn.load(Ordering::Relaxed).saturating_sub(1);
        // So that nobody who asks for an account sees one without the other.
        let inner = (ended > 0).then(|| self.lock());
        inner.iter().for_each(|_| self.end(ended));
        self.in_turn.store(0, Ordering::Relaxed);
        ended > 0
    }

    /// Swaps everything posted into `posts`, which must be empty. If nothing was and `sleep` is
    /// set, the next post will wake the reactor. Returns whether there are posts.
    pub fn take(&self, posts: &mut Posts, sleep: bool) -> bool {
        let mut inner = self.lock();
        if !inner.posts.list.is_empty() {
            std::mem::swap(&mut inner.posts, posts);
            self.waiting.store(0, Ordering::Relaxed);
        }
        own::take(self, &mut posts.list);
        let any = !posts.list.is_empty();
        inner.asleep = sleep && !any;
        any
    }

    /// Swaps calls that this thread started into `posts`, which must be empty, if they are all for `conn`. Returns
    /// whether there are any.
    pub fn take_own(&self, conn: ConnId, posts: &mut Posts) -> bool {
        own::take_for(self, conn, &mut posts.list)
    }

    /// From now on calls that this thread starts wait without a lock. Only for the thread that calls `take`, and until
    /// it calls `close`.
    pub fn own(&self) {
        own::begin(self);
    }

    /// Takes no more posts, and swaps those that wait into `posts`, which must be empty.
    pub fn close(&self, posts: &mut Posts) {
        let mut inner = self.lock();
        inner.closed = Some(self.account_now(&inner));
        drop(inner);
        self.take(posts, false);
        own::end();
    }

    /// Whether the reactor has stopped.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Wakes the reactor if it sleeps.
    pub fn wake(&self) {
        self.release(self.lock());
    }

    fn release(&self, mut inner: MutexGuard<'_, Inner>) {
        let waiting = inner.posts.bytes.len() + inner.posts.beside;
        self.waiting.store(waiting, Ordering::Relaxed);
        if std::mem::take(&mut inner.asleep) {
            drop(inner);
            (self.wake)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// With it go the bytes from `start`.
    fn push(&mut self, conn: ConnId, command: Command, start: usize) {
        let range = start..self.posts.bytes.len();
        self.posts.list.push((conn, command, range));
    }
}

impl Posts {
    /// Hands every post to `each`, in order, and is empty afterwards.
    pub fn drain(&mut self, mut each: impl FnMut(ConnId, Command, &[u8])) {
        for (conn, command, range) in self.list.drain(..) {
            each(conn, command, &self.bytes[range]);
        }
        self.tidy();
    }

    /// The same, with those to one connection that follow each other together. What `each` leaves of them is dropped.
    pub fn drain_runs(&mut self, mut each: impl FnMut(ConnId, &mut Run<'_>)) {
        let mut run = Run { conn: ConnId(0), posts: self.list.drain(..), bytes: &self.bytes };
        while let Some((conn, ..)) = run.posts.as_slice().first() {
            run.conn = *conn;
            each(run.conn, &mut run);
            run.by_ref().for_each(drop);
        }
        drop(run);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.beside = 0;
        self.bytes.clear();
        if self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        }
    }
}

/// Posts to one connection that follow each other.
pub struct Run<'a> {
    conn: ConnId,
    posts: vec::Drain<'a, Post>,
    bytes: &'a [u8],
}

impl<'a> Iterator for Run<'a> {
    type Item = (Command, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.posts.as_slice().first().filter(|post| post.0 == self.conn)?;
        let (_, command, range) = self.posts.next()?;
        Some((command, &self.bytes[range]))
    }
}

/// A burst may grow the shared buffer; above this size it is given back.
const KEEP: usize = 1 << 20;
