//! How a blocking caller connects: within a limit, with few system calls.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::connect};
use socket2::{Domain, Socket, Type};

/// Connects within `limit` of `began`; that is then the time-out for writing, too.
pub(super) fn dial(addr: SocketAddr, limit: Duration, began: Instant) -> io::Result<TcpStream> {
    if !cfg!(target_os = "linux") {
        let stream = TcpStream::connect_timeout(&addr, limit)?;
        return stream.set_write_timeout(Some(limit)).map(|()| stream);
    }
    let stream = TcpStream::from(Socket::new(Domain::for_address(addr), Type::STREAM, None)?);
    // To Linux it is also how long a connect may wait, which spares polling for its end.
    stream.set_write_timeout(Some(limit))?;
    loop {
        match connect(&stream, &addr) {
            Ok(()) => return Ok(stream),
            // A signal broke off the waiting, not the connecting.
            Err(Errno::INTR) if began.elapsed() < limit => {
                stream.set_write_timeout(Some(limit.saturating_sub(began.elapsed()).max(SHORTEST_WAIT)))?;
            }
            Err(Errno::INTR | Errno::INPROGRESS | Errno::ALREADY) => {
                return Err(io::Error::new(ErrorKind::TimedOut, "connection timed out"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

const SHORTEST_WAIT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_that_nobody_answers_ends_in_time() {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
        listener.listen(0).expect("a listener");
        let addr = listener.local_addr().ok().and_then(|addr| addr.as_socket()).expect("bound");
        let limit = Duration::from_millis(100);
        // Some find room in the backlog.
        let mut held = Vec::new();
        let (error, took) = loop {
            let began = Instant::now();
            match dial(addr, limit, began) {
                Ok(stream) => held.push(stream),
                Err(error) => break (error, began.elapsed()),
            }
            assert!(held.len() < 20, "a backlog of none is never full");
        };
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::TimedOut, "connection timed out"));
        assert!(took >= limit && took < limit + Duration::from_secs(1), "{took:?}");
        drop(listener);
        let refused = dial(addr, limit, Instant::now()).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}
