//! A host that swallows connections: its backlog is full, so that nobody answers a SYN.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, getsockname, listen, socket};

pub(crate) struct BlackHole {
    addr: SocketAddr,
    _listener: OwnedFd,
    _backlog: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn new() -> Self {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        listen(&listener, 0).expect("a listener");
        let addr = getsockname(&listener).ok().and_then(|addr| addr.try_into().ok()).expect("an address");
        let connect = || TcpStream::connect_timeout(&addr, Duration::from_millis(200)).ok();
        let backlog: Vec<_> = (0..16).map_while(|_| connect()).collect();
        assert!(backlog.len() < 16, "the backlog does not fill");
        Self { addr, _listener: listener, _backlog: backlog }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}
