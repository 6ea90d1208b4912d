//! What retention has deleted: a counter, and two gauges that are absent until a pass has ended.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::metrics::gauges::KnownGauge;
use crate::metrics::names::*;
use crate::status::RetentionStatus;

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct RetentionMetrics {
    deleted: Counter,
    last_pass: KnownGauge<f64>,
    oldest: KnownGauge<f64>,
}

impl RetentionMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Published rows that retention has deleted";
        registry.register(stem(RETENTION_DELETED), help, self.deleted.clone());
        let help = "When the last pass of retention ended, in seconds since 1970, \
                    absent before and without retention";
        registry.register(RETENTION_LAST_PASS, help, self.last_pass.clone());
        let help = "Age of the oldest published row that the last pass of retention has left";
        registry.register(RETENTION_OLDEST, help, self.oldest.clone());
    }

    /// An instance that does not publish (`None`) shows no pass.
    pub(super) fn show(&self, status: Option<&RetentionStatus>) {
        let deleted = status.map_or(0, |it| it.deleted_rows);
        let counted = self.deleted.get();
        self.deleted.inc_by(deleted.saturating_sub(counted));
        self.last_pass.set(status.and_then(|it| it.last_pass));
        self.oldest.set(status.and_then(|it| it.oldest_row_seconds));
    }
}
