//! DESIGN 4.3, "Frames": headers, sizes, kinds and flags.

use super::*;

#[test]
fn a_wrong_magic_ends_the_connection_at_its_first_wrong_byte() {
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", b"x"));
    assert_eq!(server.replies().len(), 1);
    server.feed(b"MRPX");
    let (last, reason) = server.ends();
    assert!(last == 1 && reason.contains("MRPC"), "{reason}");

    let mut client = Client::mux();
    client.feed(b"X");
    assert!(client.says_goodbye().contains("MRPC"));
}

#[test]
fn meta_over_max_header_is_refused_by_its_header_and_skipped() {
    let over =
        [raw(Kind::Request as u8, END, 1, &[b'x'; 1001], &wire(b"x")), request(2, "Echo", b"y")].concat();
    for cut in [20, 21, 500, over.len() - 1, over.len()] {
        let mut server = Server::mux();
        server.feed(&over[..cut]);
        let mut replies = server.replies();
        server.feed(&over[cut..]);
        replies.extend(server.replies());
        let [(1, refused), (2, fine)] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(refused.code, code(Code::ResourceExhausted));
        assert!(refused.text.contains("max_header"), "{}", refused.text);
        assert_eq!(fine.body, wire(b"y"));
    }
    let mut server = Server::mux();
    server.feed(&raw(Kind::Request as u8, END, 1, &[b'x'; 1001], b"")[..20]);
    assert_eq!(server.replies().len(), 1, "no byte of the meta is waited for");
}

#[test]
fn a_client_names_max_header_for_a_response_with_long_meta() {
    let mut client = Client::mux();
    client.start(1);
    client.start(2);
    client.feed(&raw(Kind::Response as u8, END, 1, &[0; 1001], b""));
    client.feed(&response(2, b"fine"));
    let ended = client.ended();
    let failure = ended[0].1.clone().expect_err("a failure");
    assert_eq!(failure.status.code(), Code::ResourceExhausted);
    assert!(failure.status.message().contains("max_header"));
    assert_eq!(ended[1].1.clone().expect("fine").body, wire(b"fine"));
}

#[test]
fn pong_echoes_the_pings_body_with_call_0() {
    let mut server = Server::mux();
    for body in [&b""[..], b"8 bytes.", &[7; 4000]] {
        server.feed(&control(Kind::Ping, 0, body));
        assert_eq!(server.output(), control(Kind::Pong, 0, body));
    }
    let mut client = Client::mux();
    client.feed(&control(Kind::Ping, 0, b"ping"));
    assert_eq!(client.output(), control(Kind::Pong, 0, b"ping"));
}

#[test]
fn unary_frames_carry_end_and_nothing_else_does() {
    let mut pair = Pair::new(10_000);
    pair.client.start(1);
    let sent = pair.client.frames();
    assert_eq!(sent.iter().map(|f| f.flags).collect::<Vec<_>>(), [0, END]);
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", b""));
    server.feed(&request(2, "Nope", b""));
    server.feed(&control(Kind::Ping, 0, b""));
    server.post(Command::Drain);
    let flags: Vec<_> = server.frames().iter().map(|f| (f.kind, f.flags, f.meta.is_empty())).collect();
    assert_eq!(flags, [(2, END, true), (2, END, false), (5, 0, true), (6, 0, true), (4, 0, true)]);
}

#[test]
fn undefined_flag_bits_are_ignored() {
    let mut server = Server::mux();
    let mut bytes = request(1, "Echo", b"x");
    bytes[5] = 0xFF;
    server.feed(&bytes);
    assert_eq!(server.reply().1.body, wire(b"x"));
    let mut client = Client::mux();
    client.start(1);
    let mut bytes = response(1, b"x");
    bytes[5] = 0xFF;
    client.feed(&bytes);
    assert_eq!(client.got(), wire(b"x"));
}

#[test]
fn a_request_without_end_is_unimplemented_and_its_data_is_skipped() {
    let mut server = Server::mux();
    let mut bytes = request(1, "Echo", b"x");
    bytes[5] = 0;
    bytes.extend(raw(Kind::Data as u8, 0, 1, b"", b"more"));
    bytes.extend(raw(Kind::Data as u8, END, 1, b"", b"end"));
    server.feed(&bytes);
    let (call, reply) = server.reply();
    assert_eq!((call, reply.code), (1, code(Code::Unimplemented)));
    assert!(server.handlers.methods().is_empty());
    server.lives(2);
}

