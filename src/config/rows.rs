//! What becomes of the table's rows: those that are published, and those that were there before the slot.

use crate::config::faults::Wrong;
use crate::config::names;
use crate::config::{Check, parse};

/// What becomes of a row once its event is in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterPublish {
    /// `published_at` is set and `times_attempted` raised.
    Mark,
    /// The row is deleted.
    Delete,
    /// Nothing is written to the table.
    Keep,
}

/// What becomes of rows that are unpublished when a slot is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backlog {
    /// They are published before the stream begins, unless there are many and no row was ever
    /// marked: then somebody else keeps account of them, and the publisher refuses to start.
    Auto,
    /// They are published before the stream begins.
    Publish,
    /// They are left out.
    Skip,
    /// The publisher refuses to start.
    Halt,
}

impl Check {
    /// With `keep` no row says that it was published, so to publish what is unpublished would send
    /// the whole table, and again after each crash on the way, and would never come to an end while
    /// writers write.
    pub(super) fn after_publish_and_backlog(
        &mut self,
        after_publish: Option<String>,
        backlog: Option<String>,
    ) -> (AfterPublish, Backlog) {
        let choices = [
            ("mark", AfterPublish::Mark),
            ("delete", AfterPublish::Delete),
            ("keep", AfterPublish::Keep),
        ];
        let after_publish = self.or(
            names::AFTER_PUBLISH,
            after_publish,
            AfterPublish::Mark,
            |text| parse::choice(text, &choices),
        );
        let default = match after_publish {
            AfterPublish::Keep => Backlog::Skip,
            AfterPublish::Mark | AfterPublish::Delete => Backlog::Auto,
        };
        let choices = [
            ("publish", Backlog::Publish),
            ("skip", Backlog::Skip),
            ("halt", Backlog::Halt),
        ];
        let backlog = self.or(names::BACKLOG, backlog, default, |text| {
            parse::choice(text, &choices)
        });
        if after_publish == AfterPublish::Keep && backlog == Backlog::Publish {
            let problem = "cannot be publish with OUTBOX_AFTER_PUBLISH=keep, which marks no row";
            let wrong = Wrong::new(problem, "write skip or halt, or mark or delete the rows");
            self.faults.push(wrong.of(names::BACKLOG));
        }
        (after_publish, backlog)
    }
}
