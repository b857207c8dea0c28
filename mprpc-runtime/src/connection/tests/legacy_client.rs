//! DESIGN 4.2 as caller: one connection a call, the whole request at once, read to the end.

use super::*;
use crate::Ran;

fn client() -> Client {
    Client::legacy_with(|_| ())
}

/// A client whose request is written.
fn waiting(set: impl FnOnce(&mut ClientSettings)) -> Client {
    let mut client = Client::legacy_with(set);
    client.start(1);
    client.output();
    client
}

#[test]
fn the_whole_request_is_in_the_output_at_once_and_no_fin_follows() {
    let mut client = Client::with(Wire::Legacy(Dialect::LittleEndian), |_| ());
    assert!(client.conn.output().is_empty(), "no Hello to a C++ node");
    client.start(1);
    client.conn.connected();
    assert_eq!(client.output(), legacy_request(Dialect::LittleEndian, "Echo", b"hello"));
    assert_eq!(client.conn.intent(), Intent::Open);
}

#[test]
fn a_connection_makes_one_call() {
    let mut client = client();
    assert!(client.conn.takes_calls());
    client.start(1);
    assert!(!client.conn.takes_calls() && !client.conn.is_idle());
    client.start(2);
    assert_eq!(client.failed().ran, Ran::No);
    client.feed(&wire(b"x"));
    client.eof();
    assert_eq!(client.got(), wire(b"x"));
    assert!(!client.conn.takes_calls());
}

#[test]
fn the_reply_is_what_comes_until_fin_in_any_pieces() {
    let reply = wire(&[7; 2000]);
    for size in [1, 3, 1000, 1024, 5000] {
        let mut client = waiting(|_| ());
        for piece in reply.chunks(size) {
            client.feed(piece);
            assert!(client.ended.is_empty());
        }
        client.eof();
        assert_eq!(client.got(), reply);
        assert_eq!(client.conn.intent(), Intent::Close);
    }
}

#[test]
fn a_reset_is_unavailable_with_an_unknown_outcome() {
    for reply in [&b""[..], b"\x0a\x01"] {
        let mut client = waiting(|_| ());
        client.feed(reply);
        client.lost();
        let failure = client.failed();
        assert_eq!((failure.status.code(), failure.ran), (Code::Unavailable, Ran::Maybe));
        assert_eq!(client.conn.intent(), Intent::Close);
    }
}

#[test]
fn fin_without_a_byte_is_unavailable_and_names_the_setting() {
    let mut client = waiting(|_| ());
    client.eof();
    let failure = client.failed();
    assert_eq!((failure.status.code(), failure.ran), (Code::Unavailable, Ran::Maybe));
    assert!(failure.status.message().contains("legacy_empty = default"));
}

#[test]
fn fin_before_a_byte_was_written_did_not_run() {
    let mut client = client();
    client.start(1);
    client.eof();
    assert_eq!(client.failed().ran, Ran::No);
}

#[test]
fn the_setting_and_a_response_without_fields_accept_an_empty_reply() {
    let mut set = waiting(|s| s.legacy_empty = true);
    set.eof();
    assert_eq!(set.got(), b"");
    let mut fieldless = client();
    let start = Start { tag: 1, deadline: fieldless.now + SECOND, empty_ok: true, done: 1 };
    fieldless.begin(start, b"x");
    fieldless.output();
    fieldless.eof();
    assert_eq!(fieldless.got(), b"");
}

#[test]
fn a_reset_is_an_error_even_where_an_empty_reply_is_none() {
    let mut client = waiting(|s| s.legacy_empty = true);
    client.lost();
    assert_eq!(client.failed().status.code(), Code::Unavailable);
}

