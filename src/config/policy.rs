//! The choices of a configuration: what to do with published rows, the backlog, events that cannot
//! be published and a lost slot, and where events are read from. Contradicting choices are refused.

use std::fmt;
use std::time::Duration;

use crate::config::check::Check;
use crate::config::error::InvalidValue;
use crate::config::parse;
use crate::config::variables;
use crate::lsn::Lsn;

/// What to do with a row once its event is in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterPublish {
    /// `published_at` is set and `times_attempted` increased.
    Mark,
    /// The row is deleted.
    Delete,
    /// Nothing is written to the table.
    Keep,
}

/// What to do with rows that are unpublished when a slot is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backlog {
    /// They are published before the stream begins. The publisher refuses to start if there are
    /// many and no row was ever marked, because another program may have published them.
    Auto,
    /// They are published before the stream begins.
    Publish,
    /// They are left out.
    Skip,
    /// The publisher refuses to start.
    Halt,
}

impl Check {
    /// With `keep` no row is marked as published. Publishing the backlog would send the whole
    /// table, repeat it after each crash on the way, and never end while writers write.
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
            variables::AFTER_PUBLISH,
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
        let backlog = self.or(variables::BACKLOG, backlog, default, |text| {
            parse::choice(text, &choices)
        });
        if after_publish == AfterPublish::Keep && backlog == Backlog::Publish {
            let problem = "cannot be publish with OUTBOX_AFTER_PUBLISH=keep, which marks no row";
            let wrong =
                InvalidValue::new(problem, "write skip or halt, or mark or delete the rows");
            self.errors.push(wrong.of(variables::BACKLOG));
        }
        (after_publish, backlog)
    }
}

impl Check {
    /// Another client's slot says which events it has published, and no row does: with `mark` or
    /// `delete` the audit would send every row again that is not marked.
    pub(super) fn start_lsn(
        &mut self,
        given: Option<String>,
        after_publish: AfterPublish,
        source: Source,
    ) -> Option<Lsn> {
        let start = self.or(variables::START_LSN, given, None, |text| {
            parse::lsn(text).map(Some)
        })?;
        let wrong = match (source, after_publish) {
            (Source::Poll, _) => InvalidValue::new(
                "does not go with OUTBOX_SOURCE=poll, which reads no slot",
                "remove it, or read a slot",
            ),
            (Source::Slot, AfterPublish::Keep) => return Some(start),
            (Source::Slot, _) => InvalidValue::new(
                "goes only with OUTBOX_AFTER_PUBLISH=keep: no row shows what the other client has \
                 published, so it would be sent again",
                "write keep, and another choice once the older rows are marked or deleted",
            ),
        };
        self.errors.push(wrong.of(variables::START_LSN));
        None
    }
}

/// What to do with an event that Kafka rejects for good, or that can never be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnPoison {
    /// It is filed as a dead letter; all others go on.
    #[default]
    DeadLetter,
    /// It is filed, and so are later events of its topic and key.
    ParkKey,
    /// The publisher stops.
    Halt,
}

impl Check {
    /// What becomes of an event that Kafka refuses, and how many dead letters a minute are filed.
    pub(super) fn poison(
        &mut self,
        on_poison: Option<String>,
        per_minute: Option<String>,
    ) -> (OnPoison, u32) {
        let per_minute = self.dead_letters_per_minute(per_minute);
        (self.on_poison(on_poison), per_minute)
    }

    fn on_poison(&mut self, given: Option<String>) -> OnPoison {
        let choices = [
            ("dead-letter", OnPoison::DeadLetter),
            ("park-key", OnPoison::ParkKey),
            ("halt", OnPoison::Halt),
        ];
        self.or(variables::ON_POISON, given, OnPoison::default(), |text| {
            parse::choice(text, &choices)
        })
    }

    fn dead_letters_per_minute(&mut self, given: Option<String>) -> u32 {
        self.or(variables::DEAD_LETTERS_PER_MINUTE, given, 1_000, |text| {
            parse::count(text, 1..=1_000_000)
        })
    }
}

