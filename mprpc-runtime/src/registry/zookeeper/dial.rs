//! Dialling an address to learn who answers there, and over which interface it would be reached.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use super::claim::Answer;
use crate::wire::mux::{HEADER_LEN, Header, Hello, Kind, VERSION};

/// The local address from which `host_port` is reached: what a provider on this machine is called
/// there. Nothing is sent. `None` if the name does not resolve or there is no route.
pub fn route_to(host_port: &str) -> Option<IpAddr> {
    host_port.to_socket_addrs().ok()?.find_map(|peer| {
        let any: SocketAddr = if peer.is_ipv4() {
            ([0; 4], 0).into()
        } else {
            ([0; 16], 0).into()
        };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(peer).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Asks who serves at `addr`, with a Hello. Takes at most about a second.
pub(super) fn who_answers(addr: SocketAddr) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(1);
    let Ok(mut stream) = TcpStream::connect_timeout(&addr, Duration::from_secs(1)) else {
        return Answer::Nobody;
    };
    match exchange(&mut stream, deadline) {
        Some(hello) if hello.instance != 0 => Answer::Process(hello.instance),
        _ => Answer::Stranger,
    }
}

fn exchange(stream: &mut TcpStream, deadline: Instant) -> Option<Hello> {
    let mut bytes = Vec::new();
    Hello {
        version: VERSION,
        ..Hello::default()
    }
    .write(&mut bytes);
    stream.set_write_timeout(Some(left(deadline)?)).ok()?;
    stream.write_all(&bytes).ok()?;
    let mut read = |n| {
        let mut bytes = vec![0; n];
        let mut at = 0;
        while at < n {
            stream.set_read_timeout(Some(left(deadline)?)).ok()?;
            match stream.read(&mut bytes[at..]).ok()? {
                0 => return None,
                k => at += k,
            }
        }
        Some(bytes)
    };
    let header = Header::decode(&read(HEADER_LEN)?).ok()??;
    let meta = read(usize::from(header.meta_len))?;
    (header.kind == Kind::Hello as u8).then(|| Hello::decode(&meta).ok())?
}

fn left(deadline: Instant) -> Option<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
}
