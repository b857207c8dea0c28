//! The logger on the caller's side: a record of about 100 bytes into a queue that has room.

use std::{
    env, fs, process,
    time::{Duration, Instant},
};

use criterion::Criterion;
use mprpc_runtime::{Logger, LoggerOptions};

const QUEUE: usize = 8192;

pub(crate) fn bench(criterion: &mut Criterion) {
    let dir = env::temp_dir().join(format!("bench-logger-{}", process::id()));
    let options = LoggerOptions { dir: dir.clone(), level: "info", queue: QUEUE, max_size: 0 };
    let guard = Logger::start(options).expect("the log thread starts");
    criterion.bench_function("logger/a record of 100 bytes", |b| {
        b.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            let mut left = count;
            while left > 0 {
                // A quarter of the queue, then wait for the log thread: a full queue would measure drops.
                let burst = left.min(QUEUE as u64 / 4);
                let start = Instant::now();
                for n in 0..burst {
                    log::info!(
                        "order {n:08} of customer {:08} has been paid and is on its way to the harbour",
                        n ^ 77
                    );
                }
                spent += start.elapsed();
                log::logger().flush();
                left -= burst;
            }
            spent
        });
    });
    criterion.bench_function("logger/a record below the level", |b| b.iter(|| log::debug!("never {}", 1)));
    drop(guard);
    let _ = fs::remove_dir_all(dir); // nothing but the records of this bench
}
