//! DESIGN 4.3, "Calls", without Cancel: ids, what a request carries, what goes wrong.

use super::*;
use crate::Ran;

#[test]
fn a_request_arrives_with_all_that_it_carries() {
    let mut server = Server::mux();
    let meta = RequestMeta {
        timeout_us: Some(1500),
        metadata: vec![("trace", b"\x00\x01"), ("user", b"x")],
        attachment_size: 3,
        ..request_meta("Echo")
    };
    server.feed(&request_of(1, &meta, &[&wire(b"text")[..], b"abc"].concat()));
    let seen = server.handlers.last();
    assert_eq!((&*seen.service, &*seen.method), ("pkg.Svc", "Echo"));
    assert_eq!((seen.body, &*seen.attachment), (wire(b"text"), &b"abc"[..]));
    assert_eq!(seen.metadata, [("trace".into(), vec![0, 1]), ("user".into(), b"x".to_vec())]);
    assert_eq!(seen.deadline, Some(server.now + Duration::from_micros(1500)));

    let echoed = server.output();
    let mut client = Client::mux();
    client.start(1);
    client.feed(&echoed);
    let (tag, got) = client.ended().remove(0);
    let got = got.expect("a response");
    assert_eq!((tag, got.body, &*got.attachment), (1, wire(b"text"), &b"abc"[..]));
    assert_eq!(got.metadata.len(), 2);
}

#[test]
fn answers_go_out_in_the_order_they_are_given_inline_or_later() {
    let mut server = Server::mux();
    server.feed(
        &[
            request(1, "Later", b""),
            request(2, "Echo", b"2"),
            request(3, "Later", b""),
            request(4, "Echo", b"4"),
        ]
        .concat(),
    );
    let ids = |server: &mut Server| server.replies().iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!(ids(&mut server), [2, 4]);
    server.answer(1, b"3");
    assert_eq!(ids(&mut server), [3]);
    server.answer(0, b"1");
    assert_eq!(ids(&mut server), [1]);
}

#[test]
fn a_failed_and_a_dropped_call_are_answered() {
    let mut server = Server::mux();
    server.feed(&request(1, "Nope", b""));
    assert_eq!(server.reply().1.code, code(Code::Unimplemented));
    server.feed(&request(2, "Drop", b""));
    let dropped = server.reply().1;
    assert_eq!(dropped.code, code(Code::Internal));
    assert!(dropped.text.contains("panicked, or dropped its reply"), "{}", dropped.text);
    server.feed(&raw(Kind::Request as u8, END, 3, &request(3, "Echo", b"")[20..], b"\xff"));
    assert_eq!(server.reply().1.code, code(Code::InvalidArgument));
    server.feed(&request(4, "Later", b""));
    server
        .handlers
        .ticket(0)
        .fail(Status::new(Code::NotFound, "no user 7").with_details(*b"why").with_retryable(true));
    server.deliver();
    let bytes = server.output();
    let mut client = Client::mux();
    (1..=4).for_each(|tag| client.start(tag));
    client.feed(&bytes);
    let (tag, failure) = client.ended().remove(0);
    let failure = failure.expect_err("a failure");
    assert_eq!((tag, failure.ran, failure.status.code()), (4, Ran::No, Code::NotFound));
    assert_eq!((failure.status.message(), failure.status.details()), ("no user 7", &b"why"[..]));
}

#[test]
fn ids_may_have_gaps_up_to_the_last_but_one() {
    let mut server = Server::mux();
    for id in [5, 6, 1 << 32, u64::MAX - 1] {
        server.lives(id);
    }
}

#[test]
fn an_id_that_does_not_rise_ends_the_connection_live_or_not() {
    for (method, again) in
        [("Echo", 5), ("Later", 5), ("Echo", 4), ("Later", 4), ("Echo", 0), ("Echo", u64::MAX)]
    {
        let mut server = Server::mux();
        server.feed(&request(5, method, b""));
        server.feed(&request(again, "Echo", b""));
        let (last, _) = server.ends();
        assert_eq!(last, 5, "{again} after 5");
        assert_eq!(server.handlers.methods(), [method]);
        assert_eq!(server.handlers.last().cancel.is_cancelled(), method == "Later");
    }
    let mut server = Server::mux();
    server.feed(&raw(Kind::Request as u8, END, 1, b"", &[0; 5000]));
    assert_eq!(server.reply().1.code, code(Code::ResourceExhausted));
    server.feed(&request(1, "Echo", b""));
    assert_eq!(server.ends().0, 1, "a refused request uses up its id");
}

#[test]
fn a_response_to_a_server_and_a_request_to_a_client_end_the_connection() {
    let mut server = Server::mux();
    server.feed(&response(1, b""));
    assert_eq!(server.ends(), (0, "a Response to a server".into()));
    let mut client = Client::mux();
    client.start(1);
    client.output();
    client.feed(&request(1, "Echo", b""));
    assert_eq!(client.failed().ran, Ran::Maybe);
    assert!(client.says_goodbye().contains("a Request to a client"));
}

#[test]
fn a_response_to_an_id_never_issued_ends_the_connection() {
    for id in [0, 2, u64::MAX] {
        let mut client = Client::mux();
        client.start(1);
        client.output();
        client.feed(&response(id, b""));
        assert_eq!(client.failed().status.code(), Code::Unavailable);
        client.says_goodbye();
    }
}

