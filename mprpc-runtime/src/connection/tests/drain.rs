//! DESIGN 4.3: a drain says GoAway twice and loses no call.

use super::*;
use crate::Ran;

fn announced(server: &mut Server) {
    let frames = server.frames();
    assert_eq!(kinds(&frames), [6, 4]);
    assert_eq!((frames[0].call, frames[1].call), (u64::MAX, 0));
    assert_eq!(server.conn.intent(), Intent::Open);
}

#[test]
fn the_first_step_still_takes_calls_the_second_names_the_last_id_taken() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.post(Command::Drain);
    announced(&mut server);
    server.feed(&[request(2, "Echo", b"2"), request(3, "Later", b"")].concat());
    assert_eq!(server.reply().0, 2);
    server.feed(&control(Kind::Pong, 0, b"draining"));
    let frames = server.frames();
    assert_eq!((kinds(&frames), frames[0].call), (vec![6], 3));
    // What comes now is ignored, but it is no violation.
    server.feed(&[request(4, "Echo", b"4"), raw(Kind::Request as u8, END, 5, b"", &[0; 5000])].concat());
    assert!(server.frames().is_empty());
    server.answer(0, b"1");
    assert_eq!(server.reply().0, 1);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.answer(0, b"3");
    assert_eq!(server.conn.intent(), Intent::ShutDown);
    assert_eq!(server.reply().0, 3);
    server.eof();
    assert_eq!(server.conn.intent(), Intent::Close);
    assert_eq!(server.handlers.methods(), ["Later", "Echo", "Later"]);
}

#[test]
fn a_peer_that_sends_no_pong_has_a_second() {
    let mut server = Server::mux();
    server.post(Command::Drain);
    announced(&mut server);
    server.advance(999 * MS);
    server.feed(&request(1, "Echo", b"in time"));
    assert_eq!(server.reply().0, 1);
    server.advance(2 * MS);
    assert_eq!(server.ends(), (1, "draining".into()));
    assert_eq!(server.conn.intent(), Intent::ShutDown);
}

#[test]
fn what_ends_a_drained_connection_early_does_not_claim_ignored_calls() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.post(Command::Drain);
    server.feed(&control(Kind::Pong, 0, b""));
    server.feed(&request(2, "Echo", b"ignored"));
    server.output();
    server.post(Command::Close("drain_timeout"));
    assert_eq!(server.ends(), (1, "drain_timeout".into()));
}

#[test]
fn a_cancelled_call_whose_handler_runs_on_does_not_hold_up_the_end() {
    let mut server = Server::mux();
    server.feed(&[request(1, "Later", b""), control(Kind::Cancel, 1, b"")].concat());
    server.post(Command::Drain);
    server.feed(&control(Kind::Pong, 0, b""));
    assert_eq!(server.conn.intent(), Intent::ShutDown);

    let mut leaving = Server::mux();
    leaving.feed(&[request(1, "Later", b""), control(Kind::Cancel, 1, b"")].concat());
    leaving.feed(&control(Kind::GoAway, 0, b"done"));
    leaving.eof();
    leaving.output();
    assert_eq!(leaving.conn.intent(), Intent::Close);
}

#[test]
fn a_second_drain_changes_nothing() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.post(Command::Drain);
    announced(&mut server);
    server.post(Command::Drain);
    assert!(server.frames().is_empty());
    server.feed(&control(Kind::Pong, 0, b""));
    server.output();
    server.post(Command::Drain);
    assert!(server.frames().is_empty());
}

#[test]
fn a_pong_without_a_drain_is_nothing() {
    let mut server = Server::mux();
    server.feed(&control(Kind::Pong, 0, b""));
    server.lives(1);
}

#[test]
fn goaway_and_fin_of_the_caller_during_a_drain_lose_nothing() {
    let mut server = Server::mux();
    server.feed(&request(1, "Later", b""));
    server.post(Command::Drain);
    server.feed(&[control(Kind::Pong, 0, b""), control(Kind::GoAway, 0, b"done")].concat());
    server.eof();
    server.output();
    server.answer(0, b"1");
    assert_eq!(server.replies().len(), 1);
    assert_eq!(server.conn.intent(), Intent::Close);
}