/// What the publisher does when the slot is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnSlotLoss {
    /// It creates a new slot and publishes the unpublished rows from the table.
    Heal,
    /// It ends, and a person decides.
    Halt,
}

impl Check {
    /// With `keep` no row is marked as published, so the table cannot show what the slot missed.
    pub(super) fn on_slot_loss(
        &mut self,
        given: Option<String>,
        after_publish: AfterPublish,
    ) -> OnSlotLoss {
        let keeps = after_publish == AfterPublish::Keep;
        let default = if keeps {
            OnSlotLoss::Halt
        } else {
            OnSlotLoss::Heal
        };
        let choices = [("heal", OnSlotLoss::Heal), ("halt", OnSlotLoss::Halt)];
        let choice = self.or(variables::ON_SLOT_LOSS, given, default, |text| {
            parse::choice(text, &choices)
        });
        if keeps && choice == OnSlotLoss::Heal {
            let problem = "cannot be heal with OUTBOX_AFTER_PUBLISH=keep: no row is marked, so the \
                           table cannot show what a lost slot has missed";
            let wrong = InvalidValue::new(problem, "write halt, or mark or delete the rows");
            self.errors.push(wrong.of(variables::ON_SLOT_LOSS));
        }
        choice
    }

    pub(super) fn audit_interval(&mut self, given: Option<String>) -> Duration {
        let default = Duration::from_secs(60);
        self.or(variables::AUDIT_INTERVAL, given, default, |text| {
            parse::duration(text, Duration::from_secs(1)..=Duration::from_secs(3_600))
        })
    }
}

/// Where events are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// From the write-ahead log, through a replication slot.
    Slot,
    /// From the table, which is queried at intervals.
    Poll,
}

impl Check {
    /// A poller knows a published row only by its mark or its absence. It queries the unpublished
    /// rows in each pass, so `skip` and `halt`, which concern the creation of a slot, would leave
    /// out or refuse rows that are merely new.
    pub(super) fn source(
        &mut self,
        source: Option<String>,
        after_publish: AfterPublish,
        backlog: Backlog,
    ) -> Source {
        let choices = [("slot", Source::Slot), ("poll", Source::Poll)];
        let source = self.or(variables::SOURCE, source, Source::Slot, |text| {
            parse::choice(text, &choices)
        });
        if source == Source::Slot {
            return source;
        }
        if after_publish == AfterPublish::Keep {
            let problem = "cannot be keep with OUTBOX_SOURCE=poll: no row would ever be marked, \
                           and each would be sent again without end";
            let wrong = InvalidValue::new(problem, "write mark or delete, or OUTBOX_SOURCE=slot");
            self.errors.push(wrong.of(variables::AFTER_PUBLISH));
        } else if matches!(backlog, Backlog::Skip | Backlog::Halt) {
            let problem = "cannot be skip or halt with OUTBOX_SOURCE=poll, which creates no \
                           slot and publishes every unpublished row";
            let hint = "write publish, and set published_at of the rows that must not be sent";
            self.errors
                .push(InvalidValue::new(problem, hint).of(variables::BACKLOG));
        }
        source
    }
}

impl fmt::Display for AfterPublish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AfterPublish::Mark => "mark",
            AfterPublish::Delete => "delete",
            AfterPublish::Keep => "keep",
        })
    }
}

impl fmt::Display for Backlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backlog::Auto => "auto",
            Backlog::Publish => "publish",
            Backlog::Skip => "skip",
            Backlog::Halt => "halt",
        })
    }
}

impl fmt::Display for OnPoison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnPoison::DeadLetter => "dead-letter",
            OnPoison::ParkKey => "park-key",
            OnPoison::Halt => "halt",
        })
    }
}

impl fmt::Display for OnSlotLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnSlotLoss::Heal => "heal",
            OnSlotLoss::Halt => "halt",
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Slot => "slot",
            Source::Poll => "poll",
        })
    }
}
