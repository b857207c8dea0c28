//! Time: incomplete frames, output that is not taken, idle peers, connect, deadlines, pings.

use super::*;
use crate::Ran;

#[test]
fn a_request_must_be_complete_in_time_from_its_first_byte() {
    let request = request(1, "Echo", &[1; 50]);
    for cut in 1..request.len() {
        let mut server = Server::mux();
        server.advance(3 * SECOND);
        server.feed(&request[..cut]);
        server.advance(10 * SECOND - MS);
        assert_eq!(server.conn.intent(), Intent::Open, "cut at {cut}");
        server.advance(MS);
        let (last, reason) = server.ends();
        assert!(last == 0 && reason.contains("request_timeout"));
    }
}

#[test]
fn dribbling_does_not_extend_the_time_of_a_frame() {
    let refused = raw(Kind::Request as u8, END, 1, b"", &[0; 5000]);
    for bytes in [request(1, "Echo", &[1; 50]), refused] {
        let mut server = Server::mux();
        for byte in &bytes[..10] {
            server.feed(&[*byte]);
            server.advance(MS);
        }
        for byte in &bytes[10..30] {
            server.feed(&[*byte]);
            server.advance(SECOND);
        }
        assert!(server.frames().last().is_some_and(|last| last.kind == Kind::GoAway as u8));
    }
}

#[test]
fn each_frame_has_time_of_its_own() {
    let bytes = request(1, "Echo", &[1; 50]);
    let mut server = Server::mux();
    for id in 1..10 {
        let mut next = bytes.clone();
        next[12] = id;
        if id == 1 {
            server.feed(&next[..40]);
        }
        server.advance(6 * SECOND);
        let mut after = bytes.clone();
        after[12] = id + 1;
        server.feed(&[&next[40..], &after[..40]].concat());
        assert_eq!(server.replies().len(), 1);
    }
    // The same behind frames that are skipped.
    let mut server = Server::mux();
    for id in 1..10 {
        let refused = raw(Kind::Request as u8, END, id, b"", &[0; 5000]);
        if id == 1 {
            server.feed(&refused[..40]);
        }
        server.advance(6 * SECOND);
        let after = raw(Kind::Request as u8, END, id + 1, b"", &[0; 5000]);
        server.feed(&[&refused[40..], &after[..40]].concat());
        assert_eq!(server.conn.intent(), Intent::Open, "frame {id}");
        server.output();
    }
}

#[test]
fn the_first_bytes_of_a_connection_have_the_same_limit() {
    for first in [
        &b"M"[..],
        b"MRPC",
        &hello()[..15],
        b"\x19\0\0\0",
        &legacy_request(Dialect::LittleEndian, "Echo", &[1; 50])[..30],
    ] {
        let mut server = Server::new();
        server.advance(100 * SECOND);
        server.feed(first);
        server.output();
        server.advance(10 * SECOND - MS);
        assert_eq!(server.conn.intent(), Intent::Open);
        server.advance(MS);
        assert_ne!(server.conn.intent(), Intent::Open);
        let mux = first.len() >= 4 && first.starts_with(b"MRPC");
        let expected = if mux { Intent::ShutDown } else { Intent::Reset };
        assert_eq!(server.conn.intent(), expected);
    }
}

#[test]
fn output_that_is_not_taken_resets_the_connection() {
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", &[1; 100]));
    server.advance(10 * SECOND - MS);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.take(50);
    server.advance(10 * SECOND - MS);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.advance(MS);
    assert_eq!(server.conn.intent(), Intent::Reset);
    assert!(server.conn.reason().expect("a reason").contains("request_timeout"));

    let mut later = Server::mux();
    later.feed(&request(1, "Later", b""));
    later.advance(100 * SECOND);
    later.answer(0, b"x");
    later.advance(10 * SECOND - MS);
    assert_eq!(later.conn.intent(), Intent::Open);
    later.advance(MS);
    assert_eq!(later.conn.intent(), Intent::Reset);
}

