//! Answers given on the thread that handles the bytes of their calls: they need no lock and no post.

use std::{
    cell::{Cell, RefCell},
    ptr,
    sync::Arc,
};

use bytes::Bytes;

use super::{ConnId, Mailbox};
use crate::wire::buf::Output;

/// What a thread has while it handles what a connection received.
struct Lent {
    answers: Vec<u8>,
    /// Those that come in pieces.
    pieces: Vec<Bytes>,
    /// Whose answers they are, and whether those calls failed.
    answered: Vec<(u64, bool)>,
}

thread_local! {
    /// Calls of this connection with ids above the given one were begun meanwhile and answer here. The
    /// mailbox by its address: connections are numbered for each reactor.
    static TO: Cell<Option<(usize, ConnId, u64)>> = const { Cell::new(None) };
    static LENT: RefCell<Lent> =
        const { RefCell::new(Lent { answers: Vec::new(), pieces: Vec::new(), answered: Vec::new() }) };
    /// The way to the mailbox that the call before needs no more: to count another would cost a short call much.
    static WAY: Cell<Option<Arc<Mailbox>>> = const { Cell::new(None) };
}

/// A way to `mailbox` for a call that may answer here.
#[inline]
pub(super) fn way(mailbox: &Arc<Mailbox>) -> Arc<Mailbox> {
    let left = WAY.with(Cell::take).filter(|way| Arc::ptr_eq(way, mailbox));
    left.unwrap_or_else(|| mailbox.clone())
}

/// Leaves the way of a call that was answered here to the next one.
#[inline]
pub(super) fn leave_way(way: Arc<Mailbox>) {
    // A ticket may be dropped as the last of its thread.
    let _ = WAY.try_with(|left| left.set(Some(way)));
}

/// Lets calls of `conn` with ids above `above` answer here, until `reclaim`.
pub(super) fn lend(mailbox: &Mailbox, conn: ConnId, above: u64) {
    TO.with(|to| to.set(Some((ptr::from_ref(mailbox).addr(), conn, above))));
}

/// Whether `call` may answer here.
#[inline]
pub(super) fn takes(mailbox: &Mailbox, conn: ConnId, call: u64) -> bool {
    let here = (ptr::from_ref(mailbox).addr(), conn);
    // A ticket may be dropped as the last of its thread.
    let to = TO.try_with(Cell::get).ok().flatten();
    to.is_some_and(|(mailbox, conn, above)| (mailbox, conn) == here && call > above)
}

/// Answers `call`, which may answer here, by what `write` appends to either.
#[inline]
pub(super) fn answer(call: u64, failed: bool, write: impl FnOnce(&mut Vec<u8>, &mut Vec<Bytes>)) {
    // `with` says the same and is not inlined everywhere.
    let answered = LENT.try_with(|lent| {
        let lent = &mut *lent.borrow_mut();
        write(&mut lent.answers, &mut lent.pieces);
        lent.answered.push((call, failed));
    });
    answered.expect(LIVES);
}

/// Whether `call` is the last that was answered here. Then `reclaim` will not tell of it.
#[inline]
pub(super) fn forget(call: u64) -> bool {
    LENT.with(|lent| lent.borrow_mut().answered.pop_if(|(last, _)| *last == call).is_some())
}

/// Ends what `lend` began: tells `each` which calls were answered and whether they failed, and appends
/// their answers to `out`, without a copy if nothing waits there.
pub(super) fn reclaim(out: &mut Output, mut each: impl FnMut(u64, bool)) {
    TO.with(|to| to.set(None));
    let reclaimed = LENT.try_with(|lent| {
        let lent = &mut *lent.borrow_mut();
        lent.answered.drain(..).for_each(|(call, failed)| each(call, failed));
        out.append(&mut lent.answers);
        lent.pieces.drain(..).for_each(|piece| out.share(piece));
    });
    reclaimed.expect(LIVES);
}

const LIVES: &str = "what a thread has lent lives as long as its turns";
