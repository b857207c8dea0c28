//! What many connections may hold together, and one of its requests.

use super::*;
fn short_of(memory: &Arc<Quota>) -> Server {
    Server::mux_with(|s| (s.max_body, s.max_output, s.memory) = (20_000, 40_000, memory.clone()))
}

/// A request whose body has this many bytes and some.
fn large(id: u64, method: &str, bytes: usize) -> Vec<u8> {
    request(id, method, &vec![1; bytes])
}

#[test]
fn requests_that_are_not_answered_stop_the_reading_beyond_max_input() {
    let mut server = Server::mux_with(|s| (s.max_input, s.max_calls) = (5000, 100));
    for id in 1..=9 {
        if server.conn.wants_read() {
            server.feed(&large(id, "Later", 2000));
        }
    }
    assert_eq!((server.handlers.held(), server.conn.wants_read()), (3, false));
    server.feed(&control(Kind::Ping, 0, b"behind the fourth request"));
    server.answer(0, b"");
    assert_eq!((server.handlers.held(), server.conn.wants_read()), (3, true));
    assert_eq!(kinds(&server.frames()), [2, 5]);
    for _ in 0..3 {
        server.answer(0, b"");
    }
    server.feed(&[large(10, "Echo", 3000), large(11, "Echo", 3000), large(12, "Echo", 3000)].concat());
    assert_eq!(server.replies().len(), 6, "what is answered at once does not count");
}

#[test]
fn a_large_request_is_refused_while_memory_is_short_even_in_its_middle() {
    let memory = Quota::new(10_000);
    let (mut slow, mut other) = (short_of(&memory), short_of(&memory));
    slow.feed(&large(1, "Echo", 15_000)[..9000]);
    assert_eq!(memory.used(), 8192);
    other.feed(&large(1, "Later", 7000));
    assert!(memory.is_over());
    // Small requests of everybody are served, large ones get a status, and so does the one that is half here.
    other.feed(&[request(2, "Echo", b"small"), large(3, "Echo", 6000)].concat());
    let mut replies = other.replies();
    replies.sort_by_key(|(id, _)| *id);
    assert_eq!((replies[0].1.code, replies[1].1.code), (0, code(Code::ResourceExhausted)));
    assert!(replies[1].1.retryable && replies[1].1.text.contains("max_memory"));
    slow.feed(&large(1, "Echo", 15_000)[9000..9001]);
    assert_eq!(slow.reply().1.code, code(Code::ResourceExhausted));
    assert!(memory.used() < 8192, "its bytes are given back at once");
    slow.feed(&large(1, "Echo", 15_000)[9001..]);
    slow.lives(2);
    other.answer(0, b"");
    assert_eq!((other.reply().0, memory.used()), (1, 0));
    other.feed(&large(4, "Echo", 6000));
    assert_eq!(other.reply().1.code, 0);
}

#[test]
fn who_takes_no_answers_is_reset_while_memory_is_short_and_others_are_not() {
    let memory = Quota::new(60_000);
    let (mut greedy, mut other) = (short_of(&memory), short_of(&memory));
    greedy.feed(&[large(1, "Later", 0), large(2, "Later", 0), large(3, "Later", 0)].concat());
    other.feed(&request(1, "Later", b""));
    for _ in 0..3 {
        greedy.answer(0, &[1; 19_000]);
    }
    assert_eq!(greedy.conn.intent(), Intent::Open, "over max_output, but there is memory");
    other.answer(0, &[1; 19_000]);
    assert!(memory.is_over());
    assert_eq!((other.conn.intent(), other.conn.wants_read()), (Intent::Open, false));
    other.output();
    assert!(!memory.is_over() && other.conn.wants_read());
    memory.set_limit(1000);
    other.feed(&request(2, "Echo", b"small"));
    assert_eq!(other.reply().1.code, 0);
}

#[test]
fn answers_larger_than_max_output_reach_who_takes_them_though_memory_is_short() {
    let memory = Quota::new(0);
    let _held = memory.hold(1);
    let mut server =
        Server::mux_with(|s| (s.max_body, s.max_output, s.memory) = (20_000, 5000, memory.clone()));
    server.feed(&[1, 2, 3].map(|id| request(id, "Later", b"")).concat());
    server.answer(0, &[1; 9000]);
    server.answer(0, &[1; 9000]);
    assert_eq!(server.conn.intent(), Intent::Open, "of one turn: nothing was offered to the peer yet");
    assert_eq!(server.replies().len(), 2);
    server.feed(&request(4, "Later", b""));
    server.answer(0, &[1; 9000]);
    server.take(100);
    server.now += Duration::from_millis(1);
    server.answer(0, &[1; 9000]);
    assert_eq!(server.conn.intent(), Intent::Reset, "it left some of the last one");
}

#[test]
fn a_connection_that_is_lost_gives_back_what_it_held_and_its_calls_keep_theirs() {
    let memory = Quota::new(100_000);
    let mut server = short_of(&memory);
    server.feed(&large(1, "Later", 5000));
    server.feed(&large(2, "Later", 15_000)[..9000]);
    assert!(memory.used() > 13_000);
    let ticket = server.handlers.ticket(0);
    let Server { conn, mailbox, .. } = server;
    drop(conn);
    assert!((5000..6000).contains(&memory.used()), "{}", memory.used());
    assert_eq!(mailbox.open_calls(), 1, "its handler runs");
    ticket.answer(&message(b""), &ReplyExtras::default());
    assert_eq!((memory.used(), mailbox.open_calls(), mailbox.ended()), (0, 0, 1));
}

#[test]
fn a_large_legacy_request_is_reset_while_memory_is_short() {
    let memory = Quota::new(0);
    let _held = memory.hold(1);
    let mut server = Server::with(|s| (s.max_body, s.memory) = (20_000, memory.clone()));
    server.feed(&legacy_request(Dialect::LittleEndian, "Echo", &[1; 9000])[..100]);
    assert_eq!(server.conn.intent(), Intent::Reset);
    assert!(server.conn.reason().unwrap().contains("max_memory"));
}

#[test]
fn a_caller_that_cancels_all_it_calls_at_once_is_sent_away() {
    let mut server = Server::mux_with(|s| (s.max_calls, s.max_output) = (10_000, 1 << 20));
    let storm: Vec<u8> = (1..=600)
        .flat_map(|id| [request(id, "Later", b""), control(Kind::Cancel, id, b"")].concat())
        .collect();
    server.feed(&storm);
    let (_, reason) = server.ends();
    assert!(reason.contains("cancelled"), "{reason}");
}

#[test]
fn calls_that_time_out_in_numbers_are_cancelled_in_peace() {
    let mut server = Server::mux_with(|s| (s.max_calls, s.max_output) = (10_000, 1 << 20));
    let calls: Vec<u8> = (1..=2000).flat_map(|id| request(id, "Later", b"")).collect();
    server.feed(&calls);
    server.advance(Duration::from_millis(200));
    let cancels: Vec<u8> = (1..=2000).flat_map(|id| control(Kind::Cancel, id, b"")).collect();
    server.feed(&cancels);
    assert_eq!(server.replies().len(), 2000);
    server.lives(2001);
}
