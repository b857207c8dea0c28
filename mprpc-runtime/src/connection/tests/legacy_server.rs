//! DESIGN 4.2 as callee: one call, one reply, FIN; failures are told by a reset.

use super::*;

/// The connection ended with a reset, and nothing of a reply went out before.
#[track_caller]
fn is_reset(server: &mut Server) {
    assert_eq!(server.conn.intent(), Intent::Reset);
    assert!(server.conn.reason().is_some());
}

#[test]
fn every_dialect_is_answered_bare_however_the_request_is_cut() {
    for dialect in DIALECTS {
        let bytes = legacy_request(dialect, "Echo", b"zhang san");
        let check = |server: &mut Server, cut: usize| {
            assert_eq!(server.output(), wire(b"zhang san"), "{dialect:?} cut at {cut}");
            let seen = server.handlers.last();
            assert_eq!((&*seen.service, seen.deadline), ("Svc", None));
        };
        for cut in 0..=bytes.len() {
            let mut server = Server::new();
            server.feed(&bytes[..cut]);
            server.feed(&bytes[cut..]);
            check(&mut server, cut);
        }
        let mut server = Server::new();
        bytes.iter().for_each(|byte| server.feed(&[*byte]));
        check(&mut server, 1);
    }
}

#[test]
fn the_reply_lies_in_the_output_at_once_and_fin_follows_it() {
    for method in ["Echo", "Later"] {
        let mut server = Server::new();
        server.feed(&legacy_request(Dialect::LittleEndian, method, &[1; 900]));
        if method == "Later" {
            assert_eq!(server.conn.intent(), Intent::Open);
            server.answer(0, &[1; 900]);
        }
        assert_eq!(server.conn.output().pending(), wire(&[1; 900]));
        assert_eq!(server.conn.intent(), Intent::ShutDown);
        server.output();
        assert_eq!(server.conn.intent(), Intent::ShutDown);
        server.feed(b"something more that nobody asked for");
        server.eof();
        assert_eq!(server.conn.intent(), Intent::Close);
        assert_eq!(server.handlers.methods(), [method]);
    }
}

#[test]
fn input_behind_the_reply_is_dropped_until_eof_or_a_second() {
    let mut server = Server::new();
    server.feed(&legacy_request(Dialect::LittleEndian, "Echo", b"x"));
    server.output();
    server.feed(&legacy_request(Dialect::LittleEndian, "Echo", b"y"));
    server.advance(999 * MS);
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    server.advance(MS);
    assert_eq!(server.conn.intent(), Intent::Close);
    assert_eq!(server.handlers.methods().len(), 1);
}

