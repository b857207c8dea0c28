//! Both wires by hand: frames that may be wrong, and what comes back.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use mprpc_runtime::wire::{
    Dialect, legacy,
    mux::{END, HEADER_LEN, Header, Hello, Kind, RequestMeta, ResponseMeta, finish_frame, start_frame},
};
use rustix::net::sockopt::set_socket_linger;

/// The service of `echo.proto`, as the mux wire calls it.
pub(crate) const SERVICE: &str = "mprpc.tests.EchoService";
/// The same on the legacy wire.
pub(crate) const SHORT: &str = "EchoService";

/// One connection to a provider.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    inbox: Vec<u8>,
}

/// A frame as it came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) call: u64,
    pub(crate) code: u32,
    /// The message of a failure, or the reason of a GoAway.
    pub(crate) text: String,
    pub(crate) body: Vec<u8>,
}

/// What came instead of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
    /// Nothing, in that time.
    Silence,
}

impl Peer {
    /// # Panics
    /// The provider does not accept.
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).expect("the provider accepts")
    }

    pub(crate) fn try_connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self { stream, inbox: Vec::new() })
    }

    /// A connection that has said Hello; the server's has been read.
    ///
    /// # Panics
    /// The server says something else.
    pub(crate) fn mux(addr: SocketAddr) -> Self {
        let mut peer = Self::connect(addr);
        peer.send(&hello(1));
        let first = peer.frame(LIMIT).expect("the server's Hello");
        assert_eq!(first.kind, Kind::Hello as u8);
        peer
    }

    /// Sends what the other side takes; a connection that is gone is for the reader to notice.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame, if one comes within `limit`.
    pub(crate) fn frame(&mut self, limit: Duration) -> Result<Frame, End> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(frame) = self.take_frame() {
                return Ok(frame);
            }
            self.read_some(deadline)?;
        }
    }

    /// The next Response or GoAway.
    pub(crate) fn answer(&mut self, limit: Duration) -> Result<Frame, End> {
        let deadline = Instant::now() + limit;
        loop {
            let frame = self.frame(deadline.saturating_duration_since(Instant::now()))?;
            if [Kind::Response as u8, Kind::GoAway as u8].contains(&frame.kind) {
                return Ok(frame);
            }
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self, limit: Duration) -> (Vec<u8>, End) {
        let deadline = Instant::now() + limit;
        let end = loop {
            if let Err(end) = self.read_some(deadline) {
                break end;
            }
        };
        (std::mem::take(&mut self.inbox), end)
    }

    /// Closes with a reset.
    pub(crate) fn reset(self) {
        reset(self.stream);
    }

    fn read_some(&mut self, deadline: Instant) -> Result<(), End> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(End::Silence);
        }
        let _ = self.stream.set_read_timeout(Some(left));
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(End::Fin),
            Ok(n) => {
                self.inbox.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(End::Silence),
                ErrorKind::Interrupted => Ok(()),
                _ => Err(End::Reset),
            },
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let header = Header::decode(&self.inbox).expect("the server's magic")?;
        let (meta_end, end) = (HEADER_LEN + header.meta_len as usize, header.body_len as usize);
        let bytes = self.inbox.get(..meta_end + end)?;
        let (meta, body) = (&bytes[HEADER_LEN..meta_end], bytes[meta_end..].to_vec());
        let (mut code, mut text) = (0, String::from_utf8_lossy(&body).into_owned());
        if header.kind == Kind::Response as u8 {
            let meta = ResponseMeta::decode(meta).expect("a meta of the server's");
            (code, text) = (meta.code, meta.message.to_owned());
        }
        let frame = Frame { kind: header.kind, call: header.call_id, code, text, body };
        self.inbox.drain(..meta_end + end);
        Some(frame)
    }
}

pub(crate) fn reset(stream: TcpStream) {
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
}

/// A frame of any kind, whatever it says.
pub(crate) fn raw(kind: u8, flags: u8, call: u64, meta: &[u8], body: &[u8]) -> Vec<u8> {
    let header =
        Header { kind, flags, meta_len: meta.len() as u16, body_len: body.len() as u32, call_id: call };
    [&header.encode(), meta, body].concat()
}

/// A header alone, which announces what may never come.
pub(crate) fn header(kind: Kind, call: u64, meta_len: u16, body_len: u32) -> Vec<u8> {
    Header { kind: kind as u8, flags: END, meta_len, body_len, call_id: call }.encode().to_vec()
}

pub(crate) fn hello(version: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Hello { version, instance: 42, ..Default::default() }.write(&mut bytes);
    bytes
}

pub(crate) fn request_of(call: u64, meta: &RequestMeta<'_>, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = start_frame(&mut bytes, Kind::Request, END, call, |out| meta.encode(out));
    bytes.extend_from_slice(body);
    finish_frame(&mut bytes, start);
    bytes
}

/// A request to the echo service.
pub(crate) fn request(call: u64, method: &str, body: &[u8]) -> Vec<u8> {
    request_of(call, &RequestMeta { service: SERVICE, method, ..Default::default() }, body)
}

pub(crate) fn response_of(call: u64, meta: &ResponseMeta<'_>, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = start_frame(&mut bytes, Kind::Response, END, call, |out| meta.encode(out));
    bytes.extend_from_slice(body);
    finish_frame(&mut bytes, start);
    bytes
}

pub(crate) fn control(kind: Kind, call: u64, body: &[u8]) -> Vec<u8> {
    raw(kind as u8, 0, call, &[], body)
}

/// A request of the C++ framework, little endian.
pub(crate) fn legacy(service: &str, method: &str, body: &[u8]) -> Vec<u8> {
    legacy_as(Dialect::LittleEndian, service, method, body)
}

pub(crate) fn legacy_as(dialect: Dialect, service: &str, method: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    legacy::write_request_head(&mut bytes, dialect, service, method, body.len() as u32);
    bytes.extend_from_slice(body);
    bytes
}

/// `Text { text }` and `Blob { data }`: one field of bytes, number 1.
pub(crate) fn text(text: &[u8]) -> Vec<u8> {
    [&[0x0A], &varint(text.len() as u64)[..], text].concat()
}

/// `Nap { ms }`: one varint, number 1.
pub(crate) fn nap(ms: u64) -> Vec<u8> {
    [&[0x08], &varint(ms)[..]].concat()
}

/// `Blob { reply_bytes }`.
pub(crate) fn blob_of(reply: u64) -> Vec<u8> {
    [&[0x10], &varint(reply)[..]].concat()
}

pub(crate) fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

/// Groups in groups, of a field that nobody knows.
pub(crate) fn deep(depth: usize) -> Vec<u8> {
    // Field 15: start group 0x7B, end group 0x7C.
    [vec![0x7B; depth], vec![0x7C; depth]].concat()
}

/// For an answer on loopback, on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);
