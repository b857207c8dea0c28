//! From bytes to frames: what is complete is acted on, the rest waits in the inbox.

use std::time::Instant;

use bytes::Bytes;

use super::{Phase, ServerConnection};
use crate::wire::{
    buf::{Inbox, NOTHING},
    decoder::{Sniff, sniff},
    mux::Header,
};

/// How far a look at the bytes got.
pub(super) enum Progress {
    /// This many bytes were used; look again.
    Used(usize),
    /// More bytes are needed.
    Wait,
    /// A call has to end first.
    Blocked,
}

impl ServerConnection {
    /// Acts on what is complete in `bytes` and returns how much that was. Answers given meanwhile
    /// are encoded straight into the output. If `whole` is not empty, `bytes` lie in it, and large
    /// bodies share it.
    pub(super) fn parse(&mut self, bytes: &[u8], whole: &Bytes, now: Instant) -> usize {
        self.lend();
        let mut used = 0;
        self.blocked = false;
        for frames in 1_u32.. {
            // Answers' bytes count towards `max_output` only once they are taken over.
            if frames.is_multiple_of(RECLAIM_EVERY) {
                self.reclaim();
                self.lend();
            }
            used += self.skip(bytes.len() - used);
            let rest = &bytes[used..];
            let progress = match self.phase {
                Phase::Linger(_) | Phase::Reset | Phase::Closed => break,
                _ if !self.may_write() => Progress::Blocked,
                Phase::Sniff => self.sniff(rest),
                Phase::Mux(_) => self.mux_frame(rest, whole, now),
                Phase::Legacy(dialect) => self.legacy_request(dialect, rest, now),
            };
            match progress {
                Progress::Used(n) => {
                    used += n;
                    if n > 0 && self.to_skip() == 0 {
                        self.watch.frame_complete();
                    }
                }
                Progress::Wait => break,
                Progress::Blocked if self.reclaim() => self.lend(),
                Progress::Blocked => {
                    self.blocked = true;
                    break;
                }
            }
        }
        self.reclaim();
        used
    }

    /// Parses what waits in the inbox: more bytes came, or the reason to wait is gone.
    pub(super) fn parse_inbox(&mut self, now: Instant) {
        let mut inbox = std::mem::take(&mut self.inbox);
        let mux = matches!(self.phase, Phase::Mux(_)) && self.to_skip() == 0;
        let large = Header::large(inbox.as_slice()).filter(|total| mux && *total <= inbox.len());
        if large.is_some() {
            let bytes = inbox.freeze();
            let used = self.parse(&bytes, &bytes, now);
            inbox = Inbox::thaw(bytes, used);
        } else {
            let used = self.parse(inbox.as_slice(), &NOTHING, now);
            inbox.consume(used);
        }
        if self.is_open() {
            self.inbox = inbox;
        }
    }

    /// Drops the bytes of a refused frame that are among the next `n`.
    fn skip(&mut self, n: usize) -> usize {
        let Some(rare) = &mut self.rare else { return 0 };
        let dropped = rare.skip.min(n as u64);
        rare.skip -= dropped;
        if dropped > 0 && rare.skip == 0 {
            self.watch.frame_complete();
        }
        dropped as usize
    }

    /// From here on inline handlers answer new calls into the mailbox's own buffer.
    pub(super) fn lend(&self) {
        self.mailbox.lend(self.id, self.last_id);
    }

    /// Takes over the answers given since `lend`. Returns whether there were any.
    pub(super) fn reclaim(&mut self) -> bool {
        let Self { calls, output, mailbox, taken, .. } = self;
        match std::mem::take(&mut self.begun) {
            0 => {}
            n => mailbox.begin(n.into()),
        }
        let (mut failure, mut tokens) = (None, Vec::new());
        let any = mailbox.reclaim(output, |call, failed| {
            // Hooks of a token may own another call's ticket, which answers through the mailbox
            // when it is dropped: that must not happen in here.
            if let Some(entry) = calls.remove(call) {
                *taken -= entry.size;
                tokens.extend(entry.cancel);
                calls.tidy();
            }
            failure = Some(failed);
        });
        if let Some(failed) = failure {
            self.legacy_answered(failed);
        }
        any
    }

    fn sniff(&mut self, bytes: &[u8]) -> Progress {
        match sniff(bytes) {
            Sniff::NeedMore => return Progress::Wait,
            Sniff::Mux => self.begin_mux(),
            Sniff::Legacy(dialect) if self.settings.legacy => self.phase = Phase::Legacy(dialect),
            Sniff::Legacy(_) => {
                self.reset("the legacy wire, which is switched off here (legacy = on)");
            }
            Sniff::Http => {
                self.rare().reason = Some("an HTTP request".into());
                self.output.buffer().extend_from_slice(HTTP_404);
                self.linger();
            }
            Sniff::Unknown(what) => self.reset(what),
        }
        Progress::Used(0)
    }
}

/// Frames after which answers are taken over in the middle of a read.
const RECLAIM_EVERY: u32 = 64;

const HTTP_404: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
