//! What is bounded, and what waits when a bound is reached.

use std::io::IoSlice;

use super::*;
use crate::{Ran, wire::buf::PIECES};

fn laters(ids: std::ops::RangeInclusive<u64>) -> Vec<u8> {
    ids.flat_map(|id| request(id, "Later", b"")).collect()
}

#[test]
fn beyond_max_calls_reading_stops_and_goes_on_with_each_answer() {
    let mut server = Server::mux();
    server.feed(&laters(1..=4));
    assert!(server.conn.wants_read(), "pings and cancels must pass");
    server.feed(&laters(5..=10));
    assert_eq!((server.handlers.held(), server.conn.wants_read()), (4, false));
    assert!(server.frames().is_empty());
    for id in 1..=10 {
        server.answer(0, b"");
        assert_eq!(server.reply().0, id);
        assert_eq!(server.handlers.held() as u64, 4.min(10 - id));
    }
    assert!(server.conn.wants_read());
    server.lives(11);
}

#[test]
fn pings_and_cancels_pass_while_all_calls_are_busy() {
    let mut server = Server::mux();
    server.feed(&laters(1..=4));
    server.feed(&[control(Kind::Ping, 0, b"?"), control(Kind::Cancel, 2, b""), laters(5..=5)].concat());
    assert_eq!(kinds(&server.frames()), [5, 2]);
    assert_eq!(server.handlers.held(), 4);
    server.answer(1, b"");
    assert_eq!(server.handlers.held(), 4, "the cancelled call's handler made room");
}

#[test]
fn inline_calls_do_not_wait_for_each_other() {
    let mut server = Server::mux_with(|s| s.max_calls = 1);
    let many: Vec<u8> = (1..=200).flat_map(|id| request(id, "Echo", b"x")).collect();
    server.feed(&many);
    assert_eq!(server.replies().len(), 200);
    server.feed(&[laters(201..=202), request(203, "Echo", b"")].concat());
    assert!(!server.conn.wants_read());
    server.answer(0, b"");
    server.answer(0, b"");
    let ids: Vec<_> = server.replies().iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [201, 202, 203]);
}

#[test]
fn time_does_not_run_against_a_peer_that_waits_for_us() {
    let mut server = Server::mux();
    server.feed(&laters(1..=4));
    server.feed(&request(5, "Echo", b"waits")[..30]);
    assert!(!server.conn.wants_read());
    server.advance(1000 * SECOND);
    assert_eq!(server.conn.intent(), Intent::Open);
    server.answer(0, b"");
    assert!(server.conn.wants_read());
    server.output();
    server.advance(9 * SECOND);
    server.feed(&request(5, "Echo", b"waits")[30..]);
    assert_eq!(server.reply().1.body, wire(b"waits"));
}

#[test]
fn a_peer_that_takes_no_answers_is_not_read_and_gets_no_more_of_them() {
    let mut server = Server::mux();
    let many: Vec<u8> = (1..=1000).flat_map(|id| request(id, "Echo", &[1; 1000])).collect();
    let mut fed = 0;
    for piece in many.chunks(1500) {
        if !server.conn.wants_read() {
            break;
        }
        server.feed(piece);
        fed += piece.len();
    }
    let taken = server.handlers.methods().len();
    assert!((8..100).contains(&taken), "{taken} calls were taken");
    assert!(server.conn.output().len() <= 10_000 + 2_000);
    // It takes them again: everything is answered, in order and once.
    let mut ids = Vec::new();
    let mut rest = many[fed..].chunks(1500);
    for _ in 0..100_000 {
        ids.extend(server.replies().iter().map(|(id, _)| *id));
        match server.conn.wants_read().then(|| rest.next()) {
            Some(Some(piece)) => server.feed(piece),
            Some(None) if server.conn.output().is_empty() => break,
            _ => {}
        }
    }
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
}

#[test]
fn posted_answers_stop_the_reading_too() {
    let mut server = Server::mux();
    server.feed(&laters(1..=4));
    for _ in 0..4 {
        server.answer(0, &[1; 3000]);
    }
    assert!(!server.conn.wants_read());
    server.take(3000);
    assert!(server.conn.wants_read());
    assert_eq!(server.conn.intent(), Intent::Open);
}

