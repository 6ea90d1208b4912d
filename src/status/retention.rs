//! What retention has done, for the status.

use serde::Serialize;

/// What was deleted of the published rows since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RetentionStatus {
    /// Rows of the outbox that were deleted.
    pub deleted_rows: u64,
    /// Closed dead letters that were deleted.
    pub deleted_dead_letters: u64,
    /// When the last pass over the table ended, in seconds since 1970.
    pub last_pass: Option<f64>,
    /// The age of the oldest published row that the last pass has left, in seconds.
    pub oldest_row_seconds: Option<f64>,
}
