//! The first bytes of a connection: judged as soon as they allow, not sooner, and never twice.

use std::collections::BTreeMap;

use mprpc_runtime::wire::Dialect::{BigEndian, LittleEndian, Varint};
use mprpc_runtime::wire::decoder::Sniff::{self, Http, Legacy, Mux, NeedMore, Unknown};
use mprpc_runtime::wire::decoder::sniff;

#[test]
fn the_first_bytes_tell_the_wire() {
    let cpp = Unknown("the C++ framework's frame with an implausible header");
    let nothing = Unknown("no known protocol");
    let cases: &[(&[u8], usize, Sniff)] = &[
        (b"MRPC\0\0", 4, Mux),
        (b"GET / HTTP/1.1", 4, Http),
        (b"POST /x", 4, Http),
        (b"HEAD /x", 4, Http),
        (b"\x19\0\0\0\x0a\x0e", 5, Legacy(LittleEndian)),
        (b"\x19\0\0\0\x12\x05", 5, Legacy(LittleEndian)),
        (b"\0\x01\0\0\x0a\x0e", 5, Legacy(LittleEndian)),
        (b"\x80\x80\0\0\x0a", 5, Legacy(LittleEndian)),
        (b"\x19\x0a\0\0\x0a", 5, Legacy(LittleEndian)), // 2,585 bytes of header, not a varint
        (b"MR\0\0\x0a", 5, Legacy(LittleEndian)),
        (b"GE\0\0\x12", 5, Legacy(LittleEndian)),
        (b"\0\0\0\x19\x0a\x0e", 5, Legacy(BigEndian)),
        (b"\0\0\x01\0\x12", 5, Legacy(BigEndian)),
        (b"\x19\x0a\x0eUser", 3, Legacy(Varint)),
        (b"M\x0a\x0eUser", 3, Legacy(Varint)),
        (b"\x7f\x0a\x7dUser", 3, Legacy(Varint)),
        (b"\x8a\x01\x0a\x7fX", 4, Legacy(Varint)),
        (b"\x88\x01\x0a\x82\x01", 5, Legacy(Varint)),
        (b"\x16\x03\x01\x02", 3, Unknown("TLS")),
        (b"PRI * HTTP/2.0", 3, Unknown("HTTP/2")),
        (b"PUT / HTTP/1.1", 3, Unknown("an HTTP request")),
        (b"PROXY TCP4", 3, Unknown("the PROXY protocol")),
        (b"\x0d\x0a\x0d\x0a\0\x0d\x0aQUIT\x0a", 3, Unknown("the PROXY protocol")),
        (b"SSH-2.0-x", 3, Unknown("SSH")),
        (b"\0\0\0\x2d\0\0\0\x19", 5, Unknown("Krpc (total length first)")),
        (b"\0\0\0\0\x0a", 4, cpp),
        (b"\x19\0\0\0\x08", 5, cpp),
        (b"\0\0\0\x19\x08", 5, cpp),
        (b"\x19\x0a\x18User", 3, nothing), // the name would not fit
        (b"\x83\x01\x0a\x81\x01", 4, nothing),
        (b"\x89\x01\x0a\x83\x81", 5, nothing),
        (b"\x99\0\x0a\x0eUser", 3, nothing), // a padded length
        (b"\xff\xff\xff\xff\x0a", 3, nothing),
        (b"MRPc", 4, nothing),
    ];
    for &(bytes, decided_at, verdict) in cases {
        for len in 0..=bytes.len() {
            let expected = if len < decided_at { NeedMore } else { verdict };
            assert_eq!(sniff(&bytes[..len]), expected, "{}", bytes[..len].escape_ascii());
        }
    }
}

#[test]
fn a_verdict_stands_and_waiting_has_a_reason() {
    let alphabet: [&[u8]; 6] = [
        &[0x00, 0x01, 0x03, 0x0A, 0x19, b'G', b'M', b'P', 0x7F, 0x80, 0x88, 0xFF],
        &[0x00, 0x01, 0x0A, b'E', b'R', b'O', 0x7F, 0x80, 0xFF],
        &[0x00, 0x01, 0x0A, 0x0E, b'T', b'P', b'S', 0x7F, 0x82],
        &[0x00, 0x01, 0x0E, b' ', b'C', b'T', 0x7F, 0x80, 0x82, 0xFF],
        &[0x00, 0x01, 0x0A, 0x12, 0x80],
        &[0x00, 0xFF],
    ];
    let mut ends: BTreeMap<Vec<u8>, Vec<Sniff>> = BTreeMap::new();
    let mut words = vec![vec![]];
    for letters in alphabet {
        words = words.iter().flat_map(|w| letters.iter().map(move |&l| [&w[..], &[l]].concat())).collect();
    }
    for word in words {
        let verdicts: Vec<_> = (0..=word.len()).map(|len| sniff(&word[..len])).collect();
        let first = verdicts.iter().position(|v| *v != NeedMore).expect("five bytes decide");
        let verdict = verdicts[first];
        assert!(verdicts[first..].iter().all(|v| *v == verdict), "{word:x?} {verdicts:?}");
        let end = if let Unknown(_) = verdict { Unknown("") } else { verdict };
        for len in 0..first {
            let seen = ends.entry(word[..len].to_vec()).or_default();
            if !seen.contains(&end) {
                seen.push(end);
            }
        }
    }
    for (waiting, seen) in ends {
        assert!(seen.len() > 1, "{waiting:x?} can only be {seen:?}");
    }
}
