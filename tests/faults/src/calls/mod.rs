//! Rows of the group `calls`: what becomes of calls when a provider dies, hangs, vanishes or restarts, and when peers or
//! callers do wrong.

use crate::row::Row;

mod bad_input;
mod cast;
mod deadline;
mod hang;
mod hostile;
mod kill;
mod partition;
mod rolling;
mod simulation;

pub(crate) use cast::judge;

/// In the order in which they run.
pub(crate) const ROWS: &[Row] = &[
    simulation::ROW,
    deadline::ROW,
    kill::ROW,
    hang::ROW,
    partition::ROW,
    rolling::ROW,
    hostile::ROW,
    bad_input::ROW,
];
