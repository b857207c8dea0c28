//! The logger: records of the `log` facade go through one bounded queue to the thread that writes files.
//!
//! The caller formats the message and does one `try_send`; it never waits for a disk, and a full
//! queue drops the record and counts it. Dates, escaping and files are the log thread's work. Times
//! are UTC: the local offset needs either `unsafe` or a time zone library.

mod line;
mod writer;

use std::{
    panic,
    path::PathBuf,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::Error;

/// What [`Logger::start`] needs to know.
#[derive(Clone, Debug)]
pub struct LoggerOptions {
    /// Where `YYYY-MM-DD-log.txt` goes; made if it is missing.
    pub dir: PathBuf,
    /// The least grave level that is logged: `off`, `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// How many records may wait for the log thread; more are dropped and counted. At least 1.
    pub queue: usize,
    /// A file of about so many bytes is followed by `YYYY-MM-DD-log.1.txt` and so on; 0 is no limit.
    pub max_size: usize,
}

/// The logger of the process; see [`Logger::start`].
#[derive(Debug)]
pub struct Logger;

/// Keeps the logger running. The drop of the last one writes what is queued, waiting 2 s at most.
#[derive(Debug)]
#[must_use = "the logger ends when the guard is dropped"]
pub struct LoggerGuard {
    ours: bool,
}

/// What goes through the queue.
enum Item {
    /// `LEVEL target: message`, not yet escaped.
    Record(SystemTime, String),
    Flush(Sender<()>),
}

/// A started logger.
struct Running {
    queue: Sender<Item>,
    /// Never written to; disconnects when the thread has ended.
    ended: Receiver<()>,
    lost: Arc<AtomicU64>,
    guards: usize,
    started: Instant,
    /// When the ZooKeeper client may log next, in milliseconds after `started`.
    zookeeper_next: AtomicU64,
    zookeeper_suppressed: AtomicU64,
}

/// What the `log` facade knows. It forwards to the logger that runs now, if any.
struct Facade;

static CURRENT: RwLock<Option<Running>> = RwLock::new(None);

impl Logger {
    /// Starts the logger behind the `log` facade and its thread, `mprpc-log`. While one runs already
    /// it is shared: it keeps its own options and runs until the last guard is gone. If the program
    /// has installed a logger of its own, that one stays and the guard does nothing. A directory that
    /// cannot be written is no error but reported on stderr, since it may become so at any time.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown level, [`Error::Io`] if the thread cannot be started.
    pub fn start(options: LoggerOptions) -> Result<LoggerGuard, Error> {
        static OURS: OnceLock<bool> = OnceLock::new();
        let want = "want off, error, warn, info, debug or trace";
        let wrong = |_| Error::Config(format!("log_level = {:?}: {want}", options.level));
        let level: LevelFilter = options.level.parse().map_err(wrong)?;
        let first = || log::set_logger(&Facade).map(|()| flush_on_panic()).is_ok();
        let ours = *OURS.get_or_init(first);
        if ours {
            let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
            match &mut *current {
                Some(running) => running.guards += 1,
                None => {
                    *current = Some(Running::start(options)?);
                    log::set_max_level(level);
                }
            }
        }
        Ok(LoggerGuard { ours })
    }
}

impl Drop for LoggerGuard {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &mut *current else { return };
        running.guards -= 1;
        if running.guards > 0 {
            return;
        }
        log::set_max_level(LevelFilter::Off);
        let running = current.take();
        drop(current);
        if let Some(running) = running {
            if let n @ 1.. = running.zookeeper_suppressed.into_inner() {
                let text = format!("WARN zookeeper: {n} more suppressed");
                let _ = running.queue.try_send(Item::Record(SystemTime::now(), text));
            }
            drop(running.queue); // the thread writes what is in it, then ends
            let _ = running.ended.recv_timeout(FLUSH_LIMIT);
        }
    }
}

impl Running {
    fn start(options: LoggerOptions) -> Result<Self, Error> {
        let (queue, records) = bounded(options.queue.max(1));
        let (ending, ended) = bounded(0);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = writer::Writer::new(options.dir, options.max_size, lost.clone());
        let run = move || {
            let _ending = ending;
            writer.run(&records);
        };
        let thread = thread::Builder::new().name(THREAD.into()).spawn(run);
        thread.map_err(|e| Error::Io("the log thread cannot be started".into(), e))?;
        Ok(Self {
            queue,
            ended,
            lost,
            guards: 1,
            started: Instant::now(),
            zookeeper_next: AtomicU64::new(0),
            zookeeper_suppressed: AtomicU64::new(0),
        })
    }

    /// Whether a record of the ZooKeeper client may pass, and how many did not since the last one.
    fn zookeeper_turn(&self) -> Option<u64> {
        let now = self.started.elapsed().as_millis() as u64;
        let turn = |next| (now >= next).then_some(now + ZOOKEEPER_PAUSE_MS);
        if self.zookeeper_next.fetch_update(Relaxed, Relaxed, turn).is_ok() {
            return Some(self.zookeeper_suppressed.swap(0, Relaxed));
        }
        self.zookeeper_suppressed.fetch_add(1, Relaxed);
        None
    }
}

impl Log for Facade {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
            && (metadata.level() <= Level::Warn || !is_zookeeper(metadata.target()))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let time = SystemTime::now();
        // Before the lock is taken: a `Display` of the program's may log, too.
        let mut text = line::format(record);
        let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = &*current else { return };
        if is_zookeeper(record.target()) {
            match running.zookeeper_turn() {
                None => return,
                Some(0) => {}
                Some(n) => text.push_str(&format!(" ({n} more suppressed)")),
            }
        }
        if running.queue.try_send(Item::Record(time, text)).is_err() {
            running.lost.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self) {
        flush(FLUSH_LIMIT);
    }
}

/// Returns when all that was logged before is in the file, or after `limit`.
fn flush(limit: Duration) {
    let deadline = Instant::now() + limit;
    let queue = {
        let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|running| running.queue.clone())
    };
    let (done, written) = bounded(1);
    if let Some(queue) = queue
        && queue.send_deadline(Item::Flush(done), deadline).is_ok()
    {
        let _ = written.recv_deadline(deadline);
    }
}

/// A panic may be the last thing a process does: it is logged (not its message, which may hold
/// anything), and the queue is written first, for a short while, as handlers may panic often.
fn flush_on_panic() {
    let earlier = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        earlier(info);
        let thread = thread::current();
        if thread.name() != Some(THREAD) {
            let name = thread.name().unwrap_or("?");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            log::error!("thread {name} panicked at {place}");
            flush(PANIC_FLUSH_LIMIT);
        }
    }));
}

/// The client's crate retries without a pause while a server is away, and logs each time.
fn is_zookeeper(target: &str) -> bool {
    let rest = target.strip_prefix("zookeeper");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

const THREAD: &str = "mprpc-log";
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const PANIC_FLUSH_LIMIT: Duration = Duration::from_millis(500);
const ZOOKEEPER_PAUSE_MS: u64 = 10_000;
