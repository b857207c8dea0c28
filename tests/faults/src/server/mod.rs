//! Rows of the group `server`: hostile and greedy peers, overload, handlers that misbehave, a full disk.
//!
//! `peer` speaks both wires by hand, `watch` keeps an honest client beside the fault and an eye on the
//! provider; the others are the rows.

use std::time::Duration;

use crate::row::Row;

mod clock;
mod crowds;
mod descriptors;
mod disk;
mod evil;
mod frames;
mod handlers;
mod hostile;
mod hostile_legacy;
mod hostile_mux;
mod overload;
mod peer;
mod serve;
mod soak;
mod storms;
mod watch;

pub(crate) use serve::serve;
pub(crate) use soak::SOAK;

/// In the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "hostile-mux",
        wanted: "each behaviour meets what it should, alive, <= 16 MiB, all honest calls answered, p99 <= 50 ms",
        limit: Duration::from_secs(120),
        run: hostile::mux,
    },
    Row {
        name: "hostile-legacy",
        wanted: "the same on the legacy wire",
        limit: Duration::from_secs(120),
        run: hostile::legacy,
    },
    Row {
        name: "evil-server",
        wanted: "each call of a client ends in time with a telling error, calls to others are answered",
        limit: Duration::from_secs(120),
        run: evil::both,
    },
    Row {
        name: "slow-senders",
        wanted: "500 ended by request_timeout + 1 s, <= 16 MiB, all honest calls answered, p99 <= 50 ms",
        limit: Duration::from_secs(60),
        run: crowds::slow_senders,
    },
    Row {
        name: "never-reader",
        wanted: "<= 64 MiB taken in, <= 16 MiB kept, 48 while it reads, all honest calls answered, p99 <= 50 ms, its own in the end",
        limit: Duration::from_secs(90),
        run: crowds::never_reader,
    },
    Row {
        name: "connects",
        wanted: "5,000 connects and closes: <= 16 MiB, all honest calls answered, p99 <= 50 ms, descriptors back",
        limit: Duration::from_secs(60),
        run: crowds::connects,
    },
    Row {
        name: "descriptors",
        wanted: "used up: below 0.1 core, accepting again within 1 s",
        limit: Duration::from_secs(60),
        run: descriptors::used_up,
    },
    Row {
        name: "connections",
        wanted: "10,000 served, descriptors back within 5 s, a second wave adds <= 5 % of resident memory",
        limit: Duration::from_secs(180),
        run: crowds::ten_thousand,
    },
    Row {
        name: "storms",
        wanted: "cancel storm, ping flood, duplicate and reused ids: ended with a reason, nobody else affected",
        limit: Duration::from_secs(60),
        run: storms::all,
    },
    Row {
        name: "overload",
        wanted: "goodput >= 80 % of capacity, rejections within 50 ms, alive in 512 MiB",
        limit: Duration::from_secs(90),
        run: overload::open_loop,
    },
    Row {
        name: "workers-asleep",
        wanted: "ping and rejections within 50 ms",
        limit: Duration::from_secs(60),
        run: handlers::asleep,
    },
    Row {
        name: "panics",
        wanted: "1,000 INTERNAL at 2,000 calls/s, everything else answered",
        limit: Duration::from_secs(60),
        run: handlers::panics,
    },
    Row {
        name: "stuck-drain",
        wanted: "SIGTERM with a stuck handler: over within drain_timeout + 0.5 s; a second signal: 0.2 s",
        limit: Duration::from_secs(60),
        run: handlers::stuck_drain,
    },
    Row {
        name: "log-clock",
        wanted: "the clock jumps 5 times, over midnight too: every call answered within 1 s, each record once, in order, in its day's file",
        limit: Duration::from_secs(90),
        run: clock::jumps,
    },
    Row {
        name: "log-disk",
        wanted: "full: throughput unchanged (median of 11), losses exact, writing within 2 s of space",
        limit: Duration::from_secs(120),
        run: disk::full,
    },
    Row {
        name: "random-frames",
        wanted: "10 million: 0 crashes, 0 hangs",
        limit: Duration::from_secs(600),
        run: frames::random,
    },
];
