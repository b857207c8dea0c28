//! Blocking calls: the calling thread drives a connection itself, which spares the hop to a reactor.

use std::{
    cell::{Cell, RefCell},
    io::{self, ErrorKind, IoSlice},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use protobuf::MessageDyn;
use rustix::{
    buffer::spare_capacity,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg},
};
use socket2::SockRef;

use super::{
    Attempts, Failed,
    dial::dial,
    encode::{self, Head, Payload},
    peer::{Peer, random},
};
use crate::{
    connection::{
        CancelToken, Intent, ReplyExtras,
        call::{Failure, Outcome},
        client::{ClientConnection, ClientSettings, Start, is_of_the_peer},
        links,
    },
    error::Ran,
    rpc_channel::{Call, extras},
    status::Status,
    wire::{Wire, buf::PIECES},
};

/// Makes one attempt of a call at `peer`, on a connection of its pool or a new one. Says when it ended.
pub(super) fn call(
    peer: &Peer,
    settings: &Arc<ClientSettings>,
    call: &Call<'_>,
    (attempts, now): (&mut Attempts, Instant),
    response: &mut dyn MessageDyn,
) -> (Result<ReplyExtras, Failed>, Instant) {
    if !peer.health.is_up() {
        peer.discard_idle(now);
    }
    while let Some(mut connection) = peer.take_idle() {
        if connection.is_alive(now) {
            let result = connection.call(call, attempts, response);
            // Only a connection that ended meanwhile says nothing about the peer.
            let (stale, end) = (!connection.conn.takes_calls(), connection.now);
            let result = finish(peer, connection, call, result);
            return (result.map_err(|failure| Failed { failure, stale }), end);
        }
    }
    let fresh = |failure| Failed { failure, stale: false };
    match Blocking::connect(peer, settings, attempts) {
        Err(failure) => (Err(fresh(failure)), Instant::now()),
        Ok(mut connection) => {
            let result = connection.call(call, attempts, response);
            let end = connection.now;
            (finish(peer, connection, call, result).map_err(fresh), end)
        }
    }
}

fn finish(
    peer: &Peer,
    mut connection: Box<Blocking>,
    call: &Call<'_>,
    result: Result<ReplyExtras, Failure>,
) -> Result<ReplyExtras, Failure> {
    connection.conn.tell(connection.now);
    // A token's hook may still be about to shut this socket down, which must not hit the next call.
    let cancelled = call.options.given().cancel.as_ref().is_some_and(CancelToken::is_cancelled);
    if connection.conn.intent() == Intent::Reset {
        // All that tells a legacy callee that its answer is no longer wanted. Fails only on a dead socket.
        let _ = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
    } else if connection.conn.is_idle() && !cancelled {
        peer.give_back(connection);
    }
    result
}

/// A connection that one thread at a time uses, for one call at a time.
pub(super) struct Blocking {
    stream: TcpStream,
    conn: ClientConnection<()>,
    /// What the socket's time-outs are set to.
    reads: Duration,
    writes: Duration,
    /// When the clock was last read.
    now: Instant,
}

/// Where the end of the running call goes.
struct Ending<'a> {
    response: &'a mut dyn MessageDyn,
    result: Option<Result<ReplyExtras, Failure>>,
}

impl Blocking {
    fn connect(
        peer: &Peer,
        settings: &Arc<ClientSettings>,
        attempts: &mut Attempts,
    ) -> Result<Box<Self>, Failure> {
        let began = Instant::now();
        attempts.marks = [Some(began), Some(began), None];
        let left = attempts.deadline.saturating_duration_since(began);
        let patience = settings.connect_timeout.min(left);
        let did_not_run = |status| Failure { ran: Ran::No, status };
        if patience.is_zero() {
            return Err(did_not_run(Status::deadline_exceeded("no time was left to connect")));
        }
        let connected = |stream: TcpStream| {
            stream.set_nodelay(true)?;
            // As reactors do it: a peer that vanished must not keep what was sent for minutes.
            // On the legacy wire the connection ends with the call, which may have to end before that.
            #[cfg(target_os = "linux")]
            if peer.wire == Wire::Mux || left > settings.request_timeout {
                SockRef::from(&stream).set_tcp_user_timeout(Some(settings.request_timeout))?;
            }
            Ok(stream)
        };
        let stream = dial(peer.addr, patience, began).and_then(connected).map_err(|error| {
            if error.kind() == ErrorKind::TimedOut && patience == left {
                return did_not_run(Status::deadline_exceeded("the deadline passed while connecting"));
            }
            if is_of_the_peer(&error) {
                peer.health.connect_failed(Instant::now(), random());
            }
            did_not_run(Status::unavailable(format!("cannot connect: {error}")))
        })?;
        let mut conn = ClientConnection::new(peer.wire, settings.clone(), began).linked(peer.link());
        conn.connected();
        Ok(Box::new(Self { stream, conn, reads: Duration::ZERO, writes: patience, now: began }))
    }

