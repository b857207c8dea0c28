//! The mailbox, and a client's connection as a reactor drives it through posts.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    Ran,
    connection::{call::Completion, client::Link},
};

type Told = Arc<Mutex<Vec<Result<Vec<u8>, Ran>>>>;

/// A call whose outcome goes into a list.
struct Call(Vec<u8>, Told);

impl Completion for Call {
    fn frame(&self) -> &[u8] {
        &self.0
    }

    fn complete(self: Box<Self>, outcome: Outcome<'_>) {
        let told = outcome.map(|got| got.body.as_slice().to_vec()).map_err(|failure| failure.ran);
        self.1.lock().expect("told").push(told);
    }
}

fn start(told: &Told, frame: Vec<u8>) -> Command {
    let done = Box::new(Call(frame, told.clone()));
    Command::Start { tag: 1, deadline: Instant::now() + SECOND, empty_ok: false, done }
}

fn told(told: &Told) -> Vec<Result<Vec<u8>, Ran>> {
    std::mem::take(&mut told.lock().expect("told"))
}

#[test]
fn posted_calls_get_ids_and_outcomes_and_the_link_tells_of_the_connection() {
    let (list, link, now) = (Told::default(), Arc::new(Link::default()), Instant::now());
    let conn = ClientConnection::new(Wire::Mux, Arc::new(client_settings()), now);
    let mut conn = conn.linked(link.clone());
    let conn: &mut dyn Connection = &mut conn;
    conn.post(start(&list, request(0, "Echo", b"a")), &[], now);
    conn.connected(now);
    assert!(link.takes_calls() && !link.was_open());
    conn.receive(&hello(), now);
    assert!(link.was_open());
    conn.post(start(&list, request(0, "Echo", b"b")), &[], now);
    let sent = parse(&drain(conn.output(), usize::MAX));
    conn.written(now);
    assert_eq!(sent.iter().map(|frame| frame.call).collect::<Vec<_>>(), [0, 1, 2]);
    conn.post(Command::Drain, &[], now);
    assert!(!link.takes_calls());
    conn.receive(&[response(2, b"b"), response(1, b"a")].concat(), now);
    assert_eq!(told(&list), [Ok(wire(b"b")), Ok(wire(b"a"))]);
    assert_eq!(conn.intent(), Intent::ShutDown);
    conn.post(start(&list, request(0, "Echo", b"c")), &[], now);
    assert_eq!(told(&list), [Err(Ran::No)]);
}

#[test]
fn a_legacy_frame_is_posted_as_it_is() {
    let (list, now) = (Told::default(), Instant::now());
    let wire_of = Wire::Legacy(Dialect::Varint);
    let mut conn: ClientConnection<Box<dyn Completion>> =
        ClientConnection::new(wire_of, Arc::new(client_settings()), now);
    let frame = legacy_request(Dialect::Varint, "Echo", b"x");
    Connection::post(&mut conn, start(&list, frame.clone()), &[], now);
    Connection::connected(&mut conn, now);
    assert_eq!(conn.output().pending(), frame);
    Connection::lost(&mut conn, &io::ErrorKind::ConnectionReset.into(), now);
    assert_eq!(told(&list), [Err(Ran::No)]);
}

#[test]
fn a_sleeping_reactor_is_woken_once() {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = woken.clone();
    let mailbox = Mailbox::new(10, move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let mut posts = Posts::default();
    let post = || mailbox.post(ConnId(1), Command::Drain, |_| ());
    post();
    assert_eq!(woken.load(Ordering::Relaxed), 0, "it was awake");
    assert!(mailbox.take(&mut posts, true), "posts keep it awake");
    posts.drain(|_, _, _| ());
    assert!(!mailbox.take(&mut posts, true));
    post();
    post();
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    mailbox.take(&mut posts, true);
    posts.drain(|_, _, _| ());
    mailbox.wake();
    assert_eq!(woken.load(Ordering::Relaxed), 1);
}

#[test]
fn calls_are_refused_beyond_the_bound_and_answers_are_not() {
    let (list, mailbox) = (Told::default(), Mailbox::new(2, || ()));
    for _ in 0..2 {
        assert!(mailbox.try_post(ConnId(1), start(&list, Vec::new())).is_ok());
    }
    assert!(mailbox.try_post(ConnId(1), start(&list, Vec::new())).is_err());
    mailbox.answer(ConnId(1), 7, false, |out| out.extend_from_slice(b"answer"));
    let mut posts = Posts::default();
    assert!(mailbox.take(&mut posts, false));
    let mut last = Vec::new();
    posts.drain(|_, _, bytes| last = bytes.to_vec());
    assert_eq!(last, b"answer");
}

#[test]
fn what_is_posted_to_a_stopped_reactor_did_not_run() {
    let (list, mailbox) = (Told::default(), Mailbox::new(2, || ()));
    mailbox.close(&mut Posts::default());
    mailbox.post(ConnId(1), start(&list, Vec::new()), |_| ());
    assert_eq!(told(&list), [Err(Ran::No)]);
    assert!(mailbox.try_post(ConnId(1), start(&list, Vec::new())).is_err());
    mailbox.answer(ConnId(1), 7, false, |_| ());
    assert!(!mailbox.take(&mut Posts::default(), false));
}
