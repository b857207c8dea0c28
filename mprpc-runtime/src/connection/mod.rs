//! Connections: the state machines of one TCP connection each, without a socket, a thread or a clock.
//!
//! A driver owns the socket. It hands in what it read and what others posted, always with the
//! current time, and carries out what the connection asks for: bytes to write (`output`), an end
//! (`intent`) and the next moment to be called (`next_timeout`). Three drivers exist: the
//! reactor, the calling thread of a blocking call, and the in-memory pair of the tests.
//!
//! ```text
//!             bytes read            bytes to write
//!   driver ---------------> connection -----------> driver
//!             posts, time           intent, next_timeout
//!                                   calls -> Dispatch (server) or completions (client)
//! ```

use std::{io, time::Instant};

use crate::wire::buf::Output;

mod addr;
pub mod call;
pub mod calls;
pub mod cancel;
pub mod client;
mod lent;
pub(crate) mod links;
pub mod mailbox;
mod own;
mod patience;
pub mod quota;
pub mod server;
#[cfg(test)]
#[allow(dead_code, reason = "tests of time, closing and the legacy wire follow")]
mod tests;
mod ticket;

pub(crate) use addr::SmallAddr;
pub use call::{Body, Dispatch, Incoming, Known, Metadata};
pub use cancel::CancelToken;
pub use mailbox::{Command, Mailbox};
pub use quota::{Quota, Share};
pub use ticket::{ReplyExtras, Ticket};

/// Names a connection within its reactor. Never reused, so a late post cannot reach a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What a connection wants its driver to do once `output` is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Go on.
    Open,
    /// Send FIN, go on reading. There should be a timeout: before it, the peer's FIN is looked for now and then.
    ShutDown,
    /// Close at once; the other side has everything or is gone.
    Close,
    /// Close with a reset, at once, whatever `output` holds.
    Reset,
}

/// What a reactor drives. Implement it to speak a protocol of your own on the reactor layer.
///
/// Every method gets the driver's idea of the current time. None may block.
pub trait Connection: Send {
    /// The connect of an outgoing connection succeeded.
    fn connected(&mut self, _now: Instant) {}

    /// Bytes arrived; `bytes` is empty if they were read into `room`.
    fn receive(&mut self, bytes: &[u8], now: Instant);

    /// Where the driver can read to, behind what is there, to spare copying the rest of a large frame.
    /// There is spare capacity if this is some.
    fn room(&mut self) -> Option<&mut Vec<u8>> {
        None
    }

    /// The peer sent FIN. More bytes will not come.
    fn eof(&mut self, now: Instant);

    /// The socket is gone, by a reset or an error, or could not be connected. The last call made
    /// to a connection.
    fn lost(&mut self, error: &io::Error, now: Instant);

    /// Somebody posted `command` with `bytes`.
    fn post(&mut self, command: Command, bytes: &[u8], now: Instant);

    /// What is to be written. The driver calls `written` after it took some of it.
    fn output(&mut self) -> &mut Output;

    /// The driver wrote some or all of `output`.
    fn written(&mut self, _now: Instant) {}

    /// Whether the connection takes bytes now. While false the driver leaves them in the socket.
    fn wants_read(&self) -> bool {
        true
    }

    /// What to do once `output` is empty.
    fn intent(&self) -> Intent;

    /// When `timeout` wants to be called. May be early, may change with every call.
    fn next_timeout(&self) -> Option<Instant>;

    /// The time of `next_timeout` has come.
    fn timeout(&mut self, now: Instant);

    /// Why the connection ends, if that is worth a line in the log.
    fn reason(&self) -> Option<&str> {
        None
    }
}
