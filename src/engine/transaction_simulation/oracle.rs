//! What a reader of committed records has to find. It uses nothing of the publisher: it knows the
//! transactions of Postgres, the logs of Kafka and the text of a progress record.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::engine::transaction_simulation::broker::{Broker, TOPICS};
use crate::engine::transaction_simulation::postgres::Postgres;

/// The position in a progress record.
fn position(record: &str) -> u64 {
    let value: Value = serde_json::from_str(record).expect("JSON");
    let text = value["position"].as_str().expect("a position");
    let (high, low) = text.split_once('/').expect("two halves");
    let half = |digits| u64::from_str_radix(digits, 16).expect("hexadecimal digits");
    (half(high) << 32) | half(low)
}

/// Where the slot was created.
pub(super) const FIRST: u64 = 100;

/// The slot is never past the last committed progress record, which is at `recorded`.
pub(super) fn check_slot(recorded: u64, postgres: &Postgres) {
    assert!(
        postgres.confirmed <= recorded,
        "the slot is at {}, past the progress record at {recorded}",
        postgres.confirmed
    );
}

/// The progress records never go back. Returns the position of the last committed one.
pub(super) fn check_progress(broker: &Broker) -> u64 {
    let mut before = FIRST;
    for record in broker.committed(TOPICS) {
        let position = position(record);
        assert!(
            before <= position,
            "progress went back to {position} from {before}"
        );
        before = position;
    }
    before
}

/// By key: the rows that a reader gets, in the order of their log.
fn read(broker: &Broker, postgres: &Postgres) -> BTreeMap<usize, Vec<usize>> {
    let mut keys: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for log in 0..TOPICS {
        for value in broker.committed(log) {
            let row: usize = value.parse().expect("a number");
            let key = postgres.rows[row].key;
            assert_eq!(key % TOPICS, log, "a key is in one log");
            keys.entry(key).or_default().push(row);
        }
    }
    keys
}

/// No row twice, none before an earlier one of its key, none that was not committed; nothing is
/// said of those that are still to come. The event of a dead letter comes later, and so does one
/// that no slot brings.
pub(super) fn check_so_far(broker: &Broker, postgres: &Postgres) {
    for (key, rows) in read(broker, postgres) {
        let is_late = |row: usize| postgres.rows[row].was_poison || postgres.rows[row].is_missed;
        let in_time = rows.iter().filter(|row| !is_late(**row));
        assert!(in_time.is_sorted_by(|a, b| a < b), "key {key}: {rows:?}");
        let distinct: BTreeSet<_> = rows.iter().collect();
        assert_eq!(distinct.len(), rows.len(), "key {key}: {rows:?}");
    }
}

/// Every row once, and each that Kafka has refused a dead letter, which is closed where Kafka has
/// taken its event later.
pub(super) fn check_all(broker: &Broker, postgres: &Postgres) {
    check_so_far(broker, postgres);
    let committed = postgres.transactions.iter().flat_map(|it| &it.rows);
    let (mut expected, mut letters) = (BTreeSet::new(), BTreeSet::new());
    for row in committed.copied() {
        let of = postgres.rows[row];
        letters.extend(of.was_poison.then_some(row));
        // A mended row that is not requested stays a dead letter.
        expected.extend(of.is_marked.then_some(row));
        assert!(of.is_marked || of.was_poison, "row {row} is not marked");
    }
    assert_eq!(postgres.letters, letters, "dead letters");
    let found: BTreeSet<usize> = read(broker, postgres).into_values().flatten().collect();
    assert_eq!(found, expected, "rows");
}
