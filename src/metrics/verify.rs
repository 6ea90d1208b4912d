//! Metrics of the comparisons of the table with the topics.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::gauges::saturating;
use crate::metrics::names::{VERIFY_COMPLETED, VERIFY_EVENTS, VERIFY_FAILURES, stem};

/// The label of a verdict.
const VERDICT: &str = "verdict";

/// The verdicts, all there from the start.
const VERDICTS: [&str; 6] = [
    "missing",
    "duplicate",
    "phantom",
    "altered",
    "out_of_order",
    "unknown",
];

/// What the last comparison has found, and how the comparisons went.
#[derive(Debug)]
pub(crate) struct VerifyMetrics {
    events: Family<[(&'static str, &'static str); 1], Gauge>,
    completed: Gauge<f64, AtomicU64>,
    failures: Counter,
}

impl VerifyMetrics {
    pub(super) fn new() -> Self {
        let metrics = VerifyMetrics {
            events: Family::default(),
            completed: Gauge::default(),
            failures: Counter::default(),
        };
        for verdict in VERDICTS {
            metrics.events(verdict, 0);
        }
        metrics
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Events of the last comparison of the table with the topics, by verdict";
        registry.register(VERIFY_EVENTS, help, self.events.clone());
        let help = "When the last comparison read the rows";
        registry.register(VERIFY_COMPLETED, help, self.completed.clone());
        let help = "Comparisons that failed";
        registry.register(stem(VERIFY_FAILURES), help, self.failures.clone());
    }

    /// Shows how many events the last comparison has found of a verdict.
    pub(crate) fn events(&self, verdict: &'static str, count: u64) {
        let gauge = self.events.get_or_create(&[(VERDICT, verdict)]);
        gauge.set(saturating(count));
    }

    /// A comparison was completed, which has read rows at this time, in seconds since 1970.
    pub(crate) fn completed(&self, at: f64) {
        self.completed.set(at);
    }

    /// A comparison failed.
    pub(crate) fn failed(&self) {
        self.failures.inc();
    }
}
