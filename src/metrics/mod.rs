//! Counters, gauges and histograms, and their text form.
//!
//! The names are the contract with dashboards and alerts, and are constants in a file of their own.
//! A counter is incremented where its event happens. [`Metrics::show`] sets the gauges from the
//! status. No decision depends on a metric. The hot path holds a [`TopicMetrics`], so an event
//! costs two atomic additions and one histogram entry, and no look-up. Labels are bounded: after
//! [`TOPICS_MAX`] topics the rest share one label. Every series names the database and the slot, so
//! that one Prometheus can tell several outboxes apart, and the instances of one outbox belong
//! together. Every series is there from the start, but for those of a topic, which begin with its
//! first event, and for values that are not known.

mod audit;
mod gauges;
mod names;
mod process;
mod retention;
mod text;
mod verify;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::error::Code;
use crate::metrics::gauges::Gauges;
use crate::metrics::process::ProcessMetrics;
use crate::metrics::retention::RetentionMetrics;
use crate::metrics::verify::VerifyMetrics;
use crate::status::{Phase, Status};

pub(crate) use audit::AuditMetrics;
pub(crate) use names::*;
pub use text::TextFormat;

/// From half a millisecond, the best case on one machine, to a minute, which should have alerted an
/// operator.
const DURATION_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// All counters and gauges of one publisher.
pub struct Metrics {
    registry: Registry,
    events: Family<Labels, Counter>,
    published_bytes: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    topics: Mutex<HashMap<String, TopicMetrics>>,
    errors: Family<Labels, Counter>,
    write_back: Histogram,
    gauges: Gauges,
    /// Sessions that had to be opened again.
    pub(crate) reconnects: Counter,
    /// Slots created on a first start.
    pub(crate) slot_bootstraps: Counter,
    /// Slots created again after a loss.
    pub(crate) slot_heals: Counter,
    /// Transactions with events that were received whole.
    pub(crate) transactions: Counter,
    /// Partitions that were rewound because one of their records was rejected.
    pub(crate) partition_rewinds: Counter,
    pub(crate) producer_replacements: Counter,
    /// Health monitor and audit.
    pub(crate) audit: AuditMetrics,
    retention: RetentionMetrics,
    /// Comparisons of the table with the topics.
    pub(crate) verify: VerifyMetrics,
    log_lines_dropped: Counter,
}

/// One topic's counters; cheap to clone and meant to be kept.
#[derive(Debug, Clone)]
pub(crate) struct TopicMetrics {
    published: Counter,
    bytes: Counter,
    failed: Counter,
    duration: Histogram,
}

impl TopicMetrics {
    /// Counts an event that is in Kafka, and its bytes.
    pub(crate) fn published(&self, bytes: u32) {
        self.published.inc();
        self.bytes.inc_by(bytes.into());
    }

    /// Counts events that Kafka rejected for good.
    pub(crate) fn failed(&self, events: u64) {
        self.failed.inc_by(events);
    }

    /// Records the seconds from an event's commit to its acknowledgement.
    pub(crate) fn observe(&self, seconds: f64) {
        // The two clocks may disagree.
        self.duration.observe(seconds.max(0.0));
    }
}

impl Metrics {
    /// New metrics of the publisher of this database, all at zero. `slot` names its slot, or the
    /// lock of a poller.
    pub fn new(database: &str, slot: &str) -> Self {
        let durations: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        let mut metrics = Metrics {
            registry: Registry::default(),
            events: Family::default(),
            published_bytes: Family::default(),
            durations,
            topics: Mutex::default(),
            errors: Family::default(),
            write_back: Histogram::new(DURATION_BUCKETS),
            gauges: Gauges::new(),
            reconnects: Counter::default(),
            slot_bootstraps: Counter::default(),
            slot_heals: Counter::default(),
            transactions: Counter::default(),
            partition_rewinds: Counter::default(),
            producer_replacements: Counter::default(),
            audit: AuditMetrics::new(),
            retention: RetentionMetrics::default(),
            verify: VerifyMetrics::new(),
            log_lines_dropped: Counter::default(),
        };
        for code in Code::ALL {
            metrics.errors_by(code, 0);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        let labels = [(DATABASE, database), (SLOT, slot)];
        let labels = labels.map(|(name, value)| (name.into(), value.to_owned().into()));
        metrics.register(registry.sub_registry_with_labels(labels.into_iter()));
        metrics.registry = registry;
        metrics
    }

    /// Counts log lines that the program's log had to drop.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.log_lines_dropped.inc_by(lines);
    }

