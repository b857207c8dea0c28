//! The driver that each socket has: it reads, writes, keeps the timer and closes, as a reactor does.

use std::{io, time::Instant};

use mprpc_runtime::{
    connection::{Connection, Intent},
    wire::mux::{HEADER_LEN, Header, Kind},
};

use crate::{
    bug::Bug,
    ledger::Breach,
    net::Segment,
    world::{Event, World},
};

impl World {
    /// Lets `act` have the connection at a socket, then drives it.
    pub(crate) fn with(
        &mut self,
        socket: usize,
        act: impl FnOnce(&mut dyn Connection, Instant),
    ) -> Result<(), Breach> {
        let now = self.now;
        match &mut self.sockets[socket].end {
            Some(end) => act(end.conn(), now),
            None => return Ok(()),
        }
        self.turn(socket)
    }

    /// Reads, writes and closes as the connection wants it, until nothing moves.
    pub(crate) fn turn(&mut self, socket: usize) -> Result<(), Breach> {
        if self.sockets[socket].parked || self.stalled(socket).is_some() {
            return Ok(());
        }
        for _ in 0..100_000 {
            let moved = self.read(socket)? | self.write(socket)?;
            if self.sockets[socket].end.is_none() {
                return Ok(());
            }
            if !moved {
                self.set_timer(socket);
                return Ok(());
            }
        }
        Err(format!("socket {socket} never comes to rest"))
    }

    /// Hands over the next segment that has arrived, or a part of it. Returns whether it did.
    fn read(&mut self, socket: usize) -> Result<bool, Breach> {
        let (now, host) = (self.now, self.sockets[socket].host);
        let direction = usize::from(socket.is_multiple_of(2));
        if self.hosts[host].blocked[direction].is_some_and(|until| until > now) {
            return Ok(false);
        }
        let this = &mut self.sockets[socket];
        let Some(end) = &mut this.end else { return Ok(false) };
        let Some((at, segment)) = this.inbound.front_mut() else { return Ok(false) };
        if *at > now {
            return Ok(false);
        }
        match segment {
            // Comes at once, whatever was not read.
            Segment::Reset => {
                self.lose(socket, io::ErrorKind::ConnectionReset)?;
                return Ok(true);
            }
            _ if !end.conn().wants_read() => return Ok(false),
            Segment::Fin => {
                end.conn().eof(now);
                this.inbound.pop_front();
            }
            Segment::Bytes(bytes) => {
                let n = match self.rng.within(0..4) {
                    _ if this.choppy => (1 + self.rng.index(48)).min(bytes.len()),
                    0 => 1 + self.rng.index(bytes.len()),
                    _ => bytes.len(),
                };
                end.conn().receive(&bytes[..n], now);
                bytes.drain(..n);
                this.waiting -= n;
                if bytes.is_empty() {
                    this.inbound.pop_front();
                }
                self.dirty.push(socket ^ 1); // there is room again
            }
        }
        Ok(true)
    }

    /// Writes what there is room for, and ends what wants to end. Returns whether something moved.
    fn write(&mut self, socket: usize) -> Result<bool, Breach> {
        let now = self.now;
        let room = CAPACITY.saturating_sub(self.sockets[socket ^ 1].waiting);
        let this = &mut self.sockets[socket];
        let Some(end) = &mut this.end else { return Ok(false) };
        let conn = end.conn();
        if conn.intent() == Intent::Reset {
            self.close(socket, true);
            return Ok(true);
        }
        let room = if this.life > 0 { room } else { 0 }; // not connected yet
        let n = conn.output().pending().len().min(room);
        if n > 0 {
            let n = if self.rng.one_in(6) { 1 + self.rng.index(n) } else { n };
            let mut bytes = conn.output().pending()[..n].to_vec();
            conn.output().advance(n);
            conn.written(now);
            if self.bug == Some(Bug::ReusedId) && socket.is_multiple_of(2) && self.rng.one_in(50) {
                reuse_id(&mut bytes);
            }
            self.hear(socket, &bytes)?;
            self.send(socket ^ 1, Segment::Bytes(bytes));
            return Ok(true);
        }
        match conn.intent() {
            _ if !conn.output().is_empty() => Ok(false),
            Intent::ShutDown if !this.fin_sent => {
                this.fin_sent = true;
                conn.written(now); // its patience with the peer begins
                self.send(socket ^ 1, Segment::Fin);
                Ok(true)
            }
            Intent::Open | Intent::ShutDown => Ok(false),
            Intent::Close | Intent::Reset => {
                self.close(socket, false);
                Ok(true)
            }
        }
    }

    /// Sees to it that the connection at a socket gets its time-outs.
    pub(crate) fn set_timer(&mut self, socket: usize) {
        let this = &mut self.sockets[socket];
        let Some(end) = &mut this.end else { return };
        let Some(due) = end.conn().next_timeout() else { return };
        let due = due.max(self.now);
        let stale = self.bug == Some(Bug::StaleTimer);
        if this.timer.is_none_or(|at| due < at && !stale) {
            this.timer = Some(due);
            self.schedule(due, Event::Timer(socket));
        }
    }

    /// A timer event came; there may have been an earlier one for the same time-out.
    pub(crate) fn timer(&mut self, socket: usize) -> Result<(), Breach> {
        let now = self.now;
        let this = &mut self.sockets[socket];
        if this.timer.is_some_and(|at| at > now) {
            return Ok(());
        }
        this.timer = None;
        if this.parked {
            return Ok(()); // nobody looks at the time for a connection in a pool
        }
        let Some(end) = &mut this.end else { return Ok(()) };
        if end.conn().next_timeout().is_some_and(|due| due <= now) {
            end.conn().timeout(now);
            if end.conn().next_timeout().is_some_and(|due| due <= now) {
                self.spins += 1;
                if self.spins > 10_000 {
                    return Err(format!("the timer of socket {socket} spins"));
                }
            }
        }
        self.turn(socket)
    }
}

/// Gives a Request at the front of `bytes` the id of the one before.
fn reuse_id(bytes: &mut [u8]) {
    if let Ok(Some(header)) = Header::decode(bytes)
        && header.kind == Kind::Request as u8
        && header.call_id > 1
    {
        let header = Header { call_id: header.call_id - 1, ..header };
        bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    }
}

/// Bytes that the kernels hold for one direction.
const CAPACITY: usize = 16 << 10;
