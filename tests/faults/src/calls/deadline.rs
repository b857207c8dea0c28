//! Handlers that take longer than their callers wait: deadlines are kept, and expired work does not run.

use std::{thread, time::Duration};

use mprpc_tests::address_in;

use super::cast;
use crate::{
    ledger::End,
    row::{Outcome, Row},
    stage::Stage,
};

pub(crate) const ROW: Row = Row {
    name: "deadline",
    wanted: "99.9 % end within 50 ms of the deadline, all within 250 ms, none before; what expired in the queue never runs",
    limit: Duration::from_secs(90),
    run,
};

const TIMEOUT: Duration = Duration::from_millis(200);

fn run(stage: &Stage) -> Outcome {
    // Eight handlers at a time take 40 ms each; 400 calls a second wait for them. So most wait in vain.
    let slow = [("worker_threads", "8"), ("faults_work_ms", "40")];
    let mut provider = stage.provider("slow", &slow);
    let addr = address_in(&provider.wait_line("RpcProvider start service at", Duration::from_secs(20)));
    let settings = [
        ("peers", &*addr.to_string()),
        ("timeout", "200ms"),
        ("faults_rate", "400"),
        ("faults_threads", "64"),
        ("faults_mixed", "true"),
    ];
    let caller = stage.caller("caller", &settings);
    stage.say("twice as many calls as it can answer");
    thread::sleep(stage.seconds(6, 20));
    caller.terminate();
    caller.finish(Duration::from_secs(10));
    // What is queued there has to have its chance to run.
    provider.terminate();
    provider.finish(Duration::from_secs(20));

    let mut outcome = Outcome::default();
    cast::judge(stage, &mut outcome, TIMEOUT);
    let ledger = stage.ledger();
    let (mut expired, mut early, mut ran_late) = (0, 0, 0);
    for (id, entry) in ledger.entries() {
        let timeout = TIMEOUT.as_micros() as u64;
        if let [(at, End::Failed(text))] = &entry.ends[..] {
            expired += usize::from(text.starts_with("DEADLINE_EXCEEDED"));
            early += usize::from(text.starts_with("DEADLINE_EXCEEDED") && at - entry.began < timeout);
        }
        // The callee cannot know when the caller began: the request may have been under way for a moment.
        let limit = entry.began + timeout + 50_000;
        ran_late += ledger.runs(*id).iter().filter(|at| **at > limit).count();
    }
    outcome.check(expired > 100 && early == 0, format!("{expired} expired, {early} early"));
    outcome.check(ran_late == 0, format!("{ran_late} ran after their time"));
    outcome
}