#[test]
fn a_goaway_that_is_not_taken_resets_the_connection() {
    let mut server = Server::mux();
    server.post(Command::Close("bye"));
    server.advance(10 * SECOND);
    assert_eq!(server.conn.intent(), Intent::Reset);
}

#[test]
fn an_accepted_silent_connection_is_idle_and_ends_after_idle_timeout() {
    let mut server = Server::new();
    server.advance(300 * SECOND - MS);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.advance(MS);
    assert_eq!(server.conn.intent(), Intent::Reset);
}

#[test]
fn an_idle_mux_connection_ends_with_goaway_without_spinning() {
    let mut server = Server::mux();
    server.advance(200 * SECOND);
    server.feed(&control(Kind::Ping, 0, b""));
    server.output();
    server.advance(300 * SECOND - MS);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.advance(MS);
    let (_, reason) = server.ends();
    assert!(reason.contains("idle_timeout"));
    server.advance(2 * SECOND);
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn a_running_call_is_not_idle() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.advance(10_000 * SECOND);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.answer(0, b"x");
    server.output();
    server.advance(300 * SECOND - MS);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.advance(MS);
    assert_eq!(server.conn.intent(), Intent::ShutDown);
}

#[test]
fn pings_that_come_too_fast_end_with_goaway() {
    let mut server = Server::mux();
    for _ in 0..100 {
        server.feed(&control(Kind::Ping, 0, b""));
    }
    let frames = server.frames();
    let pongs = frames.iter().filter(|frame| frame.kind == Kind::Pong as u8).count();
    assert!((1..100).contains(&pongs), "{pongs} answered");
    assert_eq!(frames.last().expect("GoAway").body, b"too many pings");
    assert_eq!(server.conn.intent(), Intent::ShutDown);

    let mut server = Server::mux();
    for _ in 0..1000 {
        server.advance(SECOND);
        server.feed(&control(Kind::Ping, 0, b""));
        assert_eq!(kinds(&server.frames()), [5]);
    }
}

#[test]
fn connect_timeout_covers_connect_and_hello_together() {
    let mut client = Client::new(Wire::Mux);
    client.start(1);
    client.advance(999 * MS);
    assert!(client.ended().is_empty());
    client.advance(MS);
    let failure = client.failed();
    assert_eq!((failure.ran, failure.status.code()), (Ran::No, Code::Unavailable));
    assert!(failure.status.message().contains("connect_timeout"));
    assert_eq!(client.conn.intent(), Intent::Close);

    let mut client = Client::new(Wire::Mux);
    client.start(1);
    client.advance(600 * MS);
    client.conn.connected();
    client.output();
    // A peer that dribbles does not extend it.
    for byte in &hello()[..10] {
        client.feed(&[*byte]);
        client.advance(39 * MS);
    }
    assert!(client.ended().is_empty());
    client.advance(10 * MS);
    let failure = client.failed();
    assert_eq!(failure.ran, Ran::Maybe);
    assert!(failure.status.message().contains("protocol = legacy"));
    assert_eq!(client.conn.intent(), Intent::Reset);
}

#[test]
fn a_failed_connect_did_not_run() {
    let mut client = Client::new(Wire::Mux);
    client.start(1);
    client.lost();
    let failure = client.failed();
    assert_eq!(failure.ran, Ran::No);
    assert!(failure.status.message().contains("cannot connect"));
}

#[test]
fn deadlines_end_calls_in_their_order_and_tell_the_server() {
    let mut client = Client::mux();
    client.start_for(1, 300 * MS, b"");
    client.start_for(2, 100 * MS, b"");
    client.start_for(3, 200 * MS, b"");
    client.output();
    client.feed(&response(2, b""));
    assert_eq!(client.ended().len(), 1);
    client.advance(199 * MS);
    assert!(client.ended().is_empty());
    client.advance(MS);
    let ended = client.ended();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].0, 3);
    let failure = ended[0].1.clone().expect_err("late");
    assert_eq!((failure.status.code(), failure.ran), (Code::DeadlineExceeded, Ran::Maybe));
    let ping = control(Kind::Ping, 0, b"");
    assert_eq!(client.output(), [control(Kind::Cancel, 3, b""), ping].concat(), "is anybody there?");
    client.advance(100 * MS);
    assert_eq!(client.failed().status.code(), Code::DeadlineExceeded);
    assert!(client.conn.takes_calls());
    client.feed(&[response(1, b""), response(3, b"")].concat());
    assert!(client.ended().is_empty());
}

