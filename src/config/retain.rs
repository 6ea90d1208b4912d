//! How long published rows are kept: off, or an age with a share of the time and a choice about
//! partitions. Refused where no row shows that it is published.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::check::Check;
use crate::config::error::InvalidValue;
use crate::config::policy::AfterPublish;
use crate::config::settings::Settings;
use crate::config::{parse, variables};
use crate::error::shown;

const HOUR: Duration = Duration::from_secs(3_600);

/// The ages that may be given. A younger row may be one whose event the stream repeats after a
/// crash.
const AGES: RangeInclusive<Duration> = HOUR..=Duration::from_secs(36_500 * 86_400);

/// The shares that may be given, in thousandths.
const SHARES: RangeInclusive<u32> = 1..=500;

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

/// The texts of these settings.
pub(super) struct RetainSettings {
    age: Option<String>,
    share: Option<String>,
    partitions: Option<String>,
}

impl RetainSettings {
    pub(super) fn taken_from(settings: &mut Settings) -> RetainSettings {
        RetainSettings {
            age: settings.retain.take(),
            share: settings.retain_share.take(),
            partitions: settings.retain_partitions.take(),
        }
    }
}

impl Check {
    /// The age of old rows, the share of the time in thousandths, and what becomes of partitions.
    pub(super) fn retention(
        &mut self,
        given: RetainSettings,
        after_publish: AfterPublish,
    ) -> (Option<Duration>, Option<u32>, OldPartitions) {
        let age = self.retain(given.age, after_publish);
        let share = self.retain_share(given.share, age);
        let partitions = self.retain_partitions(given.partitions, age);
        (age, share, partitions)
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

    /// In thousandths. Says something only together with an age.
    fn retain_share(&mut self, given: Option<String>, retain: Option<Duration>) -> Option<u32> {
        let name = variables::RETAIN_SHARE;
        let share = self.or(name, given, None, |text| match text {
            "auto" => Ok(None),
            _ => share(text).map(Some),
        });
        self.refuse_without_age(name, share.is_some(), retain);
        share
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
        self.refuse_without_age(name, choice == OldPartitions::Detach, retain);
        choice
    }

    fn refuse_without_age(&mut self, name: &'static str, is_given: bool, retain: Option<Duration>) {
        let is_age_wrong = || {
            let mut wrong = self.errors.iter();
            wrong.any(|it| it.setting() == variables::RETAIN)
        };
        if is_given && retain.is_none() && !is_age_wrong() {
            let problem = "says nothing without OUTBOX_RETAIN";
            let wrong = InvalidValue::new(problem, "set OUTBOX_RETAIN, or remove it");
            self.errors.push(wrong.of(name));
        }
    }
}

/// Thousandths, from a number with at most one decimal and a percent sign.
fn share(text: &str) -> Result<u32, InvalidValue> {
    let number = text.strip_suffix('%').map(str::trim_end);
    let thousandths = number.and_then(|number| {
        let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(tenth) || tenth.len() > 1 {
            return None;
        }
        format!("{whole}{tenth}").parse().ok()
    });
    match thousandths {
        Some(thousandths) if SHARES.contains(&thousandths) => Ok(thousandths),
        _ => Err(InvalidValue::new(
            format!("{} is no such share", shown(text)),
            "write a percentage from 0.1% to 50%, such as 2.5%, or auto",
        )),
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
