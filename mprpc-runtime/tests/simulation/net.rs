//! The network: sockets in pairs, and bytes that take their time between them.

use std::{
    collections::VecDeque,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use mprpc_runtime::{
    connection::{
        Command, ConnId, Connection,
        call::Completion,
        client::{ClientConnection, Link},
        server::ServerConnection,
    },
    wire::Wire,
};

use crate::{
    ledger::Breach,
    wiretap::Wiretap,
    world::{Event, World},
};

/// The connection at one end. Both are driven alike.
pub(crate) enum End {
    Caller(Box<ClientConnection<Box<dyn Completion>>>, Arc<Link>),
    Host(Box<ServerConnection>),
}

impl End {
    pub(crate) fn conn(&mut self) -> &mut dyn Connection {
        match self {
            Self::Caller(conn, _) => &mut **conn,
            Self::Host(conn) => &mut **conn,
        }
    }
}

/// What travels to a socket.
pub(crate) enum Segment {
    Bytes(Vec<u8>),
    Fin,
    Reset,
}

/// One end of a connection. The even one of a pair is the caller's; the other is its number with the last bit turned.
pub(crate) struct Socket {
    /// None before it is accepted, and once it is closed.
    pub(crate) end: Option<End>,
    pub(crate) host: usize,
    /// The process on the host that it belongs to.
    pub(crate) life: u64,
    pub(crate) closed: bool,
    pub(crate) inbound: VecDeque<(Instant, Segment)>,
    pub(crate) waiting: usize,
    arrives_last: Instant,
    pub(crate) fin_sent: bool,
    /// When the timer event that is queued will come.
    pub(crate) timer: Option<Instant>,
    /// Lies in a pool, where nobody reads it.
    pub(crate) parked: bool,
    /// Bytes come in bits.
    pub(crate) choppy: bool,
    tap: Wiretap,
}

impl Socket {
    pub(crate) fn lose_inbound(&mut self) {
        self.inbound.clear();
        self.waiting = 0;
    }
}

impl World {
    /// A caller dials a host. Gives its socket.
    pub(crate) fn dial(&mut self, caller: usize, host: usize) -> usize {
        let socket = self.sockets.len();
        let choppy = self.rng.one_in(5);
        for _ in 0..2 {
            self.sockets.push(Socket {
                end: None,
                host,
                life: 0,
                closed: false,
                inbound: VecDeque::new(),
                waiting: 0,
                arrives_last: self.now,
                fin_sent: false,
                timer: None,
                parked: false,
                choppy,
                tap: Wiretap::default(),
            });
        }
        let link = Arc::new(Link::observed(self.callers[caller].watchers[host].clone()));
        let settings = self.callers[caller].settings.clone();
        let conn = ClientConnection::new(Wire::Mux, settings, self.now);
        self.sockets[socket].end = Some(End::Caller(Box::new(conn.linked(link.clone())), link));
        let at = self.now + self.delay(host);
        self.schedule(at, Event::Connect(socket));
        self.set_timer(socket);
        socket
    }

    /// The kernel's part of a connect: the first packet arrives.
    pub(crate) fn connect(&mut self, socket: usize) -> Result<(), Breach> {
        let host = self.sockets[socket].host;
        if self.sockets[socket].end.is_none() {
            return Ok(());
        }
        // A packet that is lost is sent again; it arrives when the way is free.
        if let Some(until) = self.hosts[host].blocked.into_iter().flatten().max().filter(|at| *at > self.now)
        {
            let at = until + self.delay(host);
            self.schedule(at, Event::Connect(socket));
            return Ok(());
        }
        if !self.hosts[host].up || !self.hosts[host].listens {
            return self.lose(socket, io::ErrorKind::ConnectionRefused);
        }
        let life = self.hosts[host].life;
        self.sockets[socket ^ 1].life = life;
        self.sockets[socket].life = life;
        self.schedule(self.now, Event::Accept(socket ^ 1));
        self.with(socket, |conn, now| conn.connected(now))
    }

    /// The process takes a connection from the kernel.
    pub(crate) fn accept(&mut self, socket: usize) -> Result<(), Breach> {
        let host = &self.hosts[self.sockets[socket].host];
        if self.sockets[socket].closed {
            return Ok(());
        }
        let peer = u16::try_from(socket).map_err(|_| "too many sockets")?;
        let mut conn = ServerConnection::new(
            ConnId(socket as u64),
            Some(([127, 0, 0, 1], peer).into()),
            host.settings.clone(),
            host.handlers.clone(),
            host.mailbox.clone(),
            self.now,
        );
        if host.drain_until.is_some() {
            conn.post(Command::Drain, &[], self.now);
        }
        self.sockets[socket].end = Some(End::Host(Box::new(conn)));
        self.turn(socket)
    }

    pub(crate) fn hear(&mut self, socket: usize, bytes: &[u8]) -> Result<(), Breach> {
        let last = self.sockets[socket ^ 1].tap.last();
        let tap = &mut self.sockets[socket].tap;
        let heard =
            if socket.is_multiple_of(2) { tap.hear_caller(bytes) } else { tap.hear_callee(bytes, last) };
        heard.map_err(|breach| format!("socket {socket}: {breach}"))
    }

    /// Sends a segment on its way to a socket.
    pub(crate) fn send(&mut self, to: usize, segment: Segment) {
        let at = self.now + self.delay(self.sockets[to].host);
        let this = &mut self.sockets[to];
        // Nothing overtakes within a connection.
        this.arrives_last = this.arrives_last.max(at);
        if let Segment::Bytes(bytes) = &segment {
            this.waiting += bytes.len();
        }
        let at = this.arrives_last;
        this.inbound.push_back((at, segment));
        self.schedule(at, Event::Arrive(to));
    }

    /// Something arrived. What comes to a closed socket is answered by a reset.
    pub(crate) fn arrive(&mut self, socket: usize) -> Result<(), Breach> {
        let this = &mut self.sockets[socket];
        if this.closed {
            let unwanted = this.inbound.iter().any(|(_, segment)| matches!(segment, Segment::Bytes(_)));
            this.inbound.clear();
            if unwanted && !self.sockets[socket ^ 1].closed {
                self.reset(socket ^ 1);
            }
            return Ok(());
        }
        self.turn(socket)
    }

    /// A reset is on its way; what was to be read there is lost when it arrives.
    pub(crate) fn reset(&mut self, to: usize) {
        self.send(to, Segment::Reset);
        let at = self.sockets[to].arrives_last;
        self.schedule(at, Event::Drop(to));
    }

    /// Makes a reset that has arrived the first thing to be read.
    pub(crate) fn drop_unread(&mut self, socket: usize) -> Result<(), Breach> {
        let now = self.now;
        let this = &mut self.sockets[socket];
        let arrived = |(at, segment): &(Instant, Segment)| *at <= now && matches!(segment, Segment::Reset);
        if let Some(at) = this.inbound.iter().position(arrived) {
            this.inbound.drain(..at);
            this.waiting = 0;
        }
        self.turn(socket)
    }

    /// The process closes a socket, or its end closes it.
    pub(crate) fn close(&mut self, socket: usize, reset: bool) {
        let now = self.now;
        let this = &mut self.sockets[socket];
        if this.closed {
            return;
        }
        (this.closed, this.parked) = (true, false);
        let (end, host) = (this.end.take(), this.host);
        let arrived = |(at, segment): &(Instant, Segment)| *at <= now && matches!(segment, Segment::Bytes(_));
        let unread = this.inbound.iter().any(arrived);
        let (fin_sent, connected) = (this.fin_sent, this.life > 0);
        this.inbound.retain(|(at, _)| *at > now);
        if connected && !self.sockets[socket ^ 1].closed {
            if reset || unread {
                self.reset(socket ^ 1);
            } else if !fin_sent {
                self.send(socket ^ 1, Segment::Fin);
            }
        }
        drop(end);
        self.exit_if_drained(host);
    }

    /// The kernel reports an error at a socket, which ends it.
    pub(crate) fn lose(&mut self, socket: usize, error: io::ErrorKind) -> Result<(), Breach> {
        let now = self.now;
        let this = &mut self.sockets[socket];
        if this.closed {
            return Ok(());
        }
        (this.closed, this.parked) = (true, false);
        this.inbound.clear();
        let host = this.host;
        if let Some(mut end) = this.end.take() {
            end.conn().lost(&error.into(), now);
        }
        self.exit_if_drained(host);
        Ok(())
    }

    /// How long the next bytes to or from the host take.
    pub(crate) fn delay(&mut self, host: usize) -> Duration {
        let slow = self.hosts[host].slow_until.is_some_and(|until| until > self.now);
        let most = self.plan.delay.as_micros() as u64 * if slow { 50 } else { 1 };
        self.rng.micros(most / 10..most.max(1) + 1)
    }
}
