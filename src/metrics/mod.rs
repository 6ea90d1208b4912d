//! Counters, gauges and histograms, and their text form.
//!
//! The names are the contract with dashboards and alerts, and are constants in a file of their own.
//! A counter is incremented where its event happens. [`Metrics::show`] alone sets the gauges, from
//! the status. No decision depends on a metric. The hot path holds a [`TopicMetrics`], so an event
//! costs one atomic addition and one histogram entry, and no look-up. Labels are bounded: after
//! [`TOPICS_MAX`] topics the rest share one label.

mod audit;
mod names;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::error::Code;
use crate::status::{SlotHealth, Status};

pub(crate) use audit::AuditMetrics;
pub(crate) use names::*;

/// The content type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From half a millisecond, the best case on one machine, to a minute, which should have alerted an
/// operator.
const DURATION_BUCKETS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

type FloatGauge = Gauge<f64, AtomicU64>;

/// All counters and gauges of one publisher.
pub struct Metrics {
    registry: Registry,
    events: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    topics: Mutex<HashMap<String, TopicMetrics>>,
    errors: Family<Labels, Counter>,
    slot_lag: KnownGauge,
    retained_wal: KnownGauge,
    safe_wal_size: KnownGauge,
    wal_status: Family<Labels, Gauge>,
    slot_active: KnownGauge,
    in_flight_records: Gauge,
    in_flight_bytes: Gauge,
    oldest_unacknowledged: FloatGauge,
    write_back_pending: Gauge,
    waiting: Family<Labels, FloatGauge>,
    dead_letters: Family<Labels, Gauge>,
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
    log_lines_dropped: Counter,
}

/// One topic's counters; cheap to clone and meant to be kept.
#[derive(Debug, Clone)]
pub(crate) struct TopicMetrics {
    published: Counter,
    failed: Counter,
    duration: Histogram,
}

impl TopicMetrics {
    /// Counts events that are in Kafka.
    pub(crate) fn processed(&self, events: u64) {
        self.published.inc_by(events);
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
    /// New metrics, all at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let durations: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS));
        let metrics = Metrics {
            events: Family::default(),
            durations,
            topics: Mutex::default(),
            errors: Family::default(),
            slot_lag: KnownGauge::default(),
            retained_wal: KnownGauge::default(),
            safe_wal_size: KnownGauge::default(),
            wal_status: Family::default(),
            slot_active: KnownGauge::default(),
            in_flight_records: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            oldest_unacknowledged: Gauge::default(),
            write_back_pending: Gauge::default(),
            waiting: Family::default(),
            dead_letters: Family::default(),
            reconnects: Counter::default(),
            slot_bootstraps: Counter::default(),
            slot_heals: Counter::default(),
            transactions: Counter::default(),
            partition_rewinds: Counter::default(),
            producer_replacements: Counter::default(),
            audit: AuditMetrics::default(),
            log_lines_dropped: Counter::default(),
            registry: Registry::default(),
        };
        metrics.register(&mut registry);
        Metrics {
            registry,
            ..metrics
        }
    }

