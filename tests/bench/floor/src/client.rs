//! The floor's load side: one thread; all answers of a read are followed by their next requests in one write.

use std::{
    io,
    net::{self, SocketAddr},
};

use bench_load::{Job, Load, clock};
use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    frame,
    link::{Buffers, Link},
    messages,
};

pub(crate) fn load(load: &Load) -> io::Result<()> {
    let mut client = Client {
        poll: Poll::new()?,
        events: Events::with_capacity(1024),
        buffers: Buffers::new(),
        addr: load.addr,
        job: load.scenario.job,
        payload: load.scenario.job.payload(),
    };
    let opened = load.open_idle(|| client.idle().unwrap_or_else(|error| load.fail(error)));
    load.begin();
    let result = if load.scenario.per_call { client.call_by_call(load) } else { client.loops(load) };
    drop(opened);
    result.map_err(|error| load.fail(error))
}

struct Client {
    poll: Poll,
    events: Events,
    buffers: Buffers,
    addr: SocketAddr,
    job: Job,
    payload: Vec<u8>,
}

impl Client {
    /// Makes one call on a new connection.
    fn one_call(&mut self) -> io::Result<Link> {
        let mut link = Link::new(self.dial(Token(0))?);
        self.request(0);
        link.send(&mut self.buffers)?;
        let (job, payload) = (self.job, &self.payload);
        let mut right = None;
        while right.is_none() {
            self.poll.poll(&mut self.events, None)?;
            // What other, older connections have to say is of no interest.
            if self.events.iter().any(|event| event.token() == Token(0)) {
                link.read(&mut self.buffers, |answer, _| {
                    right = Some(messages::is_right(job, payload, answer.message))
                })?;
            }
        }
        if right == Some(true) { Ok(link) } else { Err(wrong()) }
    }

    fn idle(&mut self) -> io::Result<Link> {
        let mut link = self.one_call()?;
        self.poll.registry().reregister(&mut link.stream, IDLE, Interest::READABLE)?;
        Ok(link)
    }

    fn call_by_call(&mut self, load: &Load) -> io::Result<()> {
        while !load.stopped() {
            let start = clock::now();
            drop(self.one_call()?);
            load.record(start);
        }
        bench_load::park()
    }

    fn loops(&mut self, load: &Load) -> io::Result<()> {
        let (calls, connections) = (load.scenario.in_flight, load.scenario.connections);
        let mut starts = vec![clock::now(); calls * connections];
        let mut links = Vec::new();
        for at in 0..connections {
            let mut link = Link::new(self.dial(Token(at))?);
            (0..calls).for_each(|call| self.request(call as u32));
            link.send(&mut self.buffers)?;
            links.push(link);
        }
        let (job, method) = (self.job, messages::method(self.job));
        while !load.stopped() {
            self.poll.poll(&mut self.events, None)?;
            for event in &self.events {
                let at = event.token().0;
                let Some(link) = links.get_mut(at) else {
                    continue;
                };
                if event.is_writable() {
                    link.resume(&mut self.buffers)?;
                }
                if event.is_readable() {
                    let (starts, payload) = (&mut starts[at * calls..][..calls], &self.payload);
                    link.read(&mut self.buffers, |answer, out| {
                        if !messages::is_right(job, payload, answer.message) {
                            load.fail(wrong());
                        }
                        let now = clock::now();
                        load.record_at(std::mem::replace(&mut starts[answer.call as usize], now), now);
                        frame::put(out, method, answer.call, |out| messages::request(job, payload, out));
                    })?;
                }
            }
        }
        bench_load::park()
    }

    fn request(&mut self, call: u32) {
        let (job, payload) = (self.job, &self.payload);
        frame::put(&mut self.buffers.output, messages::method(job), call, |out| {
            messages::request(job, payload, out)
        });
    }

    fn dial(&self, token: Token) -> io::Result<TcpStream> {
        let stream = net::TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        self.poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(stream)
    }
}

fn wrong() -> io::Error {
    io::Error::other("a wrong answer")
}

/// Connections of which nothing is expected any more.
const IDLE: Token = Token(usize::MAX);