#[test]
fn the_deadline_of_a_finished_call_does_not_wake_the_next_one() {
    let mut client = Client::mux();
    client.start_for(1, 100 * MS, b"");
    client.output();
    client.feed(&response(1, b""));
    client.advance(10 * SECOND);
    let now = client.now;
    client.start_for(2, SECOND, b"");
    assert_eq!(client.conn.next_timeout(), Some(now + SECOND));
}

#[test]
fn a_silent_connection_is_pinged_and_given_up() {
    let mut client = Client::mux();
    client.advance(30 * SECOND - MS);
    assert!(client.output().is_empty());
    client.advance(MS);
    assert_eq!(client.output(), control(Kind::Ping, 0, b""));
    client.feed(&control(Kind::Pong, 0, b""));
    client.advance(30 * SECOND);
    assert_eq!(client.output(), control(Kind::Ping, 0, b""));
    client.start_for(7, 60 * SECOND, b"");
    client.output();
    client.advance(5 * SECOND);
    let failure = client.failed();
    assert_eq!((failure.ran, failure.status.code()), (Ran::Maybe, Code::Unavailable));
    assert_eq!(client.conn.intent(), Intent::Reset);
}

#[test]
fn a_peer_that_owes_an_answer_is_pinged_soon_and_no_oftener_than_it_asked() {
    for (asked_ms, doubt) in [(0, SECOND), (3000, 3 * SECOND)] {
        let mut client = Client::new(Wire::Mux);
        client.conn.connected();
        client.output();
        let hello = Hello { version: 1, min_ping_interval_ms: asked_ms, ..Default::default() };
        client.feed(&hello_of(hello));
        client.advance(20 * SECOND);
        client.start_for(1, 60 * SECOND, b"");
        client.output();
        for _ in 0..3 {
            client.advance(doubt - MS);
            assert!(client.output().is_empty());
            client.advance(MS);
            assert_eq!(client.output(), control(Kind::Ping, 0, b""));
            client.feed(&control(Kind::Pong, 0, b""));
        }
        assert!(client.ended().is_empty(), "a slow handler is no reason");
    }
}

#[test]
fn silence_counts_from_hello() {
    let mut client = Client::new(Wire::Mux);
    client.conn.connected();
    client.output();
    client.advance(900 * MS);
    client.feed(&hello());
    assert_eq!(client.conn.next_timeout(), Some(client.now + 30 * SECOND));
}

#[test]
fn a_response_must_be_complete_in_time() {
    let refused = raw(Kind::Response as u8, END, 2, b"", &[0; 5000]);
    for bytes in [response(1, &[1; 100]), refused] {
        let mut client = Client::mux();
        client.start_for(1, 60 * SECOND, b"");
        client.start_for(2, 60 * SECOND, b"");
        client.output();
        for byte in &bytes[..100] {
            client.feed(&[*byte]);
            client.advance(101 * MS);
        }
        assert!(client.says_goodbye().contains("request_timeout"));
        assert!(client.ended().iter().all(|(_, outcome)| outcome.is_err()));
    }
}

#[test]
fn a_server_that_takes_nothing_is_given_up() {
    let mut client = Client::mux();
    client.start_for(1, 60 * SECOND, b"");
    client.take(10);
    client.advance(10 * SECOND);
    let failure = client.failed();
    assert!(failure.status.message().contains("request_timeout"));
    assert_eq!(client.conn.intent(), Intent::Reset);
}
