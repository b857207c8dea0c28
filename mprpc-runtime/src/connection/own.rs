//! Calls that a reactor's own thread starts, mostly in callbacks: to wait for the reactor they need no lock.
//!
//! They follow what others post, so that a connection which was ordered is there when its call is; only those of a
//! connection whose callbacks just ran go there before. A call that can be cancelled goes the way that its cancel
//! does, so as to be there first.

use std::{cell::RefCell, ptr};

use super::{Command, ConnId, Mailbox, mailbox::Post};

/// What waits on a reactor's thread.
struct Own {
    /// The mailbox of that reactor, by its address.
    mailbox: Option<usize>,
    posts: Vec<Post>,
}

thread_local! {
    static OWN: RefCell<Own> = const { RefCell::new(Own { mailbox: None, posts: Vec::new() }) };
}

/// This thread takes what is posted to `mailbox`.
pub(super) fn begin(mailbox: &Mailbox) {
    OWN.with(|own| own.borrow_mut().mailbox = Some(ptr::from_ref(mailbox).addr()));
}

/// It does so no longer.
pub(super) fn end() {
    OWN.with(|own| own.borrow_mut().mailbox = None);
}

/// Posts `command` if it starts a call that nobody can cancel, this thread is the one of `mailbox`, and fewer
/// than `limit` calls wait; else gives it back.
#[inline]
pub(super) fn post(mailbox: &Mailbox, limit: usize, conn: ConnId, command: Command) -> Option<Command> {
    if !matches!(command, Command::Start { tag: 0, .. }) {
        return Some(command);
    }
    let mut command = Some(command);
    // A call may be started as the last of its thread.
    let _ = OWN.try_with(|own| {
        let mut own = own.borrow_mut();
        if own.mailbox == Some(ptr::from_ref(mailbox).addr())
            && own.posts.len() < limit
            && let Some(start) = command.take()
        {
            own.posts.push((conn, start, 0..0));
        }
    });
    command
}

/// Swaps what waits with `posts`, which must be empty, if all of it is for `conn`. Returns whether it did.
pub(super) fn take_for(mailbox: &Mailbox, conn: ConnId, posts: &mut Vec<Post>) -> bool {
    OWN.with(|own| {
        let mut own = own.borrow_mut();
        let here = own.mailbox == Some(ptr::from_ref(mailbox).addr());
        let take = here && !own.posts.is_empty() && own.posts.iter().all(|post| post.0 == conn);
        if take {
            std::mem::swap(posts, &mut own.posts);
        }
        take
    })
}

/// Moves what waits to the end of `posts`.
pub(super) fn take(mailbox: &Mailbox, posts: &mut Vec<Post>) {
    OWN.with(|own| {
        let mut own = own.borrow_mut();
        if own.mailbox != Some(ptr::from_ref(mailbox).addr()) {
            // Somebody else's.
        } else if posts.is_empty() {
            std::mem::swap(posts, &mut own.posts);
        } else {
            posts.append(&mut own.posts);
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Instant};

    use super::*;
    use crate::connection::{
        call::{Completion, Outcome},
        mailbox::Posts,
    };

    /// Tells when the call ends, which it does without a connection.
    struct Call(mpsc::Sender<()>);

    impl Completion for Call {
        fn frame(&self) -> &[u8] {
            &[]
        }

        fn complete(self: Box<Self>, outcome: Outcome<'_>) {
            assert!(outcome.is_err());
            self.0.send(()).expect("the test waits");
        }
    }

    fn start(tag: u64, ended: &mpsc::Sender<()>) -> Command {
        Command::Start { tag, deadline: Instant::now(), empty_ok: false, done: Box::new(Call(ended.clone())) }
    }

    /// Where calls were posted to.
    fn taken(mailbox: &Mailbox) -> Vec<u64> {
        let (mut posts, mut conns) = (Posts::default(), Vec::new());
        let any = mailbox.take(&mut posts, true);
        posts.drain(|conn, _, _| conns.push(conn.0));
        assert_eq!(any, !conns.is_empty());
        conns
    }

    #[test]
    fn calls_of_the_own_thread_wake_nobody_and_follow_what_others_posted() {
        let (tell, _told) = mpsc::channel();
        let (wake, woken) = mpsc::channel();
        let mailbox = Mailbox::new(10, move || wake.send(()).expect("the test waits"));
        let other = Mailbox::new(10, || {});
        let post = |mailbox: &Mailbox, conn, tag, tell: &mpsc::Sender<()>| {
            assert!(mailbox.try_post(ConnId(conn), start(tag, tell)).is_ok());
        };
        mailbox.own();
        assert!(taken(&mailbox).is_empty(), "and from now on it sleeps");
        post(&mailbox, 1, 0, &tell);
        post(&other, 2, 0, &tell);
        assert!(woken.try_recv().is_err(), "its thread is awake, or it could not call");
        thread::scope(|scope| {
            scope.spawn(|| {
                post(&mailbox, 3, 0, &tell);
                post(&other, 4, 0, &tell);
            });
        });
        assert!(woken.try_recv().is_ok(), "others do wake it");
        post(&mailbox, 5, 77, &tell);
        assert_eq!(taken(&mailbox), [3, 5, 1]);
        assert_eq!(taken(&other), [2, 4]);
    }

    #[test]
    fn calls_of_one_connection_can_be_taken_before_the_others_unless_these_wait_too() {
        let (tell, _told) = mpsc::channel();
        let mailbox = Mailbox::new(10, || {});
        let post = |conn| assert!(mailbox.try_post(ConnId(conn), start(0, &tell)).is_ok());
        let own = |conn| {
            let (mut posts, mut count) = (Posts::default(), 0);
            let any = mailbox.take_own(ConnId(conn), &mut posts);
            posts.drain(|to, _, _| count += usize::from(to == ConnId(conn)));
            assert_eq!(any, count > 0);
            count
        };
        post(1);
        assert_eq!(own(1), 0, "this thread is not the mailbox's");
        assert_eq!(taken(&mailbox), [1]);
        mailbox.own();
        post(1);
        post(1);
        assert_eq!((own(2), own(1), own(1)), (0, 2, 0));
        post(1);
        post(2);
        post(1);
        assert_eq!((own(1), own(2)), (0, 0), "all keep their order");
        assert_eq!(taken(&mailbox), [1, 2, 1]);
        mailbox.close(&mut Posts::default());
    }

    #[test]
    fn what_waits_is_bounded_and_ends_with_the_reactor() {
        let (tell, told) = mpsc::channel();
        let mailbox = Mailbox::new(3, || {});
        mailbox.own();
        let posted = (1..10).filter(|_| mailbox.try_post(ConnId(1), start(0, &tell)).is_ok()).count();
        assert_eq!(posted, 2 * 3, "here, and where others post");
        let mut posts = Posts::default();
        mailbox.close(&mut posts);
        assert!(mailbox.try_post(ConnId(1), start(0, &tell)).is_err());
        posts.drain(|_, command, _| command.undeliverable());
        assert_eq!(told.try_iter().count(), posted);
    }
}