#[test]
fn a_response_to_a_finished_id_is_dropped_and_counted() {
    let mut client = Client::mux();
    client.start(1);
    client.start(2);
    client.feed(
        &[
            response(1, b"a"),
            response(1, b"b"),
            raw(Kind::Response as u8, END, 1, b"", &[0; 5000]),
            response(2, b"c"),
        ]
        .concat(),
    );
    let bodies: Vec<_> = client.ended().into_iter().map(|(tag, got)| (tag, got.expect("ok").body)).collect();
    assert_eq!(bodies, [(1, wire(b"a")), (2, wire(b"c"))]);
    assert_eq!(client.conn.late_responses(), 2);
}

#[test]
fn undecodable_meta_and_a_too_large_attachment_are_invalid_arguments() {
    let mut server = Server::mux();
    for meta in [&b"\x0a\xff\xff\xff\x7f\x01"[..], b"\x0a\x02\xff\xfe", b"\x0b"] {
        let id = server.handlers.methods().len() as u64 * 10 + 1;
        server.feed(&raw(Kind::Request as u8, END, id, meta, b""));
        assert_eq!(server.reply().1.code, code(Code::InvalidArgument));
        server.lives(id + 1);
    }
    let meta = RequestMeta { attachment_size: 100, ..request_meta("Echo") };
    server.feed(&request_of(1000, &meta, &[0; 99]));
    let (_, reply) = server.reply();
    assert_eq!(reply.code, code(Code::InvalidArgument));
    assert!(reply.text.contains("attachment_size"));
    server.lives(1001);
}

#[test]
fn a_client_takes_broken_metas_of_responses_as_failures_of_their_calls() {
    for bytes in [
        raw(Kind::Response as u8, END, 1, b"\x0a\xff", b""),
        response_of(1, &ResponseMeta { attachment_size: 9, ..Default::default() }, b"12345678"),
    ] {
        let mut client = Client::mux();
        client.start(1);
        client.start(2);
        client.feed(&[bytes, response(2, b"fine")].concat());
        let ended = client.ended();
        assert_eq!(ended[0].1.clone().expect_err("broken").status.code(), Code::Internal);
        assert!(ended[1].1.is_ok());
    }
}

#[test]
fn no_time_left_is_deadline_exceeded_without_running_and_not_retryable() {
    let mut server = Server::mux();
    let meta = RequestMeta { timeout_us: Some(0), ..request_meta("Echo") };
    server.feed(&request_of(1, &meta, b""));
    let (_, reply) = server.reply();
    assert_eq!((reply.code, reply.retryable), (code(Code::DeadlineExceeded), false));
    assert!(server.handlers.methods().is_empty());
    for (id, timeout_us) in [(2, None), (3, Some(u64::MAX)), (4, Some(1 << 63))] {
        let meta = RequestMeta { timeout_us, ..request_meta("Echo") };
        server.feed(&request_of(id, &meta, b""));
        assert_eq!(server.reply().1.code, 0);
    }
}

#[test]
fn an_answer_that_comes_after_the_connection_has_ended_is_dropped() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.post(Command::Close("going"));
    assert_eq!(server.ends().0, 1);
    server.answer(0, b"late");
    assert!(server.output().is_empty());
}

#[test]
fn one_read_with_many_inline_calls_answers_each_once() {
    let mut server = Server::mux_with(|s| s.max_output = usize::MAX);
    let bytes: Vec<u8> = (1..=500).flat_map(|id| request(id, "Echo", &id.to_le_bytes())).collect();
    server.feed(&bytes);
    let replies = server.replies();
    assert_eq!(replies.len(), 500);
    for (at, (id, reply)) in replies.into_iter().enumerate() {
        assert_eq!((id, reply.body), (at as u64 + 1, wire(&id.to_le_bytes())));
    }
}

#[test]
fn a_hook_may_own_another_calls_ticket() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.feed(&request(2, "Tie", b""));
    assert_eq!(server.reply().0, 2);
    server.deliver();
    assert_eq!(server.reply().1.code, code(Code::Internal));
}

#[test]
fn metadata_that_fits_in_no_header_fails_its_call_only() {
    for (size, expected) in [(59_900, Code::Ok), (70_000, Code::ResourceExhausted)] {
        let mut server = Server::mux();
        server.feed(&request(1, "Later", b""));
        let mut extras = ReplyExtras::default();
        extras.metadata.set("key", vec![0; size]);
        server.handlers.ticket(0).answer(&message(b""), &extras);
        server.deliver();
        assert_eq!(server.reply().1.code, code(expected));
        server.lives(2);
    }
}

#[test]
fn a_very_long_text_of_a_failure_is_cut_between_characters() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    let status = Status::internal(format!("x{}", "ü".repeat(100_000))).with_details(vec![1; 100_000]);
    server.handlers.ticket(0).fail(status);
    server.deliver();
    let (_, reply) = server.reply();
    assert!(reply.code == code(Code::Internal) && reply.text.len() >= 4000);
    server.lives(2);
}

#[test]
fn answers_given_before_a_violation_in_the_same_read_go_out_before_the_goaway() {
    let mut server = Server::mux();
    server.feed(&[request(1, "Echo", b"x"), request(1, "Echo", b"again")].concat());
    let frames = server.frames();
    assert_eq!(kinds(&frames), [2, 6]);
}
