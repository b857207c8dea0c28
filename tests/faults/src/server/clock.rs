//! The clock of the machine jumps under a process that logs. It is the process's alone: `libfaketime` stands
//! between it and the real one, and monotonic time goes on as ever.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::Signal;

use super::{
    disk::{account, lines_of, numbers, throughput},
    watch::{Provider, client},
};
use crate::{row::Outcome, stage::Stage};

/// A provider that logs each call while the clock goes back an hour, over midnight, on by a day, and back again.
pub(crate) fn jumps(stage: &Stage) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(library) = library() else {
        outcome.check(false, "no libfaketimeMT.so.1 here (Debian package libfaketime)");
        return outcome;
    };
    let clock = Clock(stage.dir().join("clock"));
    clock.jump_to(DAY + 12 * HOUR);
    let preload = format!("LD_PRELOAD={}", library.display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.0.display());
    let by = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"];
    let provider = Provider::start_by(stage, &by, "provider", &[("faults_log", "on")]);
    // No call may take longer, and the handler logs before it answers: nobody waits for the logger.
    let app = client(&[("timeout", "1s"), ("retry_max_attempts", "1")]);
    let (mut calls, mut slowest) = (0, f64::MAX);
    for (what, time) in [
        ("noon", DAY + 12 * HOUR),
        ("back an hour", DAY + 11 * HOUR),
        ("a second before midnight", 2 * DAY - 1),
        ("on by a day", 3 * DAY + 8 * HOUR),
        ("back by two", DAY + 20 * HOUR),
    ] {
        stage.say(what);
        clock.jump_to(time);
        let (rate, n) = throughput(provider.addr, &app, stage.seconds(2, 4));
        (calls, slowest) = (calls + n, rate.min(slowest));
    }
    provider.process.signal(Signal::TERM);
    let (status, said) = provider.process.finish(Duration::from_secs(20));
    outcome.failed_if(!status.success(), format!("{status}: {said:?}"));
    outcome.check(true, format!("{calls} calls, at least {slowest:.0}/s after each jump"));
    let logs = stage.dir().join("provider");
    let files = DAYS.map(|day| lines_of(&logs.join(format!("{day}-log.txt"))));
    for (day, lines) in DAYS.iter().zip(&files) {
        outcome.failed_if(lines.is_empty(), format!("no file of {day}"));
    }
    let newest = |lines: &Vec<String>| numbers(lines).into_iter().max();
    outcome.failed_if(
        files.iter().map(newest).max() != Some(newest(&files[0])),
        "the clock's way back is not followed",
    );
    let others = fs::read_dir(&logs).map_or(0, Iterator::count).saturating_sub(DAYS.len());
    outcome.failed_if(others > 0, format!("{others} files of other days"));
    account(&mut outcome, &files, calls, 0);
    outcome
}

/// What the process takes for the time, as an offset from the real one.
struct Clock(PathBuf);

impl Clock {
    /// Lets the clock go on from so many seconds after the start of the year that `DAYS` are of.
    fn jump_to(&self, seconds: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let offset = YEAR + seconds - now.cast_signed();
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{offset:+}\n")).and_then(|()| fs::rename(&new, &self.0)).expect("a file");
    }
}

/// Where Debian puts the library, whatever the processor.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir(Path::new("/usr/lib")).ok()?.flatten();
    folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// 2030-01-01.
const YEAR: i64 = 1_893_456_000;
/// The files that the jumps lead to.
const DAYS: [&str; 3] = ["2030-01-02", "2030-01-03", "2030-01-04"];
