//! One connection of a reactor: the socket, what is known of its readiness, the state machine.

use std::{
    io::{self, ErrorKind, IoSlice, Read},
    mem,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::Instant,
};

use mio::{Interest, Registry, Token, event::Event, net::TcpStream};
use rustix::{
    buffer::spare_capacity,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg},
};

use super::{
    Accept,
    handle::Place,
    reset,
    turn::{READ_BYTES, Turn},
};
use crate::{
    connection::{Command, ConnId, Connection, Intent, SmallAddr},
    wire::buf::PIECES,
};

pub(super) struct Slot {
    pub(super) id: ConnId,
    pub(super) stream: TcpStream,
    pub(super) connection: Box<dyn Connection>,
    pub(super) peer: SmallAddr,
    /// Who accepted it; none for an outgoing connection.
    pub(super) accept: Option<Arc<dyn Accept>>,
    input: Input,
    out: Out,
    /// The peer's end was announced. A short read then says nothing: the end may lie behind it.
    ending: bool,
    /// An error was announced, and not seen yet.
    failed: bool,
    pub(super) queued: bool,
    watch: Watch,
    /// The connection's valid entry among the timers.
    pub(super) timer: Option<Instant>,
    place: Place,
}

/// The direction in. The socket is registered once, edge-triggered: `Ready` ends only when it is
/// known to be empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Empty,
    Ready,
    Eof,
}

/// The direction out, likewise.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Out {
    Connecting,
    Full,
    Ready,
    ShutDown,
    /// Writing failed, which took the socket's error away: an end of the input is no proper end.
    Broken,
}

