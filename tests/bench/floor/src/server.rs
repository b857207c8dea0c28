//! The floor's server: one thread, one epoll instance, one write for all requests of a read.

use std::{io, net::SocketAddr};

use mio::{Events, Interest, Poll, Token, net::TcpListener};

use crate::{
    frame,
    link::{Buffers, Link},
    messages,
};

pub(crate) fn serve(addr: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(addr)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut buffers = Buffers::new();
    let mut links: Vec<Option<Link>> = Vec::new();
    let mut free = Vec::new();
    bench_load::ready();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let at = free.pop().unwrap_or(links.len());
                    poll.registry().register(
                        &mut stream,
                        Token(at),
                        Interest::READABLE | Interest::WRITABLE,
                    )?;
                    if at == links.len() {
                        links.push(None);
                    }
                    links[at] = Some(Link::new(stream));
                }
                continue;
            }
            let at = event.token().0;
            let Some(link) = &mut links[at] else { continue };
            let mut result = Ok(());
            if event.is_writable() {
                result = link.resume(&mut buffers);
            }
            if result.is_ok() && event.is_readable() {
                result = link.read(&mut buffers, |request, out| {
                    frame::put(out, request.method, request.call, |out| {
                        messages::serve(request.method, request.message, out)
                    });
                });
            }
            if result.is_err() {
                buffers.output.clear();
                links[at] = None; // closing the socket takes it out of epoll
                free.push(at);
            }
        }
    }
}

const LISTENER: Token = Token(usize::MAX);