#[test]
fn a_quiet_line_ends_a_reply_where_that_is_set() {
    let mut client = waiting(|s| s.legacy_quiet = true);
    client.advance(4 * SECOND);
    assert!(client.ended.is_empty(), "nothing came yet");
    client.feed(&wire(b"hello")[..3]);
    client.advance(50 * MS);
    client.feed(&wire(b"hello")[3..]);
    client.advance(50 * MS);
    assert!(client.ended.is_empty());
    client.advance(100 * MS);
    assert_eq!(client.got(), wire(b"hello"));
    assert_eq!(client.conn.intent(), Intent::Close);

    let mut early = waiting(|s| s.legacy_quiet = true);
    early.feed(&wire(b"x"));
    early.eof();
    assert_eq!(early.got(), wire(b"x"));

    let mut eof = waiting(|_| ());
    eof.feed(&wire(b"x"));
    eof.advance(4 * SECOND);
    assert!(eof.ended.is_empty(), "only FIN ends it");
}

#[test]
fn a_silent_peer_is_given_up_at_the_deadline_with_a_reset() {
    let mut client = waiting(|_| ());
    client.feed(b"\x0a");
    client.advance(5 * SECOND - MS);
    assert!(client.ended.is_empty());
    client.advance(MS);
    let failure = client.failed();
    assert_eq!((failure.status.code(), failure.ran), (Code::DeadlineExceeded, Ran::Maybe));
    assert_eq!(client.conn.intent(), Intent::Reset);
    assert!(client.conn.output().is_empty());
}

#[test]
fn an_endless_reply_ends_at_max_body() {
    let mut client = waiting(|_| ());
    client.feed(&[0; 4000]);
    assert!(client.ended.is_empty());
    client.feed(&[0]);
    let failure = client.failed();
    assert_eq!((failure.status.code(), failure.ran), (Code::ResourceExhausted, Ran::Maybe));
    assert!(failure.status.message().contains("max_body"));
    assert_eq!(client.conn.intent(), Intent::Reset);
}

#[test]
fn connect_timeout_and_a_refused_connect_did_not_run() {
    let mut client = Client::with(Wire::Legacy(Dialect::Varint), |_| ());
    client.start(1);
    client.advance(SECOND);
    let failure = client.failed();
    assert_eq!(failure.ran, Ran::No);
    assert!(failure.status.message().contains("connect_timeout"));
    let mut client = Client::with(Wire::Legacy(Dialect::Varint), |_| ());
    client.start(1);
    client.lost();
    assert_eq!(client.failed().ran, Ran::No);
}

#[test]
fn nothing_of_our_wire_is_ever_said_to_a_legacy_peer() {
    let mut idle = client();
    idle.conn.leave();
    assert!(idle.output().is_empty());
    assert_eq!(idle.conn.intent(), Intent::Close);

    let mut busy = waiting(|_| ());
    busy.advance(4 * SECOND);
    busy.conn.leave();
    assert_eq!(busy.conn.intent(), Intent::Open);
    busy.feed(&wire(b"x"));
    busy.eof();
    assert_eq!(busy.got(), wire(b"x"));
    assert!(busy.output().is_empty());

    let mut closed = waiting(|_| ());
    closed.close("shutting down");
    assert_eq!(closed.failed().ran, Ran::Maybe);
    assert!(closed.output().is_empty());
    assert_eq!(closed.conn.intent(), Intent::Reset);
}

#[test]
fn a_slow_reply_has_until_its_deadline() {
    let mut client = client();
    client.start_for(1, 60 * SECOND, b"x");
    client.output();
    for byte in wire(&[1; 40]) {
        client.feed(&[byte]);
        client.advance(SECOND);
    }
    client.eof();
    assert_eq!(client.got(), wire(&[1; 40]));
}

#[test]
fn a_quiet_end_means_nothing_on_the_mux_wire() {
    let mut client = Client::mux_with(|s| s.legacy_quiet = true);
    client.start_for(1, 500 * MS, b"one");
    client.start(2);
    client.output();
    client.feed(&response(2, b"slow")[..15]);
    client.advance(SECOND); // the first call's deadline: the timer runs, in the middle of a frame
    assert_eq!(client.failed().status.code(), Code::DeadlineExceeded);
    client.feed(&response(2, b"slow")[15..]);
    assert_eq!(client.got(), wire(b"slow"));
}
