//! DESIGN 4.3, "Closing": GoAway, FIN, what is still read, and who is told that nothing ran.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::Ran;

#[test]
fn a_server_says_goaway_then_fin_then_reads_until_eof() {
    let mut server = Server::mux();
    server.feed(&request(3, "Later", b""));
    server.post(Command::Close("maintenance"));
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    assert_eq!(server.ends(), (3, "maintenance".into()));
    assert_eq!(server.conn.reason(), Some("maintenance"));
    assert!(server.handlers.last().cancel.is_cancelled());
    assert!(server.conn.wants_read());
    server.feed(&request(4, "Echo", b""));
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    assert!(server.output().is_empty());
    server.eof();
    assert_eq!(server.conn.intent(), Intent::Close);
    assert_eq!(server.handlers.methods(), ["Later"]);
}

#[test]
fn input_is_read_and_dropped_for_a_second_at_most() {
    let mut server = Server::mux();
    server.post(Command::Close("bye"));
    server.output();
    server.advance(999 * MS);
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    server.advance(2 * MS);
    assert_eq!(server.conn.intent(), Intent::Close);

    let mut client = Client::mux();
    client.close("bye");
    assert_eq!(client.says_goodbye(), "bye");
    client.advance(999 * MS);
    assert_eq!(client.conn.intent(), Intent::ShutDown);
    client.advance(2 * MS);
    assert_eq!(client.conn.intent(), Intent::Close);
}

#[test]
fn input_is_dropped_up_to_4_times_max_body() {
    let mut server = Server::mux();
    server.post(Command::Close("bye"));
    server.output();
    server.feed(&[0; 15_999]);
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    server.feed(&[0]);
    assert_eq!(server.conn.intent(), Intent::Close);

    let mut client = Client::mux();
    client.close("bye");
    client.output();
    client.feed(&[0; 15_999]);
    assert_eq!(client.conn.intent(), Intent::ShutDown);
    client.feed(&[0]);
    assert_eq!(client.conn.intent(), Intent::Close);
}

#[test]
fn the_second_counts_from_fin_so_that_a_slow_peer_gets_everything() {
    let mut server = Server::mux();
    server.feed(&request(1, "Echo", &[1; 3000]));
    server.feed(&control(Kind::GoAway, 0, b"done"));
    server.eof();
    let mut got = Vec::new();
    while !server.conn.output().is_empty() {
        assert_eq!(server.conn.intent(), Intent::ShutDown);
        server.advance(5 * SECOND);
        got.extend(server.take(500));
    }
    assert_eq!(server.conn.intent(), Intent::Close);
    let frames = parse(&got);
    assert_eq!(kinds(&frames), [2, 6]);
}

