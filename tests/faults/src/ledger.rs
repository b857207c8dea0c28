//! The ledger of calls: every call has one outcome, in time, with the right reply, and ran once at most.
//!
//! Each process appends lines to a file of its own, one `write` a line, so that what a killed process wrote stays:
//!
//! ```text
//! NAME.calls   b ID MICROSECONDS            a call begins      (microseconds of the real-time clock)
//!              e ID MICROSECONDS ok WHO     it was answered by the provider WHO
//!              e ID MICROSECONDS wrong ...  the reply was another call's
//!              e ID MICROSECONDS failed ... it failed, with this text
//! NAME.runs    r ID MICROSECONDS            a provider's handler ran it
//! ```

use std::{
    collections::HashMap,
    fmt, fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// All that the processes of one directory have written so far.
#[derive(Default)]
pub(crate) struct Ledger {
    dir: PathBuf,
    read: HashMap<PathBuf, u64>,
    calls: HashMap<u64, Entry>,
    /// When handlers ran, by call.
    runs: HashMap<u64, Vec<u64>>,
}

/// What is known of a call. Times are microseconds of the real-time clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) caller: String,
    pub(crate) began: u64,
    /// More than one is a fault of the caller's side.
    pub(crate) ends: Vec<(u64, End)>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Answered by the provider of this name.
    Answered(String),
    /// Answered with something else.
    Wrong(String),
    Failed(String),
}

/// Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) answered: usize,
    pub(crate) failed: usize,
    /// Begun and without an outcome yet.
    pub(crate) open: usize,
    /// Wrong replies, and calls with two outcomes.
    pub(crate) wrong: usize,
    /// Over their time.
    pub(crate) late: usize,
    /// Run more than once.
    pub(crate) repeated: usize,
}

impl Ledger {
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }

    /// Reads what is new.
    pub(crate) fn update(&mut self) {
        let Ok(files) = fs::read_dir(&self.dir) else { return };
        for path in files.flatten().map(|file| file.path()) {
            let kind = path.extension().and_then(|kind| kind.to_str());
            if !matches!(kind, Some("calls" | "runs")) {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let from = self.read.get(&path).copied().unwrap_or(0);
            let mut bytes = Vec::new();
            let tail = fs::File::open(&path).and_then(|mut file| {
                file.seek(SeekFrom::Start(from))?;
                file.read_to_end(&mut bytes)
            });
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            if tail.is_ok() {
                self.read.insert(path, from + whole as u64);
                String::from_utf8_lossy(&bytes[..whole]).lines().for_each(|line| self.line(&name, line));
            }
        }
    }

    fn line(&mut self, name: &str, line: &str) {
        let mut words = line.splitn(5, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (kind, id, at) = (word(), word().parse().unwrap_or(0), word().parse().unwrap_or(0));
        match kind {
            "b" => {
                let entry = self.calls.entry(id).or_default();
                (entry.caller, entry.began) = (name.into(), at);
            }
            "e" => {
                let (how, text) = (word(), word().to_owned());
                let end = match how {
                    "ok" => End::Answered(text),
                    "wrong" => End::Wrong(text),
                    _ => End::Failed(text),
                };
                self.calls.entry(id).or_default().ends.push((at, end));
            }
            "r" => self.runs.entry(id).or_default().push(at),
            _ => panic!("{name}: not a line of a ledger: {line:?}"),
        }
    }

    /// All calls that began in `from..to`, microseconds as [`now`] gives them.
    pub(crate) fn calls(&self, from: u64, to: u64) -> impl Iterator<Item = &Entry> {
        self.calls.values().filter(move |entry| (from..to).contains(&entry.began))
    }

    /// All calls with their numbers.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        self.calls.iter()
    }

    /// When handlers ran a call.
    pub(crate) fn runs(&self, id: u64) -> &[u64] {
        self.runs.get(&id).map_or(&[], Vec::as_slice)
    }

    /// Counts all calls, of which each may take `limit`.
    pub(crate) fn tally(&self, limit: Duration) -> Tally {
        self.tally_of(limit, 0, u64::MAX)
    }

    /// The same of those that began in `from..to`.
    pub(crate) fn tally_of(&self, limit: Duration, from: u64, to: u64) -> Tally {
        let mut tally = Tally::default();
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        for (id, entry) in self.calls.iter().filter(|(_, entry)| (from..to).contains(&entry.began)) {
            match &entry.ends[..] {
                [] => tally.open += 1,
                [(_, End::Answered(_))] => tally.answered += 1,
                [(_, End::Failed(_))] => tally.failed += 1,
                _ => tally.wrong += 1,
            }
            tally.late +=
                usize::from(entry.ends.iter().any(|(at, _)| at.saturating_sub(entry.began) > limit));
            tally.repeated += usize::from(self.runs.get(id).is_some_and(|runs| runs.len() > 1));
        }
        tally
    }

    /// When `provider` last answered a call, or 0.
    pub(crate) fn last_answer(&self, provider: &str) -> u64 {
        self.answers(provider).max().unwrap_or(0)
    }

    /// When `provider` first answered a call that began after `from`.
    pub(crate) fn first_answer(&self, provider: &str, from: u64) -> Option<u64> {
        self.calls(from, u64::MAX).flat_map(|entry| answer(entry, provider)).min()
    }

    fn answers(&self, provider: &str) -> impl Iterator<Item = u64> {
        self.calls.values().flat_map(move |entry| answer(entry, provider))
    }

    /// The texts of failures, and how many had each.
    pub(crate) fn failures(&self) -> Vec<(String, usize)> {
        let mut texts: HashMap<&str, usize> = HashMap::new();
        for (_, end) in self.calls.values().flat_map(|entry| &entry.ends) {
            if let End::Failed(text) | End::Wrong(text) = end {
                *texts.entry(text).or_default() += 1;
            }
        }
        let mut texts: Vec<_> = texts.into_iter().map(|(text, n)| (text.to_owned(), n)).collect();
        texts.sort_by_key(|(_, n)| usize::MAX - n);
        texts
    }
}