#[test]
fn data_without_a_request_is_unimplemented_and_does_not_use_up_an_id() {
    let mut server = Server::mux();
    server.feed(&raw(Kind::Data as u8, 0, 5, b"", b"chunk"));
    let (call, reply) = server.reply();
    assert_eq!((call, reply.code), (5, code(Code::Unimplemented)));
    server.feed(&raw(Kind::Data as u8, 0, 0, b"", b"chunk"));
    server.feed(&raw(Kind::Data as u8, 0, u64::MAX, b"", b"chunk"));
    assert!(server.replies().is_empty());
    server.lives(1);
}

#[test]
fn a_response_without_end_fails_its_call_and_data_is_ignored() {
    let mut client = Client::mux();
    client.start(1);
    client.start(2);
    let mut bytes = response(1, b"x");
    bytes[5] = 0;
    bytes.extend(raw(Kind::Data as u8, END, 1, b"", b"more"));
    bytes.extend(response(2, b"fine"));
    client.feed(&bytes);
    let ended = client.ended();
    assert_eq!(ended[0].1.clone().expect_err("streams").status.code(), Code::Unimplemented);
    assert!(ended[1].1.is_ok());
}

#[test]
fn unknown_kinds_are_skipped() {
    let odd =
        [raw(8, 0, 5, b"", b""), raw(200, 255, 9, b"meta", &[1; 500]), raw(255, 0, 0, b"", b"")].concat();
    let mut server = Server::mux();
    server.feed(&odd);
    server.lives(1);
    let mut client = Client::mux();
    client.start(1);
    client.feed(&[odd, response(1, b"x")].concat());
    assert_eq!(client.got(), wire(b"x"));
}

#[test]
fn unknown_meta_fields_are_ignored() {
    let unknown = b"\xca\x3e\x05later\x98\x06\x01";
    let mut meta = Vec::new();
    request_meta("Echo").encode(&mut meta);
    meta.extend_from_slice(unknown);
    let mut server = Server::mux();
    server.feed(&raw(Kind::Request as u8, END, 1, &meta, &wire(b"x")));
    assert_eq!(server.reply().1.body, wire(b"x"));
    let mut client = Client::mux();
    client.start(1);
    client.feed(&raw(Kind::Response as u8, END, 1, unknown, &wire(b"x")));
    assert_eq!(client.got(), wire(b"x"));
}

#[test]
fn unknown_compression_is_unimplemented() {
    let mut server = Server::mux();
    let meta = RequestMeta { compression: 3, ..request_meta("Echo") };
    server.feed(&request_of(1, &meta, &wire(b"x")));
    let (_, reply) = server.reply();
    assert_eq!((reply.code, reply.retryable), (code(Code::Unimplemented), false));
    assert!(reply.text.contains('3'));
    server.lives(2);

    let mut client = Client::mux();
    client.start(1);
    let meta = ResponseMeta { compression: 3, ..Default::default() };
    client.feed(&response_of(1, &meta, b"x"));
    assert_eq!(client.failed().status.code(), Code::Unimplemented);
}

#[test]
fn a_request_over_max_body_is_refused_by_its_header_up_to_4_times_the_limit() {
    for size in [4001, 16_000] {
        let mut server = Server::mux();
        let bytes = raw(Kind::Request as u8, END, 1, b"meta", &vec![0; size]);
        server.feed(&bytes[..20]);
        let (call, reply) = server.reply();
        assert_eq!((call, reply.code), (1, code(Code::ResourceExhausted)));
        assert!(reply.text.contains("max_body") && reply.text.contains("4000"));
        assert!(!reply.retryable);
        // Skipped bytes look like frames, and come in pieces.
        let frames = request(9, "Echo", b"hidden").repeat(size / 10);
        for piece in frames[..size + 4].chunks(999) {
            server.feed(piece);
        }
        assert!(server.handlers.methods().is_empty());
        server.lives(2);
    }
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", &[0; 3990]));
    assert_eq!(server.reply().1.code, 0);
}

#[test]
fn beyond_4_times_max_body_the_connection_ends_by_the_header_alone() {
    for kind in [Kind::Request, Kind::Ping, Kind::Data] {
        let mut server = Server::mux();
        server.feed(&raw(kind as u8, END, 1, b"", &vec![0; 16_001])[..20]);
        let (last, reason) = server.ends();
        assert!(last == 0 && reason.contains("max_body"));
    }
    let mut client = Client::mux();
    client.start(1);
    client.output();
    client.feed(&raw(Kind::Response as u8, END, 1, b"", &vec![0; 16_001])[..20]);
    assert_eq!(client.failed().status.code(), Code::Unavailable);
    assert!(client.says_goodbye().contains("max_body"));
}