    fn register(&self, registry: &mut Registry) {
        self.register_counters(registry);
        let help = "Time from an event's commit to Kafka's acknowledgement";
        registry.register(PROCESSING_DURATION, help, self.durations.clone());
        let help = "Time that marking a batch of rows took";
        registry.register(WRITE_BACK_DURATION, help, self.write_back.clone());
        self.gauges.register(registry);
        self.audit.register(registry);
        self.retention.register(registry);
        self.verify.register(registry);
        let build: Family<Labels, Gauge> = Family::default();
        build
            .get_or_create(&vec![(VERSION, env!("CARGO_PKG_VERSION").to_owned())])
            .set(1);
        registry.register(BUILD_INFO, "The running version", build);
    }

    fn register_counters(&self, registry: &mut Registry) {
        let counters = [
            (
                RECONNECTS,
                "Sessions that had to be opened again",
                &self.reconnects,
            ),
            (
                SLOT_BOOTSTRAPS,
                "Slots created on a first start",
                &self.slot_bootstraps,
            ),
            (
                SLOT_HEALS,
                "Slots created again after a loss",
                &self.slot_heals,
            ),
            (
                TRANSACTIONS,
                "Transactions with events that were received whole",
                &self.transactions,
            ),
            (
                LOG_LINES_DROPPED,
                "Log lines that nothing read and that were dropped",
                &self.log_lines_dropped,
            ),
            (
                PARTITION_REWINDS,
                "Partitions that were rewound because one of their records was rejected",
                &self.partition_rewinds,
            ),
            (
                PRODUCER_REPLACEMENTS,
                "Producers that took the place of one that had failed or stalled",
                &self.producer_replacements,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(stem(name), help, counter.clone());
        }
        let help = "Events by topic and outcome";
        registry.register(stem(EVENTS_PROCESSED), help, self.events.clone());
        let help = "Bytes of the events that Kafka has acknowledged, by topic";
        registry.register(stem(PUBLISHED_BYTES), help, self.published_bytes.clone());
        let help = "Errors by code, each refused event and each refused mark included";
        registry.register(stem(ERRORS), help, self.errors.clone());
    }

    /// The topic's counters. The caller keeps them, since this looks them up.
    pub(crate) fn topic(&self, name: &str) -> TopicMetrics {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.get(name) {
            return topic.clone();
        }
        let name = if topics.len() < TOPICS_MAX {
            name
        } else {
            OTHER_TOPICS
        };
        if let Some(topic) = topics.get(name) {
            return topic.clone();
        }
        let label = || (TOPIC, name.to_owned());
        let events = |status: &str| {
            self.events
                .get_or_create_owned(&vec![label(), (STATUS, status.to_owned())])
        };
        let topic = TopicMetrics {
            published: events(PUBLISHED),
            bytes: self.published_bytes.get_or_create_owned(&vec![label()]),
            failed: events(FAILED),
            duration: self.durations.get_or_create_owned(&vec![label()]),
        };
        topics.insert(name.to_owned(), topic.clone());
        topic
    }

    /// Counts an error.
    pub(crate) fn error(&self, code: Code) {
        self.errors_by(code, 1);
    }

    /// Counts errors of one kind, such as refused events.
    pub(crate) fn errors_by(&self, code: Code, count: u64) {
        self.errors.get_or_create(&error_label(code)).inc_by(count);
    }

    /// Records that Kafka has acknowledged an event now, in seconds since 1970.
    pub(crate) fn published_at(&self, seconds: f64) {
        self.gauges.last_published.set(Some(seconds));
    }

    /// Records how long a batch of marks took.
    pub(crate) fn marked(&self, took: Duration) {
        self.write_back.observe(took.as_secs_f64());
    }

    /// Sets every gauge whose value the status contains. The HTTP server does this at each scrape,
    /// so that `/metrics` and `/status` agree; a program that calls [`render`](Metrics::render)
    /// itself calls this first.
    pub fn show(&self, status: &Status) {
        self.gauges.show(status);
        // Those of an instance that stands by were read when it published last.
        let publishes = status.phase != Phase::Standby;
        let problems = status.problems.iter().filter(|_| publishes);
        let missed = if publishes { status.missed_events } else { 0 };
        let problems = problems.map(|problem| problem.name);
        self.audit.show(problems, missed, status.audits_total);
        let retention = status.retention.as_ref().filter(|_| publishes);
        self.retention.show(retention);
    }

    /// Everything in this format.
    pub fn render(&self, format: TextFormat) -> String {
        let mut page = String::new();
        encode(&mut page, &self.registry).expect("writing to a String cannot fail");
        match format {
            TextFormat::OpenMetrics => page,
            TextFormat::Prometheus => text::to_prometheus(&page),
        }
    }
}

fn error_label(code: Code) -> Labels {
    vec![(CODE, code.as_str().to_owned())]
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