    fn call(
        &mut self,
        call: &Call<'_>,
        attempts: &mut Attempts,
        response: &mut dyn MessageDyn,
    ) -> Result<ReplyExtras, Failure> {
        let token = call.options.given().cancel.as_ref();
        // Ends the read below from another thread; writing is still possible then.
        let _guard = match token {
            None => None,
            Some(token) => {
                let stream = self.stream.try_clone().map_err(|error| Failure {
                    ran: Ran::No,
                    status: Status::internal(format!("cannot make the call cancellable: {error}")),
                })?;
                Some(token.guard(move || drop(stream.shutdown(Shutdown::Read))))
            }
        };
        let mut ending = Ending { response, result: None };
        encode::check_peer(attempts.size, self.conn.peer_max_body())?;
        self.now = Instant::now();
        if attempts.marks[0].is_none() {
            attempts.marks = [Some(self.now); 3];
        }
        attempts.marks[2] = Some(self.now);
        let wire = self.conn.wire();
        let head = Head {
            method: call.method,
            remaining: attempts.deadline.saturating_duration_since(self.now),
            metadata: &call.options.given().metadata,
            attachment: &call.options.given().attachment,
        };
        let start = Start {
            tag: TAG,
            deadline: attempts.patience(wire),
            empty_ok: call.method.empty_response,
            done: (),
        };
        let fields = encode::fields(call.request, attempts.size, wire);
        self.conn.start_in(
            start,
            |(), id, output| match &fields {
                None => {
                    encode::request(output.buffer(), wire, id, &head, &Payload::Message(call.request));
                }
                Some(fields) => {
                    let (mut frame, links) = (Vec::new(), Cell::default());
                    let payload = Payload::Linked(call.request, fields, &links);
                    encode::request(&mut frame, wire, id, &head, &payload);
                    links::finish(frame, &links.take()).into_iter().for_each(|piece| output.share(piece));
                }
            },
            &mut |(), outcome| ending.end(outcome),
        );
        self.conn.expect(self.now);
        loop {
            self.flush(&mut ending);
            if let Some(result) = ending.result.take() {
                return result;
            }
            let cancelled = || token.is_some_and(CancelToken::is_cancelled);
            self.step(&mut ending, &cancelled);
        }
    }

    /// How long to wait until the connection has to know the time.
    fn wait(&self) -> Duration {
        let until = self.conn.next_timeout();
        until.map_or(LONGEST_WAIT, |until| until.saturating_duration_since(self.now))
    }

    fn timeout(&mut self, ending: &mut Ending<'_>) {
        self.now = Instant::now();
        self.conn.timeout(self.now, &mut |(), outcome| ending.end(outcome));
    }

    /// Waits for bytes or for time to pass, and lets the connection have them.
    fn step(&mut self, ending: &mut Ending<'_>, cancelled: &dyn Fn() -> bool) {
        let wait = self.wait();
        if wait.is_zero() {
            self.timeout(ending);
            // While this thread waits on, others should know that the peer is silent.
            return self.conn.tell(self.now);
        }
        let patient = be_patient(&mut self.reads, wait, |wait| self.stream.set_read_timeout(wait));
        let read = patient.and_then(|()| self.read(ending));
        let sink = &mut |(), outcome: Outcome<'_>| ending.end(outcome);
        match read {
            // The token's hook ended the reading. Writing still works, so the server is told.
            Ok(0) if cancelled() => self.conn.cancel(TAG, sink),
            Ok(0) => self.conn.eof(sink),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => self.conn.lost(&error, sink),
        }
    }

