//! The logger: records of the `log` facade go through one bounded queue to the thread that writes files.
//!
//! The caller formats the message and does one `try_send`; it never waits for a disk, and a full
//! queue drops the record and counts it. Dates, escaping and files are the log thread's work. Times
//! are UTC: the local offset needs either `unsafe` or a time zone library.

mod line;
mod writer;

use std::{
    mem, panic,
    path::PathBuf,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, RwLock,
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
pub struct LoggerGuard(());

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
    /// When the ZooKeeper client may log next, and how many records of it were left out since it did.
    zookeeper: Mutex<(Instant, u64)>,
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
        static OURS: LazyLock<bool> =
            LazyLock::new(|| log::set_logger(&Facade).map(|()| flush_on_panic()).is_ok());
        let want = "want off, error, warn, info, debug or trace";
        let wrong = |_| Error::Config(format!("log_level = {:?}: {want}", options.level));
        let level: LevelFilter = options.level.parse().map_err(wrong)?;
        if *OURS {
            let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
            match &mut *current {
                Some(running) => running.guards += 1,
                None => {
                    *current = Some(Running::start(options)?);
                    log::set_max_level(level);
                }
            }
        }
        Ok(LoggerGuard(()))
    }
}

impl Drop for LoggerGuard {
    fn drop(&mut self) {
        let mut current = CURRENT.write().unwrap_or_else(PoisonError::into_inner);
        let last = current.take_if(|running| {
            running.guards -= 1;
            running.guards == 0
        });
        let Some(Running { queue, ended, zookeeper, .. }) = last else { return };
        log::set_max_level(LevelFilter::Off);
        drop(current);
        if let (_, n @ 1..) = zookeeper.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let text = format!("WARN zookeeper: {n} more suppressed");
            let _ = queue.try_send(Item::Record(SystemTime::now(), text));
        }
        drop(queue); // the thread writes what is in it, then ends
        let _ = ended.recv_timeout(FLUSH_LIMIT);
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
        Ok(Self { queue, ended, lost, guards: 1, zookeeper: Mutex::new((Instant::now(), 0)) })
    }

    /// Whether a record of the ZooKeeper client may pass, and how many did not since the last one.
    fn zookeeper_turn(&self) -> Option<u64> {
        let mut limit = self.zookeeper.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, suppressed) = &mut *limit;
        let now = Instant::now();
        if now < *next {
            *suppressed += 1;
            return None;
        }
        *next = now + ZOOKEEPER_PAUSE;
        Some(mem::take(suppressed))
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
            let Some(suppressed) = running.zookeeper_turn() else { return };
            if suppressed > 0 {
                text += &format!(" ({suppressed} more suppressed)");
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
    let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
    let queue = current.as_ref().map(|running| running.queue.clone());
    drop(current);
    let (done, written) = bounded(1);
    if queue.is_some_and(|queue| queue.send_deadline(Item::Flush(done), deadline).is_ok()) {
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
        let name = thread.name().unwrap_or("?");
        if name != THREAD {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            log::error!("thread {name} panicked at {place}");
            flush(PANIC_FLUSH_LIMIT);
        }
    }));
}

/// The client's crate retries without a pause while a server is away, and logs each time.
fn is_zookeeper(target: &str) -> bool {
    target.split("::").next() == Some("zookeeper")
}

const THREAD: &str = "mprpc-log";
const FLUSH_LIMIT: Duration = Duration::from_secs(2);
const PANIC_FLUSH_LIMIT: Duration = Duration::from_millis(500);
const ZOOKEEPER_PAUSE: Duration = Duration::from_secs(10);
