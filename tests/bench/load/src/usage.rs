//! What a process used: processor time and memory, as `/proc` tells it.

use std::{collections::BTreeMap, fs, process};

/// Processor time of a process and of the machine, at one moment.
pub(crate) struct Cpu {
    /// Nanoseconds of each thread, exact, by its id.
    threads: BTreeMap<String, u64>,
    /// Nanoseconds of the process with its ended threads, in steps of 10 ms.
    total: u64,
}

impl Cpu {
    pub(crate) fn of(pid: u32) -> Self {
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            if let Some(nanos) = text.split(' ').next().and_then(|word| word.parse().ok()) {
                threads.insert(task.file_name().to_string_lossy().into_owned(), nanos);
            }
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // proc(5): the name in parentheses may hold anything; utime and stime are fields 14 and 15, 12th and 13th behind it.
        let behind = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 =
            behind.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Self { threads, total: ticks * NANOS_PER_TICK }
    }

    /// Nanoseconds between `earlier` and this. A thread that ended takes its own count along, so then the coarse one is used.
    pub(crate) fn since(&self, earlier: &Self) -> u64 {
        if earlier.threads.keys().any(|id| !self.threads.contains_key(id)) || self.threads.is_empty() {
            return self.total.saturating_sub(earlier.total);
        }
        let sum = |cpu: &Self| cpu.threads.values().sum::<u64>();
        sum(self).saturating_sub(sum(earlier))
    }
}

/// Nanoseconds that all processors of the machine were busy.
pub(crate) fn machine_busy() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let words = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    // proc(5): user nice system idle iowait irq softirq
    [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<u64>() * NANOS_PER_TICK
}

/// Resident memory of the server and of this process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    pub(crate) server_kib: u64,
    pub(crate) client_kib: u64,
}

impl Resident {
    pub(crate) fn of(server: u32) -> Self {
        Self { server_kib: memory_kib(server, "VmRSS:"), client_kib: memory_kib(process::id(), "VmRSS:") }
    }
}

/// A line of `/proc/PID/status`, in KiB: `VmRSS:` is what is resident, `VmHWM:` its highest mark.
pub(crate) fn memory_kib(pid: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let found = status.lines().find_map(|text| text.strip_prefix(line));
    found.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The kernel reports to user space in ticks of 10 ms (`USER_HZ` is 100 wherever Rust's std runs on Linux).
const NANOS_PER_TICK: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn busy_time_is_counted_and_sleep_is_not() {
        let pid = process::id();
        let (before, until) = (Cpu::of(pid), Instant::now() + Duration::from_millis(50));
        while Instant::now() < until {}
        let busy = Cpu::of(pid);
        // Another process may have had the core for a part of it.
        assert!(busy.since(&before) > 1_000_000, "{}", busy.since(&before));
        assert!(Cpu::of(pid).since(&busy) < 1_000_000_000);
    }

    #[test]
    fn an_ended_thread_does_not_make_time_run_back() {
        let cpu = |threads: &[(&str, u64)], total| Cpu {
            threads: threads.iter().map(|(id, nanos)| ((*id).to_owned(), *nanos)).collect(),
            total,
        };
        assert_eq!(cpu(&[("1", 7)], 50).since(&cpu(&[("1", 5), ("2", 40)], 30)), 20);
        assert_eq!(cpu(&[("1", 7), ("3", 1)], 50).since(&cpu(&[("1", 5)], 30)), 3);
    }

    #[test]
    fn memory_is_found_by_name() {
        assert!(memory_kib(process::id(), "VmRSS:") > 0);
        assert_eq!(memory_kib(process::id(), "VmNone:"), 0);
    }
}
