//! The gauges: what the status says, as numbers.
//!
//! A value that is not known is absent, and neither 0 nor stale. A set of states has a series for
//! each state from the start, so that an alert sees a state begin.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::metrics::names::*;
use crate::status::readiness::readiness;
use crate::status::{Phase, SlotHealth, Status, WAITS, WAL_STATUSES};

type FloatGauge = Gauge<f64, AtomicU64>;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Gauges {
    ready: Gauge,
    paused: Gauge,
    role: StateSet,
    phase: StateSet,
    in_flight_records: Gauge,
    in_flight_bytes: Gauge,
    oldest_unacknowledged: FloatGauge,
    write_back_pending: Gauge,
    unpublished_rows: KnownGauge<i64>,
    /// Set where the event happens.
    pub(super) last_published: KnownGauge<f64>,
    waiting: Family<Labels, FloatGauge>,
    dead_letters: Family<Labels, Gauge>,
    slot: SlotGauges,
}

#[derive(Debug)]
struct SlotGauges {
    lag: KnownGauge<i64>,
    retained_wal: KnownGauge<i64>,
    safe_wal_size: KnownGauge<i64>,
    wal_rate: KnownGauge<f64>,
    until_lost: KnownGauge<f64>,
    active: KnownGauge<i64>,
    wal_status: StateSet,
}

impl Gauges {
    pub(super) fn new() -> Self {
        Gauges {
            ready: Gauge::default(),
            paused: Gauge::default(),
            role: StateSet::new(ROLE_LABEL, &[ACTIVE, STANDBY]),
            phase: StateSet::new(PHASE_LABEL, &Phase::ALL.map(Phase::as_str)),
            in_flight_records: Gauge::default(),
            in_flight_bytes: Gauge::default(),
            oldest_unacknowledged: Gauge::default(),
            write_back_pending: Gauge::default(),
            unpublished_rows: KnownGauge::default(),
            last_published: KnownGauge::default(),
            waiting: Family::default(),
            dead_letters: Family::default(),
            slot: SlotGauges {
                lag: KnownGauge::default(),
                retained_wal: KnownGauge::default(),
                safe_wal_size: KnownGauge::default(),
                wal_rate: KnownGauge::default(),
                until_lost: KnownGauge::default(),
                active: KnownGauge::default(),
                wal_status: StateSet::unknown(STATUS, &WAL_STATUSES),
            },
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "1 while /readyz is 200";
        registry.register(READY, help, self.ready.clone());
        let help = "1 while a pause that a person has requested lasts";
        registry.register(PAUSED, help, self.paused.clone());
        let help = "1 for the role of this instance, in none while it connects or stops";
        self.role.register(registry, ROLE, help);
        let help = "1 for the phase of this instance";
        self.phase.register(registry, PHASE, help);
        let help = "Records without an acknowledgement";
        registry.register(IN_FLIGHT_RECORDS, help, self.in_flight_records.clone());
        let help = "Bytes of the records without an acknowledgement";
        registry.register(IN_FLIGHT_BYTES, help, self.in_flight_bytes.clone());
        let help = "Age of the oldest record without an acknowledgement";
        let oldest = self.oldest_unacknowledged.clone();
        registry.register(OLDEST_UNACKNOWLEDGED, help, oldest);
        let help = "Rows that are published and not written back";
        registry.register(WRITE_BACK_PENDING, help, self.write_back_pending.clone());
        let help = "Unpublished rows in the table, counted up to 1000000, \
                    absent while they cannot be counted";
        let unpublished = self.unpublished_rows.clone();
        registry.register(UNPUBLISHED_ROWS, help, unpublished);
        let help = "When Kafka last acknowledged an event, in seconds since 1970";
        registry.register(LAST_PUBLISHED, help, self.last_published.clone());
        let help = "How long the named wait has lasted, 0 if it is not the present one";
        registry.register(WAITING, help, self.waiting.clone());
        let help = "Open dead letters by state";
        registry.register(DEAD_LETTERS, help, self.dead_letters.clone());
        self.slot.register(registry);
    }

    pub(super) fn show(&self, status: &Status) {
        self.ready.set(readiness(status).is_ok().into());
        self.paused.set(status.paused.is_some().into());
        self.role.show(role(status.phase));
        self.phase.show([status.phase.as_str()]);
        self.in_flight_records
            .set(saturating(status.in_flight_records));
        self.in_flight_bytes.set(saturating(status.in_flight_bytes));
        self.oldest_unacknowledged
            .set(status.oldest_unacknowledged_seconds);
        self.write_back_pending
            .set(saturating(status.unmarked_records));
        for wait in WAITS {
            let present = status.waiting.as_ref().filter(|waiting| waiting.on == wait);
            self.waiting
                .get_or_create(&vec![(WAIT, wait.to_owned())])
                .set(present.map_or(0.0, |waiting| waiting.seconds));
        }
        let publishes = status.phase != Phase::Standby;
        let unpublished = status.unpublished_rows.filter(|_| publishes);
        self.unpublished_rows.set(unpublished.map(saturating));
        if !publishes {
            // Counted when this instance published last.
            self.dead_letters.clear();
        } else {
            for (state, count) in &status.dead_letters.states {
                self.dead_letters
                    .get_or_create(&vec![(STATE, state.clone())])
                    .set(*count);
            }
        }
        self.slot.show(status.slot_health.as_ref());
    }
}

impl SlotGauges {
    fn register(&self, registry: &mut Registry) {
        let help = "WAL between the slot's confirmed position and the server's";
        registry.register(SLOT_LAG, help, self.lag.clone());
        let help = "WAL that the server keeps for the slot";
        registry.register(RETAINED_WAL, help, self.retained_wal.clone());
        let help = "WAL that may be written before the slot is lost, absent without a limit";
        registry.register(SAFE_WAL_SIZE, help, self.safe_wal_size.clone());
        let help = "WAL that the server writes a second, over the last two minutes";
        registry.register(WAL_RATE, help, self.wal_rate.clone());
        let help = "Time until the slot is lost if it goes on as in the last two minutes, \
                    absent without a limit and while the slot keeps up";
        registry.register(UNTIL_LOST, help, self.until_lost.clone());
        self.wal_status
            .register(registry, WAL_STATUS, "1 for the slot's wal_status");
        let help = "1 while a session holds the slot";
        registry.register(SLOT_ACTIVE, help, self.active.clone());
    }

