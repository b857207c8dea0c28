//! What a quota gives out is never more than there is, and all of it comes back, whoever gives it back.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use mprpc_models::{
    connection::{ConnId, Mailbox, Quota, ReplyExtras, Share, Ticket},
    status::Status,
    wire::Wire,
    worker::Pool,
};
use protobuf::well_known_types::wrappers::BytesValue;
use shuttle::{check_pct, check_random, thread};

fn check(model: impl Fn() + Send + Sync + Clone + 'static) {
    check_random(model.clone(), 1500);
    check_pct(model, 1500, 3);
}

#[test]
fn no_more_hold_a_permit_than_there_are_and_each_comes_back() {
    check(|| {
        let (quota, holders) = (Quota::new(2), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..3)
            .map(|i| {
                let (quota, holders) = (quota.clone(), holders.clone());
                thread::spawn(move || {
                    for _ in 0..2 {
                        let Some(share) = quota.take(1) else { continue };
                        assert!(holders.fetch_add(1, SeqCst) < 2);
                        thread::yield_now();
                        holders.fetch_sub(1, SeqCst);
                        give_back(i, share);
                    }
                })
            })
            .collect();
        let reload = quota.clone();
        let reload = thread::spawn(move || reload.set_limit(1));
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        reload.join().expect("no panic");
        assert_eq!(quota.used(), 0);
        let last = quota.take(1);
        assert!(last.is_some() && quota.take(1).is_none(), "the new limit holds");
    });
}

/// By who took it, by another thread, or by a handler that panics.
fn give_back(way: usize, share: Share) {
    match way {
        0 => drop(share),
        1 => thread::spawn(move || drop(share)).join().expect("no panic"),
        _ => {
            let handler = || {
                let _share = share;
                resume_unwind(Box::new("as a panic, which shuttle would take for a failure"))
            };
            assert!(catch_unwind(AssertUnwindSafe(handler)).is_err());
        }
    }
}

/// A cap of its method and memory for its request, kept from the start to the answer, whatever that is.
#[test]
fn a_call_keeps_its_permits_until_it_is_answered_from_anywhere() {
    check(|| {
        let (memory, cap) = (Quota::new(100), Quota::new(3));
        let mailbox = Arc::new(Mailbox::new(10, || ()));
        mailbox.begin(3);
        let handlers: Vec<_> = (1..=3)
            .map(|call| {
                let mut ticket = Ticket::new(mailbox.clone(), ConnId(1), call, Wire::Mux, 100);
                ticket.hold(memory.hold(7));
                ticket.hold(cap.take(1).expect("one for each"));
                thread::spawn(move || match call {
                    1 => _ = ticket.answer(&BytesValue::new(), &ReplyExtras::default()),
                    2 => ticket.fail(Status::internal("a failure")),
                    _ => drop(ticket),
                })
            })
            .collect();
        handlers.into_iter().for_each(|handler| handler.join().expect("no panic"));
        assert_eq!((mailbox.open_calls(), memory.used(), cap.used()), (0, 0, 0));
        let mut late = Ticket::new(mailbox, ConnId(1), 4, Wire::Mux, 100);
        late.hold(memory.hold(7));
        late.hold(cap.take(1).expect("all are back"));
        assert_eq!((memory.used(), cap.used()), (7, 1), "the second does not take the first one's place");
    });
}

/// As jobs hold them: some run, some find the queue full, some wait when the pool stops.
#[test]
fn permits_of_jobs_come_back_run_or_refused() {
    check(|| {
        let quota = Quota::new(10);
        let ran = Arc::new(AtomicUsize::new(0));
        let count = ran.clone();
        let run = move |share: Share, _| {
            thread::yield_now();
            count.fetch_add(1, SeqCst);
            drop(share);
        };
        let pool = Arc::new(Pool::start("w", 2, 2, run).expect("threads"));
        let job = |quota: &Arc<Quota>, client| (client, quota.take(1).expect("enough"));
        let (other, theirs) = (pool.clone(), quota.clone());
        let reactor = thread::spawn(move || {
            let mut jobs = vec![(1, theirs.take(1).expect("enough")), (1, theirs.take(1).expect("enough"))];
            other.submit(&mut jobs, Instant::now()).refused.len()
        });
        pool.hold(2);
        let mut jobs = vec![job(&quota, 2), job(&quota, 3), job(&quota, 2)];
        let refused = pool.submit(&mut jobs, Instant::now()).refused;
        assert!(quota.used() >= refused.len(), "a refused job holds its permit until it is told");
        let mut told = refused.len();
        drop(refused);
        told += reactor.join().expect("no panic");
        assert!(pool.stop(Instant::now() + Duration::from_secs(3600)));
        assert_eq!((ran.load(SeqCst) + told, quota.used()), (5, 0));
    });
}
