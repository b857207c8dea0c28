//! What a client's connection tells those who keep its peer's health.

use super::*;
use crate::connection::client::{Link, Observer};

#[derive(Default)]
struct Notes(Mutex<Vec<&'static str>>);

impl Notes {
    fn take(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn add(&self, what: &'static str) {
        self.0.lock().unwrap().push(what);
    }
}

impl Observer for Notes {
    fn opened(&self, _: Instant) {
        self.add("opened");
    }
    fn connect_failed(&self, _: Instant) {
        self.add("connect_failed");
    }
    fn drains(&self, _: Instant) {
        self.add("drains");
    }
    fn fell_silent(&self, _: Instant) {
        self.add("fell_silent");
    }
    fn heard(&self, _: Instant) {
        self.add("heard");
    }
}

/// A connection that is still connecting, and its observer.
fn observed() -> (Client, Arc<Notes>) {
    let notes = Arc::new(Notes::default());
    let mut client = Client::new(Wire::Mux);
    client.conn = client.conn.linked(Arc::new(Link::observed(notes.clone())));
    (client, notes)
}

fn open() -> (Client, Arc<Notes>) {
    let (mut client, notes) = observed();
    client.conn.connected();
    client.output();
    client.feed(&hello());
    client.conn.tell(client.now);
    assert_eq!(notes.take(), ["opened"]);
    (client, notes)
}

#[test]
fn silence_after_a_ping_is_told_and_a_word_ends_it() {
    let (mut client, notes) = open();
    client.start_for(1, 60 * SECOND, b"");
    client.advance(SECOND);
    client.output();
    client.advance(SECOND - MS);
    client.conn.tell(client.now);
    assert!(notes.take().is_empty());
    client.advance(MS);
    client.conn.tell(client.now);
    client.conn.tell(client.now);
    assert_eq!(notes.take(), ["fell_silent"]);
    client.feed(&control(Kind::Pong, 0, b""));
    client.conn.tell(client.now);
    assert_eq!(notes.take(), ["heard"]);
    assert!(client.ended().is_empty());
}

#[test]
fn only_a_drain_says_that_the_peer_wants_no_calls_elsewhere() {
    for (last, wanted) in [(5, &[][..]), (u64::MAX, &["drains"])] {
        let (mut client, notes) = open();
        client.start(1);
        client.feed(&control(Kind::GoAway, last, b""));
        client.conn.tell(client.now);
        client.feed(&control(Kind::GoAway, 1, b""));
        client.conn.tell(client.now);
        assert_eq!(notes.take(), wanted);
        assert!(client.ended().is_empty(), "it will be answered");
    }
}

#[test]
fn a_failed_connect_is_told_unless_it_failed_for_a_reason_of_this_process() {
    let lack = io::Error::from_raw_os_error(24); // EMFILE
    for (error, wanted) in [(io::ErrorKind::ConnectionRefused.into(), &["connect_failed"][..]), (lack, &[])] {
        let (mut client, notes) = observed();
        let link = Arc::new(Link::observed(notes.clone()));
        client.conn = client.conn.linked(link.clone());
        client.conn.lost(&error, &mut |_, _| ());
        client.conn.tell(client.now);
        assert_eq!(notes.take(), wanted);
        assert!(!link.takes_calls());
        let text = link.failure().expect("why").to_owned();
        assert!(text.contains(&error.to_string()), "{text}");
    }
}

#[test]
fn one_that_is_left_while_it_connects_says_nothing() {
    let (mut client, notes) = observed();
    client.conn.leave();
    client.conn.tell(client.now);
    assert!(notes.take().is_empty());
}

#[test]
fn a_pong_is_told_although_this_connection_was_never_silent() {
    let (mut client, notes) = open();
    client.start_for(1, 60 * SECOND, b"");
    client.advance(SECOND);
    assert_eq!(client.output().last_chunk::<20>().map(|ping| ping[4]), Some(Kind::Ping as u8));
    client.feed(&control(Kind::Pong, 0, b""));
    client.conn.tell(client.now);
    assert_eq!(notes.take(), ["heard"]);
    client.feed(&response(1, b"x"));
    client.conn.tell(client.now);
    assert!(notes.take().is_empty(), "it was not asked");
}

#[test]
fn a_caller_that_gives_up_while_a_legacy_connect_is_under_way_says_nothing_about_the_peer() {
    let notes = Arc::new(Notes::default());
    let mut client = Client::with(Wire::Legacy(Dialect::LittleEndian), |_| ());
    client.conn = client.conn.linked(Arc::new(Link::observed(notes.clone())));
    client.start(1);
    client.conn.cancel(1, &mut |_, _| ());
    client.conn.tell(client.now);
    assert_eq!(client.conn.intent(), Intent::Reset);
    assert!(notes.take().is_empty());
}
