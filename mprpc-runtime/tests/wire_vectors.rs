//! What `proto/vectors.txt` states, written and read, and cut at every byte.

use std::collections::BTreeMap;

use mprpc_runtime::wire::decoder::{Sniff, sniff};
use mprpc_runtime::wire::legacy::{RequestHead, decode_head, write_request_head};
use mprpc_runtime::wire::mux::{self, Header, Hello, Kind, RequestMeta, ResponseMeta};
use mprpc_runtime::wire::{Dialect, WireError};

const MAX_HEADER: usize = 65_535;
const LOGIN: &[u8] = b"\x0a\x09zhang san\x12\x06123456";

#[test]
fn mux_vectors_are_what_the_encoder_writes() {
    let vectors = vectors();
    for (name, frame) in frames() {
        assert_eq!(hex(&frame.encode()), hex(&vectors[name]), "{name}");
    }
}

#[test]
fn mux_vectors_decode_wherever_they_are_cut() {
    let vectors = vectors();
    for (name, frame) in frames() {
        let bytes = &vectors[name];
        for cut in 0..bytes.len() {
            assert_eq!(Frame::decode(&bytes[..cut]), Ok(None), "{name} cut at {cut}");
        }
        assert_eq!(Frame::decode(bytes), Ok(Some((frame, bytes.len()))), "{name}");
    }
}

#[test]
fn mux_frames_of_one_stream_come_out_one_by_one_in_pieces_of_any_size() {
    let (vectors, expected) = (vectors(), frames());
    let stream: Vec<u8> = expected.iter().flat_map(|(name, _)| vectors[*name].clone()).collect();
    for size in 1..=stream.len() {
        let (mut seen, mut buffer) = (0, Vec::new());
        for piece in stream.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some((frame, len)) = Frame::decode(&buffer).expect("legal frames") {
                assert!(frame == expected[seen].1, "{} in pieces of {size}", expected[seen].0);
                seen += 1;
                buffer = buffer[len..].to_vec();
            }
        }
        assert_eq!((seen, buffer.len()), (expected.len(), 0), "in pieces of {size}");
    }
}

#[test]
fn the_opening_is_hello_and_request_in_one_write() {
    let vectors = vectors();
    let both = [&vectors["hello"][..], &vectors["request_login"]].concat();
    assert_eq!(vectors["opening_login"], both);
    assert_eq!(sniff(&both), Sniff::Mux);
}

#[test]
fn legacy_vectors_are_what_the_encoder_writes() {
    let vectors = vectors();
    for (name, dialect, head, args) in legacy_requests() {
        let mut out = vec![0xEE];
        write_request_head(&mut out, dialect, head.service, head.method, head.args_size);
        out.extend_from_slice(args);
        assert_eq!(hex(&out[1..]), hex(&vectors[name]), "{name}");
    }
}

#[test]
fn legacy_vectors_decode_wherever_they_are_cut() {
    let vectors = vectors();
    for (name, dialect, head, args) in legacy_requests() {
        let bytes = &vectors[name];
        let end = bytes.len() - args.len();
        for cut in 0..end {
            assert_eq!(decode_head(dialect, &bytes[..cut], MAX_HEADER), Ok(None), "{name} cut at {cut}");
        }
        for cut in end..=bytes.len() {
            let step = decode_head(dialect, &bytes[..cut], MAX_HEADER);
            assert_eq!(step, Ok(Some((head, end))), "{name}");
        }
        assert_eq!(&bytes[end..], args, "{name}");
        assert_eq!(sniff(bytes), Sniff::Legacy(dialect), "{name}");
    }
}

