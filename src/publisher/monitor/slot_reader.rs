//! Which process reads the slot. Pure.
//!
//! A replication connection that breaks without a word shows nothing while outboxd does not read
//! from it, and its lock may be another instance's by then. The slot shows it over SQL: the process
//! that reads it has ended, or is another one. The process is known by what the slot showed first,
//! since a proxy may tell its clients other process ids.

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct SlotReader {
    first: Option<i32>,
}

impl SlotReader {
    /// The slot shows this process. Whether the session that streams has ended.
    pub(crate) fn has_ended(&mut self, active_pid: Option<i32>) -> bool {
        let first = self.first.or(active_pid);
        self.first = first;
        first != active_pid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_shows_another_process_or_none_any_more_tells_of_the_end() {
        for next in [None, Some(8)] {
            let mut reader = SlotReader::default();
            assert!(!reader.has_ended(None), "the stream has not begun");
            assert!(!reader.has_ended(Some(7)));
            assert!(!reader.has_ended(Some(7)));
            assert!(reader.has_ended(next));
        }
    }
}