/// Whether the reactor is told of what happens on the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    /// Not yet. Who was just accepted is read from first, and may have its answer by then.
    New,
    On,
    /// No longer. It lingers: the FIN that it waits for is looked for in later turns, and wakes nobody.
    Off,
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
        (stream, peer): (TcpStream, SocketAddr),
        connection: Box<dyn Connection>,
        accept: Option<Arc<dyn Accept>>,
        place: Place,
    ) -> Self {
        let connected = accept.is_some();
        Self {
            id,
            stream,
            connection,
            peer: peer.into(),
            accept,
            // Who connects mostly writes at once: by now its request is there.
            input: if connected { Input::Ready } else { Input::Empty },
            out: if connected { Out::Ready } else { Out::Connecting },
            ending: false,
            failed: false,
            queued: false,
            watch: Watch::New,
            timer: None,
            place,
        }
    }

    /// Whether its stream comes from an acceptor.
    pub(super) fn is_accepted(&self) -> bool {
        self.place.visit.is_some()
    }

    /// Has `registry` tell of what happens on the socket from now on, and of what happened already.
    pub(super) fn watch(&mut self, registry: &Registry) -> io::Result<()> {
        // One that lingers may have been named twice.
        if self.watch != Watch::New {
            return Ok(());
        }
        self.watch = Watch::On;
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut self.stream, Token(self.id.0 as usize), both)
    }

    /// Whether all that it waits for is the peer's FIN, for a short time, while others have room enough.
    pub(super) fn may_linger(&self) -> bool {
        self.watch != Watch::Off && self.out == Out::ShutDown && self.timer.is_some() && self.place.roomy
    }

    /// Has `registry` tell of nothing more.
    pub(super) fn linger(&mut self, registry: &Registry) -> io::Result<()> {
        self.place.leave();
        match mem::replace(&mut self.watch, Watch::Off) {
            Watch::On => registry.deregister(&mut self.stream),
            Watch::New | Watch::Off => Ok(()),
        }
    }

    /// Makes it one to be watched again.
    pub(super) fn hurry(&mut self) {
        self.watch = Watch::New;
    }

    /// Looks for what came while nobody was told.
    pub(super) fn look(&mut self, turn: &mut Turn) -> Result<(), End> {
        // Behind the bytes of a short read the FIN may lie, of which nobody tells.
        (self.input, self.ending) = (Input::Ready, true);
        self.take_in(turn)?;
        self.send_out(turn)
    }

    /// Remembers what an event says. It is a hint; only reading and writing tell.
    pub(super) fn note(&mut self, event: &Event) {
        self.failed |= event.is_error();
        self.ending |= event.is_read_closed() || self.failed;
        if self.input == Input::Empty && (event.is_readable() || self.ending) {
            self.input = Input::Ready;
        }
        if self.out == Out::Full && (event.is_writable() || event.is_write_closed()) {
            self.out = Out::Ready;
        }
    }

    pub(super) fn post<'a>(&mut self, posts: impl Iterator<Item = (Command, &'a [u8])>, turn: &mut Turn) {
        turn.lend(self.connection.output());
        for (command, bytes) in posts {
            self.connection.post(command, bytes, turn.now);
        }
        turn.touch(self);
    }

    /// Has the close that follows be a reset where an end without a word would pass for an answer.
    pub(super) fn cut(&mut self, now: Instant) {
        if self.accept.is_some() {
            self.connection.post(Command::Close("the reactor has stopped"), &[], now);
        }
        if self.connection.intent() == Intent::Reset {
            reset(&self.stream);
        }
    }

    /// The entry for `at` came up. The connection may want a later time by now, or an earlier
    /// entry was added, in which case this one counts no more.
    pub(super) fn timeout(&mut self, at: Instant, turn: &mut Turn) -> Result<(), End> {
        if self.timer == Some(at) {
            if self.watch == Watch::Off {
                // To close with unread input would be to reset.
                self.look(turn)?;
                self.read(1024, usize::MAX, turn)?;
            }
            self.timer = None;
            if self.connection.next_timeout().is_some_and(|at| at <= turn.now) {
                turn.lend(self.connection.output());
                self.connection.timeout(turn.now);
            }
            turn.touch(self);
        }
        Ok(())
    }

    /// Does what the socket allows and the connection wants: connects, reads up to the budget. `send_out` must follow.
    pub(super) fn take_in(&mut self, turn: &mut Turn) -> Result<(), End> {
        turn.lend(self.connection.output());
        if self.out == Out::Connecting {
            self.finish_connect(turn.now)?;
        }
        self.read(READS, READ_BYTES, turn)?;
        if self.failed && !self.may_read() {
            // Nobody reads up to the error, so it is looked for here: a peer that reset the
            // connection must not pass for alive while its requests wait.
            self.failed = false;
            self.stream.take_error()?.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// How many bytes are to be written.
    pub(super) fn waiting(&mut self) -> usize {
        self.connection.output().len()
    }

    /// Writes all that came of reading and of posts, carries out the intent.
    pub(super) fn send_out(&mut self, turn: &mut Turn) -> Result<(), End> {
        self.queued = false;
        if let Err(error) = self.write(turn.now) {
            // The peer may have answered and closed without reading everything: what it said is
            // taken out first. On a dead socket that comes to an end.
            self.out = Out::Broken;
            self.ending = true;
            if self.input == Input::Empty {
                self.input = Input::Ready;
            }
            self.read(1024, usize::MAX, turn)?;
            return Err(End::Lost(error));
        }
        self.carry_out_intent()?;
        let output = self.connection.output();
        turn.keep(output);
        let may_write = self.out == Out::Ready && !output.is_empty();
        let wanted = self.connection.next_timeout();
        turn.timers.schedule(self.id, &mut self.timer, wanted);
        if self.watch == Watch::New || self.may_linger() {
            turn.rewatch.push(self.id);
        }
        if may_write || self.may_read() {
            turn.touch(self);
        }
        Ok(())
    }

    fn finish_connect(&mut self, now: Instant) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)?;
        match self.stream.peer_addr() {
            // Without a listener a port of the ephemeral range may meet itself.
            Ok(peer) if self.stream.local_addr()? == peer => Err(ErrorKind::ConnectionRefused.into()),
            Ok(_) => {
                self.out = Out::Ready;
                self.connection.connected(now);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn may_read(&self) -> bool {
        self.input == Input::Ready
            && self.out != Out::Connecting
            && self.connection.wants_read()
            && matches!(self.connection.intent(), Intent::Open | Intent::ShutDown)
    }

    fn read(&mut self, reads: usize, mut budget: usize, turn: &mut Turn) -> io::Result<()> {
        let mut rest = false;
        for _ in 0..reads {
            // The rest of a large frame comes with its beginning.
            if !self.may_read() || (budget == 0 && (rest || self.connection.room().is_none())) {
                break;
            }
            rest = budget == 0;
            let (connection, scratch) = (&mut self.connection, &mut turn.scratch);
            let (read, room, own) = match connection.room() {
                Some(room) => {
                    let spare = room.capacity() - room.len();
                    let read = recv(&self.stream, spare_capacity(room), RecvFlags::empty());
                    (read.map_err(io::Error::from).map(|(n, _)| n), spare, true)
                }
                None => (self.stream.read(scratch), scratch.len(), false),
            };
            match read {
                Ok(0) => {
                    self.input = Input::Eof;
                    if self.out != Out::Broken {
                        connection.eof(turn.now);
                    }
                }
                Ok(n) => {
                    budget = budget.saturating_sub(n);
                    if n < room && !self.ending {
                        self.input = Input::Empty;
                    }
                    connection.receive(if own { &[] } else { &scratch[..n] }, turn.now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.input = Input::Empty,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        // `written` may make more output; whoever always does must let others have their turn.
        for _ in 0..WRITES {
            if self.out != Out::Ready || self.connection.output().is_empty() {
                break;
            }
            let flags = match self.connection.intent() {
                Intent::Reset => break,
                // The FIN that follows at once takes these bytes along: one segment, one wake-up of the peer.
                #[cfg(target_os = "linux")]
                Intent::ShutDown => SendFlags::NOSIGNAL | SendFlags::MORE,
                _ => SendFlags::NOSIGNAL,
            };
            let output = self.connection.output();
            let sent = if output.pending().len() == output.len() {
                send(&self.stream, output.pending(), flags)
            } else {
                let pieces = &mut [IoSlice::new(&[]); PIECES];
                sendmsg(&self.stream, output.gather(pieces), &mut SendAncillaryBuffer::default(), flags)
            };
            match sent.map_err(io::Error::from) {
                Ok(n) => {
                    output.advance(n);
                    self.connection.written(now);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.out = Out::Full,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn carry_out_intent(&mut self) -> Result<(), End> {
        let intent = self.connection.intent();
        if self.out == Out::ShutDown {
            self.connection.output().clear();
        }
        if intent == Intent::Reset {
            reset(&self.stream);
            return Err(End::Closed);
        }
        if !self.connection.output().is_empty() {
            return Ok(());
        }
        match intent {
            Intent::ShutDown if matches!(self.out, Out::Full | Out::Ready) => {
                self.stream.shutdown(Shutdown::Write)?;
                self.out = Out::ShutDown;
            }
            Intent::Close => return Err(End::Closed),
            Intent::Open | Intent::ShutDown | Intent::Reset => {}
        }
        Ok(())
    }
}

const READS: usize = 16;
const WRITES: usize = 16;