    fn read(&mut self, ending: &mut Ending<'_>) -> io::Result<usize> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ_SIZE, 0);
            let flags = RecvFlags::empty();
            let (read, own) = match self.conn.room() {
                Some(room) => (recv(&self.stream, spare_capacity(room), flags).map(|(n, _)| n), true),
                None => (recv(&self.stream, &mut buffer[..], flags).map(|(_, n)| n), false),
            };
            self.now = Instant::now();
            let n = read?;
            if n > 0 {
                let bytes = if own { &[] } else { &buffer[..n] };
                self.conn.receive(bytes, self.now, &mut |(), outcome| ending.end(outcome));
            }
            Ok(n)
        })
    }

    /// Writes all that waits; once the call has ended, only what the socket takes without waiting.
    fn flush(&mut self, ending: &mut Ending<'_>) {
        // Little fits into the socket, which then needs no time-out.
        let mut waits = self.conn.output().len() > AT_ONCE;
        while !self.conn.output().is_empty() {
            let ended = ending.result.is_some();
            let written = if waits && !ended { self.write_in_time(ending) } else { self.write_now() };
            match written {
                Ok(()) => {}
                // What stays makes the connection unfit for the pool.
                Err(_) if ended => return,
                Err(error) if is_timeout(&error) => waits = true,
                Err(error) => {
                    // The peer may have answered, or said why, before it closed. The failed write
                    // took the socket's error, so that the end looks like a FIN here: it is none.
                    let _ = self.take_buffered(ending);
                    return self.conn.lost(&error, &mut |(), outcome| ending.end(outcome));
                }
            }
        }
    }

    fn write_in_time(&mut self, ending: &mut Ending<'_>) -> io::Result<()> {
        let wait = self.wait();
        if wait.is_zero() {
            self.timeout(ending);
            return Ok(());
        }
        be_patient(&mut self.writes, wait, |wait| self.stream.set_write_timeout(wait))?;
        let pieces = &mut [IoSlice::new(&[]); PIECES];
        let pieces = self.conn.output().gather(pieces);
        let none = &mut SendAncillaryBuffer::default();
        let written = sendmsg(&self.stream, pieces, none, SendFlags::NOSIGNAL);
        self.now = Instant::now();
        self.conn.output().advance(written?);
        Ok(())
    }

    /// Writes what the socket takes at once.
    fn write_now(&mut self) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let n = send(&self.stream, self.conn.output().pending(), flags)?;
        self.conn.output().advance(n);
        Ok(())
    }

    /// Whether the connection, after some time in the pool, is as good as new.
    fn is_alive(&mut self, now: Instant) -> bool {
        self.now = now;
        let mut nobody = Nothing::default();
        let mut ending = Ending { response: &mut nobody, result: None };
        let alive = self.take_buffered(&mut ending).is_ok();
        if !self.conn.output().is_empty() {
            // What stays makes it not idle.
            let _ = self.write_now();
        }
        self.conn.tell(now);
        alive && self.conn.is_idle() && !self.conn.is_in_doubt()
    }

    /// Hands over what lies in the socket, without waiting. The end of the stream is an error here.
    fn take_buffered(&mut self, ending: &mut Ending<'_>) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ_SIZE, 0);
            for _ in 0..MAX_ROUNDS {
                match recv(&self.stream, &mut buffer[..], RecvFlags::DONTWAIT).map_err(io::Error::from) {
                    Ok((_, 0)) => return Err(ErrorKind::UnexpectedEof.into()),
                    Ok((_, n)) => {
                        let sink = &mut |(), outcome: Outcome<'_>| ending.end(outcome);
                        self.conn.receive(&buffer[..n], self.now, sink);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            Err(io::Error::other("the peer talks on and on"))
        })
    }
}

impl Ending<'_> {
    fn end(&mut self, outcome: Outcome<'_>) {
        self.result = Some(outcome.and_then(|received| {
            received.body.parse_into(self.response).map_err(|error| Failure {
                ran: Ran::Maybe,
                status: Status::internal(format!("the response cannot be parsed: {error}")),
            })?;
            Ok(extras(&received))
        }));
    }
}

/// Sets one of the socket's time-outs to about `wait`; near enough is left alone, for a system call.
/// One that is too short only has the waiting begin anew.
fn be_patient(
    has: &mut Duration,
    wait: Duration,
    set: impl FnOnce(Option<Duration>) -> io::Result<()>,
) -> io::Result<()> {
    if *has > wait + TOLERANCE || *has < wait.min(LONGEST_WAIT) / 2 {
        set(Some(wait))?;
        *has = wait;
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

thread_local! {
    /// One for each thread that calls, whatever the number of its connections.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The message of no call: what `is_alive` parses into nothing.
type Nothing = protobuf::well_known_types::empty::Empty;

/// The only call there is at a time.
const TAG: u64 = 1;
const READ_SIZE: usize = 64 * 1024;
/// More than this is written in the expectation that the peer has to take some of it first.
const AT_ONCE: usize = 16 * 1024;
/// Reads for what waits in a socket before the connection is given up as babbling.
const MAX_ROUNDS: usize = 64;
/// How much later than asked a wait may end.
const TOLERANCE: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
