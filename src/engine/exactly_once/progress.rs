//! The progress record: what of the WAL is in Kafka. Pure.
//!
//! It is the last record of every Kafka transaction, so it is committed with the events before it
//! or not at all. Its topic is compacted, and the key names the slot of one Postgres system: the
//! last committed record of a key is what a new start begins with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::engine::exactly_once::recorded_replay::RecordedReplay;
use crate::engine::exactly_once::recorded_row::RecordedRow;
use crate::engine::tracker::TransactionName;
use crate::lsn::Lsn;

/// The version of the value that is written. A value of a later one is not understood.
const VERSION: u32 = 1;

/// Whose progress a record shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProgressKey {
    /// The system identifier of the Postgres cluster.
    pub(crate) system_id: u64,
    /// The slot, or what [`of_replay`](ProgressKey::of_replay) makes of it.
    pub(crate) slot: String,
}

impl fmt::Display for ProgressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.system_id, self.slot)
    }
}

impl ProgressKey {
    /// Whose progress the replays of this slot's table show. The name of a slot has no slash, so
    /// no publisher has this key.
    pub(crate) fn of_replay(system_id: u64, slot: &str) -> Self {
        ProgressKey {
            system_id,
            slot: format!("{slot}/replay"),
        }
    }

    /// The record's key.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

/// A transaction of Postgres whose first changes are in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    pub(crate) transaction: TransactionName,
    /// How many changes of it. They are counted as [`Tracker`](crate::engine::tracker::Tracker)
    /// counts them, of every kind.
    pub(crate) changes: u32,
}

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The timeline that the positions belong to.
    pub(crate) timeline: u32,
    /// The publication that the stream was decoded with.
    pub(crate) publication: String,
    /// Every transaction whose commit record begins before this is in Kafka.
    pub(crate) position: Lsn,
    /// The last whole one of them, if one was received. It tells one history of the WAL from
    /// another.
    pub(crate) last: Option<TransactionName>,
    /// The transaction behind them, if a part of it is in Kafka.
    pub(crate) partial: Option<Partial>,
    /// The rows of every transaction that was committed before this are marked, or need no mark.
    /// While the table is sent, that of the slot which was lost; `None` if there was none.
    pub(crate) settled: Option<Lsn>,
    /// What the publisher was doing.
    pub(crate) phase: Phase,
    /// Rows of the table that are in Kafka by this record or an earlier one, and may not be marked
    /// yet. They are not sent again. Of a replay, the last row that was sent: every row before it
    /// is sent, filed or left out.
    pub(crate) rows: Vec<RecordedRow>,
    /// Dead letters whose events are in Kafka by this record or an earlier one, and which may still
    /// be open in the database.
    pub(crate) dead_letters: Vec<i64>,
    /// The replay whose progress this is.
    pub(crate) replay: Option<Box<RecordedReplay>>,
}

/// What the publisher was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// It sends rows of the table, before there is a slot, or because it was lost.
    Table,
    /// The slot is about to be made, at this position.
    Copying,
    /// It streams from the slot.
    Stream,
    /// Not the publisher but a replay: it sends rows of the table once more.
    Replay,
}

impl Progress {
    /// That of a slot at this position: nothing before it needs to be sent.
    pub(crate) fn beginning(
        timeline: u32,
        publication: String,
        position: Lsn,
        phase: Phase,
    ) -> Self {
        Progress {
            timeline,
            publication,
            position,
            last: None,
            partial: None,
            settled: (phase != Phase::Table).then_some(position),
            phase,
            rows: Vec::new(),
            dead_letters: Vec::new(),
            replay: None,
        }
    }

    /// The beginning of what follows on this progress with another slot. On the same timeline it
    /// keeps what Kafka has of dead letters and, for rows of the table, what may be unmarked.
    pub(crate) fn followed_by(
        &self,
        timeline: u32,
        publication: String,
        position: Lsn,
        phase: Phase,
    ) -> Self {
        let mut next = Progress::beginning(timeline, publication, position, phase);
        if self.timeline == timeline {
            next.dead_letters.clone_from(&self.dead_letters);
            if phase == Phase::Table {
                next.settled = self.unmarked_from();
            }
        }
        next
    }

