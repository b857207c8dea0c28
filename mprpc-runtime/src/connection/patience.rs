//! How long a connection waits for its peer: for the rest of a frame, for output to be taken, for the last FIN.

use std::time::{Duration, Instant};

use crate::wire::buf::Output;

/// How long the peer may take for its FIN after ours, and for the Pong between the two steps of a drain.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Notes since when a peer owes us something. Both sides of both wires share it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Since the first byte of a frame that is not complete.
    partial: Option<Instant>,
    /// Since output was last seen to move, and how much was out then.
    stalled: Option<(Instant, u64)>,
}

/// What a peer took too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// The rest of a frame.
    Frame,
    /// Taking our output.
    Output,
}

impl Watch {
    /// A frame is complete: the bytes behind it begin another, with time of its own.
    pub(super) fn frame_complete(&mut self) {
        self.partial = None;
    }

    /// Looks at how things stand. `partial` says whether a part of a frame is there and more of it
    /// can come: while we do not read, the peer cannot help being late.
    pub(super) fn look(&mut self, partial: bool, output: &Output, now: Instant) {
        self.partial = partial.then(|| self.partial.unwrap_or(now));
        let sent = output.sent_in_all();
        self.stalled = match self.stalled {
            _ if output.is_empty() => None,
            Some((since, before)) if before == sent => Some((since, before)),
            _ => Some((now, sent)),
        };
    }

    /// Whether a part of a frame waits for its rest.
    pub(super) fn is_partial(&self) -> bool {
        self.partial.is_some()
    }

    /// Whether output waits that the peer had the chance to take before this turn.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.stalled.is_some_and(|(since, _)| since < now)
    }

    /// When `late` will have something to say.
    pub(super) fn due(&self, limit: Duration) -> Option<Instant> {
        let stalled = self.stalled.map(|(since, _)| since);
        stalled.into_iter().chain(self.partial).min().map(|since| since + limit)
    }

    /// What the peer has owed for longer than `limit`.
    pub(super) fn late(&self, limit: Duration, now: Instant) -> Option<Late> {
        let over = |since: Instant| now >= since + limit;
        if self.stalled.is_some_and(|(since, _)| over(since)) {
            Some(Late::Output)
        } else {
            self.partial.is_some_and(over).then_some(Late::Frame)
        }
    }
}

/// Counts calls that are cancelled almost as soon as they are made. Such a caller costs much and
/// gains nothing (CVE-2023-44487, "rapid reset"); one whose calls time out cancels them later.
#[derive(Debug)]
pub(super) struct Haste {
    since: Instant,
    /// Calls above this one are younger than `since`.
    above: u64,
    cancels: u32,
}

impl Haste {
    /// Begins to count with the first cancel; how old the calls before it are is not known.
    pub(super) fn new(now: Instant, last: u64) -> Self {
        Self { since: now, above: last, cancels: 0 }
    }

    /// Notes that `call` is cancelled; `last` is the latest call. Whether that is one too many.
    pub(super) fn is_too_much(&mut self, call: u64, last: u64, now: Instant) -> bool {
        if now >= self.since + HASTE {
            *self = Self { since: now, above: last, cancels: 0 };
        }
        self.cancels += u32::from(call > self.above);
        self.cancels > MAX_HASTY
    }
}

/// A cancel within this time of its call is hasty; how many of them may come in that time.
const HASTE: Duration = Duration::from_millis(100);
const MAX_HASTY: u32 = 500;

/// The end of a connection: our FIN follows the output, and what comes is dropped until the peer's
/// FIN comes or our patience ends. Closing with unread input would reset the connection and might
/// destroy what we sent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    /// Set when our FIN goes out: a slow peer must get all of a large reply first.
    until: Option<Instant>,
    /// How many bytes may still come.
    left: u64,
}

impl Farewell {
    pub(super) fn new(max_body: u32) -> Self {
        Self { until: None, left: 4 * u64::from(max_body) }
    }

    /// Counts bytes that were dropped.
    pub(super) fn drop_bytes(&mut self, n: usize) {
        self.left = self.left.saturating_sub(n as u64);
    }

    /// Whether the connection can be closed. To be asked after whatever happens.
    pub(super) fn is_over(&mut self, eof: bool, output: &Output, now: Instant) -> bool {
        output.is_empty() && {
            let until = *self.until.get_or_insert(now + GRACE);
            eof || self.left == 0 || now >= until
        }
    }

    /// When it is over at the latest, as far as is known.
    pub(super) fn due(&self) -> Option<Instant> {
        self.until
    }
}
