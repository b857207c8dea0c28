//! Reactors: event loops on mio, one thread each, that drive connections.

use std::cell::Cell;

thread_local! {
    static ON_REACTOR: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is a reactor's, so that it must not block.
pub fn on_reactor_thread() -> bool {
    ON_REACTOR.get()
}