/// A server whose calls waiting for a worker are held, as the peer takes nothing.
fn choked() -> Server {
    let mut server = Server::mux();
    server.feed(&laters(1..=4));
    for _ in 0..3 {
        assert!(server.handlers.holds().is_empty());
        server.answer(0, &[1; 3900]);
    }
    assert_eq!(server.handlers.holds(), [true]);
    server
}

#[test]
fn calls_that_wait_for_a_worker_are_held_until_output_is_taken() {
    let mut server = choked();
    server.take(1000);
    assert_eq!(server.handlers.holds(), [true], "still too much");
    server.take(1000);
    assert_eq!(server.handlers.holds(), [true, false]);
    server.answer(0, &[1; 3900]);
    assert_eq!(server.handlers.holds(), [true, false, true]);
    server.output();
    assert_eq!(server.handlers.holds(), [true, false, true, false]);
}

#[test]
fn however_a_connection_ends_its_calls_are_not_held_and_cancelled_by_then() {
    let ends: [fn(&mut Server); 4] = [
        |server| server.advance(11 * SECOND), // request_timeout
        |server| server.post(Command::Close("over")),
        |server| server.conn.lost(&io::Error::other("reset"), server.now),
        |_| {},
    ];
    for end in ends {
        let mut server = choked();
        let handlers = server.handlers.clone();
        end(&mut server);
        let cancelled = handlers.last().cancel.is_cancelled();
        drop(server);
        assert_eq!(handlers.holds(), [true, false]);
        assert!(cancelled || handlers.held() == 1);
    }
}

#[test]
fn one_read_is_not_parsed_on_past_max_output() {
    let mut server = Server::mux_with(|s| s.max_calls = 1000);
    let many: Vec<u8> = (1..=1000).flat_map(|id| request(id, "Echo", &[1; 1000])).collect();
    server.feed(&many);
    let most = 10_000 + 64 * 1100;
    assert!(server.conn.output().len() <= most);
    assert!(server.handlers.methods().len() < 200 && !server.conn.wants_read());
    // What is in memory already is parsed when the peer takes its answers.
    let mut ids = Vec::new();
    for _ in 0..1000 {
        ids.extend(server.replies().iter().map(|(id, _)| *id));
    }
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
    assert!(server.conn.wants_read());
}

#[test]
fn goaway_and_fin_behind_requests_that_wait_are_heeded_in_their_order() {
    for leaving in [true, false] {
        let mut server = Server::mux();
        server.feed(&laters(1..=6));
        if leaving {
            server.feed(&control(Kind::GoAway, 0, b"done"));
        }
        server.eof();
        assert_eq!(server.conn.intent(), Intent::Open);
        assert!(!server.handlers.last().cancel.is_cancelled());
        server.answer(0, b"");
        server.answer(0, b"");
        let cancelled = server.handlers.lock().iter().filter(|seen| seen.cancel.is_cancelled()).count();
        assert_eq!(server.handlers.methods().len(), 6);
        if leaving {
            assert_eq!(cancelled, 0);
            for _ in 0..4 {
                server.answer(0, b"");
            }
            assert_eq!(server.replies().len(), 6);
        } else {
            assert_eq!(cancelled, 4);
            assert_eq!(server.ends().0, 6);
        }
        assert_eq!(server.conn.intent(), Intent::Close);
    }
}

#[test]
fn a_drain_while_requests_wait_loses_none_that_came_before_the_pong() {
    let mut server = Server::mux();
    server.feed(&laters(1..=5));
    server.post(Command::Drain);
    server.feed(&[control(Kind::Pong, 0, b""), request(6, "Echo", b"ignored")].concat());
    assert_eq!(kinds(&server.frames()), [6, 4]);
    server.answer(0, b"");
    let frames = server.frames();
    assert_eq!(kinds(&frames), [2, 6]);
    assert_eq!(frames[1].call, 5);
    for _ in 0..4 {
        server.answer(0, b"");
    }
    assert_eq!(server.replies().len(), 4);
    assert_eq!(server.conn.intent(), Intent::ShutDown);
}