    /// The rows of the table that may be in Kafka without a mark are those that were committed at
    /// this position or later; `None` if the record names all of them. A record without the
    /// position says so of every row.
    pub(crate) fn unmarked_from(&self) -> Option<Lsn> {
        match self.phase {
            Phase::Table => self.settled,
            Phase::Copying | Phase::Replay => None,
            Phase::Stream => Some(self.settled.unwrap_or(Lsn::INVALID)),
        }
    }

    /// Whether the change with this index of the transaction committed at this position is in
    /// Kafka, or needs none there.
    pub(crate) fn covers(&self, commit_lsn: Lsn, index: u32) -> bool {
        let is_part = |it: Partial| it.transaction.commit_lsn == commit_lsn && index < it.changes;
        commit_lsn < self.position || self.partial.is_some_and(is_part)
    }

    /// The record's value.
    pub(crate) fn encode(&self, key: &ProgressKey) -> Vec<u8> {
        let value = Value {
            version: VERSION,
            system_id: key.system_id.to_string(),
            slot: key.slot.clone(),
            timeline: self.timeline,
            publication: self.publication.clone(),
            position: self.position.to_string(),
            last: self.last.map(Name::of),
            partial: self.partial.map(|partial| PartialValue {
                transaction: Name::of(partial.transaction),
                changes: partial.changes,
            }),
            settled: self.settled.map(|settled| settled.to_string()),
            phase: self.phase,
            rows: self.rows.clone(),
            dead_letters: self.dead_letters.clone(),
            replay: self.replay.clone(),
        };
        // Numbers and texts alone: it cannot fail.
        serde_json::to_vec(&value).unwrap_or_default()
    }

    /// The progress in a record of `key`.
    ///
    /// # Errors
    /// Why the value is not understood.
    pub(crate) fn decode(key: &ProgressKey, value: &[u8]) -> Result<Progress, NotUnderstood> {
        let not = |why: String| NotUnderstood(why);
        let version: Version =
            serde_json::from_slice(value).map_err(|error| not(error.to_string()))?;
        if version.version != VERSION {
            let found = version.version;
            return Err(not(format!("it has version {found} and not {VERSION}")));
        }
        let value: Value = serde_json::from_slice(value).map_err(|error| not(error.to_string()))?;
        let of = format!("{}/{}", value.system_id, value.slot);
        if of != key.to_string() {
            return Err(not(format!("it is that of {of}")));
        }
        let partial = value.partial.map(|partial| {
            let transaction = partial.transaction.name()?;
            let changes = partial.changes;
            Ok(Partial {
                transaction,
                changes,
            })
        });
        Ok(Progress {
            timeline: value.timeline,
            publication: value.publication,
            position: lsn(&value.position)?,
            last: value.last.map(|last| last.name()).transpose()?,
            partial: partial.transpose()?,
            settled: value.settled.as_deref().map(lsn).transpose()?,
            phase: value.phase,
            rows: value.rows,
            dead_letters: value.dead_letters,
            replay: value.replay,
        })
    }
}

/// The value of a record of this slot is no progress record, or a later outboxd has written it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the progress record is not understood: {0}")]
pub(crate) struct NotUnderstood(String);

