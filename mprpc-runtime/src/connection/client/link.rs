//! What threads that post calls to a connection may know of it without asking its reactor.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::ClientConnection;

/// The state of a connection as of its last turn.
#[derive(Debug, Default)]
pub struct Link {
    refuses: AtomicBool,
    opened: AtomicBool,
}

impl Link {
    /// Whether calls may be posted to the connection.
    pub fn takes_calls(&self) -> bool {
        !self.refuses.load(Ordering::Acquire)
    }

    /// Whether the peer was ever heard.
    pub fn was_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }
}

impl<C> ClientConnection<C> {
    /// The same connection, which in a reactor keeps `link` up to date.
    #[must_use]
    pub fn linked(mut self, link: Arc<Link>) -> Self {
        self.link = Some(link);
        self
    }

    /// Before the calls that end now may be tried again: not here.
    pub(super) fn refuse(&self) {
        if let Some(link) = &self.link {
            link.refuses.store(true, Ordering::Release);
        }
    }

    pub(super) fn tell(&self) {
        if let Some(link) = &self.link {
            link.refuses.store(!self.takes_calls(), Ordering::Release);
            link.opened.store(self.opened, Ordering::Release);
        }
    }
}
