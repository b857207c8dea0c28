//! What a hostile client does on the legacy wire, or on none. A call that fails is answered by a reset:
//! an end without a byte would read as a message of defaults.

use std::{net::Shutdown, time::Duration};

use mprpc_runtime::wire::Dialect;

use super::{
    hostile::{Behaviour, SECRET},
    peer::{End, LIMIT, Peer, SHORT, deep, legacy, legacy_as, text},
    soak::STEADY,
};

pub(crate) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour { name: "a header of 4 GiB", run: |addr| refused(Peer::connect(addr), &[0xFF; 8]) },
    Behaviour {
        name: "a header of 4 GiB, big endian",
        run: |addr| refused(Peer::connect(addr), &[0x7F, 0xFF, 0xFF, 0xFF, 0x0A, 0, 0, 0]),
    },
    Behaviour {
        name: "a header of 0 bytes",
        run: |addr| refused(Peer::connect(addr), &[0, 0, 0, 0, 0x0A, 1, b'x']),
    },
    Behaviour {
        name: "a header of 64 KiB is announced, little of it sent",
        run: |addr| waits(Peer::connect(addr), &[0xFF, 0xFF, 0, 0, 0x0A, 4, b'E', b'c']),
    },
    Behaviour {
        name: "a header that is no RpcHeader",
        run: |addr| refused(Peer::connect(addr), &[12, 0, 0, 0, 0x0A, 99, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    },
    Behaviour {
        name: "arguments of 4 GiB",
        run: |addr| {
            let mut bytes = legacy(SHORT, "Echo", &[0; 200]);
            let at = bytes.len() - 202; // the last varint of the header: two bytes
            bytes.splice(at..at + 2, [0xFF, 0xFF, 0xFF, 0xFF, 0x0F]);
            bytes[0] += 3;
            refused(Peer::connect(addr), &bytes)
        },
    },
    Behaviour {
        name: "fewer arguments than announced, then FIN",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            let bytes = legacy(SHORT, "Echo", &text(SECRET.as_bytes()));
            peer.send(&bytes[..bytes.len() - 4]);
            peer.stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
            refused(peer, &[])
        },
    },
    Behaviour {
        name: "fewer arguments than announced, then nothing",
        run: |addr| {
            let bytes = legacy(SHORT, "Echo", &text(SECRET.as_bytes()));
            waits(Peer::connect(addr), &bytes[..bytes.len() - 4])
        },
    },
    Behaviour {
        name: "more bytes than announced",
        run: |addr| {
            let bytes = [legacy(SHORT, "Echo", &text(b"good")), vec![b'x'; 10_000]].concat();
            answered(Peer::connect(addr), &bytes, "good")
        },
    },
    Behaviour {
        name: "a service that nobody serves",
        run: |addr| refused(Peer::connect(addr), &legacy("NobodyRpc", "Echo", &[])),
    },
    Behaviour {
        name: "a method that nobody serves",
        run: |addr| refused(Peer::connect(addr), &legacy(SHORT, "Ohce", &[])),
    },
    Behaviour {
        name: "names that are paths or escapes",
        run: |addr| {
            for name in ["../../etc/passwd", "\u{1b}[2J\n12:00:00 INFO forged", "\u{202e}"] {
                refused(Peer::connect(addr), &legacy(name, "Echo", &[]))?;
                refused(Peer::connect(addr), &legacy(SHORT, name, &[]))?;
            }
            Ok(())
        },
    },
    Behaviour {
        name: "a name that is not UTF-8",
        run: |addr| refused(Peer::connect(addr), b"\x08\0\0\0\x0a\x02\xff\xfe\x12\x02ab"),
    },
    Behaviour { name: "no name at all", run: |addr| refused(Peer::connect(addr), b"\x05\0\0\0\x12\x03abc") },
    Behaviour {
        name: "arguments nested 100,000 deep",
        run: |addr| refused(Peer::connect(addr), &legacy(SHORT, "Echo", &deep(100_000))),
    },
    Behaviour {
        name: "a header nested 10,000 deep",
        run: |addr| {
            let nest = [&b"\x0a\x01x"[..], &deep(10_000)].concat();
            let bytes = [&(nest.len() as u32).to_le_bytes(), &nest[..]].concat();
            refused(Peer::connect(addr), &bytes)
        },
    },
    Behaviour {
        name: "arguments that are no message",
        run: |addr| refused(Peer::connect(addr), &legacy(SHORT, "Echo", b"\x0a\xff\xff\xff\xff\xff")),
    },
    Behaviour {
        name: "a varint length without an end",
        run: |addr| refused(Peer::connect(addr), &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]),
    },
    Behaviour {
        name: "one byte at a time, in every dialect",
        run: |addr| {
            for dialect in [Dialect::LittleEndian, Dialect::BigEndian, Dialect::Varint] {
                let mut peer = Peer::connect(addr);
                for byte in legacy_as(dialect, SHORT, "Echo", &text(b"slow")) {
                    peer.send(&[byte]);
                }
                // A varint peer expects its connection to stay.
                let (limit, end) = match dialect {
                    Dialect::Varint => (Duration::from_millis(300), End::Silence),
                    _ => (LIMIT, End::Fin),
                };
                match peer.rest(limit) {
                    (bytes, how) if is_echo(&bytes, "slow") && how == end => {}
                    other => return Err(format!("{dialect:?}: a reply expected, not {other:?}")),
                }
            }
            Ok(())
        },
    },
    Behaviour {
        name: "FIN right behind the request",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(&legacy(SHORT, "Echo", &text(b"fin")));
            peer.stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
            answered(peer, &[], "fin")
        },
    },
    Behaviour {
        name: "a hundred requests at once",
        run: |addr| {
            let bytes = legacy(SHORT, "Echo", &text(b"first")).repeat(100);
            answered(Peer::connect(addr), &bytes, "first")
        },
    },
    Behaviour {
        name: "a reset in the middle of a request",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(&legacy(SHORT, "Echo", &text(&[b'x'; 3000]))[..1500]);
            peer.reset();
            Ok(())
        },
    },
    Behaviour {
        name: "HTTP/1",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n");
            match peer.rest(LIMIT) {
                (bytes, End::Fin) if bytes.starts_with(b"HTTP/1.1 404") => Ok(()),
                other => Err(format!("404 expected, not {other:?}")),
            }
        },
    },
    Behaviour {
        name: "TLS, HTTP/2, PROXY, SSH, Krpc",
        run: |addr| {
            let beginnings: [&[u8]; 5] = [
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
                b"SSH-2.0-OpenSSH_9.2\r\n",
                b"\0\0\0\x40\0\0\0\x18\x0a\x08",
            ];
            beginnings.into_iter().try_for_each(|bytes| refused(Peer::connect(addr), bytes))
        },
    },
];

