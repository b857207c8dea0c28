//! The network to one of three providers swallows every packet, and passes them again later.

use std::{thread, time::Duration};

use super::cast::{BUSY, Cast, NAMES, between};
use crate::{
    ledger::now,
    namespace::Namespace,
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(crate) const ROW: Row = Row {
    name: "partition",
    wanted: "no call goes there after 3 s; back within 5 s of the end",
    limit: Duration::from_secs(90),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    if !Namespace::possible() {
        outcome.check(stage.quick, "NOT MEASURED: needs root and ip, for a host of its own");
        return outcome;
    }
    let host = Namespace::new(0, "198.18.100.1");
    let mut providers: Vec<_> = NAMES[..2].iter().map(|name| stage.provider(name, &BUSY)).collect();
    let settings = [("rpcserverip", host.theirs())].into_iter().chain(BUSY).collect::<Vec<_>>();
    providers.push(host.role(stage, "provider", NAMES[2], &settings));
    let cast = Cast::with(stage, providers);

    stage.say("packets vanish on the way to one of three and back");
    let cut = now();
    host.connect(false);
    thread::sleep(stage.seconds(6, 15));
    stage.say("they pass again");
    let end = now();
    host.connect(true);
    let healed = now();
    let back = until(Duration::from_secs(10), || stage.ledger().first_answer(NAMES[2], healed).is_some());
    thread::sleep(Duration::from_millis(1500));
    let last = cast.last_failure(stage, 2, cut, end);
    outcome.within(
        "the last call there after",
        Some(between(cut, last.unwrap_or(cut))),
        Duration::from_secs(3),
    );
    outcome.within("back after", back, Duration::from_secs(5));
    cast.end(stage, &mut outcome);
    outcome
}
