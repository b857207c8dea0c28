//! DESIGN 4.1 and the opening of 4.3: which wire, and the two Hellos.

use super::*;

#[test]
fn nothing_is_said_before_the_wire_is_known() {
    let mut server = Server::new();
    for byte in &hello()[..3] {
        server.feed(&[*byte]);
        assert!(server.output().is_empty());
    }
    server.feed(b"C");
    let frames = server.frames();
    assert_eq!(kinds(&frames), [Kind::Hello as u8]);
    let said = Hello::decode(&frames[0].meta).expect("a HelloMeta");
    let expected = Hello {
        version: 1,
        instance: 7,
        max_header: 1000,
        max_body: 4000,
        min_ping_interval_ms: 1000,
        max_calls: 4,
    };
    assert_eq!(said, expected);
}

#[test]
fn requests_right_behind_hello_are_answered_however_the_bytes_are_cut() {
    let bytes = [hello(), request(1, "Echo", b"one"), request(3, "Echo", b"three")].concat();
    let check = |server: &mut Server, cut: usize| {
        let replies = server.replies();
        let bodies: Vec<_> = replies.iter().map(|(id, r)| (*id, &r.body[..])).collect();
        assert_eq!(bodies, [(1, &*wire(b"one")), (3, &*wire(b"three"))], "cut at {cut}");
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

#[test]
fn the_caller_writes_hello_and_its_first_requests_without_waiting() {
    let mut client = Client::new(Wire::Mux);
    assert!(client.conn.takes_calls());
    client.start(1);
    client.conn.connected();
    client.start(2);
    let frames = client.frames();
    assert_eq!(kinds(&frames), [0, 1, 1]);
    assert_eq!((frames[1].call, frames[2].call), (1, 2));
    let said = Hello::decode(&frames[0].meta).expect("a HelloMeta");
    assert_eq!((said.version, said.instance), (1, 9));
    assert_eq!((said.max_header, said.max_body), (1000, 4000));
    assert!(!client.conn.is_idle());
}

#[test]
fn responses_right_behind_the_servers_hello_are_delivered_however_the_bytes_are_cut() {
    let bytes = [hello(), response(2, b"two"), response(1, b"one")].concat();
    for cut in 0..=bytes.len() {
        let mut client = Client::new(Wire::Mux);
        client.conn.connected();
        client.start(1);
        client.start(2);
        client.feed(&bytes[..cut]);
        client.feed(&bytes[cut..]);
        let tags: Vec<_> =
            client.ended().into_iter().map(|(tag, got)| (tag, got.expect("ok").body)).collect();
        assert_eq!(tags, [(2, wire(b"two")), (1, wire(b"one"))], "cut at {cut}");
        assert_eq!(client.conn.peer_instance(), 42);
    }
}

#[test]
fn a_first_frame_that_is_no_hello_ends_a_servers_connection() {
    for first in [
        request(1, "Echo", b""),
        control(Kind::Ping, 0, b""),
        raw(8, 0, 0, b"", b""),
        control(Kind::GoAway, 0, b""),
    ] {
        let mut server = Server::new();
        server.feed(&first);
        let (last, reason) = server.ends();
        assert_eq!((last, &*reason), (0, "the first frame is no Hello"));
        assert!(server.handlers.methods().is_empty());
    }
}

#[test]
fn a_first_frame_that_is_no_hello_ends_a_clients_connection() {
    for first in
        [response(1, b""), control(Kind::Ping, 0, b""), raw(8, 0, 0, b"", b""), control(Kind::GoAway, 0, b"")]
    {
        let mut client = Client::new(Wire::Mux);
        client.conn.connected();
        client.start(1);
        client.output();
        client.feed(&first);
        assert_eq!(client.failed().ran, crate::Ran::Maybe);
        assert!(client.says_goodbye().contains("Hello"));
    }
}

#[test]
fn a_second_hello_ends_the_connection() {
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", b""));
    server.feed(&hello());
    assert_eq!(server.ends(), (1, "a second Hello".into()));

    let mut client = Client::mux();
    client.feed(&hello());
    assert!(client.says_goodbye().contains("Hello"));
}

#[test]
fn a_higher_version_is_spoken_to_as_1() {
    let nine = hello_of(Hello { version: 9, ..Default::default() });
    let mut server = Server::new();
    server.feed(&nine);
    assert_eq!(Hello::decode(&server.frames()[0].meta).expect("meta").version, 1);
    server.lives(1);

    let mut client = Client::new(Wire::Mux);
    client.conn.connected();
    client.start(1);
    client.feed(&[nine, response(1, b"x")].concat());
    assert_eq!(client.got(), wire(b"x"));
}

#[test]
fn version_zero_or_an_undecodable_hello_ends_the_connection() {
    for first in [hello_of(Hello::default()), raw(0, 0, 0, b"\x0a\xff\xff", b""), raw(0, 0, 0, b"", b"")] {
        let mut server = Server::new();
        server.feed(&first);
        let (last, reason) = server.ends();
        assert!(last == 0 && reason.contains("Hello"), "{reason}");

        let mut client = Client::new(Wire::Mux);
        client.conn.connected();
        client.feed(&first);
        assert!(client.says_goodbye().contains("Hello"));
    }
}

#[test]
fn a_zero_in_hello_is_no_limit() {
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", &[1; 3000]));
    assert_eq!(server.reply().1.code, 0);
}

#[test]
fn an_unknown_wire_is_reset_and_named() {
    for (bytes, name) in [
        (&b"\x16\x03\x01\x02\x00\x01"[..], "TLS"),
        (b"PRI * HTTP/2.0", "HTTP/2"),
        (b"PROXY TCP4", "PROXY"),
        (b"\0\0\0\x19\0\0", "Krpc"),
        (b"\xff\xff\xff\xff", "no known protocol"),
    ] {
        let mut server = Server::new();
        server.feed(bytes);
        assert_eq!(server.conn.intent(), Intent::Reset);
        assert!(server.conn.reason().expect("a reason").contains(name));
        assert!(server.output().is_empty());
    }
}

#[test]
fn http_gets_404_and_is_closed() {
    for first in ["GET / HTTP/1.1\r\n\r\n", "POST /x HTTP/1.1\r\n", "HEAD "] {
        let mut server = Server::new();
        server.feed(first.as_bytes());
        assert!(server.output().starts_with(b"HTTP/1.1 404 "));
        assert_eq!(server.conn.intent(), Intent::ShutDown);
        server.eof();
        assert_eq!(server.conn.intent(), Intent::Close);
    }
}

#[test]
fn legacy_off_resets_legacy_callers_and_nobody_else() {
    for dialect in DIALECTS {
        let mut server = Server::with(|s| s.legacy = false);
        server.feed(&legacy_request(dialect, "Echo", b"x"));
        assert_eq!(server.conn.intent(), Intent::Reset);
        assert!(server.conn.reason().expect("a reason").contains("legacy = on"));
        assert!(server.handlers.methods().is_empty());
    }
    Server::mux_with(|s| s.legacy = false).lives(1);
}

#[test]
fn a_caller_that_ends_before_its_wire_is_known_costs_nothing() {
    let mut silent = Server::new();
    silent.eof();
    assert_eq!(silent.conn.intent(), Intent::Close);
    let mut short = Server::new();
    short.feed(b"MR");
    short.eof();
    assert_eq!(short.conn.intent(), Intent::Reset);
}

#[test]
fn the_pair_talks_in_pieces_of_any_size() {
    for chunk in [1, 2, 7, 19, 20, 21, 64, 10_000] {
        let mut pair = Pair::new(chunk);
        for tag in 1..=20 {
            pair.client.start_for(tag, 5 * SECOND, &[tag as u8; 50]);
        }
        pair.run();
        let ended = pair.client.ended();
        assert_eq!(ended.len(), 20);
        for (tag, got) in ended {
            assert_eq!(got.expect("a response").body, wire(&[tag as u8; 50]));
        }
        assert!(pair.client.conn.is_idle());
        pair.client.conn.leave();
        pair.run();
        assert!(pair.closed(), "chunk {chunk}");
    }
}
