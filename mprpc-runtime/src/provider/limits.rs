//! What the limits of a provider allow in all, for the log.

use crate::config::Settings;

/// One line: the memory that peers can make a provider use at most, and what it is made of. What
/// handlers hold, and answers on their way from them, come on top.
pub(super) fn worst_case(settings: &Settings, max_connections: usize) -> String {
    let parts = [
        (1, settings.max_memory, "max_memory"),
        (max_connections, CONNECTION, "connections (max_connections)"),
        (settings.max_total_calls, CALL, "open calls (max_total_calls)"),
        (settings.max_queue, WAITING, "waiting calls (max_queue)"),
        (settings.io_threads, REACTOR, "reactors (io_threads)"),
    ];
    let bytes = |n: usize, each: usize| (n as u64).saturating_mul(each as u64);
    let total = parts.iter().fold(0_u64, |sum, (n, each, _)| sum.saturating_add(bytes(*n, *each)));
    let text: Vec<String> =
        parts.iter().map(|(n, each, what)| format!("{n} x {} KiB {what}", each.div_ceil(1024))).collect();
    format!("limits: at most {} MiB for peers = {}", total.div_ceil(1 << 20), text.join(" + "))
}

/// Its state, and buffers too small for `max_memory` to count.
const CONNECTION: usize = 6 << 10;
/// Its place in its connection, with the right to answer it.
const CALL: usize = 512;
/// A job with a request too small for `max_memory` to count.
const WAITING: usize = 5 << 10;
/// Buffers for reading and writing that are kept, and posts.
const REACTOR: usize = 34 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MprpcConfig;

    #[test]
    fn the_worst_case_is_the_sum_of_its_parts() {
        let config = MprpcConfig::parse(
            "max_memory = 100M\nio_threads = 1\nmax_queue = 1\nmax_total_calls = 2048",
            "",
        );
        let line = worst_case(config.unwrap().settings(), 1024);
        assert!(
            line.starts_with("limits: at most 142 MiB for peers = 1 x 102400 KiB max_memory + "),
            "{line}"
        );
    }
}
