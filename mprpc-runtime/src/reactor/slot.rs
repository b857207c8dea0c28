//! One connection of a reactor: the socket, what is known of its readiness, the state machine.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use mio::{event::Event, net::TcpStream};
use socket2::SockRef;

use super::{Accept, handle::Place};
use crate::connection::{ConnId, Connection, Intent};

pub(super) struct Slot {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) connection: Box<dyn Connection>,
    pub(super) peer: SocketAddr,
    /// Who accepted it; none for an outgoing connection.
    pub(super) accept: Option<Arc<dyn Accept>>,
    input: Input,
    out: Out,
    /// The peer's end was announced. A short read then says nothing: the end may lie behind it.
    ending: bool,
    /// An error was announced, and not seen yet.
    failed: bool,
    /// On the list of those with work at the next turn.
    pub(super) listed: bool,
    /// On the list of those to be settled in this turn.
    pub(super) dirty: bool,
    /// The connection's valid entry among the timers.
    pub(super) timer: Option<Instant>,
    _place: Place,
}

/// The direction in. Registered edge-triggered: `Ready` is left only when the socket is known to be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Empty,
    Ready,
    Eof,
}

/// The direction out, as above.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Out {
    Connecting,
    Full,
    Ready,
    ShutDown,
}

/// How a connection ended.
pub(super) enum End {
    Closed,
    Lost(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Slot {
    pub(super) fn new(
        id: ConnId,
        stream: TcpStream,
        peer: SocketAddr,
        connection: Box<dyn Connection>,
        accept: Option<Arc<dyn Accept>>,
        place: Place,
    ) -> Self {
        let out = if accept.is_some() { Out::Ready } else { Out::Connecting };
        Self {
            id,
            stream,
            connection,
            peer,
            accept,
            input: Input::Empty,
            out,
            ending: false,
            failed: false,
            listed: false,
            dirty: false,
            timer: None,
            _place: place,
        }
    }

    /// Sets what every stream gets. `user_timeout` is how long the peer may leave data unacknowledged.
    pub(super) fn set_options(&self, user_timeout: Duration) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        SockRef::from(&self.stream).set_tcp_user_timeout(Some(user_timeout))?;
        Ok(())
    }

    /// Remembers what an event says. It is a hint: only `read` and `write` know.
    pub(super) fn note(&mut self, event: &Event) {
        let (ended, failed) = (event.is_read_closed(), event.is_error());
        self.ending |= ended || failed;
        self.failed |= failed;
        if self.input == Input::Empty && (event.is_readable() || ended || failed) {
            self.input = Input::Ready;
        }
        if self.out == Out::Full && (event.is_writable() || event.is_write_closed() || failed) {
            self.out = Out::Ready;
        }
    }

    /// Does what the last events allow: connects, reads up to the budget of a turn.
    pub(super) fn work(&mut self, scratch: &mut [u8], now: Instant) -> io::Result<()> {
        if self.out == Out::Connecting && !self.finish_connect(now)? {
            return Ok(());
        }
        let mut bytes = 0;
        for _ in 0..READS {
            if bytes >= READ_BYTES || !self.may_read() {
                break;
            }
            bytes += self.read(scratch, now)?;
        }
        if self.failed && !self.may_read() {
            // Nobody will read up to the error, so it is looked for here: a peer that reset the
            // connection must not count as alive while its requests wait.
            self.failed = false;
            self.stream.take_error()?.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// Ends a turn: writes what there is, then carries out what the connection wants.
    pub(super) fn settle(&mut self, scratch: &mut [u8], now: Instant) -> Result<(), End> {
        if self.connection.intent() != Intent::Reset
            && let Err(error) = self.flush(now)
        {
            self.take_rest(scratch, now)?;
            return Err(End::Lost(error));
        }
        match self.connection.intent() {
            Intent::Reset => {
                // Lingering for no time makes the close a reset. It may fail only on a dead socket.
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                return Err(End::Closed);
            }
            Intent::Close if self.connection.output().is_empty() => return Err(End::Closed),
            Intent::ShutDown if self.connection.output().is_empty() => {
                if matches!(self.out, Out::Full | Out::Ready) {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.out = Out::ShutDown;
                }
            }
            Intent::Open | Intent::ShutDown | Intent::Close => {}
        }
        Ok(())
    }

    /// Whether there is something to do for which no event will come.
    pub(super) fn has_work(&mut self) -> bool {
        self.may_read() || (self.out == Out::Ready && !self.connection.output().is_empty())
    }

    fn may_read(&self) -> bool {
        self.input == Input::Ready
            && self.out != Out::Connecting
            && self.connection.wants_read()
            && matches!(self.connection.intent(), Intent::Open | Intent::ShutDown)
    }

    fn read(&mut self, scratch: &mut [u8], now: Instant) -> io::Result<usize> {
        let Self { stream, connection, .. } = self;
        let (result, size, direct) = match connection.room() {
            Some(room) if !room.is_empty() => (stream.read(room), room.len(), true),
            _ => (stream.read(scratch), scratch.len(), false),
        };
        match result {
            Ok(0) => {
                self.input = Input::Eof;
                connection.eof(now);
            }
            Ok(n) => {
                if n < size && !self.ending {
                    self.input = Input::Empty;
                }
                if direct {
                    connection.filled(n, now);
                } else {
                    connection.receive(&scratch[..n], now);
                }
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.input = Input::Empty,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(0)
    }

    fn flush(&mut self, now: Instant) -> io::Result<()> {
        // `written` may make more output; whoever always does must wait for the next turn.
        for _ in 0..WRITES {
            let output = self.connection.output();
            if self.out == Out::ShutDown {
                output.clear();
            }
            if self.out != Out::Ready || output.is_empty() {
                break;
            }
            match self.stream.write(output.pending()) {
                Ok(n) => {
                    output.advance(n);
                    self.connection.written(now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.out = Out::Full,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writing failed. What the peer said before is taken out first: it may have answered, and
    /// closed without reading everything. The socket is dead, so that comes to an end.
    fn take_rest(&mut self, scratch: &mut [u8], now: Instant) -> io::Result<()> {
        self.ending = true;
        if self.input == Input::Empty {
            self.input = Input::Ready;
        }
        for _ in 0..1024 {
            if !self.may_read() {
                break;
            }
            self.read(scratch, now)?;
        }
        Ok(())
    }

    /// Whether the connect has succeeded by now.
    fn finish_connect(&mut self, now: Instant) -> io::Result<bool> {
        self.stream.take_error()?.map_or(Ok(()), Err)?;
        match self.stream.peer_addr() {
            Ok(peer) if self.stream.local_addr()? == peer => {
                // Without a listener a port of the ephemeral range may meet itself.
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => {
                self.out = Out::Ready;
                self.connection.connected(now);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What one connection may read in one turn before others have theirs.
const READ_BYTES: usize = 64 << 10;
const READS: usize = 16;
const WRITES: usize = 16;
