//! Rows of the group `registry`: what happens to discovery when ZooKeeper, a provider or a znode breaks.

use crate::row::Row;

mod down;

/// In the order in which they run.
pub(crate) const ROWS: &[Row] = &[down::ROW];

/// The service that providers and callers of the matrix speak.
pub(crate) const SERVICE: &str = "mprpc.tests.EchoService";
/// Threads that are the registry's and the crate's.
pub(crate) const THREADS: &[&str] = &["mprpc-registry", "mprpc-zookeeper", "io", "event"];
