//! A row of the matrix, and how a group of them is run.

use std::{
    fmt::Display,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::stage::{Stage, kill_children, longer};

/// One fault and the figures wanted.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The figures, as the summary says them.
    pub(crate) wanted: &'static str,
    /// The row fails when it takes longer.
    pub(crate) limit: Duration,
    /// Breaks things and measures. May panic when something that it needs does not work: the row fails.
    pub(crate) run: fn(&Stage) -> Outcome,
}

/// What a row measured.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    figures: Vec<String>,
    failed: bool,
}

impl Outcome {
    /// Adds a figure, and whether it is what is wanted.
    pub(crate) fn check(&mut self, good: bool, figure: impl Display) {
        self.failed |= !good;
        self.figures.push(format!("{figure}{}", if good { "" } else { " [!]" }));
    }

    /// Adds a figure only if it is not what is wanted.
    pub(crate) fn failed_if(&mut self, bad: bool, figure: impl Display) {
        if bad {
            self.check(false, figure);
        }
    }

    /// Adds a time that something took, and the most that it may take; `None` is never.
    pub(crate) fn within(&mut self, what: &str, took: Option<Duration>, most: Duration) {
        match took {
            Some(took) => self.check(took <= most, format!("{what} {:.2} s", took.as_secs_f64())),
            None => self.check(false, format!("{what} never")),
        }
    }
}

/// Runs the rows that `args` name, all if it names none. Succeeds if all of them pass.
pub(crate) fn run(rows: &[Row], args: &[String]) -> ExitCode {
    let (options, names): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with("--"));
    let known = |name: &&&String| rows.iter().any(|row| row.name == ***name);
    if let Some(wrong) = names.iter().find(|name| !known(name)) {
        let all: Vec<_> = rows.iter().map(|row| row.name).collect();
        eprintln!("faults: no row '{wrong}'; there are: {}", all.join(" "));
        return ExitCode::from(2);
    }
    if let Some(wrong) = options.iter().find(|option| **option != "--quick") {
        eprintln!("faults: no option '{wrong}'");
        return ExitCode::from(2);
    }
    let chosen = rows.iter().filter(|row| names.is_empty() || names.iter().any(|name| *name == row.name));
    let (began, quick) = (Instant::now(), !options.is_empty());
    let mut signals = Signals::new([SIGINT, SIGTERM]).expect("signals can be caught");
    thread::spawn(move || {
        signals.forever().next();
        kill_children();
        std::process::exit(130);
    });
    let summary: Vec<(Verdict, String)> = chosen.map(|row| twice_at_most(row, quick)).collect();
    println!();
    for (_, line) in &summary {
        println!("{line}");
    }
    let failed = summary.iter().filter(|(verdict, _)| *verdict != Verdict::Pass).count();
    println!("faults: {} of {} rows failed, {:.0} s", failed, summary.len(), began.elapsed().as_secs_f64());
    ExitCode::from(u8::from(failed > 0))
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// A figure is not what is wanted.
    Missed,
    /// A call had a wrong reply, ran twice or never ended: nothing that a busy machine excuses.
    Wrong,
}

/// The quick form runs where other work may take the processors for a while: who misses a figure there
/// measures once more, and the summary says so. The full form, whose figures are published, does not.
fn twice_at_most(row: &Row, quick: bool) -> (Verdict, String) {
    let (verdict, line) = one(row, quick);
    if !quick || verdict != Verdict::Missed {
        return (verdict, line);
    }
    println!("   once more");
    let (verdict, again) = one(row, quick);
    (verdict, format!("{again}\n      the first time: {line}"))
}

