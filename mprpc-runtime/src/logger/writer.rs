//! The log thread: batches of lines into daily files, and an exact count of what was lost.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Item, line};

#[derive(Default)]
pub(super) struct Writer {
    dir: PathBuf,
    max_size: u64,
    /// Records that nobody will read: refused by a full queue or by the disk.
    lost: Arc<AtomicU64>,
    /// Lines for the file of `day`, and how many records they are.
    batch: String,
    records: u64,
    day: u64,
    /// The time that decided on `day`, or a later one of that day.
    newest: Option<SystemTime>,
    /// 0 is `-log.txt`, 1 is `-log.1.txt`.
    number: u32,
    file: Option<Open>,
    /// The last write stopped inside a line: the next must not continue it.
    torn: bool,
    retry_at: Option<Instant>,
    complain_at: Option<Instant>,
}

struct Open {
    file: File,
    path: PathBuf,
    inode: u64,
    size: u64,
}

impl Writer {
    pub(super) fn new(dir: PathBuf, max_size: usize, lost: Arc<AtomicU64>) -> Self {
        let max_size = if max_size == 0 { u64::MAX } else { max_size as u64 };
        Self { dir, max_size, lost, ..Self::default() }
    }

    /// Writes until the queue is empty and nobody can send any more.
    pub(super) fn run(mut self, queue: &Receiver<Item>) {
        loop {
            // The time limit lets a loss be told even if nothing follows.
            let first = match queue.recv_timeout(RETRY) {
                Err(RecvTimeoutError::Disconnected) => break,
                first => first.ok(),
            };
            for item in first.into_iter().chain(queue.try_iter()) {
                match item {
                    Item::Record(time, text) => self.push(time, &text),
                    Item::Flush(done) => {
                        self.write();
                        let _ = done.try_send(());
                    }
                }
            }
            self.write();
            // Asleep elsewhere than in `recv`, this thread need not be woken: that would cost a
            // caller a system call, ten times what a record costs otherwise.
            thread::sleep(GATHER);
        }
        self.retry_at = None;
        self.write();
        if let lost @ 1.. = self.lost.load(Relaxed) {
            let _ = writeln!(io::stderr(), "mprpc: log: {lost} records lost");
        }
    }

    fn push(&mut self, time: SystemTime, text: &str) {
        let (day, ms) = line::day_and_ms(time);
        // Threads overtake each other around midnight: a record that is late by less than
        // `LATE` stays in the newer file. A clock that was set back is followed, once.
        let late = self.newest.and_then(|newest| newest.duration_since(time).ok());
        if day > self.day || day < self.day && late > Some(LATE) {
            if self.records > 0 {
                self.write(); // what was lost so far is told in the next file
            }
            (self.day, self.newest, self.number) = (day, Some(time), 0);
            (self.file, self.torn) = (None, false);
        }
        self.newest = self.newest.max(Some(time));
        let before = self.batch.len();
        line::push(&mut self.batch, ms, text);
        if before > 0 && self.batch.len() as u64 > self.max_size.min(BATCH) {
            let line = self.batch.split_off(before);
            self.write();
            self.batch = line;
        }
        self.records += 1;
    }