#[test]
fn a_client_refuses_calls_that_its_peer_takes_no_bytes_of() {
    let mut client = Client::mux();
    for tag in 1..=100 {
        client.start_for(tag, SECOND, &[1; 500]);
    }
    assert!(client.conn.output().len() < 11_000);
    let refused = client.ended();
    assert!(refused.len() > 70);
    for (_, outcome) in refused {
        let failure = outcome.expect_err("refused");
        assert_eq!((failure.ran, failure.status.code()), (Ran::No, Code::Unavailable));
    }
    client.output();
    client.start(1000);
    assert!(client.ended().is_empty());
}

#[test]
fn a_peer_that_pings_but_takes_no_pongs_does_not_fill_a_clients_memory() {
    let mut client = Client::mux();
    for _ in 0..1000 {
        client.feed(&control(Kind::Ping, 0, &[0; 4000]));
    }
    assert!(client.conn.output().len() < 20_000);
}

#[test]
fn output_that_is_never_empty_does_not_grow_for_ever() {
    let mut output = Output::default();
    for round in 0..10_000 {
        output.buffer().extend_from_slice(&[round as u8; 1000]);
        let n = if round == 0 { 500 } else { 1000 };
        output.advance(n);
        assert_eq!(output.len(), 500);
        assert!(output.buffer().len() < 200_000);
    }
    assert_eq!(output.end_in_all(), 10_000_000);
    output.truncate(output.end_in_all() - 100);
    assert_eq!((output.len(), output.end_in_all()), (400, 9_999_900));
    output.truncate(0);
    assert!(output.is_empty() && output.sent_in_all() == 9_999_500);
}

#[test]
fn output_leaves_in_order_whatever_is_appended_taken_or_forgotten() {
    let (mut output, mut waits, mut sent) = (Output::default(), Vec::new(), 0);
    let mut seed = 1_u64;
    let mut below = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % n
    };
    for round in 0..5000 {
        let mut frames = vec![round as u8; below(if round % 7 == 0 { 150_000 } else { 2000 })];
        waits.extend_from_slice(&frames);
        match below(3) {
            0 => output.buffer().extend_from_slice(&frames),
            1 => output.append(&mut frames),
            _ => output.share(frames.into()),
        }
        if below(9) == 0 {
            let keep = below(waits.len() + 1);
            waits.truncate(keep);
            output.truncate(sent + keep as u64);
        }
        let gathered = gather(&output);
        assert!(waits.starts_with(&gathered) && gathered.starts_with(output.pending()));
        let n = below(gathered.len() + 1);
        output.advance(n);
        waits.drain(..n);
        sent += n as u64;
        assert_eq!((output.len(), output.sent_in_all()), (waits.len(), sent));
        assert_eq!(output.pending(), &waits[..output.pending().len()]);
        assert_eq!((output.pending().is_empty(), output.is_empty()), (waits.is_empty(), waits.is_empty()));
    }
    assert_eq!(drain(&mut output, usize::MAX), waits);
}

#[test]
fn one_write_has_many_pieces_but_few_behind_much() {
    let mut output = Output::default();
    output.buffer().extend_from_slice(b"first");
    (0..100).for_each(|n| output.share(vec![n; 10].into()));
    assert_eq!(gather(&output).len(), 5 + 15 * 10);
    output.advance(5 + 90 * 10 + 3);
    assert_eq!((gather(&output).len(), output.len()), (97, 97));
    output.share(vec![7; 1_000_000].into());
    output.buffer().extend_from_slice(b"another turn");
    assert_eq!(gather(&output).len(), 97 + 1_000_000);
    output.advance(97 + 900_000);
    assert_eq!(gather(&output).len(), 100_000 + 12);
}

fn gather(output: &Output) -> Vec<u8> {
    let mut pieces = [IoSlice::new(&[]); PIECES];
    output.gather(&mut pieces).iter().map(|piece| &**piece).collect::<Vec<_>>().concat()
}

#[test]
fn requests_to_be_ignored_do_not_wait_for_room() {
    let mut server = Server::mux();
    server.feed(&laters(1..=4));
    server.post(Command::Drain);
    server.feed(&[control(Kind::Pong, 0, b""), laters(5..=6), control(Kind::Ping, 0, b"?")].concat());
    assert_eq!(kinds(&server.frames()), [6, 4, 6, 5]);
    assert!(server.conn.wants_read());
}
