//! Which unpublished rows are in Kafka, after a slot was lost. Pure.
//!
//! The stream's events of such rows are behind a position of the WAL, and nothing else shows which
//! they are: their topics are read back to that position. Each topic is read when the first row of
//! it comes. A row that is found is marked and not sent. A record counts only with the row's own
//! contents, so another row that was given the same id is sent.
//!
//! Why nothing is missed: the earlier producer is shut out before anything is read, and its
//! events are in each partition in the order of the WAL.

use std::collections::{HashMap, HashSet};

use crate::lsn::Lsn;
use crate::outbox::RowCopy;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Copies {
    from: Lsn,
    topics: HashMap<Box<str>, HashSet<RowCopy>>,
}

/// Whether Kafka has a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Its topic has to be read first.
    Unknown,
    There,
    Missing,
}

impl Copies {
    /// Of events that were committed at this position or later.
    pub(crate) fn new(from: Lsn) -> Self {
        Copies {
            from,
            topics: HashMap::new(),
        }
    }

    /// The position back to which topics are read.
    pub(crate) fn from(&self) -> Lsn {
        self.from
    }

    /// This topic has these copies.
    pub(crate) fn read(&mut self, topic: &str, copies: impl IntoIterator<Item = RowCopy>) {
        self.topics
            .insert(topic.into(), copies.into_iter().collect());
    }

    /// Whether Kafka has this row.
    pub(crate) fn presence(&self, topic: &str, row: RowCopy) -> Presence {
        match self.topics.get(topic) {
            None => Presence::Unknown,
            Some(copies) if copies.contains(&row) => Presence::There,
            Some(_) => Presence::Missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_there_if_its_topic_was_read_and_has_it() {
        let row = |id: &str| RowCopy::of(id.as_bytes(), None, Some(b"value"));
        let mut copies = Copies::new(Lsn::new(9));
        assert_eq!(copies.presence("a", row("1")), Presence::Unknown);
        copies.read("a", [row("1"), row("2")]);
        assert_eq!(copies.presence("a", row("1")), Presence::There);
        assert_eq!(copies.presence("a", row("3")), Presence::Missing);
        let other = RowCopy::of(b"1", None, Some(b"other"));
        assert_eq!(copies.presence("a", other), Presence::Missing);
        assert_eq!(copies.presence("b", row("1")), Presence::Unknown);
    }
}
