//! Where events are read from, and which other settings make no sense with it.

use crate::config::faults::Wrong;
use crate::config::names;
use crate::config::{AfterPublish, Backlog, Check, parse};

/// Where events are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the write-ahead log, through a replication slot.
    Slot,
    /// From the table, again and again.
    Poll,
}

impl Check {
    /// Only the mark, or the row's absence, tells a poller what was published. And a poller looks
    /// at what is unpublished in each pass, so `skip` and `halt`, which speak of the moment when a
    /// slot is made, would leave out or refuse what is merely new.
    pub(super) fn source(
        &mut self,
        source: Option<String>,
        after_publish: AfterPublish,
        backlog: Backlog,
    ) -> Source {
        let choices = [("slot", Source::Slot), ("poll", Source::Poll)];
        let source = self.or(names::SOURCE, source, Source::Slot, |text| {
            parse::choice(text, &choices)
        });
        if source == Source::Slot {
            return source;
        }
        if after_publish == AfterPublish::Keep {
            let problem = "cannot be keep with OUTBOX_SOURCE=poll: no row would ever be marked, \
                           and each would be sent again without end";
            let wrong = Wrong::new(problem, "write mark or delete, or OUTBOX_SOURCE=slot");
            self.faults.push(wrong.of(names::AFTER_PUBLISH));
        } else if matches!(backlog, Backlog::Skip | Backlog::Halt) {
            let problem = "cannot be skip or halt with OUTBOX_SOURCE=poll, which makes no slot \
                           and publishes whatever is unpublished";
            let remedy = "write publish; set published_at of the rows that are not to be sent";
            self.faults
                .push(Wrong::new(problem, remedy).of(names::BACKLOG));
        }
        source
    }
}