/// The connection is reset, without a byte of answer.
fn refused(mut peer: Peer, bytes: &[u8]) -> Result<(), String> {
    peer.send(bytes);
    match peer.rest(LIMIT) {
        (bytes, End::Reset) if bytes.is_empty() => Ok(()),
        other => Err(format!("a reset expected, not {other:?}")),
    }
}

/// Nothing happens while the rest may come; a reset when the peer says that it will not.
fn waits(mut peer: Peer, bytes: &[u8]) -> Result<(), String> {
    peer.send(bytes);
    match peer.rest(Duration::from_millis(100)) {
        (bytes, End::Silence) if bytes.is_empty() => {}
        other => return Err(format!("silence expected, not {other:?}")),
    }
    peer.stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
    refused(peer, &[])
}

/// The reply comes, whole, and then FIN.
fn answered(mut peer: Peer, bytes: &[u8], said: &str) -> Result<(), String> {
    peer.send(bytes);
    match peer.rest(LIMIT) {
        (bytes, End::Fin) if is_echo(&bytes, said) => Ok(()),
        other => Err(format!("a reply expected, not {other:?}")),
    }
}

/// Whether a provider replies so to `said`. The one of the soak adds its name.
fn is_echo(reply: &[u8], said: &str) -> bool {
    reply == text(said.as_bytes()) || reply == text(format!("{said}@{STEADY}").as_bytes())
}

#[cfg(test)]
mod tests {
    use std::{io, net::TcpListener, thread};

    use super::*;

    #[test]
    fn an_echo_has_the_name_of_its_provider_or_none() {
        let echoes = |text_of: &str| is_echo(&text(text_of.as_bytes()), "fin");
        assert!(echoes("fin") && echoes("fin@steady"));
        assert!(!echoes("fin@second") && !echoes("fin@steady@steady") && !echoes("fin@") && !echoes("first"));
        assert!(!is_echo(b"", "fin") && !is_echo(&[text(b"fin"), text(b"fin")].concat(), "fin"));
    }

    /// A provider that takes in everything and then ends without a word, as a C++ caller must not see it.
    #[test]
    fn an_end_without_a_byte_passes_for_no_refusal() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = io::copy(&mut &stream, &mut io::sink());
            }
        });
        let cut = BEHAVIOURS.iter().filter(|one| one.name.starts_with("fewer arguments than announced"));
        let complaints: Vec<_> = cut.filter_map(|one| (one.run)(addr).err()).collect();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints.iter().all(|why| why.starts_with("a reset expected")), "{complaints:?}");
    }
}
