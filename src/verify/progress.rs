//! How far a comparison is, for a person who watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by the comparison and what shows it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    rows: AtomicU64,
    rows_expected: AtomicU64,
    records: AtomicU64,
    records_expected: AtomicU64,
    compared: AtomicU64,
    compared_of: AtomicU64,
}

/// How far a comparison is. What is expected is an estimate that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Rows that were read, and how many are expected.
    pub rows: (u64, u64),
    /// Records that were read, and how many are expected.
    pub records: (u64, u64),
    /// Parts that were compared, and how many there are; none before all is read.
    pub compared: (u64, u64),
}

impl Progress {
    /// How far it is now.
    pub fn steps(&self) -> Steps {
        let counters = &self.0;
        let pair = |done: &AtomicU64, all: &AtomicU64| {
            (done.load(Ordering::Relaxed), all.load(Ordering::Relaxed))
        };
        Steps {
            rows: pair(&counters.rows, &counters.rows_expected),
            records: pair(&counters.records, &counters.records_expected),
            compared: pair(&counters.compared, &counters.compared_of),
        }
    }

    pub(super) fn expect_rows(&self, count: u64) {
        self.0.rows_expected.store(count, Ordering::Relaxed);
    }

    pub(super) fn add_rows(&self, count: u64) {
        self.0.rows.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn expect_records(&self, count: u64) {
        self.0.records_expected.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_records(&self, count: u64) {
        self.0.records.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn compared(&self, done: u64, of: u64) {
        self.0.compared_of.store(of, Ordering::Relaxed);
        self.0.compared.store(done, Ordering::Relaxed);
    }
}
