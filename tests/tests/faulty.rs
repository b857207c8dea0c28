//! Calls that go wrong by plan, blocking and asynchronous.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use mprpc_runtime::{CallOptions, Code, Error, Fault, FaultPlan, FaultyChannel, InProcessChannel, Status};
use mprpc_tests::{
    echo::Echo,
    proto::{
        echo::Text,
        echo_mprpc::{EchoServiceRpc, EchoServiceRpc_Stub},
    },
};

const MS: Duration = Duration::from_millis(1);

/// A stub whose calls go wrong as `plan` says, and the service.
fn faulty(plan: FaultPlan) -> (EchoServiceRpc_Stub, Arc<Echo>) {
    let echo = Arc::new(Echo::default());
    let channel = InProcessChannel::new(EchoServiceRpc::service(echo.clone()));
    (EchoServiceRpc_Stub::new(FaultyChannel::new(channel, plan)), echo)
}

fn text() -> Text {
    Text { text: "x".into(), ..Default::default() }
}

/// The same call, blocking and asynchronous.
fn both(stub: &EchoServiceRpc_Stub) -> [Result<Text, Error>; 2] {
    [stub.echo(&text()), stub.echo_start(&text()).wait()]
}

#[test]
fn every_nth_call_fails_before_or_after_its_handler() {
    let refused = Status::unavailable("planted");
    let plan =
        FaultPlan::new(1).every(3, Fault::Fail(refused)).every(4, Fault::FailAfter(Status::internal("lost")));
    let (stub, echo) = faulty(plan);
    let codes: Vec<Code> =
        (0..12).map(|_| stub.echo(&text()).map_or_else(|error| error.code(), |_| Code::Ok)).collect();
    let fails = |code| codes.iter().filter(|found| **found == code).count();
    // The second rule counts only the calls that the first one lets pass: 8 of 12.
    assert_eq!((fails(Code::Unavailable), fails(Code::Internal), fails(Code::Ok)), (4, 2, 6), "{codes:?}");
    assert_eq!(echo.ran.load(Ordering::SeqCst), 8);
}

#[test]
fn one_call_in_n_fails_and_the_seed_says_which() {
    let run = |seed| {
        let (stub, _) = faulty(FaultPlan::new(seed).one_in(4, Fault::Fail(Status::unavailable("planted"))));
        (0..200).map(|_| stub.echo(&text()).is_ok()).collect::<Vec<_>>()
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    let failed = first.iter().filter(|ok| !**ok).count();
    assert!((20..80).contains(&failed), "{failed}");
}

#[test]
fn a_rule_may_be_for_one_method() {
    let plan = FaultPlan::new(1).every(1, Fault::Fail(Status::unavailable("planted"))).of("EchoInline");
    let (stub, _) = faulty(plan);
    assert!(stub.echo(&text()).is_ok() && stub.echo_inline(&text()).is_err());
}

#[test]
fn a_delayed_answer_is_whole_or_too_late() {
    let (stub, _) = faulty(FaultPlan::new(1).every(1, Fault::Delay(30 * MS)));
    let began = Instant::now();
    let replies = both(&stub).map(|reply| reply.map(|reply| reply.text));
    assert!(replies.iter().all(|reply| reply.as_deref().is_ok_and(|text| text == "x")), "{replies:?}");
    assert!(began.elapsed() >= 60 * MS);
    for reply in both(&stub.with(CallOptions::new().timeout(10 * MS))) {
        let error = reply.expect_err("30 ms are too long");
        assert!(error.code() == Code::DeadlineExceeded && !error.did_not_run(), "{error}");
    }
}

#[test]
fn a_lost_answer_ends_the_call_at_its_deadline_or_when_it_is_cancelled() {
    let (stub, echo) = faulty(FaultPlan::new(1).every(1, Fault::DropAnswer));
    let began = Instant::now();
    let error = stub.with(CallOptions::new().timeout(40 * MS)).echo(&text()).expect_err("no answer");
    assert_eq!(error.code(), Code::DeadlineExceeded);
    assert!(began.elapsed() >= 40 * MS && echo.ran.load(Ordering::SeqCst) == 1);
    let pending = stub.with(CallOptions::new().timeout(60_000 * MS)).echo_start(&text());
    pending.cancel();
    assert_eq!(pending.wait().expect_err("cancelled").code(), Code::Cancelled);
    assert!(began.elapsed() < 30_000 * MS);
}