#[test]
fn a_connection_without_a_word_yet_is_drained_when_it_says_its_wire() {
    let mut mux = Server::new();
    mux.post(Command::Drain);
    assert_eq!(mux.conn.intent(), Intent::Open);
    mux.feed(&[hello(), request(1, "Echo", b"x")].concat());
    assert_eq!(kinds(&mux.frames()), [0, 6, 4, 2]);
    mux.feed(&control(Kind::Pong, 0, b""));
    assert_eq!(mux.ends().0, 1);

    let mut legacy = Server::new();
    legacy.post(Command::Drain);
    legacy.feed(&legacy_request(Dialect::Varint, "Echo", b"x"));
    assert_eq!(legacy.output(), wire(b"x"));
    assert_eq!(legacy.conn.intent(), Intent::ShutDown);

    for said in [&b""[..], b"MR", &legacy_request(Dialect::LittleEndian, "Echo", &[1; 50])[..20]] {
        let mut short = Server::new();
        short.feed(said);
        short.post(Command::Drain);
        short.advance(999 * MS);
        assert_eq!(short.conn.intent(), Intent::Open);
        short.advance(2 * MS);
        assert_eq!(short.conn.intent(), Intent::Reset, "never a clean empty close");
    }
}

#[test]
fn the_pair_loses_no_call_in_a_drain_at_any_moment() {
    for chunk in [1, 5, 17, 64, 1000] {
        for moment in 0..60 {
            let mut pair = Pair::new(chunk);
            for tag in 1..=3 {
                pair.client.start(tag);
            }
            for _ in 0..moment {
                let up = pair.client.take(chunk);
                pair.server.feed(&up);
                let down = pair.server.take(chunk);
                pair.client.feed(&down);
            }
            pair.server.post(Command::Drain);
            for tag in 4..=6 {
                pair.client.start(tag);
            }
            pair.run();
            pair.advance(2 * SECOND);
            assert!(pair.closed(), "chunk {chunk}, moment {moment}");
            let ended = pair.client.ended();
            assert_eq!(ended.len(), 6);
            let handled = pair.server.handlers.methods().len();
            let ok = ended.iter().filter(|(_, outcome)| outcome.is_ok()).count();
            assert_eq!(ok, handled, "what ran was answered");
            for (tag, outcome) in ended {
                let certain = outcome.map_or_else(|failure| failure.ran == Ran::No, |_| true);
                assert!(certain, "call {tag} is in doubt");
            }
        }
    }
}

#[test]
fn each_call_is_finished_or_open_in_the_account_of_a_reactor_that_stops() {
    let mut server = Server::mux_with(|s| s.max_calls = 9);
    server.feed(&[1, 2, 3, 4].map(|id| request(id, "Later", b"")).concat());
    server.feed(&[request(5, "Echo", b""), control(Kind::Cancel, 4, b"")].concat());
    let Server { handlers, mailbox, .. } = &server;
    let account = || (mailbox.account().finished, mailbox.account().open);
    assert_eq!(account(), (1, 4), "a cancelled call is open until its handler ends");
    let answer = |n| handlers.ticket(n).answer(&message(b""), &ReplyExtras::default());
    answer(0);
    assert_eq!(account(), (1, 4), "nobody has the answer yet");
    mailbox.take(&mut Posts::default(), false);
    assert_eq!(account(), (2, 3));
    answer(0);
    mailbox.close(&mut Posts::default());
    assert_eq!(account(), (2, 3), "this answer came too late to be sent");
    answer(0);
    assert_eq!((account(), mailbox.open_calls()), ((2, 3), 1), "and so did this");
}

#[test]
fn a_handler_that_blocks_its_reactor_is_open_and_so_is_what_its_turn_has_answered() {
    let mailbox = Mailbox::new(usize::MAX, || ());
    let account = || (mailbox.account().finished, mailbox.account().open);
    mailbox.begin(3);
    mailbox.answer(ConnId(1), 1, false, |_| ());
    mailbox.take(&mut Posts::default(), false);
    mailbox.lend(ConnId(3), 7);
    assert_eq!(account(), (1, 3));
    mailbox.answer(ConnId(3), 8, false, |_| ());
    assert_eq!((account(), mailbox.open_calls()), ((1, 4), 2));
    mailbox.begin(2);
    mailbox.reclaim(&mut Output::default(), |_, _| ());
    assert_eq!(account(), (2, 3));
}