#[test]
fn a_peer_that_floods_while_it_takes_the_rest_still_gets_it() {
    let mut server = Server::mux();
    server.post(Command::Close("bye"));
    server.feed(&[0; 20_000]);
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    assert_eq!(server.ends().1, "bye");
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn fin_after_goaway_answers_what_runs() {
    for close_first in [false, true] {
        let mut server = Server::mux();
        server.feed(&[request(1, "Later", b""), request(2, "Echo", b"2"), request(3, "Later", b"")].concat());
        server.feed(&control(Kind::GoAway, 0, b"done"));
        if close_first {
            server.eof();
        }
        assert_eq!(server.reply().0, 2);
        server.answer(1, b"3");
        assert_eq!(server.reply().0, 3);
        if !close_first {
            server.eof();
        }
        assert_eq!(server.conn.intent(), Intent::Open);
        assert!(server.handlers.lock().iter().all(|seen| !seen.cancel.is_cancelled()));
        server.answer(0, b"1");
        let frames = server.frames();
        assert_eq!(kinds(&frames), [2, 6]);
        assert_eq!((frames[0].call, frames[1].call), (1, 3));
        assert_eq!(server.conn.intent(), Intent::Close);
    }
}

#[test]
fn fin_without_goaway_takes_complete_frames_and_cancels_all_calls() {
    let whole = [request(1, "Later", b""), request(2, "Echo", b"2"), request(3, "Later", b"")].concat();
    for rest in [&[][..], &request(4, "Echo", b"half")[..30], b"MR"] {
        for cut in 0..=whole.len() {
            let mut server = Server::mux();
            server.feed(&whole[..cut]);
            server.feed(&[&whole[cut..], rest].concat());
            server.eof();
            assert_eq!(server.handlers.methods(), ["Later", "Echo", "Later"]);
            assert!(
                server
                    .handlers
                    .lock()
                    .iter()
                    .filter(|seen| seen.method == "Later")
                    .all(|seen| seen.cancel.is_cancelled())
            );
            let frames = server.frames();
            assert_eq!(kinds(&frames), [2, 6]);
            assert_eq!((frames[0].call, frames[1].call), (2, 3));
            assert_eq!(server.conn.intent(), Intent::Close);
        }
    }
}

#[test]
fn fin_on_an_idle_connection_ends_it() {
    let mut server = Server::mux();
    server.eof();
    assert_eq!(server.ends().0, 0);
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn fin_inside_a_refused_frame_ends_it() {
    let mut server = Server::mux();
    server.feed(&raw(Kind::Request as u8, END, 1, b"", &[0; 5000])[..1000]);
    server.eof();
    assert_eq!(server.ends().0, 1);
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn a_client_leaves_with_goaway_0_after_its_last_call() {
    let mut client = Client::mux();
    client.start(1);
    client.start(2);
    client.output();
    client.conn.leave();
    assert!(!client.conn.takes_calls() && client.output().is_empty());
    client.feed(&response(1, b""));
    assert_eq!(client.conn.intent(), Intent::Open);
    client.feed(&response(2, b""));
    assert_eq!(client.ended().len(), 2);
    assert_eq!(client.says_goodbye(), "done");
    client.eof();
    assert_eq!(client.conn.intent(), Intent::Close);
}

#[test]
fn a_client_that_leaves_goes_with_the_end_of_its_last_call_whatever_that_is() {
    let mut cancelled = Client::mux();
    cancelled.start(1);
    cancelled.conn.leave();
    cancelled.cancel(1);
    assert_eq!(cancelled.says_goodbye(), "done");
    let mut expired = Client::mux();
    expired.start(1);
    expired.conn.leave();
    expired.advance(5 * SECOND);
    assert_eq!(expired.says_goodbye(), "done");
}

#[test]
fn a_client_may_leave_before_it_is_connected_or_greeted() {
    let mut unconnected = Client::new(Wire::Mux);
    unconnected.conn.leave();
    assert_eq!(unconnected.conn.intent(), Intent::Close);

    let mut waiting = Client::new(Wire::Mux);
    waiting.start(1);
    waiting.conn.leave();
    waiting.conn.connected();
    assert_eq!(kinds(&waiting.frames()), [0, 1]);
    waiting.feed(&[hello(), response(1, b"x")].concat());
    assert_eq!(waiting.got(), wire(b"x"));
    assert_eq!(waiting.says_goodbye(), "done");
}

#[test]
fn calls_on_a_leaving_connection_did_not_run() {
    let mut client = Client::mux();
    client.start(1);
    client.conn.leave();
    client.start(2);
    assert_eq!(client.failed().ran, Ran::No);
    assert_eq!(client.conn.in_flight(), 1);
}

#[test]
fn goaway_tells_a_client_which_calls_did_not_run() {
    let mut client = Client::mux();
    (1..=4).for_each(|tag| client.start(tag));
    client.output();
    client.feed(&control(Kind::GoAway, 2, b"too busy"));
    let ended = client.ended();
    assert_eq!(ended.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [3, 4]);
    for (_, outcome) in ended {
        let failure = outcome.expect_err("did not run");
        assert_eq!((failure.ran, failure.status.code()), (Ran::No, Code::Unavailable));
        assert!(failure.status.message().contains("too busy"));
    }
    assert!(!client.conn.takes_calls());
    client.feed(&response(1, b"1"));
    assert_eq!(client.got(), wire(b"1"));
    client.eof();
    let failure = client.failed();
    assert_eq!(failure.ran, Ran::Maybe);
    assert!(failure.status.message().contains("too busy"));
    assert_eq!(client.conn.intent(), Intent::Close);
}

#[test]
fn a_call_whose_first_byte_was_never_taken_did_not_run() {
    type End = fn(&mut Client);
    let ends: [End; 3] = [Client::lost, Client::eof, |client| client.close("bye")];
    for end in ends {
        let mut client = Client::mux();
        client.start(1);
        let len = client.conn.output().len();
        client.start(2);
        client.start(3);
        client.take(len + 1);
        end(&mut client);
        let ran: Vec<_> =
            client.ended().into_iter().map(|(tag, out)| (tag, out.expect_err("ended").ran)).collect();
        assert_eq!(ran, [(1, Ran::Maybe), (2, Ran::Maybe), (3, Ran::No)]);
    }
}

#[test]
fn a_closing_client_finishes_the_frame_it_began_and_sends_none_of_the_others() {
    let mut whole = Client::mux();
    (1..=3).for_each(|tag| whole.start(tag));
    let bytes = whole.output();
    let len = bytes.len() / 3;
    for sent in 0..=bytes.len() {
        let mut client = Client::mux();
        (1..=3).for_each(|tag| client.start(tag));
        let mut stream = client.take(sent);
        client.close("bye");
        stream.extend(client.output());
        let frames = parse(&stream);
        assert_eq!(frames.len(), sent.div_ceil(len) + 1, "{sent} sent");
        let maybe =
            client.ended().into_iter().filter(|(_, out)| out.as_ref().is_err_and(|f| f.ran == Ran::Maybe));
        assert_eq!(maybe.count(), sent.div_ceil(len));
    }
}

#[test]
fn an_idle_client_notices_goaway_and_fin_before_its_next_call() {
    let mut client = Client::mux();
    assert!(client.conn.is_idle());
    client.feed(&control(Kind::GoAway, 0, b"idle"));
    assert!(!client.conn.is_idle() && !client.conn.takes_calls());
    assert_eq!(client.says_goodbye(), "done");
    let mut client = Client::mux();
    client.eof();
    assert!(!client.conn.is_idle());
    client.start(1);
    assert_eq!(client.failed().ran, Ran::No);
}

#[test]
fn a_half_received_frame_keeps_a_client_from_being_idle() {
    let mut client = Client::mux();
    client.feed(&control(Kind::Pong, 0, b"")[..7]);
    assert!(!client.conn.is_idle());
    let mut client = Client::mux();
    client.feed(&raw(99, 0, 0, b"", &[0; 5000])[..100]);
    assert!(!client.conn.is_idle());
}

#[test]
fn the_pair_closes_cleanly_from_either_side() {
    for chunk in [1, 13, 10_000] {
        let mut pair = Pair::new(chunk);
        pair.client.start(1);
        pair.run();
        pair.client.close("enough");
        pair.run();
        assert!(pair.closed());

        let mut pair = Pair::new(chunk);
        pair.client.start(1);
        pair.run();
        pair.server.post(Command::Close("enough"));
        pair.run();
        assert!(pair.closed());
        assert!(pair.client.got() == wire(b"hello"));
    }
}

#[test]
fn nothing_happens_after_the_end() {
    let mut server = Server::mux();
    server.conn.lost(&io::ErrorKind::BrokenPipe.into(), server.now);
    server.feed(&request(1, "Echo", b""));
    server.post(Command::Drain);
    server.post(Command::Close("again"));
    server.advance(1000 * SECOND);
    server.eof();
    assert!(server.output().is_empty() && server.conn.next_timeout().is_none());
    assert_eq!(server.conn.intent(), Intent::Close);
    let mut client = Client::mux();
    client.eof();
    client.feed(&response(1, b""));
    client.close("again");
    client.conn.leave();
    client.advance(1000 * SECOND);
    assert!(client.output().is_empty() && client.conn.next_timeout().is_none());
    assert_eq!(client.conn.intent(), Intent::Close);
}

#[test]
fn calls_that_began_in_a_turn_that_panicked_are_counted_until_they_end() {
    let mut server = Server::mux();
    let calls = [request(1, "Later", b""), request(2, "Later", b""), request(3, "Panic", b"")].concat();
    assert!(catch_unwind(AssertUnwindSafe(|| server.feed(&calls))).is_err());
    // As the reactor does.
    server.mailbox.reclaim(&mut Output::default(), |_, _| {});
    server.conn.lost(&io::Error::other("a panic in the connection"), server.now);
    assert_eq!(server.mailbox.open_calls(), 2, "two handlers run");
    server.answer(1, b"");
    assert_eq!(server.mailbox.open_calls(), 1);
    server.answer(0, b"");
    assert_eq!((server.mailbox.open_calls(), server.mailbox.ended()), (0, 3));
    server.mailbox.begin(1);
    assert_eq!(server.mailbox.open_calls(), 1, "those of other connections are not hidden");
}
