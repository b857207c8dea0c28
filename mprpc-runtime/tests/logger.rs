//! The logger as a program meets it: files, hostile text, full disks, floods. One logger is the
//! process's, so the tests take turns.

use std::{
    fmt, fs,
    os::unix::fs::symlink,
    panic,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use log::{error, info, warn};
use mprpc_runtime::{Error, Logger, LoggerGuard, LoggerOptions};

/// A directory of its own, and the turn.
struct Turn {
    dir: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    fn new(name: &str) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = std::env::temp_dir().join(format!("mprpc-logger-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a writable temporary directory");
        Self { dir, _turn: turn }
    }

    fn start(&self, queue: usize) -> LoggerGuard {
        self.start_sized(queue, 0)
    }

    fn start_sized(&self, queue: usize, max_size: usize) -> LoggerGuard {
        let dir = self.dir.clone();
        let options = LoggerOptions { dir, level: "info", queue, max_size };
        Logger::start(options).expect("a log thread")
    }

    /// All files of the directory, by name.
    fn files(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(&self.dir).expect("the directory");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.is_file())
            .map(|path| (name(&path), fs::read_to_string(&path).expect("UTF-8")))
            .collect();
        files.sort();
        files
    }

    fn lines(&self) -> Vec<String> {
        let texts = self.files().into_iter();
        texts.flat_map(|(_, text)| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// Today's file, and tomorrow's in case the day ends now, as the logger will open them.
    fn todays_files(&self) -> Vec<PathBuf> {
        let date = |day: &str| {
            let output = Command::new("date").args(["-u", "-d", day, "+%Y-%m-%d-log.txt"]).output();
            String::from_utf8(output.expect("date runs").stdout).expect("a date")
        };
        ["now", "tomorrow"].map(|day| self.dir.join(date(day).trim())).to_vec()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The sum of all "N records lost".
fn told_lost(lines: &[String]) -> usize {
    let lost = |line: &String| line.strip_suffix(" records lost")?.rsplit(' ').next()?.parse::<usize>().ok();
    lines.iter().filter_map(lost).sum()
}

fn count(lines: &[String], part: &str) -> usize {
    lines.iter().filter(|line| line.contains(part)).count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "waited 20 s until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_line_has_time_level_target_and_message() {
    let turn = Turn::new("form");
    let guard = turn.start(100);
    info!(target: "shop::cart", "{} items", 3);
    error!("failed");
    log::debug!("is below the level");
    drop(guard);
    info!("after the end");
    let files = turn.files();
    assert_eq!(files.len(), 1, "{files:?}");
    let (name, text) = &files[0];
    let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "9");
    assert_eq!(shape(name), "9999-99-99-log.txt");
    let lines: Vec<_> = text.lines().map(shape).collect();
    assert_eq!(lines, ["99:99:99.999 INFO shop::cart: 9 items", "99:99:99.999 ERROR logger: failed"]);
    assert!(turn.todays_files().contains(&turn.dir.join(name)), "{name} is today's");
}

#[test]
fn hostile_text_stays_one_harmless_line() {
    let turn = Turn::new("hostile");
    let guard = turn.start(100);
    let texts = [
        "a\nINFO x: forged",
        "\r\u{1b}[2J\u{7}\0\u{7f}",
        "\u{85}\u{9b}2J\u{9f}",
        "\u{2028}\u{2029}\u{202e}",
        "你好 é 🦀\t|",
    ];
    for text in texts {
        info!("{text}");
        info!(target: text, "target");
    }
    drop(guard);
    let lines = turn.lines();
    assert_eq!(lines.len(), 2 * texts.len(), "{lines:?}");
    for line in &lines {
        let bad = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}');
        assert!(!line.contains(bad), "{line:?}");
    }
    assert!(lines[0].ends_with(r"logger: a\nINFO x: forged"), "{}", lines[0]);
    assert!(lines[2].ends_with(r"logger: \r\u{1b}[2J\u{7}\u{0}\u{7f}"), "{}", lines[2]);
    assert!(lines[8].ends_with(r"logger: 你好 é 🦀\t|"), "{}", lines[8]);
}

#[test]
fn a_huge_message_is_cut_with_a_mark() {
    let turn = Turn::new("huge");
    let guard = turn.start(100);
    info!("{}", "é".repeat(10_000_000));
    info!("{}x", "z".repeat(8000));
    drop(guard);
    let lines = turn.lines();
    assert!(lines[0].ends_with("é [cut]") && lines[0].len() < 8300, "{} bytes", lines[0].len());
    assert!(lines[1].ends_with("zx"));
}

#[test]
fn two_threads_with_100_000_records_each_lose_nothing() {
    let turn = Turn::new("many");
    let guard = turn.start(200_000);
    let write = |id: usize| (0..100_000).for_each(|i| info!("thread {id} record {i}"));
    thread::scope(|s| [0, 1].map(|id| _ = s.spawn(move || write(id))));
    // The guard waits for a moment only, which a busy machine may need more than once.
    (0..30).take_while(|_| turn.lines().len() < 200_000).for_each(|_| log::logger().flush());
    drop(guard);
    let lines = turn.lines();
    assert_eq!(lines.len(), 200_000);
    for id in [0, 1] {
        let part = format!("thread {id} record ");
        let numbers: Vec<usize> =
            lines.iter().filter_map(|line| line.split_once(&part)?.1.parse().ok()).collect();
        assert!(numbers.into_iter().eq(0..100_000), "all, in order");
    }
}

#[test]
fn a_full_queue_loses_records_and_counts_them_exactly() {
    let turn = Turn::new("small");
    let guard = turn.start(16);
    let write = || (0..50_000).for_each(|i| info!("record {i}"));
    thread::scope(|s| [0, 1].map(|_| _ = s.spawn(write)));
    drop(guard);
    let lines = turn.lines();
    let (kept, lost) = (count(&lines, ": record "), told_lost(&lines));
    assert_eq!(kept + lost, 100_000, "{kept} kept, {lost} lost");
    assert!(kept > 0 && lost > 0, "{kept} kept, {lost} lost");
}

#[test]
fn a_full_disk_stops_nobody_and_the_loss_is_told_when_it_has_room() {
    let turn = Turn::new("enospc");
    for path in turn.todays_files() {
        symlink("/dev/full", path).expect("a link");
    }
    let guard = turn.start(1000);
    for i in 0..500 {
        info!("early {i}");
    }
    log::logger().flush();
    for path in turn.todays_files() {
        fs::remove_file(path).expect("the link");
    }
    // Nothing more is logged, and the loss is told still.
    wait_until("the loss is told", || told_lost(&turn.lines()) > 0);
    info!("late");
    drop(guard);
    let lines = turn.lines();
    assert_eq!((told_lost(&lines), count(&lines, "early"), count(&lines, "late")), (500, 0, 1), "{lines:?}");
}

/// Real short writes, in the middle of lines. Needs root for the mount, and says so if it is not.
#[test]
fn a_read_only_and_a_tiny_disk_keep_whole_lines_and_an_exact_count() {
    let turn = Turn::new("tmpfs");
    let command = |name: &str, args: &[&str]| {
        let output = Command::new(name).args(args).arg(&turn.dir).output();
        output.is_ok_and(|output| output.status.success())
    };
    let mount = |options: &str| command("mount", &["-t", "tmpfs", "-o", options, "none"]);
    if !mount("size=64k,ro") {
        println!("skipped: mounting a tmpfs is not allowed here");
        return;
    }
    let result = panic::catch_unwind(|| {
        let remount = |options: &str| assert!(command("mount", &["-o", options]), "{options}");
        let guard = turn.start(10_000);
        (0..7).for_each(|i| info!("early {i}."));
        log::logger().flush();
        remount("remount,rw,size=64k");
        wait_until("the first loss is told", || told_lost(&turn.lines()) == 7);
        for i in 0..5000 {
            info!("record {i}.");
            if i % 50 == 0 {
                log::logger().flush(); // small batches: some fit, one is torn, the rest fails
            }
        }
        log::logger().flush();
        remount("remount,rw,size=8m");
        wait_until("the second loss is told", || told_lost(&turn.lines()) > 7);
        info!("the end.");
        drop(guard);
        let lines = turn.lines();
        let kept = lines.iter().filter(|line| line.contains(": record ") && line.ends_with('.')).count();
        assert_eq!(kept + told_lost(&lines), 5007, "{kept} kept");
        assert!(kept > 500 && kept < 4000, "{kept} kept");
        assert_eq!((count(&lines, "early"), count(&lines, "the end.")), (0, 1));
    });
    assert!(command("umount", &[]), "the logger has closed its file");
    if let Err(payload) = result {
        panic::resume_unwind(payload);
    }
}

#[test]
fn a_deleted_file_and_directory_come_back() {
    let turn = Turn::new("deleted");
    let guard = turn.start(100);
    info!("one");
    log::logger().flush();
    for (name, _) in turn.files() {
        fs::remove_file(turn.dir.join(name)).expect("the log file");
    }
    info!("two");
    log::logger().flush();
    assert_eq!((turn.lines().len(), count(&turn.lines(), "two")), (1, 1));
    fs::remove_dir_all(&turn.dir).expect("the directory");
    info!("three");
    drop(guard);
    assert_eq!((turn.lines().len(), count(&turn.lines(), "three")), (1, 1));
}

#[test]
fn a_directory_that_cannot_be_used_yet_is_used_later() {
    let mut turn = Turn::new("nodir");
    let parent = turn.dir.join("file");
    fs::write(&parent, "in the way").expect("a file");
    turn.dir = parent.join("logs");
    let guard = turn.start(100);
    (0..3).for_each(|i| info!("early {i}"));
    log::logger().flush();
    fs::remove_file(&parent).expect("the file");
    wait_until("the loss is told", || turn.dir.exists() && told_lost(&turn.lines()) == 3);
    info!("late");
    drop(guard);
    assert_eq!((turn.lines().len(), count(&turn.lines(), "late")), (2, 1), "{:?}", turn.lines());
    turn.dir = parent.parent().expect("made above").to_owned();
}

#[test]
fn a_file_that_blocks_delays_nobody_without_bound() {
    let turn = Turn::new("fifo");
    for path in turn.todays_files() {
        assert!(Command::new("mkfifo").arg(path).status().is_ok_and(|status| status.success()));
    }
    let guard = turn.start(10);
    let start = Instant::now();
    (0..1000).for_each(|i| info!("record {i}"));
    assert!(start.elapsed() < Duration::from_secs(1), "a caller never waits");
    log::logger().flush();
    drop(guard);
    let took = start.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    // Lets the log thread of this test end.
    let open = |path: &PathBuf| fs::File::options().read(true).write(true).open(path).expect("a FIFO");
    let readers: Vec<_> = turn.todays_files().iter().map(open).collect();
    thread::sleep(Duration::from_millis(50));
    drop(readers);
}

#[test]
fn the_zookeeper_client_is_capped_and_rate_limited() {
    let turn = Turn::new("zookeeper");
    let guard = turn.start(1000);
    for i in 0..100 {
        info!(target: "zookeeper::io", "chatter {i}");
        warn!(target: "zookeeper::io", "trouble {i}");
        error!(target: "zookeeper", "trouble {i}");
        info!(target: "zookeepers", "somebody else {i}");
    }
    drop(guard);
    let lines = turn.lines();
    assert_eq!(
        (count(&lines, "chatter"), count(&lines, "trouble"), count(&lines, "somebody else")),
        (0, 1, 100)
    );
    assert_eq!(count(&lines, "WARN zookeeper: 199 more suppressed"), 1);
}

#[test]
fn a_second_start_shares_the_logger_until_the_last_guard_is_gone() {
    let turn = Turn::new("shared");
    let first = turn.start(100);
    let other = LoggerOptions { dir: turn.dir.join("other"), level: "error", queue: 1, max_size: 0 };
    let second = Logger::start(other).expect("shared");
    drop(first);
    info!("still here");
    drop(second);
    info!("lost to nobody");
    let third = turn.start(100);
    info!("started again");
    drop(third);
    let lines = turn.lines();
    assert_eq!(
        (lines.len(), count(&lines, "still here"), count(&lines, "started again")),
        (2, 1, 1),
        "{lines:?}"
    );
    assert!(!turn.dir.join("other").exists());
}

#[test]
fn flush_returns_when_all_before_it_is_written() {
    let turn = Turn::new("flush");
    let _guard = turn.start(100_000);
    for round in 1..=20 {
        (0..500).for_each(|i| info!("record {i}"));
        log::logger().flush();
        assert_eq!(turn.lines().len(), round * 500);
    }
}

#[test]
fn a_panic_is_logged_and_what_came_before_is_written() {
    let turn = Turn::new("panic");
    let _guard = turn.start(1000);
    let thread = thread::Builder::new().name("doomed".into());
    let doomed = thread.spawn(|| {
        info!("before");
        panic!("with a secret");
    });
    assert!(doomed.expect("a thread").join().is_err());
    let lines = turn.lines(); // the guard still lives
    assert_eq!((lines.len(), count(&lines, "before")), (2, 1), "{lines:?}");
    assert!(
        lines[1].contains("ERROR")
            && lines[1].contains("thread doomed panicked at ")
            && !lines[1].contains("secret")
    );
}

#[test]
fn a_display_that_logs_or_panics_harms_nothing() {
    struct Chatty;
    impl fmt::Display for Chatty {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            info!("inner");
            f.write_str("outer")
        }
    }
    struct Broken;
    impl fmt::Display for Broken {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            panic!("broken")
        }
    }
    let turn = Turn::new("display");
    let guard = turn.start(100);
    info!("{Chatty}");
    assert!(panic::catch_unwind(|| info!("{Broken}")).is_err());
    info!("last");
    drop(guard);
    let lines = turn.lines();
    assert_eq!(
        (lines.len(), count(&lines, "inner"), count(&lines, "outer"), count(&lines, "last")),
        (4, 1, 1, 1)
    );
}

