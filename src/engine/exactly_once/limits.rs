//! When a Kafka transaction takes in no more.

use std::time::Duration;

use crate::config::Config;

/// When a transaction takes in no more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransactionLimits {
    /// The time between two transactions, while few events come.
    pub(crate) commit_interval: Duration,
    /// The time between two progress records without events.
    pub(crate) idle_interval: Duration,
    /// A transaction of Postgres that lasts longer than this is divided. One of Kafka that takes
    /// three times as long is given up.
    pub(crate) open_max: Duration,
    /// A transaction of Postgres with more events is divided.
    pub(crate) events_max: usize,
}

/// Within this the broker ends a transaction whose producer has vanished, in milliseconds. Readers
/// of committed records wait meanwhile.
pub(crate) const TRANSACTION_TIMEOUT_MS: u64 = 30_000;

/// The most rows of the table in one transaction: its progress record names them. A primary key has
/// at most 2.7 kB, which an index of Postgres holds, and a record at most 1 MB, by Kafka's default.
pub(crate) const ROWS_MAX: usize = 250;

impl TransactionLimits {
    /// The limits of a configuration; `None` at least once.
    pub(crate) fn of(config: &Config) -> Option<Self> {
        let settings = config.exactly_once.as_ref()?;
        Some(TransactionLimits {
            commit_interval: settings.commit_interval,
            idle_interval: Duration::from_secs(10),
            open_max: Duration::from_millis(TRANSACTION_TIMEOUT_MS / 6),
            events_max: 20_000,
        })
    }
}
