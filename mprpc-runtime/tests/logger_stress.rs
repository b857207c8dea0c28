//! The logger while its disk misbehaves: pipes that block, room that comes and goes, text of all kinds.
//! In every case nobody who logs waits, records keep their order, and what is lost is counted exactly.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use log::info;
use mprpc_runtime::{Logger, LoggerGuard, LoggerOptions};

/// One logger is the process's: tests take turns, each with a directory of its own.
struct Turn(PathBuf, #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Turn {
    fn new(name: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = std::env::temp_dir().join(format!("mprpc-stress-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a writable temporary directory");
        Self(dir, turn)
    }

    fn start(&self, queue: usize) -> LoggerGuard {
        let options = LoggerOptions { dir: self.0.clone(), level: "info", queue, max_size: 0 };
        Logger::start(options).expect("a log thread")
    }

    /// What the logger opens today, and tomorrow in case the day ends now.
    fn files(&self) -> Vec<PathBuf> {
        let name = |day: &str| {
            let output = Command::new("date").args(["-u", "-d", day, "+%Y-%m-%d-log.txt"]).output();
            String::from_utf8(output.expect("date runs").stdout).expect("a date")
        };
        ["now", "tomorrow"].map(|day| self.0.join(name(day).trim())).to_vec()
    }

    fn fifos(&self) {
        for path in self.files() {
            assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success()));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The numbers of `seq N.` lines, and the sum of what was told lost.
fn account(lines: &[String]) -> (Vec<usize>, usize) {
    let number = |line: &String| line.strip_suffix('.')?.rsplit_once("seq ")?.1.parse().ok();
    let told = |line: &String| line.strip_suffix(" records lost")?.rsplit(' ').next()?.parse::<usize>().ok();
    (lines.iter().filter_map(number).collect(), lines.iter().filter_map(told).sum())
}

fn lines(path: &Path) -> Vec<String> {
    BufReader::new(File::open(path).expect("a file")).lines().map(|line| line.expect("UTF-8")).collect()
}

/// Logs so many numbered records and says how long the slowest took.
fn log_numbers(count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    for i in 0..count {
        let began = Instant::now();
        info!("seq {i}.");
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

fn check_pipe(turn: &Turn, guard: LoggerGuard, count: usize) {
    let path = turn.files().swap_remove(0);
    let reader = thread::spawn(move || lines(&path)); // until the logger closes its end
    log::logger().flush();
    info!("late");
    drop(guard);
    let lines = reader.join().expect("it only reads");
    let (numbers, lost) = account(&lines);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    assert_eq!(numbers.len() + lost, count, "{} written, {lost} told lost", numbers.len());
    assert!(lost > 0 && !numbers.is_empty(), "{} written, {lost} told lost", numbers.len());
    assert!(lines.iter().any(|line| line.ends_with("late")), "it goes on");
}

#[test]
fn a_pipe_that_nobody_reads_yet_holds_up_nobody() {
    let turn = Turn::new("unread");
    turn.fifos();
    let guard = turn.start(1000);
    let slowest = log_numbers(20_000);
    assert!(slowest < Duration::from_secs(1), "{slowest:?} for one record");
    check_pipe(&turn, guard, 20_000);
}

#[test]
fn a_reader_that_stops_costs_records_and_no_time() {
    let turn = Turn::new("stopped");
    turn.fifos();
    let guard = turn.start(1000);
    // Open for reading and writing, the pipe takes 64 KiB without a reader.
    let open = File::options().read(true).write(true).open(&turn.files()[0]).expect("a pipe");
    let slowest = log_numbers(50_000);
    assert!(slowest < Duration::from_secs(1), "{slowest:?} for one record");
    let path = turn.files().swap_remove(0);
    let _reader = File::options().read(true).open(path).expect("a pipe");
    drop(open);
    check_pipe(&turn, guard, 50_000);
}

/// Four threads log while the disk is full by turns; a link to `/dev/full` stands for a full one.
#[test]
fn room_that_comes_and_goes_leaves_an_exact_account() {
    let turn = Turn::new("turns");
    let guard = turn.start(1 << 20);
    let over = AtomicBool::new(false);
    let kept: Vec<PathBuf> = (0..6).map(|n| turn.0.join(format!("kept-{n}"))).collect();
    let logged: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|id| {
                let over = &over;
                scope.spawn(move || {
                    let mut n = 0;
                    while !over.load(Ordering::Relaxed) {
                        info!("thread {id} seq {n}.");
                        n += 1;
                        if n % 50 == 0 {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                    n
                })
            })
            .collect();
        let today = turn.files().swap_remove(0);
        for kept in &kept {
            thread::sleep(Duration::from_millis(100));
            // Full from here on: what was written so far is put aside, the logger notices and reopens.
            let _ = fs::rename(&today, kept);
            let _ = symlink("/dev/full", &today);
            thread::sleep(Duration::from_millis(100));
            fs::remove_file(&today).expect("the link");
        }
        over.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("it only logs")).sum()
    });
    let freed = Instant::now();
    let today = turn.files().swap_remove(0);
    while !today.exists() || account(&lines(&today)).1 == 0 {
        assert!(freed.elapsed() < Duration::from_secs(20), "the last loss is told");
        thread::sleep(Duration::from_millis(20));
    }
    drop(guard);
    let all: Vec<String> =
        kept.iter().chain([&today]).filter(|path| path.exists()).flat_map(|path| lines(path)).collect();
    let (numbers, lost) = account(&all);
    assert_eq!(numbers.len() + lost, logged, "{} written, {lost} told lost", numbers.len());
    assert!(lost > 0 && !numbers.is_empty(), "{} written, {lost} told lost", numbers.len());
    for id in 0..4 {
        let mine = format!("thread {id} seq ");
        let (numbers, _) = account(&all.iter().filter(|l| l.contains(&mine)).cloned().collect::<Vec<_>>());
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "thread {id} in order");
    }
}

/// Whatever is logged is one line without a control character, and begins as a line of ours does.
#[test]
fn any_text_is_one_harmless_line() {
    let turn = Turn::new("text");
    let guard = turn.start(10_000);
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2000 {
        // Mostly from where the dangerous ones are.
        let c = |n: u64| char::from_u32((n >> 8) as u32 % [0x20, 0xa0, 0x2070, 0x11_0000][(n % 4) as usize]);
        let text: String = (0..next() % 40).filter_map(|_| c(next())).collect();
        info!(target: "any", "<{text}>");
    }
    drop(guard);
    let lines: Vec<String> =
        turn.files().iter().filter(|path| path.exists()).flat_map(|path| lines(path)).collect();
    assert_eq!(lines.len(), 2000);
    for line in &lines {
        let bad = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        assert!(!line.contains(bad), "{line:?}");
        assert!(line[12..].starts_with(" INFO any: <") && line.ends_with('>'), "{line:?}");
    }
}