    /// Writes the batch and what was lost before. What the file does not take is lost, and counted.
    fn write(&mut self) {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            let (today, ms) = line::day_and_ms(SystemTime::now());
            if self.day == 0 {
                self.day = today; // not one record came through so far
            }
            let text = format!("WARN {}: {lost} records lost", module_path!());
            line::push(&mut self.batch, ms, &text);
        }
        if self.batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut written = 0;
        if self.retry_at.is_none_or(|at| now >= at) {
            self.retry_at = None;
            if let Err(e) = self.append(&mut written) {
                self.torn |= written > 0 && !self.batch[..written].ends_with('\n');
                self.file = None;
                self.retry_at = Some(now + RETRY);
                self.complain(now, &e);
            }
        }
        let whole = &self.batch.as_bytes()[..written];
        let lines = whole.iter().filter(|b| **b == b'\n').count() as u64;
        // The line about earlier losses is the last of the batch.
        let told = if lines > self.records { lost } else { 0 };
        self.lost.fetch_add(lost - told + self.records.saturating_sub(lines), Relaxed);
        self.batch.clear();
        self.records = 0;
    }

    /// Appends the batch to its file; `written` says how many bytes, on failure, too.
    fn append(&mut self, written: &mut usize) -> io::Result<()> {
        let inode = |open: &Open| fs::metadata(&open.path).map(|m| m.ino()).ok();
        self.file.take_if(|open| inode(open) != Some(open.inode)); // deleted, or moved away
        let bytes = self.batch.as_bytes();
        let open = loop {
            let open = match self.file.take() {
                Some(open) => open,
                None => Open::new(&self.dir, self.day, self.number)?,
            };
            if open.size == 0 || open.size + bytes.len() as u64 <= self.max_size {
                break self.file.insert(open);
            }
            (self.number, self.torn) = (self.number + 1, false);
        };
        if self.torn {
            open.file.write_all(b"\n")?;
            self.torn = false;
        }
        while *written < bytes.len() {
            match open.file.write(&bytes[*written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => *written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        open.size += bytes.len() as u64;
        Ok(())
    }

    fn complain(&mut self, now: Instant, error: &io::Error) {
        if self.complain_at.is_none_or(|at| now >= at) {
            self.complain_at = Some(now + COMPLAIN);
            // Not `eprintln`: it panics when stderr is closed.
            let _ = writeln!(
                io::stderr(),
                "mprpc: log: {:?} cannot be written ({error}); log records are lost and counted until it can",
                self.dir
            );
        }
    }
}

impl Open {
    fn new(dir: &Path, day: u64, number: u32) -> io::Result<Self> {
        let (y, m, d) = line::date(day);
        let suffix = match number {
            0 => String::new(),
            n => format!(".{n}"),
        };
        fs::create_dir_all(dir)?;
        let path = dir.join(format!("{y:04}-{m:02}-{d:02}-log{suffix}.txt"));
        let file = File::options().append(true).create(true).open(&path)?;
        let (inode, size) = file.metadata().map(|m| (m.ino(), m.len()))?;
        Ok(Self { file, path, inode, size })
    }
}

/// At most so much is written at once.
const BATCH: u64 = 64 << 10;
/// How long records gather before the next batch: short enough that the default queue cannot fill.
const GATHER: Duration = Duration::from_millis(2);
const LATE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(1);
const COMPLAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    /// 2026-11-20 23:59:58, as seconds since 1970.
    const EVENING: u64 = 1_795_219_198;

    /// Writes one record for each time (seconds since 1970), in small batches; the files' names and texts.
    fn files_of(name: &str, times: impl IntoIterator<Item = u64>) -> Vec<(String, String)> {
        let dir = std::env::temp_dir().join(format!("mprpc-{name}-{}", std::process::id()));
        let lost = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::new(dir.clone(), 0, lost.clone());
        for (i, time) in times.into_iter().enumerate() {
            writer.push(UNIX_EPOCH + Duration::from_secs(time), &format!("record {i}"));
            if i % 3 == 0 {
                writer.write();
            }
        }
        writer.write();
        assert_eq!(lost.load(Relaxed), 0);
        let mut files: Vec<_> = fs::read_dir(&dir)
            .expect("the directory was made")
            .map(|entry| entry.expect("an entry"))
            .map(|e| (e.file_name().into_string(), fs::read_to_string(e.path())))
            .map(|(name, text)| (name.expect("UTF-8"), text.expect("UTF-8")))
            .collect();
        files.sort();
        fs::remove_dir_all(dir).expect("it was made above");
        files
    }

    fn numbers(text: &str) -> Vec<usize> {
        let number = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse().ok());
        text.lines().filter_map(number).collect()
    }

    #[test]
    fn midnight_makes_exactly_one_new_file_and_keeps_the_order() {
        let files = files_of("midnight", (0..400).map(|i| EVENING + i / 100));
        let [(first, evening), (second, morning)] = &files[..] else {
            panic!("{files:?}");
        };
        assert_eq!(first, "2026-11-20-log.txt");
        assert_eq!(second, "2026-11-21-log.txt");
        assert_eq!(numbers(evening), Vec::from_iter(0..200));
        assert_eq!(numbers(morning), Vec::from_iter(200..400));
        assert!(evening.starts_with("23:59:58.000 ") && morning.starts_with("00:00:00.000 "));
    }

    #[test]
    fn a_loss_before_the_first_record_is_told_in_the_file_of_today() {
        let dir = std::env::temp_dir().join(format!("mprpc-early-{}", std::process::id()));
        let lost = Arc::new(AtomicU64::new(3));
        Writer::new(dir.clone(), 0, lost).write();
        let mut files = fs::read_dir(&dir).expect("the directory was made");
        let name = files.next().expect("a file").expect("an entry").file_name();
        assert!(!name.to_string_lossy().starts_with("1970"), "{name:?}");
        fs::remove_dir_all(dir).expect("it was made above");
    }

    #[test]
    fn threads_that_overtake_each_other_at_midnight_do_not_reopen() {
        let times = (0..100).map(|i| EVENING + 2 - i % 2);
        let files = files_of("overtake", [EVENING].into_iter().chain(times));
        assert_eq!(files.len(), 2);
        assert_eq!(numbers(&files[0].1), [0]);
        assert_eq!(numbers(&files[1].1), Vec::from_iter(1..101));
    }

    #[test]
    fn a_clock_that_jumps_a_day_and_back_is_followed_once_each_way() {
        let day = 86_400;
        let times = (0..300).map(|i| EVENING - 3600 + i + if (100..200).contains(&i) { day } else { 0 });
        let files = files_of("jump", times);
        assert_eq!(files.len(), 2);
        assert_eq!(numbers(&files[0].1), Vec::from_iter((0..100).chain(200..300)));
        assert_eq!(numbers(&files[1].1), Vec::from_iter(100..200));
    }
}
