//! Large buffers that a reactor's thread keeps between two uses: got anew, one costs a page fault
//! every 4 KiB.

use std::{cell::RefCell, collections::VecDeque, ops::RangeInclusive};

use bytes::{Bytes, BytesMut};

/// At most `COUNT` of each.
#[derive(Default)]
struct Kept {
    free: VecDeque<Vec<u8>>,
    /// Somebody else may still hold a part of these.
    shared: VecDeque<Bytes>,
}

thread_local! {
    /// None on threads that keep nothing.
    static KEPT: RefCell<Option<Kept>> = const { RefCell::new(None) };
}

/// From now on this thread keeps large buffers.
pub(crate) fn begin() {
    with(|kept| {
        kept.get_or_insert_default();
    });
}

/// An empty buffer with room for `size` bytes and not for many more, if one is kept.
pub(super) fn take(size: usize) -> Option<Vec<u8>> {
    if !KEEP.contains(&size) {
        return None;
    }
    with(|kept| {
        let Kept { free, shared } = kept.as_mut()?;
        for _ in 0..shared.len() {
            match shared.pop_front()?.try_into_mut() {
                Ok(bytes) => push(free, empty(bytes)),
                Err(bytes) => shared.push_back(bytes),
            }
        }
        let fits = size..=size + size / 8;
        // The last one used is the likeliest to be in the processor's caches.
        let at = free.iter().rposition(|buffer| fits.contains(&buffer.capacity()))?;
        free.remove(at)
    })
}

/// Sees to it that an empty `out` has room for `size` bytes, if a buffer is kept that has.
pub(crate) fn provide(out: &mut Vec<u8>, size: usize) {
    if size >= *KEEP.start()
        && out.is_empty()
        && out.capacity() < size
        && let Some(buffer) = take(size)
    {
        *out = buffer;
    }
}

/// Keeps a buffer that nobody uses.
pub(crate) fn keep(buffer: Vec<u8>) {
    if KEEP.contains(&buffer.capacity()) {
        with(|kept| {
            if let Some(kept) = kept {
                push(&mut kept.free, buffer);
            }
        });
    }
}

/// Keeps the buffer in which `bytes` lie, for the time when nobody uses it any more.
pub(super) fn keep_shared(bytes: Bytes) {
    if KEEP.contains(&bytes.len()) {
        with(|kept| {
            if let Some(kept) = kept {
                push(&mut kept.shared, bytes);
            }
        });
    }
}

/// The buffer of `bytes`, if nobody else holds a part of it.
pub(crate) fn unshare(bytes: Bytes) -> Option<Vec<u8>> {
    bytes.try_into_mut().ok().map(empty)
}

fn empty(mut bytes: BytesMut) -> Vec<u8> {
    bytes.clear();
    bytes.into()
}

fn push<T>(queue: &mut VecDeque<T>, buffer: T) {
    if queue.len() == COUNT {
        queue.pop_front();
    }
    queue.push_back(buffer);
}

fn with<R: Default>(f: impl FnOnce(&mut Option<Kept>) -> R) -> R {
    // A thread that ends keeps nothing.
    KEPT.try_with(|kept| f(&mut kept.borrow_mut())).unwrap_or_default()
}

const COUNT: usize = 6;
/// Of these sizes. With `COUNT`: at most 24 MiB stay with a thread after a burst.
const KEEP: RangeInclusive<usize> = 64 << 10..=2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_once_nobody_holds_a_part_of_it() {
        begin();
        let whole = Bytes::from(vec![7; 100_000]);
        let at = whole.as_ptr();
        let part = whole.slice(5..10);
        keep_shared(whole);
        assert_eq!(take(100_000), None);
        drop(part);
        assert_eq!(take(10_000), None, "much too large");
        let buffer = take(99_000).unwrap();
        assert_eq!((buffer.len(), buffer.capacity(), buffer.as_ptr()), (0, 100_000, at));
        assert_eq!(take(99_000), None);
        keep(buffer);
        let mut out = Vec::new();
        provide(&mut out, 100_000);
        assert_eq!(out.as_ptr(), at);
    }

    #[test]
    fn few_are_kept_and_none_that_are_huge() {
        begin();
        keep(Vec::with_capacity(3 << 20));
        keep_shared(vec![0; 3 << 20].into());
        assert_eq!(take(3 << 20), None);
        let held: Vec<Bytes> = (0..9).map(|_| Bytes::from(vec![0; 100_000])).collect();
        held.iter().for_each(|bytes| keep_shared(bytes.clone()));
        drop(held);
        assert_eq!((0..9).filter_map(|_| take(100_000)).count(), COUNT);
    }

    #[test]
    fn a_thread_that_did_not_begin_keeps_nothing() {
        keep(Vec::with_capacity(100_000));
        assert_eq!(take(100_000), None);
    }
}