    /// Without a slot, or while its state is not known, all are absent.
    fn show(&self, slot: Option<&SlotHealth>) {
        self.lag.set(slot.map(|slot| slot.lag_bytes));
        self.retained_wal.set(slot.map(|slot| slot.retained_bytes));
        self.safe_wal_size
            .set(slot.and_then(|slot| slot.safe_wal_size));
        self.wal_rate
            .set(slot.and_then(|slot| slot.wal_bytes_per_second));
        self.until_lost
            .set(slot.and_then(|slot| slot.seconds_until_lost));
        self.active.set(slot.map(|slot| slot.active.into()));
        match slot {
            Some(slot) => self.wal_status.show(slot.wal_status.as_deref()),
            None => self.wal_status.clear(),
        }
    }
}

/// The role of an instance in this phase; none while it has no place among its siblings.
fn role(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Backlog | Phase::Streaming | Phase::Polling => Some(ACTIVE),
        Phase::Standby => Some(STANDBY),
        Phase::Connecting
        | Phase::Reconnecting
        | Phase::Stopping
        | Phase::Stopped
        | Phase::Failed => None,
    }
}

/// A gauge for each of some states: 1 for those that are present, 0 for the others.
#[derive(Debug)]
pub(super) struct StateSet {
    label: &'static str,
    /// Those that have a series, a state that was not foreseen included.
    states: Mutex<BTreeSet<String>>,
    family: Family<Labels, Gauge>,
}

impl StateSet {
    /// None of the states is present.
    pub(super) fn new(label: &'static str, states: &[&str]) -> Self {
        let set = StateSet::unknown(label, states);
        set.show([]);
        set
    }

    /// It is not known which states are present.
    fn unknown(label: &'static str, states: &[&str]) -> Self {
        StateSet {
            label,
            states: Mutex::new(states.iter().map(|it| (*it).to_owned()).collect()),
            family: Family::default(),
        }
    }

    pub(super) fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.family.clone());
    }

    /// Shows these as the present states.
    pub(super) fn show<'a>(&self, present: impl IntoIterator<Item = &'a str>) {
        let present: BTreeSet<String> = present.into_iter().map(str::to_owned).collect();
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.extend(present.iter().cloned());
        for state in states.iter() {
            self.family
                .get_or_create(&vec![(self.label, state.clone())])
                .set(present.contains(state).into());
        }
    }

    fn clear(&self) {
        self.family.clear();
    }
}

/// A gauge that is absent while its value is not known.
#[derive(Debug)]
pub(super) struct KnownGauge<N>(Arc<Mutex<Option<N>>>);

impl<N: Copy> KnownGauge<N> {
    pub(super) fn set(&self, value: Option<N>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn value(&self) -> Option<N> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<N> Clone for KnownGauge<N> {
    fn clone(&self) -> Self {
        KnownGauge(Arc::clone(&self.0))
    }
}

impl<N> Default for KnownGauge<N> {
    fn default() -> Self {
        KnownGauge(Arc::default())
    }
}

impl<N: Copy + EncodeGaugeValue> EncodeMetric for KnownGauge<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.value()
            .map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.value().is_none()
    }
}

pub(super) fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
