//! What others know of a connection: threads that post calls to it, and who keeps the peer's health.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use super::{ClientConnection, Phase};

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
    /// A silent peer spoke again.
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
    observer: Option<Arc<dyn Observer>>,
}

/// What the observer was told.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Told {
    opened: bool,
    failed: bool,
    drains: bool,
    silent: bool,
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

    /// Brings the link up to date, and the observer what is new.
    pub fn tell(&mut self, now: Instant) {
        let Some(link) = &self.link else { return };
        link.refuses.store(!self.takes_calls(), Ordering::Release);
        link.opened.store(self.opened, Ordering::Release);
        let ended = matches!(self.phase, Phase::Linger(_) | Phase::Reset | Phase::Closed);
        let told = Told {
            opened: self.opened,
            failed: ended && !self.opened && !self.left_early,
            drains: self.drains,
            silent: self.silent,
        };
        if told == self.told {
            return;
        }
        let was = std::mem::replace(&mut self.told, told);
        let Some(observer) = &link.observer else { return };
        if told.opened && !was.opened {
            observer.opened(now);
        }
        if told.failed && !was.failed {
            observer.connect_failed(now);
        }
        if told.drains && !was.drains {
            observer.drains(now);
        }
        match (was.silent, told.silent) {
            (false, true) => observer.fell_silent(now),
            (true, false) if !ended => observer.heard(now),
            _ => {}
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (takes_calls, was_open) = (self.takes_calls(), self.was_open());
        f.debug_struct("Link").field("takes_calls", &takes_calls).field("was_open", &was_open).finish()
    }
}
