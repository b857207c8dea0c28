//! The measured window: opens after the warm-up, gathers latencies, and ends the process with its report.

use std::{
    cell::RefCell,
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use hdrhistogram::Histogram;

use crate::{
    Scenario, clock,
    usage::{Cpu, Resident, machine_busy, memory_kib},
};

type Latencies = Arc<Mutex<Histogram<u64>>>;

/// One finished call. Outside the window it counts for nothing.
#[inline]
pub(crate) fn record(start: u64, end: u64) {
    if PHASE.load(Ordering::Relaxed) != MEASURE {
        return;
    }
    MINE.with_borrow_mut(|mine| {
        let mine = mine.get_or_insert_with(|| {
            let new = Latencies::new(Mutex::new(histogram()));
            lock(&ALL).push(new.clone());
            new
        });
        // Nobody else wants this lock before the window closes.
        lock(mine).saturating_record(end.saturating_sub(start).max(1));
    });
}

pub(crate) fn stopped() -> bool {
    PHASE.load(Ordering::Relaxed) == STOP
}

pub(crate) fn note_idle(resident: Resident, opened: bool) {
    let mut idle = lock(&IDLE);
    if opened {
        idle.1 = resident;
    } else {
        *idle = (resident, resident);
    }
}

/// Runs the window from its warm-up to the end of the process.
pub(crate) fn run(server: u32, scenario: Scenario, warmup: Duration, window: Duration) -> ! {
    thread::sleep(warmup);
    let me = process::id();
    let (server_before, busy_before, me_before) = (Cpu::of(server), machine_busy(), Cpu::of(me));
    let began = clock::now();
    PHASE.store(MEASURE, Ordering::SeqCst);
    thread::sleep(window);
    PHASE.store(STOP, Ordering::SeqCst);
    let nanos = clock::now() - began;
    let server_cpu = Cpu::of(server).since(&server_before);
    let me_cpu = Cpu::of(me).since(&me_before);
    let busy = machine_busy().saturating_sub(busy_before);

    let mut latencies = histogram();
    for mine in lock(&ALL).iter() {
        latencies.add(&*lock(mine)).expect("all histograms have the same bounds");
    }
    let calls = latencies.len();
    let memory = per_connection(scenario.idle);
    if scenario.connections == 0 {
        println!("{{\"srv_cpu_ms\":{:.3},{memory}}}", server_cpu as f64 / 1e6);
        process::exit(0)
    }
    if calls == 0 {
        fail_now("no call ended within the window");
    }
    let seconds = nanos as f64 / 1e9;
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
    let cpu_seconds_per_million = |cpu: u64| cpu as f64 / 1e3 / calls as f64;
    let others = busy.saturating_sub(server_cpu + me_cpu) as f64 / nanos as f64;
    println!(
        "{{\"calls_s\":{:.0},\"mb_s\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"srv_cpu_s_per_m\":{:.3},\
         \"cli_cpu_s_per_m\":{:.3},\"srv_rss_kb\":{},{memory},\"other_cpu_pct\":{:.0}}}",
        calls as f64 / seconds,
        calls as f64 * scenario.job.size() as f64 / seconds / 1e6,
        micros(0.5),
        micros(0.99),
        micros(0.999),
        cpu_seconds_per_million(server_cpu),
        cpu_seconds_per_million(me_cpu),
        memory_kib(server, "VmHWM:"),
        others * 100.0,
    );
    process::exit(0)
}

/// What an idle connection takes in both processes, as JSON.
fn per_connection(idle: usize) -> String {
    let (before, after) = *lock(&IDLE);
    let each = |before: u64, after: u64| match idle {
        0 => "null".to_owned(),
        n => format!("{:.3}", after.saturating_sub(before) as f64 / n as f64),
    };
    let (server, client) =
        (each(before.server_kib, after.server_kib), each(before.client_kib, after.client_kib));
    format!("\"srv_kib_per_conn\":{server},\"cli_kib_per_conn\":{client}")
}

/// See [`Load::fail`](crate::Load::fail).
pub(crate) fn fail(why: impl std::fmt::Display) -> ! {
    if stopped() {
        crate::park() // calls may fail while the process ends
    }
    fail_now(why)
}

fn fail_now(why: impl std::fmt::Display) -> ! {
    let plain = why.to_string().replace(|c: char| !matches!(c, ' '..='~'), " ");
    println!("{{\"error\":{plain:?}}}"); // of printable ASCII, Debug escapes what JSON wants escaped
    process::exit(3)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("bounds that are fixed and sensible")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two minutes in nanoseconds.
const LONGEST: u64 = 120_000_000_000;

const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;

static PHASE: AtomicU8 = AtomicU8::new(WARM_UP);
static ALL: Mutex<Vec<Latencies>> = Mutex::new(Vec::new());
/// Memory before and after the idle connections were opened.
static IDLE: Mutex<(Resident, Resident)> =
    Mutex::new((Resident { server_kib: 0, client_kib: 0 }, Resident { server_kib: 0, client_kib: 0 }));

thread_local! {
    static MINE: RefCell<Option<Latencies>> = const { RefCell::new(None) };
}
