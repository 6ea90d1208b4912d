//! Decides about rows without a record: missing, not due yet, or not to be said. Pure.
//!
//! A row counts as missing only when the database proves that its record was acknowledged, and
//! nothing can have removed the record since. Every doubt is a reason to say nothing.

use crate::verify::store::entry::RowEntry;

/// How far apart the clocks of the server, the publisher and the brokers may be, in microseconds.
pub(super) const SLACK: i64 = 60_000_000;

/// What is known of a topic once it has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicState {
    pub(super) name: String,
    pub(super) access: Access,
    pub(super) partitions: Vec<PartitionState>,
    pub(super) cleanup: Cleanup,
    /// A transaction of another producer is open, and hides the records behind it.
    pub(super) is_blocked: bool,
}

/// Whether a topic could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// It was not read yet.
    Unread,
    Readable,
    Missing,
    /// For want of a right, which the text names.
    Forbidden(String),
}

/// Whether a topic keeps the records of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cleanup {
    /// The user may not read the topic's settings.
    Unknown,
    Compacted,
    /// It keeps all records up to some age or size.
    Kept,
}

/// What was read of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartitionState {
    pub(super) partition: i32,
    /// The first offset that was read. Records before it are gone, or older than the window.
    pub(super) from: i64,
    /// The offset behind the last that was read.
    pub(super) next: i64,
    /// The time in microseconds since 1970 from which on every record was read; `None` if no record
    /// tells. Means nothing where `from` is 0.
    pub(super) complete_from: Option<i64>,
}

/// What rows are judged by beside their topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// A published row is marked, so that one without a mark waits.
    pub(super) is_marked: bool,
    /// Why rows without a mark may not have been sent; `None` if the slot has passed all rows.
    pub(super) not_due: Option<&'static str>,
    /// The time of a record is when it was sent.
    pub(super) has_send_times: bool,
    /// Rows before this time, in microseconds since 1970, may be older than the first start, and
    /// were then never sent. `Some(None)`: no row is known to be younger.
    pub(super) first_start: Option<Option<i64>>,
}