#[test]
fn a_message_of_defaults_is_no_bytes_and_fin() {
    let mut server = Server::new();
    server.feed(&legacy_request(Dialect::BigEndian, "Echo", b""));
    assert!(server.output().is_empty());
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    server.eof();
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn every_failed_call_is_answered_by_a_reset() {
    for dialect in DIALECTS {
        for method in ["Nope", "Drop"] {
            let mut server = Server::with(|s| s.legacy_keep = true);
            server.feed(&legacy_request(dialect, method, b"x"));
            is_reset(&mut server);
            assert!(server.output().is_empty());
        }
        let mut server = Server::new();
        server.feed(&legacy_request(dialect, "Later", b"x"));
        server.handlers.ticket(0).fail(Status::unavailable("overload"));
        server.deliver();
        is_reset(&mut server);
        assert!(server.output().is_empty());
    }
}

#[test]
fn undecodable_arguments_and_headers_are_reset() {
    let mut bad_args = legacy_request(Dialect::LittleEndian, "Echo", b"x");
    let last = bad_args.len() - 3;
    bad_args[last] = 0xFF;
    let nameless = b"\x04\0\0\0\x0a\x00\x12\x00".to_vec();
    let no_protobuf = b"\x04\0\0\0\x0a\xff\xff\xff".to_vec();
    let too_long = b"\xe9\x03\0\0\x0a\x03".to_vec();
    for bytes in [bad_args, nameless, no_protobuf, too_long] {
        let mut server = Server::new();
        server.feed(&bytes);
        is_reset(&mut server);
    }
}

#[test]
fn a_request_over_max_body_is_reset_by_its_header_alone() {
    for (size, intent) in [(4000, Intent::Open), (4001, Intent::Reset), (u32::MAX, Intent::Reset)] {
        let mut head = Vec::new();
        legacy::write_request_head(&mut head, Dialect::LittleEndian, "Svc", "Echo", size);
        let mut server = Server::new();
        server.feed(&head);
        assert_eq!(server.conn.intent(), intent);
    }
}

#[test]
fn a_request_larger_than_the_output_bound_is_read_to_its_end() {
    let mut server = Server::with(|s| {
        s.max_output = 100;
        s.max_header = 100;
        s.max_body = 1 << 20;
    });
    let bytes = legacy_request(Dialect::LittleEndian, "Echo", &[1; 500_000]);
    for piece in bytes.chunks(10_000) {
        assert!(server.conn.wants_read());
        server.feed(piece);
    }
    assert_eq!(server.output(), wire(&[1; 500_000]));
}

#[test]
fn the_callers_fin_never_cancels_its_call() {
    for fin_first in [true, false] {
        let mut server = Server::new();
        let bytes = legacy_request(Dialect::LittleEndian, "Later", b"x");
        server.feed(&bytes);
        if fin_first {
            server.eof();
        }
        assert!(!server.handlers.last().cancel.is_cancelled());
        assert_eq!(server.conn.intent(), Intent::Open);
        server.answer(0, &[1; 3000]);
        // A slow caller gets all of it.
        assert_eq!(server.conn.intent(), Intent::ShutDown);
        server.take(1000);
        server.advance(5 * SECOND);
        server.take(1000);
        if !fin_first {
            server.eof();
        }
        assert_eq!(server.conn.intent(), Intent::ShutDown);
        server.advance(5 * SECOND);
        server.take(5000);
        assert_eq!(server.conn.intent(), Intent::Close);
    }
}

#[test]
fn the_callers_reset_cancels_its_call() {
    let mut server = Server::new();
    server.feed(&legacy_request(Dialect::LittleEndian, "Later", b"x"));
    assert!(server.conn.wants_read(), "or the reset is not seen");
    server.conn.lost(&io::ErrorKind::ConnectionReset.into(), server.now);
    assert!(server.handlers.last().cancel.is_cancelled());
}

#[test]
fn fin_inside_a_request_is_reset_never_a_clean_empty_end() {
    for dialect in DIALECTS {
        let bytes = legacy_request(dialect, "Echo", b"zhang san");
        for cut in 1..bytes.len() {
            let mut server = Server::new();
            server.feed(&bytes[..cut]);
            server.eof();
            is_reset(&mut server);
        }
    }
}

#[test]
fn a_kept_connection_serves_the_next_call() {
    for (dialect, keep) in
        [(Dialect::LittleEndian, true), (Dialect::BigEndian, true), (Dialect::Varint, false)]
    {
        let mut server = Server::with(|s| s.legacy_keep = keep);
        for text in [&b"one"[..], b"two", b"three"] {
            for byte in legacy_request(dialect, "Echo", text) {
                server.feed(&[byte]);
            }
            assert_eq!(server.output(), wire(text));
            assert_eq!(server.conn.intent(), Intent::Open);
            server.advance(200 * SECOND);
        }
        server.eof();
        assert_eq!(server.conn.intent(), Intent::Close);
    }
}

#[test]
fn requests_behind_a_running_one_wait_for_it() {
    let mut server = Server::with(|s| s.legacy_keep = true);
    let one = |method, text: &[u8]| legacy_request(Dialect::LittleEndian, method, text);
    server.feed(&[one("Later", b"1"), one("Echo", b"2"), one("Later", b"3")].concat());
    assert_eq!(server.handlers.held(), 1);
    assert!(server.conn.wants_read(), "or a reset is not seen");
    server.advance(1000 * SECOND);
    server.eof();
    server.answer(0, b"1");
    assert_eq!(server.output(), [wire(b"1"), wire(b"2")].concat());
    assert_eq!(server.conn.intent(), Intent::Open);
    server.answer(0, b"3");
    assert_eq!(server.output(), wire(b"3"));
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn a_caller_cannot_pile_up_requests_or_replies() {
    let one = legacy_request(Dialect::Varint, "Later", &[1; 50]);
    let mut server = Server::new();
    let mut fed = 0;
    for _ in 0..10_000 {
        if !server.conn.wants_read() {
            break;
        }
        server.feed(&one);
        fed += one.len();
    }
    assert!(fed < 3000, "{fed} bytes were taken behind a running call");

    let one = legacy_request(Dialect::Varint, "Echo", &[1; 1000]);
    let mut server = Server::new();
    for _ in 0..10_000 {
        if !server.conn.wants_read() {
            break;
        }
        server.feed(&one);
    }
    assert!(server.conn.output().len() < 15_000);
    server.output();
    assert!(server.conn.wants_read());
}

#[test]
fn an_idle_kept_connection_ends_by_reset() {
    let mut server = Server::with(|s| s.legacy_keep = true);
    server.feed(&legacy_request(Dialect::LittleEndian, "Echo", b"x"));
    server.output();
    server.advance(300 * SECOND - MS);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.advance(MS);
    is_reset(&mut server);
}

#[test]
fn a_drain_answers_the_running_call_and_resets_an_idle_connection() {
    for keep in [true, false] {
        let mut server = Server::with(|s| s.legacy_keep = keep);
        server.feed(&legacy_request(Dialect::LittleEndian, "Later", b"x"));
        server.post(Command::Drain);
        server.advance(5 * SECOND);
        assert_eq!(server.conn.intent(), Intent::Open);
        server.answer(0, b"x");
        assert_eq!(server.output(), wire(b"x"));
        assert_eq!(server.conn.intent(), Intent::ShutDown);
    }
    let mut idle = Server::with(|s| s.legacy_keep = true);
    idle.feed(&legacy_request(Dialect::LittleEndian, "Echo", b"x"));
    idle.output();
    idle.post(Command::Drain);
    is_reset(&mut idle);

    let mut untaken = Server::with(|s| s.legacy_keep = true);
    untaken.feed(&legacy_request(Dialect::LittleEndian, "Echo", b"x"));
    untaken.post(Command::Drain);
    assert_eq!(untaken.conn.intent(), Intent::ShutDown);
    assert_eq!(untaken.output(), wire(b"x"));
}

#[test]
fn closing_a_legacy_connection_is_a_reset_and_cancels_its_call() {
    let mut server = Server::new();
    server.feed(&legacy_request(Dialect::LittleEndian, "Later", b"x"));
    server.post(Command::Close("drain_timeout"));
    is_reset(&mut server);
    assert!(server.handlers.last().cancel.is_cancelled());
    server.answer(0, b"late");
    assert!(server.output().is_empty());
}

#[test]
fn an_empty_reply_during_a_drain_is_no_failure() {
    let mut server = Server::with(|s| s.legacy_keep = true);
    server.feed(&legacy_request(Dialect::LittleEndian, "Later", b"x"));
    server.post(Command::Drain);
    server.answer(0, b"");
    assert_eq!(server.conn.intent(), Intent::ShutDown);
}

#[test]
fn a_reply_that_is_still_being_taken_is_not_idle() {
    let mut server = Server::with(|s| {
        s.legacy_keep = true;
        s.idle_timeout = SECOND;
    });
    server.feed(&legacy_request(Dialect::LittleEndian, "Echo", &[1; 100]));
    server.advance(5 * SECOND);
    assert_eq!(server.output(), wire(&[1; 100]));
    assert_eq!(server.conn.intent(), Intent::Open);
}
