//! Finding a server that serves, before the crate is let loose on it.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use super::{random, session::backoff};

/// All addresses of the hosts in random order, the first of them one that serves: the crate waits
/// for its first address for ever.
pub(super) fn live_first(hosts: &[String]) -> Result<Vec<SocketAddr>, String> {
    let found = hosts.iter().filter_map(|host| host.to_socket_addrs().ok());
    let mut addrs: Vec<_> = found.flatten().collect();
    addrs.sort_by_cached_key(|_| random());
    let mut trouble = "the name does not resolve".to_owned();
    for i in 0..addrs.len() {
        let Err(error) = serves(&addrs[i]) else {
            addrs.swap(0, i);
            return Ok(addrs);
        };
        trouble = error.to_string();
    }
    Err(trouble)
}

/// Keeps the crate's I/O thread from dialling without pause: it tells its listener before it
/// reconnects, and waits for it. Returns when a host serves, or when the session's time is over,
/// so that the handle ends. `last` is when this last ended, or the handle joined, and the failures then.
pub(super) fn park(hosts: &[SocketAddr], timeout: Duration, last: (Instant, u32)) -> (Instant, u32) {
    let start = Instant::now();
    let again = start - last.0 < Duration::from_secs(3);
    let mut failures = if again { last.1 + 1 } else { 0 };
    loop {
        if failures > 0 {
            // Short, because the session lives only if it is found again in time.
            thread::sleep(backoff(failures.min(3), random()));
        }
        let over = start.elapsed() > timeout + Duration::from_secs(1);
        if over || hosts.iter().any(|host| serves(host).is_ok()) {
            return (Instant::now(), failures);
        }
        failures += 1;
    }
}

/// Whether a ZooKeeper serves there: one without a quorum accepts connections and serves nobody.
fn serves(addr: &SocketAddr) -> io::Result<()> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(addr, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"srvr")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).map_err(|error| match error.kind() {
        // As Linux says that the time is over, which nobody understands.
        io::ErrorKind::WouldBlock => io::Error::other("it does not answer"),
        _ => error,
    })?;
    let answer = String::from_utf8_lossy(&answer);
    // A server that may not answer this question is up.
    let up = answer.contains("Mode: ") || answer.contains("whitelist");
    up.then_some(()).ok_or_else(|| io::Error::other("it serves nobody (no quorum, or no ZooKeeper)"))
}