/// Runs a row in a thread of its own, shows how it goes on, and gives its line of the summary.
fn one(row: &Row, quick: bool) -> (Verdict, String) {
    println!("== {} (wanted: {})", row.name, row.wanted);
    let began = Instant::now();
    let stage = Arc::new(Stage::new(quick));
    let (sender, end) = mpsc::channel();
    let limit = row.limit + Duration::from_secs(longer().unwrap_or(0));
    let (run, on) = (row.run, stage.clone());
    let thread = thread::spawn(move || {
        let outcome = run(&on);
        drop(on);
        let _ = sender.send(outcome);
    });
    let outcome = loop {
        match end.recv_timeout(PROGRESS) {
            Ok(outcome) => break Ok(outcome),
            Err(mpsc::RecvTimeoutError::Disconnected) => break Err(panic_text(thread)),
            Err(mpsc::RecvTimeoutError::Timeout) if began.elapsed() > limit => {
                break Err(format!("not over after {limit:?}, in: {}", stage.doing()));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                println!("   {:6.1} s  {}  {}", began.elapsed().as_secs_f64(), stage.doing(), stage.tally());
            }
        }
    };
    stage.close();
    kill_children();
    let tally = stage.tally();
    let (verdict, measured) = match outcome {
        Ok(mut outcome) => {
            if !tally.is_honest() {
                outcome.check(false, tally); // whatever else the row looks at
            }
            let passed = !outcome.failed && !outcome.figures.is_empty();
            (if passed { Verdict::Pass } else { Verdict::Missed }, outcome.figures.join(", "))
        }
        Err(why) => (Verdict::Missed, why),
    };
    let verdict = if tally.is_honest() { verdict } else { Verdict::Wrong };
    let word = if verdict == Verdict::Pass { "PASS" } else { "FAIL" };
    let line = format!("{word}  {:<22} {measured} (wanted: {})", row.name, row.wanted);
    println!("{line}  [{:.1} s]", began.elapsed().as_secs_f64());
    (verdict, line)
}

fn panic_text(thread: thread::JoinHandle<()>) -> String {
    let Err(payload) = thread.join() else { return "ended without a word".into() };
    let text = payload.downcast_ref::<String>().map(|text| &**text);
    text.or_else(|| payload.downcast_ref().copied()).unwrap_or("panicked").replace('\n', " | ")
}

const PROGRESS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    const fn row(name: &'static str, limit: Duration, run: fn(&Stage) -> Outcome) -> Row {
        Row { name, wanted: "to end", limit, run }
    }

    fn good(_: &Stage) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.within("it", Some(Duration::ZERO), Duration::ZERO);
        outcome
    }

    fn bad(_: &Stage) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.within("it", None, Duration::ZERO);
        outcome
    }

    fn dishonest(stage: &Stage) -> Outcome {
        std::fs::write(stage.dir().join("caller.calls"), "b 1 100\ne 1 200 wrong reply\n").expect("a file");
        good(stage)
    }

    fn hangs(stage: &Stage) -> Outcome {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000");
        stage.start(sleep).succeed(Duration::from_secs(1000)); // panics when it is killed
        good(stage)
    }

    /// The end of a row ends all processes that were started, another test's, too.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn a_row_passes_only_if_it_measured_what_is_wanted() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let long = Duration::from_secs(10);
        assert_eq!(one(&row("good", long, good), true).0, Verdict::Pass);
        assert_eq!(one(&row("bad", long, bad), true).0, Verdict::Missed);
        assert_eq!(one(&row("empty", long, |_| Outcome::default()), true).0, Verdict::Missed);
        assert_eq!(one(&row("dishonest", long, dishonest), true).0, Verdict::Wrong);
        let (verdict, line) = one(&row("panics", long, |_| panic!("planted")), true);
        assert!(verdict == Verdict::Missed && line.contains("planted"), "{line}");
        let (verdict, line) = one(&row("hangs", Duration::from_secs(1), hangs), true);
        assert!(verdict == Verdict::Missed && line.contains("not over after 1s"), "{line}");
    }

    #[test]
    fn only_a_missed_figure_of_the_quick_form_is_measured_again() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let second = |stage: &Stage| {
            if RUNS.fetch_add(1, Relaxed).is_multiple_of(2) { bad(stage) } else { good(stage) }
        };
        let row = row("second", Duration::from_secs(10), second);
        let (verdict, line) = twice_at_most(&row, true);
        assert!(verdict == Verdict::Pass && line.contains("the first time: FAIL"), "{line}");
        assert_eq!((twice_at_most(&row, false).0, RUNS.load(Relaxed)), (Verdict::Missed, 3));
    }
}