    /// Counts log lines that the program's log had to drop.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.log_lines_dropped.inc_by(lines);
    }

    fn register(&self, registry: &mut Registry) {
        self.register_counters(registry);
        self.register_slot(registry);
        self.register_in_flight(registry);
        let help = "How long the named wait has lasted, absent when there is none";
        registry.register(WAITING, help, self.waiting.clone());
        let help = "Open dead letters by state";
        registry.register(DEAD_LETTERS, help, self.dead_letters.clone());
        self.audit.register(registry);
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
        registry.register(stem(ERRORS), "Errors by code", self.errors.clone());
        let help = "Time from an event's commit to Kafka's acknowledgement";
        registry.register(PROCESSING_DURATION, help, self.durations.clone());
    }

    fn register_slot(&self, registry: &mut Registry) {
        let help = "WAL between the slot's confirmed position and the server's";
        registry.register(SLOT_LAG, help, self.slot_lag.clone());
        let help = "WAL that the server keeps for the slot";
        registry.register(RETAINED_WAL, help, self.retained_wal.clone());
        let help = "WAL that may be written before the slot is lost, absent without a limit";
        registry.register(SAFE_WAL_SIZE, help, self.safe_wal_size.clone());
        let help = "1 for the slot's wal_status";
        registry.register(WAL_STATUS, help, self.wal_status.clone());
        let help = "1 while a session holds the slot";
        registry.register(SLOT_ACTIVE, help, self.slot_active.clone());
    }

    fn register_in_flight(&self, registry: &mut Registry) {
        let help = "Records without an acknowledgement";
        registry.register(IN_FLIGHT_RECORDS, help, self.in_flight_records.clone());
        let help = "Bytes of the records without an acknowledgement";
        registry.register(IN_FLIGHT_BYTES, help, self.in_flight_bytes.clone());
        let help = "Age of the oldest record without an acknowledgement";
        let oldest = self.oldest_unacknowledged.clone();
        registry.register(OLDEST_UNACKNOWLEDGED, help, oldest);
        let help = "Rows that are published and not written back";
        registry.register(WRITE_BACK_PENDING, help, self.write_back_pending.clone());
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
            failed: events(FAILED),
            duration: self.durations.get_or_create_owned(&vec![label()]),
        };
        topics.insert(name.to_owned(), topic.clone());
        topic
    }

    /// Counts an error.
    pub(crate) fn error(&self, code: Code) {
        self.errors
            .get_or_create(&vec![(CODE, code.as_str().to_owned())])
            .inc();
    }

    /// Sets every gauge whose value the status contains. The HTTP server does this at each scrape,
    /// so that `/metrics` and `/status` agree; a program that calls [`render`](Metrics::render)
    /// itself calls this first.
    pub fn show(&self, status: &Status) {
        self.in_flight_records
            .set(saturating(status.in_flight_records));
        self.in_flight_bytes.set(saturating(status.in_flight_bytes));
        self.oldest_unacknowledged
            .set(status.oldest_unacknowledged_seconds);
        self.write_back_pending
            .set(saturating(status.unmarked_records));
        self.show_slot(status.slot_health.as_ref());
        self.waiting.clear();
        if let Some(waiting) = &status.waiting {
            self.waiting
                .get_or_create(&vec![(WAIT, waiting.on.to_owned())])
                .set(waiting.seconds);
        }
        self.dead_letters.clear();
        for (state, count) in &status.dead_letters.states {
            self.dead_letters
                .get_or_create(&vec![(STATE, state.clone())])
                .set(*count);
        }
        self.audit.show(
            status.problems.iter().map(|problem| problem.name),
            status.missed_events,
            status.audits_total,
        );
    }

    /// Without a slot, or while its state is not known, the slot's gauges are absent, not stale.
    fn show_slot(&self, slot: Option<&SlotHealth>) {
        self.slot_lag.set(slot.map(|slot| slot.lag_bytes));
        self.retained_wal.set(slot.map(|slot| slot.retained_bytes));
        self.safe_wal_size
            .set(slot.and_then(|slot| slot.safe_wal_size));
        self.slot_active.set(slot.map(|slot| slot.active.into()));
        self.wal_status.clear();
        if let Some(status) = slot.and_then(|slot| slot.wal_status.clone()) {
            self.wal_status
                .get_or_create(&vec![(STATUS, status)])
                .set(1);
        }
    }

    /// Everything in the text format of OpenMetrics, for `CONTENT_TYPE`.
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A gauge that is absent while its value is not known.
#[derive(Debug, Clone, Default)]
struct KnownGauge(Arc<Mutex<Option<i64>>>);

impl KnownGauge {
    fn set(&self, value: Option<i64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl EncodeMetric for KnownGauge {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let value = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        value.map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Problem, StatusBoard, Waiting};

    fn status() -> Status {
        let names = ("outboxd_orders".to_owned(), "outboxd".to_owned());
        StatusBoard::new(Some(names), "outbox.outbox").read()
    }

    fn slot() -> SlotHealth {
        SlotHealth {
            lag_bytes: 1,
            retained_bytes: 2,
            safe_wal_size: Some(3),
            wal_status: Some("reserved".to_owned()),
            active: true,
        }
    }

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.render();
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }

