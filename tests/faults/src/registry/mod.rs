//! Rows of the group `registry`: what happens to discovery when ZooKeeper, a provider or a znode breaks.

use crate::row::Row;

mod churn;
mod claims;
mod crowd;
mod ensemble;
mod expiry;
mod flaps;
mod mirror;
mod network;
mod outage;
mod poison;
mod restart;
mod scene;
mod tap;
mod twins;

pub(crate) use crowd::{crowd, looker};

/// In the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    outage::DOWN,
    outage::HANGS,
    restart::INSIDE_SESSION,
    flaps::FLAPS,
    network::ROW,
    ensemble::LEADER_KILLED,
    expiry::EXPIRES,
    restart::KILL_9,
    mirror::MOVES,
    claims::REPAIRED,
    claims::TWO_HOSTS,
    twins::ROW,
    churn::ROW,
    poison::POISONED,
    poison::EMPTIED,
];
