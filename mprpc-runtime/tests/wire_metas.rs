//! The metas against protobuf's own encoding of `proto/mux.proto`, and against arbitrary bytes.

use std::io::Write;
use std::process::{Command, Stdio};

use mprpc_runtime::wire::decoder::sniff;
use mprpc_runtime::wire::mux::{Header, Hello, RequestMeta, ResponseMeta};
use mprpc_runtime::wire::{Dialect, legacy};
use protobuf::reflect::{FieldDescriptor, FileDescriptor, MessageDescriptor};

#[test]
fn a_hello_is_what_protobuf_writes() {
    let hello = Hello {
        version: 1,
        instance: u64::MAX,
        max_header: 65_535,
        max_body: u32::MAX,
        min_ping_interval_ms: 127,
        max_calls: 128,
    };
    let theirs = bytes_of(
        "HelloMeta",
        "version: 1 instance: 18446744073709551615 max_header: 65535 max_body: 4294967295
         min_ping_interval_ms: 127 max_calls: 128",
    );
    assert_eq!(Hello::decode(&theirs), Ok(hello));
    let mut ours = Vec::new();
    hello.encode(&mut ours);
    assert_eq!(ours, theirs);
}

#[test]
fn a_request_meta_is_what_protobuf_writes() {
    let cases = [
        ("", RequestMeta::default()),
        ("timeout_us: 0", RequestMeta { timeout_us: Some(0), ..RequestMeta::default() }),
        (
            r#"service: "a.B" method: "\344\275\240" timeout_us: 18446744073709551615
               metadata { key: "k" value: "\000\377" } compression: 4294967295 attachment_size: 300"#,
            RequestMeta {
                service: "a.B",
                method: "你",
                timeout_us: Some(u64::MAX),
                metadata: vec![("k", b"\x00\xff")],
                compression: u32::MAX,
                attachment_size: 300,
            },
        ),
        (
            r#"metadata { key: "" value: "" }"#,
            RequestMeta { metadata: vec![("", b"")], ..RequestMeta::default() },
        ),
    ];
    for (text, meta) in cases {
        let theirs = bytes_of("RequestMeta", text);
        assert_eq!(RequestMeta::decode(&theirs).as_ref(), Ok(&meta), "{text}");
        let mut ours = Vec::new();
        meta.encode(&mut ours);
        assert_eq!(ours, theirs, "{text}");
    }
}

#[test]
fn a_response_meta_is_what_protobuf_writes() {
    let cases = [
        ("", ResponseMeta::default()),
        (
            r#"code: 14 message: "gone" details: "\377" retryable: true metadata { key: "k" value: "v" }
               compression: 1 attachment_size: 2 stages_us: 0 stages_us: 127 stages_us: 128 stages_us: 4294967295"#,
            ResponseMeta {
                code: 14,
                message: "gone",
                details: b"\xff",
                retryable: true,
                metadata: vec![("k", b"v")],
                compression: 1,
                attachment_size: 2,
                stages_us: vec![0, 127, 128, u32::MAX],
            },
        ),
    ];
    for (text, meta) in cases {
        let theirs = bytes_of("ResponseMeta", text);
        assert_eq!(ResponseMeta::decode(&theirs).as_ref(), Ok(&meta), "{text}");
        let mut ours = Vec::new();
        meta.encode(&mut ours);
        assert_eq!(ours, theirs, "{text}");
    }
}

#[test]
fn a_legacy_header_is_what_protobuf_writes() {
    let theirs = bytes_of_file(
        "rpc_header.proto",
        "RpcHeader",
        r#"service_name: "S" method_name: "m" args_size: 200"#,
    );
    let mut ours = Vec::new();
    legacy::write_request_head(&mut ours, Dialect::Varint, "S", "m", 200);
    assert_eq!(ours[0] as usize, theirs.len());
    assert_eq!(ours[1..], theirs);
}

#[test]
fn many_keys_come_out_sorted_and_the_last_value_of_a_key_counts() {
    let entries: [(&str, &[u8]); 6] =
        [("b", b"1"), ("a", b"2"), ("b", b"3"), ("c", b"4"), ("b", b"5"), ("a", b"6")];
    let meta = RequestMeta { metadata: entries.to_vec(), ..RequestMeta::default() };
    let mut bytes = Vec::new();
    meta.encode(&mut bytes);
    let decoded = RequestMeta::decode(&bytes).expect("legal");
    let expected: Vec<(&str, &[u8])> = vec![("a", b"6"), ("b", b"5"), ("c", b"4")];
    assert_eq!(decoded.metadata, expected);
}

#[test]
fn a_list_is_read_packed_and_unpacked_in_any_mixture() {
    let bytes = b"\x40\x01\x42\x03\x02\x80\x01\x08\x07\x40\x03\x42\x00";
    let decoded = ResponseMeta::decode(bytes).expect("legal");
    assert_eq!(decoded.stages_us, [1, 2, 128, 3]);
    assert_eq!(decoded.code, 7);
    assert!(ResponseMeta::decode(b"\x42\x02\x01\x80").is_err(), "a cut number in a list");
}

#[test]
fn unknown_fields_and_other_wire_types_are_ignored() {
    let bytes = b"\x7a\x01x\x08\x05\x0a\x01s\x11\x01\x02\x03\x04\x05\x06\x07\x08\x12\x01m\x3d\x01\x02\x03\x04\x98\x06\x01";
    let decoded = RequestMeta::decode(bytes).expect("legal");
    assert_eq!((decoded.service, decoded.method), ("s", "m"));
}