#[test]
fn other_kinds_over_the_limits_are_skipped_unanswered() {
    for kind in
        [Kind::Cancel as u8, Kind::Ping as u8, Kind::Pong as u8, Kind::GoAway as u8, Kind::Data as u8, 77]
    {
        for bytes in [raw(kind, 0, 5, b"", &[0; 4001]), raw(kind, 0, 5, &[0; 1001], b"x")] {
            let mut server = Server::mux();
            server.feed(&bytes);
            assert!(server.frames().is_empty(), "kind {kind}");
            server.lives(1);
            let mut client = Client::mux();
            client.start(1);
            client.output();
            client.feed(&[bytes, response(1, b"x")].concat());
            assert_eq!(client.got(), wire(b"x"));
            assert!(client.frames().is_empty());
        }
    }
}

#[test]
fn a_response_over_the_clients_max_body_fails_its_call_only() {
    let mut client = Client::mux();
    client.start(1);
    client.start(2);
    let bytes = raw(Kind::Response as u8, END, 1, b"", &vec![0; 16_000]);
    client.feed(&bytes[..20]);
    let failure = client.failed();
    assert_eq!((failure.status.code(), failure.ran), (Code::ResourceExhausted, crate::Ran::Maybe));
    assert!(failure.status.message().contains("max_body"));
    bytes[20..].chunks(777).for_each(|piece| client.feed(piece));
    client.feed(&response(2, b"fine"));
    assert_eq!(client.got(), wire(b"fine"));
}

#[test]
fn a_response_over_the_callers_max_body_becomes_resource_exhausted() {
    for method in ["Echo", "Later"] {
        let mut server = Server::new();
        server.feed(&hello_of(Hello { version: 1, max_body: 20, ..Default::default() }));
        server.feed(&request(1, method, &[1; 19]));
        if method == "Later" {
            server.answer(0, &[1; 19]);
        }
        let (_, reply) = server.reply();
        assert_eq!(reply.code, code(Code::ResourceExhausted));
        assert!(reply.text.contains("max_body") && reply.body.is_empty());
        server.feed(&request(2, method, &[1; 18]));
        if method == "Later" {
            server.answer(0, &[1; 18]);
        }
        assert_eq!(server.reply().1.code, 0);
    }
}

#[test]
fn meta_of_exactly_max_header_is_taken() {
    let mut server = Server::mux();
    let metadata = |len| RequestMeta { metadata: vec![("k", &[0; 1000][..len])], ..request_meta("Echo") };
    let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        bytes.len()
    };
    let len = (0..1000).find(|len| encoded(&|out| metadata(*len).encode(out)) == 1000).expect("a length");
    server.feed(&request_of(1, &metadata(len), &wire(b"x")));
    assert_eq!(server.reply().1.code, 0);
    let mut client = Client::mux();
    client.start(1);
    let meta = ResponseMeta { details: &[0; 997], ..Default::default() };
    assert_eq!(encoded(&|out| meta.encode(out)), 1000);
    client.feed(&response_of(1, &meta, &wire(b"x")));
    assert_eq!(client.got(), wire(b"x"));
}

#[test]
fn a_body_of_exactly_max_body_is_taken() {
    let text = [1; 3997];
    assert_eq!(wire(&text).len(), 4000);
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", &text));
    assert_eq!(server.reply().1.body, wire(&text));
    let mut client = Client::mux();
    client.start(1);
    client.feed(&response(1, &text));
    assert_eq!(client.got(), wire(&text));
}

#[test]
fn the_rest_of_a_large_frame_is_read_into_its_own_memory() {
    let text = vec![b'x'; 300_000];
    let (frame, next) = (request(1, "Echo", &text), request(2, "Echo", b"y"));
    for (first, beyond) in [(40_000, 0), (200_000, 0), (60_000, next.len()), (60_000, 5)] {
        let mut server = Server::mux_with(|s| (s.max_body, s.max_output) = (1 << 20, 1 << 20));
        server.feed(&frame[..20]);
        assert!(server.conn.room().is_none(), "nothing is given for an announcement");
        server.feed(&frame[20..first]);
        let rest = [&frame[first..], &next[..beyond]].concat();
        let mut rest = rest.as_slice();
        while let Some(room) = server.conn.room() {
            let n = rest.len().min(room.capacity() - room.len()).min(70_000);
            assert!(n > 0 && room.capacity() <= 4 * room.len(), "it grows with what was received");
            room.extend_from_slice(&rest[..n]);
            rest = &rest[n..];
            server.feed(&[]);
        }
        server.feed(rest);
        server.feed(&next[beyond..]);
        let [(1, one), (2, two)] = &server.replies()[..] else { panic!("two replies, {first} {beyond}") };
        assert!(one.body == wire(&text) && two.body == wire(b"y"), "{first} {beyond}");
        assert_eq!(server.conn.buffered(), 0);
    }
}
