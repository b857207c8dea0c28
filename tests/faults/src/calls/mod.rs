//! Rows of the group `calls`.

use crate::row::Row;

/// In the order in which they run.
pub(crate) const ROWS: &[Row] = &[];