    #[test]
    fn every_named_metric_is_there_once_it_has_a_value() {
        let metrics = Metrics::new();
        let topic = metrics.topic("orders");
        topic.processed(2);
        topic.failed(1);
        topic.observe(0.003);
        metrics.error(Code::Publish);
        let mut status = status();
        status.slot_health = Some(slot());
        status.waiting = Some(Waiting {
            on: "kafka",
            detail: String::new(),
            seconds: 1.5,
        });
        status.problems = vec![Problem {
            name: "not-published",
            detail: String::new(),
            hint: String::new(),
            loses_events: true,
        }];
        status.audits_total = 2;
        metrics.show(&status);
        for name in [
            EVENTS_PROCESSED,
            ERRORS,
            SLOT_LAG,
            RETAINED_WAL,
            SAFE_WAL_SIZE,
            WAL_STATUS,
            SLOT_ACTIVE,
            IN_FLIGHT_RECORDS,
            IN_FLIGHT_BYTES,
            OLDEST_UNACKNOWLEDGED,
            WRITE_BACK_PENDING,
            RECONNECTS,
            SLOT_BOOTSTRAPS,
            SLOT_HEALS,
            TRANSACTIONS,
            BUILD_INFO,
            WAITING,
            MISSED_EVENTS,
            MISSED_EVENTS_OPEN,
            AUDITS,
            TROUBLES,
        ] {
            let text = metrics.render();
            let sample = |line: &str| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            };
            assert!(text.lines().any(sample), "{name} has no sample in\n{text}");
        }
        has(
            &metrics,
            "outbox_events_processed_total{topic=\"orders\",status=\"published\"} 2",
        );
        has(
            &metrics,
            "outbox_events_processed_total{topic=\"orders\",status=\"failed\"} 1",
        );
        has(&metrics, "outbox_errors_total{code=\"PUBLISH_ERROR\"} 1");
        has(&metrics, "outboxd_wal_status{status=\"reserved\"} 1");
        has(&metrics, "outboxd_trouble{trouble=\"not-published\"} 1");
        has(&metrics, "outboxd_audits_total 2");
        has(&metrics, "# EOF");
    }

    #[test]
    fn durations_fall_into_buckets_from_half_a_millisecond_to_a_minute() {
        let metrics = Metrics::new();
        let topic = metrics.topic("orders");
        for seconds in [-1.0, 0.0004, 0.003, 59.0, 600.0] {
            topic.observe(seconds);
        }
        let bucket = |le: &str, count: u32| {
            let name = "outbox_processing_duration_seconds_bucket";
            has(
                &metrics,
                &format!("{name}{{le=\"{le}\",topic=\"orders\"}} {count}"),
            );
        };
        bucket("0.0005", 2);
        bucket("0.005", 3);
        bucket("60.0", 4);
        bucket("+Inf", 5);
    }

    #[test]
    fn topics_beyond_the_limit_share_one_label() {
        let metrics = Metrics::new();
        for i in 0..TOPICS_MAX + 50 {
            metrics.topic(&format!("t{i}")).processed(1);
        }
        metrics.topic("t0").processed(1);
        has(
            &metrics,
            "outbox_events_processed_total{topic=\"t0\",status=\"published\"} 2",
        );
        has(
            &metrics,
            "outbox_events_processed_total{topic=\"(other)\",status=\"published\"} 50",
        );
        let text = metrics.render();
        let topics = text
            .lines()
            .filter(|line| line.contains("status=\"published\""))
            .count();
        assert_eq!(topics, TOPICS_MAX + 1);
    }

    #[test]
    fn what_is_no_longer_known_is_absent_and_not_stale() {
        let metrics = Metrics::new();
        let mut status = status();
        status.slot_health = Some(SlotHealth {
            wal_status: Some("extended".to_owned()),
            ..slot()
        });
        metrics.show(&status);
        status.slot_health = Some(SlotHealth {
            safe_wal_size: None,
            wal_status: Some("lost".to_owned()),
            ..slot()
        });
        metrics.show(&status);
        has(&metrics, "outboxd_slot_lag_bytes 1");
        let text = metrics.render();
        assert!(!text.contains("outboxd_safe_wal_size_bytes 3"), "{text}");
        assert!(
            !text.contains("extended") && text.contains("status=\"lost\"} 1"),
            "{text}"
        );
        status.slot_health = None;
        metrics.show(&status);
        let text = metrics.render();
        let shown = |name: &&str| text.lines().any(|line| line.starts_with(name));
        let slot = [SLOT_LAG, RETAINED_WAL, WAL_STATUS, SLOT_ACTIVE];
        assert_eq!(slot.iter().find(|name| shown(name)), None, "{text}");
    }

    #[test]
    fn a_topics_name_cannot_break_the_format() {
        let metrics = Metrics::new();
        metrics.topic("a\"b\\c\nd").processed(1);
        has(
            &metrics,
            "outbox_events_processed_total{topic=\"a\\\"b\\\\c\\nd\",status=\"published\"} 1",
        );
    }
}
