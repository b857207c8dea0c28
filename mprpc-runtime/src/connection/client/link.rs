//! What others know of a connection: threads that post calls to it, and who keeps the peer's health.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use super::ClientConnection;

/// Gets to know what a connection finds out about its peer. Called where the connection is driven, so it
/// must not block.
pub trait Observer: Send + Sync {
    /// The peer said Hello; on the legacy wire: it took the connection.
    fn opened(&self, now: Instant);
    /// The connection ended before that.
    fn connect_failed(&self, now: Instant);
    /// The peer wants no new calls, on no connection.
    fn drains(&self, now: Instant);
    /// The peer did not answer a ping.
    fn fell_silent(&self, now: Instant);
    /// The peer answered a ping.
    fn heard(&self, now: Instant);
}

/// The state of a connection as of its last turn.
#[derive(Default)]
pub struct Link {
    refuses: AtomicBool,
    opened: AtomicBool,
    drains: AtomicBool,
    max_body: AtomicU32,
    failure: OnceLock<String>,
    opened_at: OnceLock<Instant>,
    observer: Option<Arc<dyn Observer>>,
}

/// What the link and its observer were told.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    refuses: bool,
    opened: bool,
    failed: bool,
    drains: bool,
    silent: bool,
    pongs: u32,
}

impl Link {
    /// A link whose connection tells `observer` what it finds out.
    pub fn observed(observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..Self::default() }
    }

    /// Whether calls may be posted to the connection.
    pub fn takes_calls(&self) -> bool {
        !self.refuses.load(Ordering::Acquire)
    }

    /// Whether the peer was ever heard.
    pub fn was_open(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    /// When the peer was first heard.
    pub fn opened_at(&self) -> Option<Instant> {
        self.opened_at.get().copied()
    }

    /// Whether the peer said that it wants no new calls, here or elsewhere.
    pub fn drains(&self) -> bool {
        self.drains.load(Ordering::Acquire)
    }

    /// The largest message that the peer takes, once it said so; else no limit.
    pub fn max_body(&self) -> u32 {
        self.max_body.load(Ordering::Relaxed).wrapping_sub(1)
    }

    /// Why this process could not even begin to connect, such as for lack of descriptors.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Notes that this process could not begin to connect.
    pub fn fail(&self, why: String) {
        // The first reason is the reason.
        let _ = self.failure.set(why);
        self.refuses.store(true, Ordering::Release);
    }

    fn tell(&self, was: Told, is: Told, ended: bool, now: Instant) {
        self.refuses.store(is.refuses, Ordering::Release);
        self.opened.store(is.opened, Ordering::Release);
        let Some(observer) = &self.observer else { return };
        if is.opened && !was.opened {
            observer.opened(now);
        }
        if is.failed && !was.failed {
            observer.connect_failed(now);
        }
        if is.drains && !was.drains {
            observer.drains(now);
        }
        if is.silent && !was.silent {
            observer.fell_silent(now);
        }
        // Said even if this connection was never silent: another one to the same peer may have been.
        if is.pongs != was.pongs && !ended {
            observer.heard(now);
        }
    }
}

impl<C> ClientConnection<C> {
    /// The same connection, which keeps `link` up to date whenever it `tell`s.
    #[must_use]
    pub fn linked(mut self, link: Arc<Link>) -> Self {
        self.link = Some(link);
        self
    }

    /// Before the calls that end now may be tried again: not here.
    pub(super) fn refuse(&self) {
        if let Some(link) = &self.link {
            link.drains.store(self.drains, Ordering::Release);
            link.refuses.store(true, Ordering::Release);
        }
    }

    /// The peer's Hello came: before the answers behind it end calls, so that the next ones know.
    pub(super) fn tell_limit(&self) {
        if let Some(link) = &self.link {
            link.max_body.store(self.peer_max_body.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Brings the link up to date, and tells the observer what is new. Costs little if nothing is.
    #[inline]
    pub fn tell(&mut self, now: Instant) {
        let ended = !self.is_open();
        let told = Told {
            refuses: !self.takes_calls(),
            opened: self.opened,
            failed: ended && !self.opened && !self.left_early,
            drains: self.drains,
            silent: self.silent && !ended,
            pongs: self.pongs,
        };
        if told != self.told {
            let was = std::mem::replace(&mut self.told, told);
            if let Some(link) = &self.link {
                if told.opened && !was.opened {
                    // Once a connection.
                    let _ = link.opened_at.set(now);
                }
                link.tell(was, told, ended, now);
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (takes_calls, was_open) = (self.takes_calls(), self.was_open());
        f.debug_struct("Link").field("takes_calls", &takes_calls).field("was_open", &was_open).finish()
    }
}