#[test]
fn every_vector_has_a_test() {
    let mut tested: Vec<&str> = frames().iter().map(|(name, _)| *name).collect();
    tested.extend(legacy_requests().iter().map(|(name, ..)| *name));
    for name in vectors().keys() {
        // A legacy reply has no frame: nothing but protobuf writes or reads it.
        let other = name == "opening_login" || name.starts_with("legacy_reply_");
        assert!(other || tested.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn a_legacy_header_size_is_judged_before_the_header_comes() {
    let cases: [(_, &[u8], &[u8]); 3] = [
        (Dialect::LittleEndian, &[0, 0, 0, 0], &[11, 0, 0, 0]),
        (Dialect::BigEndian, &[0, 0, 0, 0], &[0, 0, 0, 11]),
        (Dialect::Varint, &[0], &[11]),
    ];
    for (dialect, zero, eleven) in cases {
        assert!(decode_head(dialect, zero, 100).is_err(), "{dialect:?}");
        assert!(decode_head(dialect, eleven, 10).is_err(), "{dialect:?}");
        assert_eq!(decode_head(dialect, eleven, 11), Ok(None));
    }
    assert!(decode_head(Dialect::LittleEndian, &[0xFF; 4], MAX_HEADER).is_err());
    assert!(decode_head(Dialect::Varint, &[0xFF; 5], MAX_HEADER).is_err());
    assert_eq!(decode_head(Dialect::Varint, &[0xFF; 4], MAX_HEADER), Ok(None));
}

#[test]
fn a_legacy_header_without_readable_names_is_refused() {
    let cases: [(&str, &[u8]); 7] = [
        ("no method", b"\x0a\x03Svc"),
        ("no service", b"\x12\x01m"),
        ("empty service", b"\x0a\x00\x12\x01m"),
        ("not UTF-8", b"\x0a\x03Svc\x12\x01\xff"),
        ("service_name is a number", b"\x08\x03\x12\x01m"),
        ("ends inside a name", b"\x0a\x03Svc\x12\x05m"),
        ("a group", b"\x0a\x03Svc\x12\x01m\x1b"),
    ];
    for (what, header) in cases {
        let bytes = [&[header.len() as u8], header].concat();
        assert!(decode_head(Dialect::Varint, &bytes, MAX_HEADER).is_err(), "{what}");
    }
    let swapped = b"\x0e\x18\x07\x22\x02??\x12\x01m\x0a\x03Svc";
    let head = RequestHead { service: "Svc", method: "m", args_size: 7 };
    assert_eq!(decode_head(Dialect::Varint, swapped, MAX_HEADER), Ok(Some((head, 15))));
}

#[test]
fn a_wrong_magic_is_refused_with_its_first_wrong_byte() {
    for at in 0..4 {
        let mut bytes = Header { kind: 4, flags: 0, meta_len: 0, body_len: 0, call_id: 0 }.encode();
        bytes[at] ^= 0x20;
        for len in 0..=bytes.len() {
            assert_eq!(Header::decode(&bytes[..len]).is_err(), len > at, "byte {at}, {len} bytes");
        }
    }
}

#[test]
fn kinds_keep_their_numbers() {
    for number in 0..=u8::MAX {
        let kind = Kind::from_wire(number);
        assert_eq!(kind.map(|kind| kind as u8), (number < 8).then_some(number));
    }
}

#[test]
fn a_hello_without_a_version_is_refused() {
    for meta in [b"".as_slice(), b"\x08\x00\x10\x07", b"\x10\x07", b"\x08\x01\x10"] {
        assert!(Hello::decode(meta).is_err(), "{}", hex(meta));
    }
    assert_eq!(Hello::decode(b"\x08\x02").map(|hello| hello.version), Ok(2));
}

#[derive(Debug, PartialEq)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    call_id: u64,
    meta: Meta<'a>,
    body: &'a [u8],
}

#[derive(Debug, PartialEq)]
enum Meta<'a> {
    Hello(Hello),
    Request(RequestMeta<'a>),
    Response(ResponseMeta<'a>),
    Other(&'a [u8]),
}

impl<'a> Frame<'a> {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0xEE];
        match (Kind::from_wire(self.kind), &self.meta) {
            (Some(Kind::Hello), Meta::Hello(hello)) => hello.write(&mut out),
            (Some(kind), Meta::Request(meta)) => {
                let start =
                    mux::start_frame(&mut out, kind, self.flags, self.call_id, |out| meta.encode(out));
                out.extend_from_slice(self.body);
                mux::finish_frame(&mut out, start);
            }
            (Some(kind), Meta::Response(meta)) => {
                let start =
                    mux::start_frame(&mut out, kind, self.flags, self.call_id, |out| meta.encode(out));
                out.extend_from_slice(self.body);
                mux::finish_frame(&mut out, start);
            }
            (Some(kind), Meta::Other([])) => mux::write_control(&mut out, kind, self.call_id, self.body),
            (_, Meta::Other(meta)) => {
                let (meta_len, body_len) = (meta.len() as u16, self.body.len() as u32);
                let Self { kind, flags, call_id, .. } = *self;
                out.extend(Header { kind, flags, meta_len, body_len, call_id }.encode());
                out.extend([*meta, self.body].concat());
            }
            other => panic!("no such frame: {other:?}"),
        }
        out.split_off(1)
    }

    fn decode(bytes: &'a [u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some(header) = Header::decode(bytes)? else {
            return Ok(None);
        };
        let meta_end = mux::HEADER_LEN + usize::from(header.meta_len);
        let end = meta_end + header.body_len as usize;
        let Some(meta) = bytes.get(mux::HEADER_LEN..meta_end) else {
            return Ok(None);
        };
        let Some(body) = bytes.get(meta_end..end) else {
            return Ok(None);
        };
        let meta = match Kind::from_wire(header.kind) {
            Some(Kind::Hello) => Meta::Hello(Hello::decode(meta)?),
            Some(Kind::Request) => Meta::Request(RequestMeta::decode(meta)?),
            Some(Kind::Response) => Meta::Response(ResponseMeta::decode(meta)?),
            _ => Meta::Other(meta),
        };
        let Header { kind, flags, call_id, .. } = header;
        Ok(Some((Self { kind, flags, call_id, meta, body }, end)))
    }
}

fn frames() -> Vec<(&'static str, Frame<'static>)> {
    let login = |timeout_us| RequestMeta {
        service: "fixbug.UserServiceRpc",
        method: "Login",
        timeout_us,
        ..RequestMeta::default()
    };
    let hello = Hello {
        version: mux::VERSION,
        instance: 0x0123_4567_89AB_CDEF,
        max_header: 65_535,
        max_body: 4_194_304,
        min_ping_interval_ms: 1_000,
        max_calls: 1_024,
    };
    let hello_of = |hello| Frame { kind: 0, flags: 0, call_id: 0, meta: Meta::Hello(hello), body: b"" };
    let request =
        |call_id, meta, body| Frame { kind: 1, flags: mux::END, call_id, meta: Meta::Request(meta), body };
    let response =
        |call_id, meta, body| Frame { kind: 2, flags: mux::END, call_id, meta: Meta::Response(meta), body };
    let control = |kind, call_id, body| Frame { kind, flags: 0, call_id, meta: Meta::Other(b""), body };
    let fine = ResponseMeta::default;
    vec![
        ("hello_minimal", hello_of(Hello { version: 1, ..Hello::default() })),
        ("hello", hello_of(hello)),
        ("request_login", request(1, login(Some(5_000_000)), LOGIN)),
        ("request_no_timeout", request(2, login(None), b"")),
        (
            "request_full",
            request(
                1 << 40,
                RequestMeta {
                    metadata: vec![("trace", b"\x00\xff"), ("zone", b"")],
                    compression: 1,
                    attachment_size: 3,
                    ..login(Some(0))
                },
                b"\x0a\x09zhang san\x12\x06123456\x01\x02\x03",
            ),
        ),
        ("response_ok", response(1, fine(), b"\x0a\x00\x10\x01")),
        ("response_empty", response(2, fine(), b"")),
        (
            "response_stages",
            response(3, ResponseMeta { stages_us: vec![12, 3_400, 0], ..fine() }, b"\x0a\x00"),
        ),
        (
            "response_error",
            response(
                4,
                ResponseMeta { code: 12, message: "no method fixbug.UserServiceRpc/Logn", ..fine() },
                b"",
            ),
        ),
        (
            "response_full",
            response(
                5,
                ResponseMeta {
                    code: 8,
                    message: "too many calls",
                    details: b"\x08\x01",
                    retryable: true,
                    metadata: vec![("retry-after-ms", b"20")],
                    compression: 0,
                    attachment_size: 2,
                    stages_us: vec![1],
                },
                b"\xaa\xbb",
            ),
        ),
        ("cancel", control(3, 1, b"")),
        ("ping", control(4, 0, &[1, 2, 3, 4, 5, 6, 7, 8])),
        ("pong", control(5, 0, &[1, 2, 3, 4, 5, 6, 7, 8])),
        ("goaway_drain", control(6, mux::EVERY_CALL, b"draining")),
        ("goaway_last", control(6, 7, b"draining")),
        ("goaway_caller", control(6, 0, b"done")),
        (
            "unknown_kind",
            Frame { kind: 9, flags: 0xFF, call_id: 1, meta: Meta::Other(b"\0\0"), body: b"\x01\x02\x03" },
        ),
    ]
}

type LegacyRequest = (&'static str, Dialect, RequestHead<'static>, &'static [u8]);

fn legacy_requests() -> Vec<LegacyRequest> {
    let head = |service, method, args_size| RequestHead { service, method, args_size };
    let login = head("UserServiceRpc", "Login", 19);
    let friends = head("FriendServiceRpc", "GetFriendsList", 3);
    let long = concat!(
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "ServiceRpc",
    );
    vec![
        ("legacy_le_login", Dialect::LittleEndian, login, LOGIN),
        ("legacy_be_login", Dialect::BigEndian, login, LOGIN),
        ("legacy_varint_login", Dialect::Varint, login, LOGIN),
        ("legacy_le_friends", Dialect::LittleEndian, friends, b"\x08\xe8\x07"),
        ("legacy_le_no_args", Dialect::LittleEndian, head("UserServiceRpc", "Login", 0), b""),
        ("legacy_varint_long_name", Dialect::Varint, head(long, "M", 0), b""),
    ]
}

fn vectors() -> BTreeMap<String, Vec<u8>> {
    let text = include_str!("../../proto/vectors.txt");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parse = |line: &str| {
        let (name, hex) = line.split_once(':').expect("`name: hex`");
        let bytes = hex.trim().as_bytes().chunks(2).map(|digits| {
            let digits = std::str::from_utf8(digits).expect("ASCII");
            u8::from_str_radix(digits, 16).expect("two hex digits")
        });
        (name.to_owned(), bytes.collect())
    };
    let list: Vec<_> = lines.map(parse).collect();
    let map: BTreeMap<_, _> = list.iter().cloned().collect();
    assert_eq!(map.len(), list.len(), "a name stands twice");
    map
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
