//! What a process uses, as `/proc` says.

use std::fs;

/// The resources of a process at some moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Name and CPU ticks (hundredths of a second) of each thread.
    pub(crate) threads: Vec<(String, u64)>,
    pub(crate) rss_kib: u64,
    pub(crate) descriptors: usize,
}

impl Usage {
    /// # Panics
    /// There is no such process.
    pub(crate) fn of(pid: u32) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a running process");
        let threads = tasks.flatten().filter_map(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).ok()?; // it may have ended
            let (name, rest) = stat.rsplit_once(") ")?;
            let fields: Vec<&str> = rest.split(' ').collect();
            let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
            Some((name.split_once('(')?.1.to_owned(), ticks))
        });
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|rss| rss.split_whitespace().next()).and_then(|kib| kib.parse().ok());
        Self {
            threads: threads.collect(),
            rss_kib: rss.unwrap_or(0),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
        }
    }

    /// The ticks of all threads whose name is one of `names`; of all threads if there is none.
    pub(crate) fn ticks(&self, names: &[&str]) -> u64 {
        let wanted = |name: &String| names.is_empty() || names.contains(&&**name);
        self.threads.iter().filter(|(name, _)| wanted(name)).map(|(_, ticks)| ticks).sum()
    }
}
