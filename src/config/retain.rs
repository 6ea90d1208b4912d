//! How long published rows are kept: off, or an age with a choice about partitions. Refused where
//! no row shows that it is published.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::check::Check;
use crate::config::error::InvalidValue;
use crate::config::policy::AfterPublish;
use crate::config::{parse, variables};

const HOUR: Duration = Duration::from_secs(3_600);

/// The ages that may be given. A younger row may be one whose event the stream repeats after a
/// crash.
const AGES: RangeInclusive<Duration> = HOUR..=Duration::from_secs(36_500 * 86_400);

/// What becomes of a partition whose rows are all published and older than `retain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OldPartitions {
    /// It is dropped.
    #[default]
    Drop,
    /// It is detached, and stays as a table of its own.
    Detach,
}

impl Check {
    /// The age of old rows, and what becomes of old partitions.
    pub(super) fn retention(
        &mut self,
        age: Option<String>,
        partitions: Option<String>,
        after_publish: AfterPublish,
    ) -> (Option<Duration>, OldPartitions) {
        let retain = self.retain(age, after_publish);
        (retain, self.retain_partitions(partitions, retain))
    }

    /// With `delete` no published row is left, and with `keep` none is marked.
    fn retain(&mut self, given: Option<String>, after_publish: AfterPublish) -> Option<Duration> {
        let retain = self.or(variables::RETAIN, given, None, |text| match text {
            "off" => Ok(None),
            _ => parse::duration(text, AGES).map(Some),
        })?;
        let wrong = match after_publish {
            AfterPublish::Mark => return Some(retain),
            AfterPublish::Delete => InvalidValue::new(
                "does not go with OUTBOX_AFTER_PUBLISH=delete, which keeps no published row",
                "remove it, or mark the rows",
            ),
            AfterPublish::Keep => InvalidValue::new(
                "does not go with OUTBOX_AFTER_PUBLISH=keep: no row shows that it is published",
                "remove it, or write OUTBOX_AFTER_PUBLISH=mark",
            ),
        };
        self.errors.push(wrong.of(variables::RETAIN));
        None
    }

    /// Says something only together with an age.
    fn retain_partitions(
        &mut self,
        given: Option<String>,
        retain: Option<Duration>,
    ) -> OldPartitions {
        let choices = [
            ("drop", OldPartitions::Drop),
            ("detach", OldPartitions::Detach),
        ];
        let name = variables::RETAIN_PARTITIONS;
        let choice = self.or(name, given, OldPartitions::default(), |text| {
            parse::choice(text, &choices)
        });
        let has_retain_error = || {
            self.errors
                .iter()
                .any(|it| it.setting() == variables::RETAIN)
        };
        if choice == OldPartitions::Detach && retain.is_none() && !has_retain_error() {
            let problem = "says nothing without OUTBOX_RETAIN";
            let wrong = InvalidValue::new(problem, "set OUTBOX_RETAIN, or remove it");
            self.errors.push(wrong.of(name));
        }
        choice
    }
}

impl fmt::Display for OldPartitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OldPartitions::Drop => "drop",
            OldPartitions::Detach => "detach",
        })
    }
}
