//! What a process uses, as `/proc` says.

use std::{collections::HashMap, fs, time::Duration};

/// The resources of a process at some moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Name and CPU time of each thread, by its id.
    pub(crate) threads: HashMap<String, (String, Duration)>,
    pub(crate) rss_kib: u64,
    /// Without log files, which are opened when there is something to log.
    pub(crate) descriptors: usize,
}

impl Usage {
    /// # Panics
    /// There is no such process.
    pub(crate) fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
        let threads = tasks.flatten().filter_map(|task| {
            // Finer than the ticks in `stat`, which miss what runs for less than 10 ms. It may have ended.
            let used = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let used = used.split(' ').next()?.parse().ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_string_lossy().into_owned();
            Some((id, (name.trim_end().to_owned(), Duration::from_nanos(used))))
        });
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rss| rss.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        Self {
            threads: threads.collect(),
            rss_kib: rss.unwrap_or(0),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .map_or(0, |fds| fds.flatten().filter(is_no_log).count()),
        }
    }

    /// The CPU time since `before` of the threads whose name is one of `names`; of all if there is none. What a
    /// thread used that has ended by now is not known: to be asked often.
    pub(crate) fn cpu_since(&self, before: &Self, names: &[&str]) -> Duration {
        let wanted = |name: &String| names.is_empty() || names.contains(&&**name);
        let threads = self.threads.iter().filter(|(_, (name, _))| wanted(name));
        threads
            .map(|(id, (_, used))| *used - before.threads.get(id).map_or(Duration::ZERO, |(_, used)| *used))
            .sum()
    }
}

fn is_no_log(descriptor: &fs::DirEntry) -> bool {
    !fs::read_link(descriptor.path()).is_ok_and(|path| path.to_string_lossy().contains("log.txt"))
}
