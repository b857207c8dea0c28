//! The simulation of `mprpc-runtime/tests/simulation`, in a process of its own.

use std::{process::Command, time::Duration};

use crate::{
    row::{Outcome, Row},
    stage::Stage,
};

pub(crate) const ROW: Row = Row {
    name: "simulation",
    wanted: "20,000 seeds of 200 calls and 3 faults within 2 minutes (short form: 4,000 seeds); all planted bugs found",
    limit: Duration::from_secs(600),
    run,
};

fn run(stage: &Stage) -> Outcome {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(mprpc_tests::root());
    command.env("SEEDS", if stage.quick { "4000" } else { "20000" }).env_remove("SEED");
    command.args([
        "test",
        "--locked",
        "--release",
        "-p",
        "mprpc-runtime",
        "--test",
        "simulation",
        "--",
        "--nocapture",
    ]);
    stage.say("seeds (the test is compiled first, if need be)");
    let (status, lines) = stage.start(command).finish(Duration::from_secs(590));
    let mut outcome = Outcome::default();
    let counted = lines
        .iter()
        .find_map(|line| line.split_once("simulation: ").filter(|(_, rest)| rest.contains(" seeds, ")));
    let seconds =
        counted.and_then(|(_, rest)| rest.rsplit_once(", ")?.1.strip_suffix(" s")?.parse::<f64>().ok());
    let limit = if stage.quick { 60.0 } else { 120.0 };
    outcome.check(seconds.is_some_and(|took| took <= limit), counted.map_or("no seeds", |(_, rest)| rest));
    let found = lines.iter().filter(|line| line.contains("is found by seed")).count();
    outcome.check(found >= 5, format!("{found} planted bugs found"));
    outcome.check(status.success(), status);
    if !status.success() {
        println!("   {}", lines.join("\n   "));
    }
    outcome
}
