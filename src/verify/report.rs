//! What a comparison has found: numbers of each kind, and the first events of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::verify::moment::Moment;

/// A transaction that was open while rows were read may commit rows that were created this much
/// before.
pub(super) const OVERLAP: Duration = Duration::from_secs(600);

/// What is wrong with an event, or that nothing can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Published as the database says, and not in Kafka.
    Missing,
    /// In Kafka more than once.
    Duplicate,
    /// In Kafka, and never committed.
    Phantom,
    /// In Kafka with another topic, key or value.
    Altered,
    /// Behind a later event of its key.
    OutOfOrder,
    /// What is left does not tell.
    Unknown,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 6] = [
        Kind::Missing,
        Kind::Duplicate,
        Kind::Phantom,
        Kind::Altered,
        Kind::OutOfOrder,
        Kind::Unknown,
    ];

    /// The name in JSON and in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Duplicate => "duplicate",
            Kind::Phantom => "phantom",
            Kind::Altered => "altered",
            Kind::OutOfOrder => "out_of_order",
            Kind::Unknown => "unknown",
        }
    }

    /// Whether the event is wrong.
    pub const fn is_wrong(self) -> bool {
        !matches!(self, Kind::Unknown)
    }
}

/// One event that is wrong, or of which nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Why it is named.
    pub kind: Kind,
    /// The id of its row; `None` in a record without an id.
    pub id: Option<String>,
    /// Its topic.
    pub topic: String,
    /// Where its record is, if it has one: partition and offset.
    pub place: Option<(i32, i64)>,
    /// What it is judged by, for a person.
    pub reason: String,
}

/// See the module's head.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Rows that were read.
    pub rows: u64,
    /// Records that were read.
    pub records: u64,
    /// Rows that have arrived.
    pub matched: u64,
    /// Rows that are not published yet.
    pub pending: u64,
    /// Rows with a dead letter.
    pub dead_lettered: u64,
    /// Records that a replay has sent.
    pub replayed: u64,
    /// Records of other outboxes.
    pub foreign: u64,
    /// Records of rows outside the window.
    pub outside: u64,
    /// Records whose order nothing tells.
    pub order_unknown: u64,
    /// The events of each kind that are named; [`count`](Report::count) has how many there are.
    pub findings: Vec<Finding>,
    /// What a person should know of the comparison: missing rights, and so on.
    pub notes: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// When the rows were read, in microseconds since 1970 by the server's clock.
    pub read_at: i64,
    /// The creation of the oldest row that is not published yet, or else
    /// [`read_at`](Report::read_at).
    pub(super) complete_until: i64,
    counts: BTreeMap<Kind, u64>,
    unknown: BTreeMap<String, u64>,
}

impl Report {
    /// How many events there are of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// How many events are wrong.
    pub fn wrong(&self) -> u64 {
        let wrong = Kind::ALL.into_iter().filter(|kind| kind.is_wrong());
        wrong.map(|kind| self.count(kind)).sum()
    }

    /// Why nothing can be said of events, and of how many.
    pub fn unknown_reasons(&self) -> impl Iterator<Item = (&str, u64)> {
        let reasons = self.unknown.iter();
        reasons.map(|(reason, count)| (reason.as_str(), *count))
    }

    /// Where a comparison begins that follows on this one.
    pub fn follow(&self) -> Moment {
        Moment::At(Moment::Ago(OVERLAP).at(self.complete_until))
    }

    /// Counts an event, and names it if fewer than `most` of its kind are named.
    pub(super) fn add(&mut self, finding: Finding, most: usize) {
        let count = self.counts.entry(finding.kind).or_default();
        *count += 1;
        if finding.kind == Kind::Unknown {
            *self.unknown.entry(finding.reason.clone()).or_default() += 1;
        }
        if *count <= most as u64 {
            self.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_counted_and_only_the_first_of_a_kind_are_named() {
        let mut report = Report::default();
        for kind in [Kind::Missing, Kind::Unknown] {
            for id in 0..5 {
                let finding = Finding {
                    kind,
                    id: Some(id.to_string()),
                    topic: "orders".to_owned(),
                    place: None,
                    reason: "none".to_owned(),
                };
                report.add(finding, 2);
            }
        }
        assert_eq!(report.count(Kind::Missing), 5);
        assert_eq!((report.wrong(), report.findings.len()), (5, 4));
        let reasons: Vec<_> = report.unknown_reasons().collect();
        assert_eq!(reasons, [("none", 5)]);
    }
}
