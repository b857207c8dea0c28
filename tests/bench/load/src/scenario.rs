//! The scenarios: how many connections, how many calls at once, and which call.

use crate::Job;

/// What the load side does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Connections that calls are made on.
    pub connections: usize,
    /// Calls that are always under way on each of them.
    pub in_flight: usize,
    /// Connections that are opened before, used once and kept.
    pub idle: usize,
    /// Threads that make blocking calls, one at a time each; 0 where the peer's own way of many calls at once is meant.
    pub threads: usize,
    /// Every call has a connection of its own, and its time covers opening and closing it.
    pub per_call: bool,
    /// The call.
    pub job: Job,
}

impl Scenario {
    /// The scenario of that name, `A` to `G` or `T1` to `T999`; `I` is F without calls, for what idleness costs.
    pub fn named(name: &str) -> Option<Self> {
        let one =
            Self { connections: 1, in_flight: 1, idle: 0, threads: 0, per_call: false, job: Job::Login };
        Some(match name {
            "A" => one,
            "B" => Self { in_flight: 64, ..one },
            "C" => Self { connections: 64, ..one },
            "D" => Self { connections: 64, in_flight: 16, ..one },
            "E" => Self { in_flight: 4, job: Job::Echo(1 << 20), ..one },
            "F" => Self { idle: 10_000, ..one },
            "I" => Self { idle: 10_000, connections: 0, ..one },
            "G" => Self { per_call: true, ..one },
            _ => {
                let threads = name.strip_prefix('T')?.parse().ok()?;
                (1..1000).contains(&threads).then_some(Self { threads, ..one })?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "H", "T", "T0", "T1000", "Tx", "AB"] {
            assert_eq!(Scenario::named(name), None, "{name}");
        }
        assert_eq!(Scenario::named("T64").map(|s| s.threads), Some(64));
    }
}
