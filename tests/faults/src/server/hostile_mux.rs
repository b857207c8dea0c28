//! What a hostile client does on the mux wire.

use std::{net::Shutdown, time::Duration};

use mprpc_runtime::wire::mux::{END, Kind, RequestMeta};

use super::{
    hostile::{Behaviour, SECRET, answers, ends, gone, lives},
    peer::{
        End, LIMIT, Peer, SERVICE, control, deep, header, hello, raw, request, request_of, response_of, text,
    },
};

const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;

/// The service and method of an honest request.
fn echo<'a>() -> RequestMeta<'a> {
    RequestMeta { service: SERVICE, method: "Echo", ..Default::default() }
}

pub(crate) const BEHAVIOURS: &[Behaviour] = &[
    Behaviour {
        name: "a body of 4 GiB is announced",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&header(Kind::Request, 1, 0, u32::MAX));
            ends(&mut peer, "max_body")
        },
    },
    Behaviour {
        name: "a body over max_body is sent in full",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            let body = vec![b'x'; 5 << 20];
            peer.send(&request(1, "EchoBlob", &body));
            answers(&mut peer, 1, RESOURCE_EXHAUSTED)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "a frame is announced, part of it sent, then nothing",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&header(Kind::Request, 1, 10, 1 << 20));
            peer.send(SECRET.as_bytes());
            match peer.answer(Duration::from_millis(100)) {
                Err(End::Silence) => {}
                other => return Err(format!("silence expected, not {other:?}")),
            }
            peer.reset();
            Ok(())
        },
    },
    Behaviour {
        name: "a header is cut short by FIN",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&header(Kind::Request, 1, 0, 5)[..10]);
            peer.stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
            gone(&mut peer, LIMIT)
        },
    },
    Behaviour {
        name: "garbage follows the Hello",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(format!("{SECRET} is no frame, and neither is this").as_bytes());
            ends(&mut peer, "MRPC")
        },
    },
    Behaviour {
        name: "noise from the first byte on",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(&[0xEE; 4096]);
            gone(&mut peer, LIMIT)
        },
    },
    Behaviour {
        name: "a second Hello",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&hello(1));
            ends(&mut peer, "Hello")
        },
    },
    Behaviour {
        name: "a Hello of version 0",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(&hello(0));
            ends(&mut peer, "version")
        },
    },
    Behaviour {
        name: "a Hello that is no protobuf",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(&raw(Kind::Hello as u8, 0, 0, &[0xFF; 30], &[]));
            ends(&mut peer, "Hello")
        },
    },
    Behaviour {
        name: "a Request before the Hello",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            peer.send(&request(1, "Echo", &text(SECRET.as_bytes())));
            ends(&mut peer, "Hello")
        },
    },
    Behaviour {
        name: "a message nested 100,000 deep",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request(1, "Echo", &deep(100_000)));
            answers(&mut peer, 1, INVALID_ARGUMENT)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "a meta nested 30,000 deep",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&raw(Kind::Request as u8, END, 1, &deep(30_000), &[]));
            match peer.answer(LIMIT) {
                // Unknown fields may be skipped; then no service is named.
                Ok(frame) if [INVALID_ARGUMENT, UNIMPLEMENTED].contains(&frame.code) => lives(&mut peer, 2),
                other => Err(format!("a refusal expected, not {other:?}")),
            }
        },
    },
    Behaviour {
        name: "names that are paths, escapes, or 60 KB",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            let long = "x".repeat(60_000);
            let names =
                ["../../etc/passwd", "\u{1b}[2J\n12:00:00 INFO forged", "a\0b", "", "\u{202e}", &long];
            for (service, call) in names.into_iter().zip(1..) {
                peer.send(&request_of(call, &RequestMeta { service, ..echo() }, &[]));
                answers(&mut peer, call, UNIMPLEMENTED)?;
            }
            for (method, call) in names.into_iter().zip(100..) {
                peer.send(&request_of(call, &RequestMeta { method, ..echo() }, &[]));
                answers(&mut peer, call, UNIMPLEMENTED)?;
            }
            lives(&mut peer, 200)
        },
    },
    Behaviour {
        name: "a name that is not UTF-8",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&raw(Kind::Request as u8, END, 1, b"\x0a\x02\xff\xfe", &[]));
            answers(&mut peer, 1, INVALID_ARGUMENT)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "an overlong varint in the meta",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            let meta = [&[0x18][..], &[0x80; 12], &[0x01]].concat();
            peer.send(&raw(Kind::Request as u8, END, 1, &meta, &[]));
            answers(&mut peer, 1, INVALID_ARGUMENT)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "metadata of 60 KB in tiny pairs",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            let keys: Vec<String> = (0..5000).map(|n| format!("k{}", n % 700)).collect();
            let metadata = keys.iter().map(|key| (key.as_str(), &b"v"[..])).collect();
            peer.send(&request_of(1, &RequestMeta { metadata, ..echo() }, &text(b"x")));
            answers(&mut peer, 1, 0)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "call id 0",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request(0, "Echo", &text(b"x")));
            ends(&mut peer, "id")
        },
    },
    Behaviour {
        name: "the id of a finished call again",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            lives(&mut peer, 5)?;
            peer.send(&request(5, "Echo", &text(b"x")));
            ends(&mut peer, "id")
        },
    },
    Behaviour {
        name: "a Response to a server",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&response_of(1, &Default::default(), &text(b"x")));
            ends(&mut peer, "Response")
        },
    },
    Behaviour {
        name: "an attachment larger than its body",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request_of(1, &RequestMeta { attachment_size: 999, ..echo() }, &text(b"x")));
            answers(&mut peer, 1, INVALID_ARGUMENT)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "a kind that nobody knows, with a megabyte",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&raw(200, 0xFF, 1, b"meta", &vec![0; 1 << 20]));
            lives(&mut peer, 1)
        },
    },
    Behaviour {
        name: "a Request that does not end, and Data",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            let mut meta = Vec::new();
            echo().encode(&mut meta);
            peer.send(&raw(Kind::Request as u8, 0, 1, &meta, &[]));
            answers(&mut peer, 1, UNIMPLEMENTED)?;
            peer.send(&raw(Kind::Data as u8, 0, 2, &[], SECRET.as_bytes()));
            answers(&mut peer, 2, UNIMPLEMENTED)?;
            lives(&mut peer, 3)
        },
    },
    Behaviour {
        name: "a compression that nobody knows",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request_of(1, &RequestMeta { compression: 7, ..echo() }, &[0; 100]));
            answers(&mut peer, 1, UNIMPLEMENTED)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "no time left",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request_of(1, &RequestMeta { timeout_us: Some(0), ..echo() }, &text(b"x")));
            answers(&mut peer, 1, DEADLINE_EXCEEDED)?;
            lives(&mut peer, 2)
        },
    },
    Behaviour {
        name: "one byte at a time",
        run: |addr| {
            let mut peer = Peer::connect(addr);
            for byte in [hello(1), request(1, "Echo", &text(b"slow"))].concat() {
                peer.send(&[byte]);
            }
            answers(&mut peer, 1, 0)
        },
    },
    Behaviour {
        name: "a reset in the middle of a request",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request(1, "Echo", &text(&[b'x'; 3000]))[..1500]);
            peer.reset();
            Ok(())
        },
    },
    Behaviour {
        name: "FIN behind a request, without a goodbye",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            peer.send(&request(1, "Echo", &text(b"x")));
            peer.stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
            gone(&mut peer, LIMIT)
        },
    },
    Behaviour {
        name: "requests and a goodbye: answered still",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            let requests: Vec<u8> = (1..=20).flat_map(|call| request(call, "Echo", &text(b"x"))).collect();
            peer.send(&[requests, control(Kind::GoAway, 0, b"bye")].concat());
            peer.stream.shutdown(Shutdown::Write).map_err(|e| e.to_string())?;
            for _ in 1..=20 {
                match peer.answer(LIMIT) {
                    Ok(frame) if (frame.kind, frame.code) == (Kind::Response as u8, 0) => {}
                    other => return Err(format!("20 answers expected, not {other:?}")),
                }
            }
            gone(&mut peer, LIMIT)
        },
    },
    Behaviour {
        name: "cancels of calls that do not exist",
        run: |addr| {
            let mut peer = Peer::mux(addr);
            for call in [0, 1, 77, u64::MAX] {
                peer.send(&control(Kind::Cancel, call, &[]));
            }
            lives(&mut peer, 1)
        },
    },
];
