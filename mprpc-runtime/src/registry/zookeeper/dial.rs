//! Dialling an address to learn who answers there, and over which interface it would be reached.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use super::claim::Answer;
use crate::wire::mux::{HEADER_LEN, Header, Hello, Kind};

/// The local address from which `host_port` is reached: what callers there may call this machine.
/// Nothing is sent. `None` if the name does not resolve or there is no route.
pub fn route_to(host_port: &str) -> Option<IpAddr> {
    host_port.to_socket_addrs().ok()?.find_map(|peer| {
        let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect(peer).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Asks who serves at `addr`, with a Hello. Takes at most a second to connect and one to answer.
pub(super) fn who_answers(addr: SocketAddr) -> Answer {
    let Ok(stream) = TcpStream::connect_timeout(&addr, LIMIT) else {
        return Answer::Nobody;
    };
    match exchange(stream) {
        Some(hello) if hello.instance != 0 => Answer::Process(hello.instance),
        _ => Answer::Stranger,
    }
}

fn exchange(mut stream: TcpStream) -> Option<Hello> {
    let deadline = Instant::now() + LIMIT;
    let hello = Hello { version: 1, ..Hello::default() };
    let mut bytes = Vec::new();
    hello.write(&mut bytes);
    stream.write_all(&bytes).ok()?; // a new socket takes as little as this
    bytes.clear();
    loop {
        if let Some(header) = Header::decode(&bytes).ok()? {
            let meta = bytes.get(HEADER_LEN..HEADER_LEN + usize::from(header.meta_len));
            match meta {
                _ if header.kind != Kind::Hello as u8 => return None,
                Some(meta) => return Hello::decode(meta).ok(),
                None => {}
            }
        }
        let left = deadline.checked_duration_since(Instant::now())?;
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).ok()?;
        let mut chunk = [0; 512];
        match stream.read(&mut chunk).ok()? {
            0 => return None,
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

const LIMIT: Duration = Duration::from_secs(1);
