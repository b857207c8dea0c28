//! How many records a second the logger takes without dropping any.
//!
//! ```text
//! logger-rate FOLDER [QUEUE [RATE]]      two threads write records of 100 bytes into a file in FOLDER
//! ```
//!
//! With a RATE, it is kept up for some seconds and the dropped records are counted, by counting the lines. Without, the highest
//! rate at which none is dropped is searched for. QUEUE is `log_queue`, by default as mprpc has it.

use std::{
    env, fs,
    io::{self, BufRead, BufReader},
    path::Path,
    process::exit,
    thread,
    time::{Duration, Instant},
};

use mprpc_runtime::{Logger, LoggerOptions};

const THREADS: u64 = 2;
const SECONDS: u64 = 2;
/// A thread looks at the clock once for so many records.
const BURST: u64 = 50;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(folder) = arguments.first() else {
        eprintln!("logger-rate FOLDER [QUEUE [RATE]]");
        exit(2)
    };
    let number = |at: usize| arguments.get(at).and_then(|word| word.parse::<u64>().ok());
    let queue = number(1).unwrap_or(8192) as usize;
    if let Err(error) = run(Path::new(folder), queue, number(2)) {
        eprintln!("logger-rate: {error}");
        exit(1)
    }
}

fn run(folder: &Path, queue: usize, rate: Option<u64>) -> io::Result<()> {
    let folder = &folder.join(format!("logger-rate-{}", std::process::id()));
    if let Some(rate) = rate {
        trial(folder, queue, rate)?;
        return Ok(());
    }
    let (mut good, mut bad) = (0, 8_000_000);
    while bad - good > 50_000 {
        let rate = (good + bad) / 2;
        // A single hiccup of the machine does not decide.
        let held = trial(folder, queue, rate)? || trial(folder, queue, rate)?;
        if held { good = rate } else { bad = rate }
    }
    println!("sustained with a queue of {queue}: {good} records/s");
    Ok(())
}

/// Whether the rate was reached and nothing was dropped.
fn trial(folder: &Path, queue: usize, rate: u64) -> io::Result<bool> {
    let options = LoggerOptions { dir: folder.into(), level: "info", queue, max_size: 0 };
    let guard = Logger::start(options).map_err(io::Error::other)?;
    let began = Instant::now();
    let each = rate * SECONDS / THREADS / BURST * BURST;
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| produce(each, rate / THREADS, began));
        }
    });
    let took = began.elapsed().as_secs_f64();
    drop(guard); // writes what is queued
    let mut lines = 0;
    for entry in fs::read_dir(folder)? {
        let file = BufReader::new(fs::File::open(entry?.path())?);
        for line in file.split(b'\n') {
            lines += u64::from(line?.ends_with(END));
        }
    }
    fs::remove_dir_all(folder)?;
    let sent = each * THREADS;
    let reached = sent as f64 / took;
    println!("{rate} records/s asked, {reached:.0} reached, {} of {sent} dropped", sent - lines);
    Ok(lines == sent && reached > rate as f64 * 0.98)
}

/// Logs `count` records, evenly at `rate` a second.
fn produce(count: u64, rate: u64, began: Instant) {
    for burst in 0..count / BURST {
        let due = began + Duration::from_nanos(burst * BURST * 1_000_000_000 / rate);
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        for n in 0..BURST {
            // 100 bytes.
            log::info!(
                "order {:011} of customer {:010} has been paid and is on its way to the harbour, by ship END",
                burst,
                n
            );
        }
    }
}

const END: &[u8] = b" END";