#[test]
fn texts_that_are_not_utf8_are_refused() {
    assert!(RequestMeta::decode(b"\x0a\x01\xff").is_err());
    assert!(RequestMeta::decode(b"\x12\x01\xff").is_err());
    assert!(RequestMeta::decode(b"\x22\x03\x0a\x01\xff").is_err());
    assert!(ResponseMeta::decode(b"\x12\x01\xff").is_err());
    assert!(ResponseMeta::decode(b"\x1a\x01\xff").is_ok(), "details are bytes");
}

#[test]
fn a_cut_meta_is_an_error_or_ends_between_two_fields() {
    let bytes = bytes_of(
        "ResponseMeta",
        r#"code: 14 message: "gone" details: "\377" retryable: true metadata { key: "k" value: "v" }
           compression: 1000 attachment_size: 2000 stages_us: 300"#,
    );
    let whole = (0..bytes.len()).filter(|&cut| {
        let Ok(decoded) = ResponseMeta::decode(&bytes[..cut]) else {
            return false;
        };
        let mut again = Vec::new();
        decoded.encode(&mut again);
        assert_eq!(again, bytes[..cut], "only what was there");
        true
    });
    assert_eq!(whole.count(), 8, "the starts of the eight fields");
}

#[test]
fn arbitrary_bytes_are_read_as_protobuf_reads_them_and_never_panic() {
    let (request, response) =
        (descriptor("mux.proto", "RequestMeta"), descriptor("mux.proto", "ResponseMeta"));
    let seeds = [
        bytes_of(
            "RequestMeta",
            r#"service: "a.B" method: "m" timeout_us: 9 metadata { key: "k" value: "v" }"#,
        ),
        bytes_of(
            "ResponseMeta",
            r#"code: 5 message: "no" metadata { key: "k" } stages_us: 1 stages_us: 300"#,
        ),
        b"MRPC\x01\x01\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\0".to_vec(),
        b"\x19\0\0\0\x0a\x0eUserServiceRpc\x12\x05Login\x18\x13".to_vec(),
    ];
    let (mut random, mut agreed) = (Xorshift(0x9E37_79B9_7F4A_7C15), 0);
    for round in 0..40_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..random.below(6) {
            match random.below(3) {
                0 => bytes.truncate(random.below(bytes.len() + 1)),
                1 => bytes.insert(random.below(bytes.len() + 1), random.byte()),
                _ => bytes.iter_mut().skip(random.below(40)).take(1).for_each(|b| *b = random.byte()),
            }
        }
        let _ = (sniff(&bytes), Header::decode(&bytes), Hello::decode(&bytes));
        for dialect in [Dialect::LittleEndian, Dialect::BigEndian, Dialect::Varint] {
            let _ = legacy::decode_head(dialect, &bytes, 64);
        }
        let mut again = Vec::new();
        let read = RequestMeta::decode(&bytes).map(|meta| meta.encode(&mut again));
        agreed += usize::from(read.is_ok() && same(&request, &bytes, &again));
        again.clear();
        let read = ResponseMeta::decode(&bytes).map(|meta| meta.encode(&mut again));
        agreed += usize::from(read.is_ok() && same(&response, &bytes, &again));
    }
    assert!(agreed > 5_000, "only {agreed} readings to compare");
}

/// Whether protobuf reads `bytes`; if so it must find in `again` what it found there.
fn same(message: &MessageDescriptor, bytes: &[u8], again: &[u8]) -> bool {
    let known = |bytes| {
        message.parse_from_bytes(bytes).map(|mut message| {
            message.mut_unknown_fields_dyn().clear();
            message
        })
    };
    // It refuses what we need not: 64 bits in a uint32, and some tags.
    let Ok(theirs) = known(bytes) else {
        return false;
    };
    let ours = known(again).expect("our own bytes");
    // A dynamic message tells a stated default from an absent one; only for timeout_us that means something.
    let equal = |field: FieldDescriptor| {
        if field.is_singular() && field.name() != "timeout_us" {
            return field.get_singular_field_or_default(&*theirs)
                == field.get_singular_field_or_default(&*ours);
        }
        field.get_reflect(&*theirs) == field.get_reflect(&*ours)
    };
    assert!(message.fields().all(equal), "{bytes:x?}: {theirs} and {ours}");
    true
}

fn bytes_of(message: &str, text: &str) -> Vec<u8> {
    bytes_of_file("mux.proto", message, text)
}

/// What protoc, the reference in C++, makes of a message in text format.
fn bytes_of_file(file: &str, message: &str, text: &str) -> Vec<u8> {
    let mut protoc = Command::new(protoc_bin_vendored::protoc_bin_path().expect("a protoc"))
        .args([format!("--encode=mprpc.{message}"), format!("--proto_path={PROTO}"), file.to_owned()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("protoc starts");
    let mut stdin = protoc.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("protoc reads");
    drop(stdin);
    let output = protoc.wait_with_output().expect("protoc ends");
    assert!(output.status.success(), "{text}");
    output.stdout
}

fn descriptor(file: &str, message: &str) -> MessageDescriptor {
    let parsed = protobuf_parse::Parser::new()
        .pure()
        .include(PROTO)
        .input(format!("{PROTO}/{file}"))
        .file_descriptor_set()
        .expect("our own proto file");
    let file = FileDescriptor::new_dynamic(parsed.file[0].clone(), &[]).expect("no imports");
    file.message_by_package_relative_name(message).expect("a message of the file")
}

const PROTO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");

struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}
