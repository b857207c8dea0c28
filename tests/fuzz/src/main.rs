//! Runs fuzz targets for a time, without any tool: inputs that are likely, and mutations of the
//! corpus. `scripts/fuzz.sh` is the same with coverage as a guide.
//!
//! `mprpc-fuzz [--seconds N] [--seed N] [--seeds N] [TARGET...]`; `--seeds N` writes N likely inputs
//! into the corpus instead. An input that panics or takes over 10 s is written to the current
//! directory. A stack overflow cannot be caught: it repeats with the seed that was printed.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mprpc_fuzz::{TARGETS, Target, random::Random};

/// The input that runs now, and since when.
type Current = Arc<Mutex<Option<(Instant, Vec<u8>)>>>;

fn main() -> ExitCode {
    let (mut seconds, mut seeds, mut targets) = (60, 0, Vec::new());
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse::<u64>().ok());
        let known = match &*arg {
            "--seconds" => number().map(|n| seconds = n).is_some(),
            "--seed" => number().map(|n| seed = n).is_some(),
            "--seeds" => number().map(|n| seeds = n).is_some(),
            name => Target::named(name).map(|target| targets.push(target)).is_some(),
        };
        if !known {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!(
                "mprpc-fuzz: {arg}? [--seconds N] [--seed N] [--seeds N], then any of {}",
                names.join(" ")
            );
            return ExitCode::from(2);
        }
    }
    if targets.is_empty() {
        targets = TARGETS.iter().collect();
    }
    let current = Current::default();
    watch(current.clone());
    let good = targets.into_iter().all(|target| match seeds {
        0 => fuzz(target, seed, Duration::from_secs(seconds), &current),
        _ => (0..seeds).all(|n| write_seed(target, n)),
    });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fuzz(target: &Target, seed: u64, time: Duration, current: &Current) -> bool {
    println!("{}: {} s, seed {seed}", target.name, time.as_secs());
    let corpus = target.corpus().unwrap_or_default();
    let (mut random, began, mut runs) = (Random::new(seed), Instant::now(), 0_u64);
    while began.elapsed() < time {
        let mut input = match corpus.len() {
            n if n > 0 && random.one_in(2) => corpus[random.below(n)].1.clone(),
            _ => (target.likely)(&mut random),
        };
        if !random.one_in(4) {
            random.mutate(&mut input);
        }
        *current.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), input.clone()));
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            save("crash", target.name, &input);
            return false;
        }
        runs += 1;
    }
    *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    println!("{}: {runs} runs, no crash, no hang", target.name);
    true
}

/// Ends the process when an input takes too long.
fn watch(current: Current) {
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(1));
            let now = current.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((since, input)) = &*now
                && since.elapsed() > HANG
            {
                save("hang", "any", input);
                std::process::exit(1);
            }
        }
    });
}

fn save(what: &str, target: &str, input: &[u8]) {
    let sum = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, b| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
    let path = format!("{what}-{target}-{sum:016x}");
    match fs::write(&path, input) {
        Ok(()) => {
            println!("{target}: {what}: the input is in {path}; fixed, it belongs into tests/fuzz/corpus")
        }
        Err(error) => println!("{target}: {what}: {error}; the input is {input:?}"),
    }
}

fn write_seed(target: &Target, n: u64) -> bool {
    let input = (target.likely)(&mut Random::new(n));
    let path = target.corpus_dir().join(format!("likely-{n:02}"));
    let written = fs::create_dir_all(target.corpus_dir()).and_then(|()| fs::write(&path, input));
    if let Err(error) = &written {
        println!("{}: {error}", path.display());
    }
    written.is_ok()
}

const HANG: Duration = Duration::from_secs(10);