#[test]
fn a_full_file_is_followed_by_the_next_and_a_restart_goes_on() {
    let turn = Turn::new("size");
    for start in [0, 100] {
        let guard = turn.start_sized(1000, 1000);
        (start..start + 100).for_each(|i| info!("record {i:03}"));
        drop(guard);
    }
    let files = turn.files();
    assert!(files.len() > 5, "{files:?}");
    assert!(files.iter().all(|(_, text)| text.len() <= 1000 && text.ends_with('\n')), "{files:?}");
    let first = files.iter().find(|(name, _)| name.ends_with("-log.txt")).expect("the first");
    assert!(first.1.contains("record 000"));
    let second = files.iter().find(|(name, _)| name.ends_with("-log.1.txt")).expect("the second");
    assert!(!second.1.contains("record 000"));
    let mut all: Vec<_> = turn.lines().iter().map(|line| line[line.len() - 3..].to_owned()).collect();
    all.sort();
    assert!(all.into_iter().eq((0..200).map(|i| format!("{i:03}"))));
}

#[test]
fn an_unknown_level_is_an_error_of_the_configuration() {
    let dir = std::env::temp_dir();
    let error =
        Logger::start(LoggerOptions { dir, level: "loud", queue: 1, max_size: 0 }).expect_err("no level");
    assert!(
        matches!(&error, Error::Config(text) if text.contains("loud") && text.contains("debug")),
        "{error}"
    );
}
