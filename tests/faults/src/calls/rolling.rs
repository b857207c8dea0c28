//! All three providers are restarted, one after the other.

use std::{thread, time::Duration};

use super::cast::{BUSY, Cast, NAMES};
use crate::{
    row::{Outcome, Row},
    stage::{Stage, until},
};

pub(crate) const ROW: Row = Row {
    name: "rolling-restart",
    wanted: "0 of 50,000 calls fail, blocking and asynchronous (short form: of 10,000)",
    limit: Duration::from_secs(150),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let mut cast = Cast::start(stage);
    let wanted = if stage.quick { 10_000 } else { 50_000 };
    let mut outcome = Outcome::default();
    for (at, name) in NAMES.into_iter().enumerate() {
        stage.say(format!("restart of the {name} provider"));
        let old = cast.providers.remove(at);
        old.terminate();
        let (status, lines) = old.finish(Duration::from_secs(15));
        outcome.check(status.success(), format!("exit {}", status.code().unwrap_or(-1)));
        if !status.success() {
            println!("   {}", lines.join("\n   "));
        }
        let port = cast.addrs[at].port().to_string();
        let settings = [("rpcserverport", &*port)].into_iter().chain(BUSY).collect::<Vec<_>>();
        cast.providers.insert(at, stage.provider(name, &settings));
        thread::sleep(stage.seconds(1, 3));
    }
    stage.say("and on to the wanted number of calls");
    until(Duration::from_secs(60), || stage.tally().answered >= wanted);
    cast.end(stage, &mut outcome);
    let tally = stage.tally();
    outcome.check(
        tally.failed == 0 && tally.answered >= wanted,
        format!("{} of {} failed", tally.failed, tally.answered),
    );
    outcome
}
