//! DESIGN 4.3, Cancel, on both sides.

use super::*;
use crate::Ran;

#[test]
fn a_cancelled_call_is_told_so_and_answered_at_most_once() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.feed(&control(Kind::Cancel, 1, b""));
    let (call, reply) = server.reply();
    assert_eq!((call, reply.code), (1, code(Code::Cancelled)));
    assert!(server.handlers.last().cancel.is_cancelled());
    server.feed(&control(Kind::Cancel, 1, b""));
    server.answer(0, b"too late");
    assert!(server.frames().is_empty());
    server.lives(2);
}

#[test]
fn cancel_of_an_unknown_or_finished_call_is_ignored() {
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", b""));
    assert_eq!(server.replies().len(), 1);
    for id in [0, 1, 7, u64::MAX] {
        server.feed(&control(Kind::Cancel, id, b""));
        assert!(server.frames().is_empty());
    }
    server.lives(2);
}

#[test]
fn cancel_right_behind_its_request_finds_the_inline_answer_given() {
    let mut server = Server::mux();
    server
        .feed(&[request(1, "Echo", b"x"), control(Kind::Cancel, 1, b""), request(2, "Echo", b"y")].concat());
    let replies = server.replies();
    assert_eq!(replies.len(), 2);
    assert_eq!((replies[0].0, replies[0].1.code), (1, 0));
    assert_eq!((replies[1].0, replies[1].1.code), (2, 0));
}

#[test]
fn an_answer_given_before_the_cancel_but_posted_behind_it_is_dropped() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.handlers.ticket(0).answer(&message(b"x"), &ReplyExtras::default());
    server.feed(&control(Kind::Cancel, 1, b""));
    server.deliver();
    assert_eq!(server.reply().1.code, code(Code::Cancelled));
}

#[test]
fn a_cancelled_call_counts_until_its_handler_ends() {
    let mut server = Server::mux_with(|s| s.max_calls = 1);
    server
        .feed(&[request(1, "Later", b""), control(Kind::Cancel, 1, b""), request(2, "Echo", b"x")].concat());
    assert_eq!(server.reply().1.code, code(Code::Cancelled));
    assert_eq!(server.handlers.methods(), ["Later"]);
    server.answer(0, b"");
    assert_eq!(server.reply().0, 2);
}

#[test]
fn a_hook_that_answers_when_it_is_cancelled_finds_that_was_done() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    let ticket = server.handlers.ticket(0);
    server.handlers.last().cancel.on_cancel(move || ticket.fail(Status::cancelled("stopped")));
    server.feed(&control(Kind::Cancel, 1, b""));
    assert_eq!(server.reply().1.text, "cancelled by the caller");
    server.deliver();
    assert!(server.frames().is_empty());
    server.lives(2);
}

#[test]
fn a_client_cancels_by_tag_and_drops_the_late_response() {
    let mut client = Client::mux();
    client.start(5);
    client.start(6);
    client.output();
    client.cancel(5);
    let failure = client.failed();
    assert_eq!((failure.status.code(), failure.ran), (Code::Cancelled, Ran::Maybe));
    assert_eq!(client.output(), control(Kind::Cancel, 1, b""));
    client.feed(&[response(1, b"late"), response(2, b"six")].concat());
    assert_eq!(client.got(), wire(b"six"));
    assert_eq!(client.conn.late_responses(), 1);
    client.cancel(6);
    client.cancel(99);
    assert!(client.ended().is_empty() && client.output().is_empty());
}

#[test]
fn tag_zero_cannot_be_cancelled() {
    let mut client = Client::mux();
    client.start(0);
    client.cancel(0);
    assert!(client.ended().is_empty());
    assert_eq!(client.conn.in_flight(), 1);
}

#[test]
fn cancelling_a_legacy_call_resets_its_connection() {
    for (written, ran) in [(0, Ran::No), (1, Ran::Maybe), (usize::MAX, Ran::Maybe)] {
        let mut client = Client::legacy_with(|_| ());
        client.start(5);
        client.take(written);
        client.cancel(5);
        let failure = client.failed();
        assert_eq!((failure.status.code(), failure.ran), (Code::Cancelled, ran));
        assert_eq!(client.conn.intent(), Intent::Reset);
    }
}

#[test]
fn a_reset_cancels_every_call() {
    let mut server = Server::mux();
    server.feed(&[request(1, "Later", b""), request(2, "Later", b"")].concat());
    server.conn.lost(&io::ErrorKind::ConnectionReset.into(), server.now);
    assert!(server.handlers.lock().iter().all(|seen| seen.cancel.is_cancelled()));
    assert_eq!(server.conn.intent(), Intent::Close);
    server.answer(0, b"");
    assert!(server.output().is_empty());
}

#[test]
fn cancel_travels_from_client_to_handler_in_any_chunks() {
    for chunk in [1, 3, 19, 1000] {
        let mut pair = Pair::new(chunk);
        let start = Start { tag: 4, deadline: pair.client.now + SECOND, empty_ok: false, done: 4 };
        let write = |_: &u64, id: u64, out: &mut Vec<u8>| out.extend(request(id, "Later", b""));
        pair.client.conn.start(start, write, &mut |_, _| panic!("not yet"));
        pair.run();
        pair.client.cancel(4);
        pair.run();
        assert!(pair.server.handlers.last().cancel.is_cancelled());
        pair.server.answer(0, b"");
        pair.run();
        assert_eq!(pair.client.conn.late_responses(), 1);
        assert_eq!(pair.client.failed().status.code(), Code::Cancelled);
    }
}
