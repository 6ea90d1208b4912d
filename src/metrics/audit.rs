//! Metrics of the slot's health: open problems, and events that the slot missed.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::names::{
    AUDITS, Labels, MISSED_EVENTS, MISSED_EVENTS_OPEN, TROUBLE, TROUBLES, stem,
};

/// Counters and gauges of the health monitor and the audit.
#[derive(Debug, Default)]
pub(crate) struct AuditMetrics {
    /// Events that the slot missed.
    pub missed_total: Counter,
    audits_total: Counter,
    missed: Gauge,
    problems: Family<Labels, Gauge>,
}

impl AuditMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            stem(MISSED_EVENTS),
            "Events that the slot skipped",
            self.missed_total.clone(),
        );
        registry.register(
            stem(AUDITS),
            "Completed audits of the slot against the table",
            self.audits_total.clone(),
        );
        registry.register(
            MISSED_EVENTS_OPEN,
            "Missed events that are not published yet",
            self.missed.clone(),
        );
        registry.register(
            TROUBLES,
            "1 for each open problem of slot, publication or table",
            self.problems.clone(),
        );
    }

    /// Shows the open problems and the results of the audit.
    pub(super) fn show<'a>(
        &self,
        problems: impl Iterator<Item = &'a str>,
        missed: u64,
        audits: u64,
    ) {
        self.problems.clear();
        for name in problems {
            let label = vec![(TROUBLE, name.to_owned())];
            self.problems.get_or_create(&label).set(1);
        }
        self.missed.set(super::saturating(missed));
        self.audits_total
            .inc_by(audits.saturating_sub(self.audits_total.get()));
    }
}