/// What is said of a row without a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It is not published yet.
    Pending,
    Missing(&'static str),
    Unknown(&'static str),
}

/// Judges a row without a record, and without a dead letter.
pub(super) fn judge(row: &RowEntry, topic: Option<&TopicState>, proof: &Proof) -> Judgement {
    use Judgement::{Missing, Pending, Unknown};
    if row.facts.unreadable {
        return Unknown("no record can be made of the row, and there is no dead letter");
    }
    if !row.facts.marked {
        if proof.is_marked {
            return Pending;
        }
        if let Some(reason) = proof.not_due {
            return Unknown(reason);
        }
    } else if row.facts.unattempted {
        return Unknown("marked without an attempt to send it, as --backlog skip does");
    }
    let Some(topic) = topic else {
        return Unknown("its topic was not read");
    };
    match topic.access {
        Access::Readable => {}
        Access::Missing => return Missing("its topic does not exist"),
        Access::Unread => return Unknown("its topic was not read"),
        Access::Forbidden(_) => return Unknown("the Kafka user may not read its topic"),
    }
    if topic.is_blocked {
        return Unknown("an open transaction of another producer hides the end of its topic");
    }
    match topic.cleanup {
        Cleanup::Kept => {}
        Cleanup::Compacted => return Unknown("its topic is compacted"),
        Cleanup::Unknown => return Unknown("the Kafka user may not see how its topic is cleaned"),
    }
    let is_before = |start: Option<i64>| {
        let times = row.time.zip(start);
        times.is_none_or(|(time, start)| time < start.saturating_add(SLACK))
    };
    if !row.facts.marked && proof.first_start.is_some_and(is_before) {
        return Unknown("it may be older than the first start");
    }
    let is_removable = topic.partitions.iter().any(|partition| {
        partition.from > 0 && (!proof.has_send_times || is_before(partition.complete_from))
    });
    match is_removable {
        true => Unknown("its topic has no records of that time any more"),
        false => Missing("published, and no record has its id"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::store::entry::RowFacts;

    const HOUR: i64 = 3_600_000_000;

    fn row(time: Option<i64>, marked: bool) -> RowEntry {
        RowEntry {
            id: [0; 16],
            created: 0,
            place: 0,
            value: 0,
            time,
            topic: 0,
            facts: RowFacts {
                marked,
                ..RowFacts::default()
            },
            name: "1".into(),
        }
    }

    fn topic(from: i64, complete_from: Option<i64>) -> TopicState {
        TopicState {
            name: "orders".to_owned(),
            access: Access::Readable,
            partitions: vec![PartitionState {
                partition: 0,
                from,
                next: 9,
                complete_from,
            }],
            cleanup: Cleanup::Kept,
            is_blocked: false,
        }
    }

    fn marks() -> Proof {
        Proof {
            is_marked: true,
            not_due: None,
            has_send_times: true,
            first_start: None,
        }
    }

    fn name(judgement: Judgement) -> &'static str {
        match judgement {
            Judgement::Pending => "pending",
            Judgement::Missing(_) => "missing",
            Judgement::Unknown(_) => "unknown",
        }
    }

    #[test]
    fn a_row_is_missing_only_if_it_is_marked_and_its_record_cannot_be_removed() {
        let judged = |row: &RowEntry, topic: &TopicState| name(judge(row, Some(topic), &marks()));
        let (marked, whole) = (row(Some(HOUR), true), topic(0, None));
        assert_eq!(judged(&marked, &whole), "missing");
        assert_eq!(judged(&row(Some(HOUR), false), &whole), "pending");
        for (from, complete_from, expected) in [
            (5, None, "unknown"),
            (5, Some(0), "missing"),
            (5, Some(HOUR - SLACK + 1), "unknown"),
            (5, Some(HOUR - SLACK), "missing"),
            (0, Some(2 * HOUR), "missing"),
        ] {
            let topic = topic(from, complete_from);
            assert_eq!(judged(&marked, &topic), expected, "{topic:?}");
        }
        assert_eq!(judged(&row(None, true), &topic(5, Some(0))), "unknown");
        let other_times = Proof {
            has_send_times: false,
            ..marks()
        };
        let trimmed = topic(5, Some(0));
        assert_eq!(
            name(judge(&marked, Some(&trimmed), &other_times)),
            "unknown"
        );
        let mut unattempted = marked.clone();
        unattempted.facts.unattempted = true;
        assert_eq!(judged(&unattempted, &whole), "unknown");
        let mut unreadable = marked;
        unreadable.facts.unreadable = true;
        assert_eq!(judged(&unreadable, &whole), "unknown");
    }

    #[test]
    fn a_topic_that_does_not_tell_excuses_its_rows_and_one_that_is_gone_does_not() {
        let marked = row(Some(HOUR), true);
        let of = |change: fn(&mut TopicState)| {
            let mut topic = topic(0, None);
            change(&mut topic);
            name(judge(&marked, Some(&topic), &marks()))
        };
        assert_eq!(of(|topic| topic.cleanup = Cleanup::Compacted), "unknown");
        assert_eq!(of(|topic| topic.cleanup = Cleanup::Unknown), "unknown");
        assert_eq!(of(|topic| topic.is_blocked = true), "unknown");
        assert_eq!(of(|topic| topic.access = Access::Unread), "unknown");
        let forbidden = |topic: &mut TopicState| topic.access = Access::Forbidden(String::new());
        assert_eq!(of(forbidden), "unknown");
        assert_eq!(of(|topic| topic.access = Access::Missing), "missing");
    }

    #[test]
    fn without_marks_the_slot_is_the_proof_and_the_first_start_the_beginning() {
        let (bare, whole) = (row(Some(HOUR), false), topic(0, None));
        let judged = |not_due, first_start| {
            let proof = Proof {
                is_marked: false,
                not_due,
                has_send_times: true,
                first_start,
            };
            name(judge(&bare, Some(&whole), &proof))
        };
        assert_eq!(judged(Some("no slot"), Some(Some(0))), "unknown");
        assert_eq!(judged(None, Some(Some(0))), "missing");
        assert_eq!(judged(None, Some(Some(HOUR))), "unknown");
        assert_eq!(judged(None, Some(None)), "unknown");
        assert_eq!(judged(None, None), "missing");
    }
}