impl Entry {
    /// How long it took; no time if it has no outcome yet.
    pub(crate) fn took(&self) -> Duration {
        Duration::from_micros(self.ends.first().map_or(0, |(at, _)| at.saturating_sub(self.began)))
    }

    /// Whether it ended without an answer.
    pub(crate) fn failed(&self) -> bool {
        self.ends.iter().any(|(_, end)| !matches!(end, End::Answered(_)))
    }
}

impl Tally {
    /// Whether nothing is wrong with those calls, whether they failed or not.
    pub(crate) fn is_honest(&self) -> bool {
        (self.wrong, self.late, self.repeated) == (0, 0, 0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered, {} failed", self.answered, self.failed)?;
        for (n, what) in [(self.wrong, "wrong"), (self.late, "late"), (self.repeated, "run twice")] {
            if n > 0 {
                write!(f, ", {n} {what}")?;
            }
        }
        Ok(())
    }
}

/// The real-time clock in microseconds: one clock for all processes.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

fn answer(entry: &Entry, provider: &str) -> Option<u64> {
    entry.ends.iter().find(|(_, end)| *end == End::Answered(provider.into())).map(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mprpc_tests::TempDir;

    fn tally(calls: &str, runs: &str) -> Tally {
        let dir = TempDir::new();
        fs::write(dir.path().join("caller.calls"), calls).expect("a file");
        fs::write(dir.path().join("provider.runs"), runs).expect("a file");
        let mut ledger = Ledger::of(dir.path());
        ledger.update();
        ledger.tally(Duration::from_secs(1))
    }

    #[test]
    fn good_calls_and_failed_calls_are_honest() {
        let tally = tally("b 1 100\nb 2 200\ne 2 300 ok a\ne 1 400 failed it did not\n", "r 2 250\n");
        assert_eq!(tally, Tally { answered: 1, failed: 1, ..Tally::default() });
        assert!(tally.is_honest());
    }

    #[test]
    fn two_outcomes_wrong_replies_late_ends_and_second_runs_are_found() {
        let twice = tally("b 1 100\ne 1 200 ok a\ne 1 300 failed late\n", "");
        assert_eq!((twice.wrong, twice.is_honest()), (1, false));
        let wrong = tally("b 1 100\ne 1 200 wrong reply\n", "");
        assert_eq!((wrong.wrong, wrong.is_honest()), (1, false));
        let late = tally("b 1 100\ne 1 1000101 ok a\n", "");
        assert_eq!((late.late, late.is_honest()), (1, false));
        let repeated = tally("b 1 100\ne 1 200 ok a\n", "r 1 120\nr 1 140\n");
        assert_eq!((repeated.repeated, repeated.is_honest()), (1, false));
    }

    #[test]
    fn a_line_that_is_not_whole_yet_is_read_later() {
        let dir = TempDir::new();
        let path = dir.path().join("caller.calls");
        let mut ledger = Ledger::of(dir.path());
        for (text, open) in
            [("b 1 1", 0), ("b 1 100\n", 1), ("b 1 100\ne 1 2", 1), ("b 1 100\ne 1 200 ok a\n", 0)]
        {
            fs::write(&path, text).expect("a file");
            ledger.update();
            assert_eq!(ledger.tally(Duration::MAX).open, open, "{text:?}");
        }
        assert_eq!((ledger.last_answer("a"), ledger.first_answer("a", 101)), (200, None));
    }
}