fn lsn(text: &str) -> Result<Lsn, NotUnderstood> {
    Lsn::from_str(text).map_err(|error| NotUnderstood(error.to_string()))
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Value {
    version: u32,
    /// As text: a JSON number of many programs has fewer digits.
    system_id: String,
    slot: String,
    timeline: u32,
    publication: String,
    position: String,
    last: Option<Name>,
    partial: Option<PartialValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled: Option<String>,
    phase: Phase,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rows: Vec<RecordedRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dead_letters: Vec<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replay: Option<Box<RecordedReplay>>,
}

#[derive(Serialize, Deserialize)]
struct Name {
    commit_lsn: String,
    xid: u32,
    committed_micros: i64,
}

impl Name {
    fn of(name: TransactionName) -> Self {
        Name {
            commit_lsn: name.commit_lsn.to_string(),
            xid: name.xid,
            committed_micros: name.committed_micros,
        }
    }

    fn name(&self) -> Result<TransactionName, NotUnderstood> {
        Ok(TransactionName {
            commit_lsn: lsn(&self.commit_lsn)?,
            xid: self.xid,
            committed_micros: self.committed_micros,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct PartialValue {
    #[serde(flatten)]
    transaction: Name,
    changes: u32,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;
    use crate::config::mapping::{Condition, RowFilter, Test};
    use crate::outbox::RowName;
    use crate::outbox::replay::{ReplayFilter, ReplayTime};

    fn key() -> ProgressKey {
        ProgressKey {
            system_id: 7_301_234_567_890_123_456,
            slot: "outboxd_orders".to_owned(),
        }
    }

    fn name(commit: u64) -> TransactionName {
        TransactionName {
            commit_lsn: Lsn::new(commit),
            xid: 7,
            committed_micros: 1_700_000_000_000_000,
        }
    }

    fn progress() -> Progress {
        Progress {
            timeline: 3,
            publication: "outboxd".to_owned(),
            position: Lsn::new(0x1_0000_0100),
            last: Some(name(0xF0)),
            partial: None,
            settled: Some(Lsn::new(0x1_0000_0000)),
            phase: Phase::Stream,
            rows: Vec::new(),
            dead_letters: Vec::new(),
            replay: None,
        }
    }

    #[test]
    fn rows_may_be_unmarked_from_a_position_unless_the_record_names_them() {
        let of = |phase, settled| Progress {
            phase,
            settled,
            ..progress()
        };
        let at = Some(Lsn::new(7));
        for (phase, settled, expected) in [
            (Phase::Stream, at, at),
            (Phase::Stream, None, Some(Lsn::INVALID)),
            (Phase::Table, at, at),
            (Phase::Table, None, None),
            (Phase::Copying, at, None),
        ] {
            assert_eq!(of(phase, settled).unmarked_from(), expected, "{phase:?}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let partial = Some(Partial {
            transaction: name(0x1_0000_0200),
            changes: 12,
        });
        let cases = [
            progress(),
            Progress {
                partial,
                ..progress()
            },
            Progress {
                last: None,
                settled: None,
                phase: Phase::Copying,
                ..progress()
            },
            Progress {
                phase: Phase::Table,
                rows: vec![RecordedRow::new(&RowName::of_id(7), 9)],
                ..progress()
            },
            Progress {
                dead_letters: vec![3, i64::MAX],
                ..progress()
            },
            Progress {
                phase: Phase::Replay,
                rows: vec![RecordedRow::new(&RowName::of_id(7), 9)],
                replay: Some(Box::new(replay())),
                ..progress()
            },
        ];
        for case in cases {
            let value = case.encode(&key());
            assert_eq!(Progress::decode(&key(), &value), Ok(case));
        }
        assert_eq!(key().encode(), b"7301234567890123456/outboxd_orders");
        let value = String::from_utf8(progress().encode(&key())).unwrap();
        let expected = "{\"version\":1,\"system_id\":\"7301234567890123456\",\
             \"slot\":\"outboxd_orders\",\"timeline\":3,\"publication\":\"outboxd\",\
             \"position\":\"1/100\",\"last\":{\"commit_lsn\":\"0/F0\",\"xid\":7,\
             \"committed_micros\":1700000000000000},\"partial\":null,\"settled\":\"1/0\",\
             \"phase\":\"stream\"}";
        assert_eq!(value, expected);
    }

    /// One with every condition that a filter may have.
    fn replay() -> RecordedReplay {
        let text = |text: &str| Some(text.to_owned());
        let condition = |column: &str, test| Condition {
            column: column.to_owned(),
            test,
        };
        let conditions = vec![
            condition("a", Test::OneOf(vec!["x'".to_owned()])),
            condition("b", Test::NoneOf(vec![String::new()])),
            condition("c", Test::Null),
            condition("d", Test::NotNull),
        ];
        RecordedReplay {
            table: "outbox.outbox".to_owned(),
            filter: ReplayFilter {
                from_id: text("1"),
                to_id: text("[\"a\",\"1\"]"),
                since: Some(ReplayTime::At("2026-01-31T12:00:00Z".to_owned())),
                until: Some(ReplayTime::Ago(Duration::from_secs(60))),
                topics: vec!["orders".to_owned()],
                types: vec!["created".to_owned()],
                conditions: RowFilter { conditions },
                after: text("-5"),
            },
            started: "2026-01-31T12:00:00.5Z".to_owned(),
            run: "00ff".to_owned(),
            sent: 12,
            complete: false,
        }
    }

    /// Records of an earlier outboxd may be there, and a filter may not be read as a wider one.
    #[test]
    fn the_form_of_a_replay_stays_and_an_unknown_condition_is_refused() {
        let value = serde_json::to_string(&replay()).unwrap();
        let expected = "{\"table\":\"outbox.outbox\",\"filter\":{\"from_id\":\"1\",\
             \"to_id\":\"[\\\"a\\\",\\\"1\\\"]\",\"since\":{\"at\":\"2026-01-31T12:00:00Z\"},\
             \"until\":{\"ago\":{\"secs\":60,\"nanos\":0}},\"topics\":[\"orders\"],\
             \"types\":[\"created\"],\"conditions\":[\
             {\"column\":\"a\",\"test\":{\"one-of\":[\"x'\"]}},\
             {\"column\":\"b\",\"test\":{\"none-of\":[\"\"]}},\
             {\"column\":\"c\",\"test\":\"null\"},{\"column\":\"d\",\"test\":\"not-null\"}],\
             \"after\":\"-5\"},\"started\":\"2026-01-31T12:00:00.5Z\",\"run\":\"00ff\",\
             \"sent\":12,\"complete\":false}";
        assert_eq!(value, expected);
        let key = ProgressKey::of_replay(7, "s");
        assert_eq!(key.encode(), b"7/s/replay");
        let progress = Progress {
            phase: Phase::Replay,
            replay: Some(Box::new(replay())),
            ..progress()
        };
        let value = String::from_utf8(progress.encode(&key)).unwrap();
        assert!(value.contains("\"phase\":\"replay\""), "{value}");
        let narrower = value.replace("\"from_id\"", "\"shard\"");
        let refused = Progress::decode(&key, narrower.as_bytes()).unwrap_err();
        assert!(refused.to_string().contains("shard"), "{refused}");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_reason() {
        let other = ProgressKey {
            slot: "another".to_owned(),
            ..key()
        };
        let value = progress().encode(&key());
        let later = String::from_utf8(value.clone()).unwrap();
        let later = later.replace("\"version\":1", "\"version\":2");
        let broken = String::from_utf8(value.clone()).unwrap();
        let broken = broken.replace("1/100", "nowhere");
        for (key, value, expected) in [
            (key(), later.into_bytes(), "version 2"),
            (key(), b"{}".to_vec(), "version"),
            (key(), Vec::new(), "EOF"),
            (key(), broken.into_bytes(), "nowhere"),
            (other, value, "outboxd_orders"),
        ] {
            let found = Progress::decode(&key, &value).unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn whole_transactions_before_the_position_and_the_first_changes_of_one_are_covered() {
        let whole = progress();
        for (commit, index, expected) in [
            (0xF0, 0, true),
            (0xF0, u32::MAX, true),
            (0x1_0000_00FF, 9, true),
            (0x1_0000_0100, 0, false),
            (0x1_0000_0200, 0, false),
        ] {
            assert_eq!(whole.covers(Lsn::new(commit), index), expected, "{commit}");
        }
        let partial = Progress {
            partial: Some(Partial {
                transaction: name(0x1_0000_0200),
                changes: 2,
            }),
            ..progress()
        };
        for (commit, index, expected) in [
            (0x1_0000_0200, 0, true),
            (0x1_0000_0200, 1, true),
            (0x1_0000_0200, 2, false),
            (0x1_0000_0300, 0, false),
        ] {
            assert_eq!(
                partial.covers(Lsn::new(commit), index),
                expected,
                "{commit}"
            );
        }
    }
}
