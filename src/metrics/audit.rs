//! Metrics of the slot's health: open problems, and events that the slot missed.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::gauges::{StateSet, saturating};
use crate::metrics::names::{
    AUDITS, FOREIGN_MARKS, MISSED_EVENTS, MISSED_EVENTS_OPEN, TROUBLE, TROUBLES, stem,
};
use crate::status::PROBLEMS;

/// Counters and gauges of the health monitor and the audit.
#[derive(Debug)]
pub(crate) struct AuditMetrics {
    /// Events that the slot missed.
    pub missed_total: Counter,
    /// Rows that another program has marked as published.
    pub foreign_marks: Counter,
    audits_total: Counter,
    missed: Gauge,
    problems: StateSet,
}

impl AuditMetrics {
    pub(super) fn new() -> Self {
        AuditMetrics {
            missed_total: Counter::default(),
            foreign_marks: Counter::default(),
            audits_total: Counter::default(),
            missed: Gauge::default(),
            problems: StateSet::new(TROUBLE, &PROBLEMS),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            stem(MISSED_EVENTS),
            "Events that the slot skipped",
            self.missed_total.clone(),
        );
        registry.register(
            stem(FOREIGN_MARKS),
            "Rows that another program has marked as published before outboxd could",
            self.foreign_marks.clone(),
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
        let help = "1 for each open problem of slot, publication or table";
        self.problems.register(registry, TROUBLES, help);
    }

    /// Shows the open problems and the results of the audit.
    pub(super) fn show<'a>(
        &self,
        problems: impl Iterator<Item = &'a str>,
        missed: u64,
        audits: u64,
    ) {
        self.problems.show(problems);
        self.missed.set(saturating(missed));
        self.audits_total
            .inc_by(audits.saturating_sub(self.audits_total.get()));
    }
}
