//! Merges the settings with those of their preset.
//!
//! Two settings may say one thing: `OUTBOX_COLUMNS` has members that stand for a rule, such as
//! `key=order_id` for `OUTBOX_KEY=column:order_id`. They become that rule here, before the preset's
//! settings are added, so that what a person gives wins over a preset in either form.

use std::mem;

use crate::config::error::{InvalidValue, SettingError};
use crate::config::mapping::column_names::ColumnNames;
use crate::config::mapping::columns::{Members, NONE};
use crate::config::mapping::parse::COLUMN;
use crate::config::mapping::presets::Preset;
use crate::config::settings::Settings;
use crate::config::variables::{self, COLUMNS};
use crate::error::shown;

/// What the merge leaves beside the settings.
#[derive(Debug)]
pub(in crate::config) struct Columns {
    pub(super) names: ColumnNames,
    /// The topics have to be named, and are not.
    pub(super) lack_topics: bool,
    /// The problems of the preset and of the columns.
    pub(super) errors: Vec<SettingError>,
}

/// Adds the preset's settings to those of a person, and reads the columns of both.
pub(in crate::config) fn with_preset(mut settings: Settings) -> (Settings, Columns) {
    let mut errors = Vec::new();
    let named = settings.preset.take();
    let named = named.map(|name| Preset::named(name.trim())).transpose();
    let preset = named.unwrap_or_else(|wrong| {
        errors.push(wrong.of(variables::PRESET));
        None
    });
    let mut defaults = preset.map(|it| it.settings()).unwrap_or_default();
    let list = settings.columns.take();
    let table = mem::take(&mut settings.columns_table);
    let mut members = Members::read(list.as_deref(), table, &mut errors);
    let has_topic = settings.topic.is_some() || members.has(TOPIC.member);
    for shorthand in [TOPIC, KEY, PARTITION, TIMESTAMP] {
        let member = members.take(shorthand.member, &mut errors);
        let default = (shorthand.rule)(&mut defaults).take();
        let rule = (shorthand.rule)(&mut settings);
        match shorthand.rule_of(member, rule.take(), default) {
            Ok(text) => *rule = text,
            Err(wrong) => errors.push(wrong.of(COLUMNS)),
        }
    }
    let has_topics = settings.topics.is_some() || !settings.topics_table.is_empty();
    let of_preset = mem::take(&mut defaults.columns_table);
    let of_preset = Members::read(None, of_preset, &mut errors);
    let columns = Columns {
        names: members.or(of_preset).names(&mut errors),
        lack_topics: preset.is_some_and(|it| it.needs_topics) && !has_topic && !has_topics,
        errors,
    };
    (settings.or(defaults), columns)
}

/// A member of the columns that stands for a rule.
struct Shorthand {
    member: &'static str,
    setting: &'static str,
    rule: fn(&mut Settings) -> &mut Option<String>,
    /// The rule if no column has the meaning, where that is one.
    without: Option<&'static str>,
}

const TOPIC: Shorthand = Shorthand {
    member: "topic",
    setting: variables::TOPIC,
    rule: |settings| &mut settings.topic,
    without: None,
};

const KEY: Shorthand = Shorthand {
    member: "key",
    setting: variables::KEY,
    rule: |settings| &mut settings.key,
    without: Some("none"),
};

const PARTITION: Shorthand = Shorthand {
    member: "partition",
    setting: variables::PARTITION,
    rule: |settings| &mut settings.partition,
    without: Some("key"),
};

const TIMESTAMP: Shorthand = Shorthand {
    member: "timestamp",
    setting: variables::TIMESTAMP,
    rule: |settings| &mut settings.timestamp,
    without: Some("now"),
};

impl Shorthand {
    /// The text of the rule, from the member, the setting and the preset.
    fn rule_of(
        &self,
        member: Option<String>,
        rule: Option<String>,
        default: Option<String>,
    ) -> Result<Option<String>, InvalidValue> {
        let Some(member) = member else {
            return Ok(rule.or(default));
        };
        let Shorthand {
            member: meaning,
            setting,
            ..
        } = self;
        let column = |rule: &String| rule.trim().strip_prefix(COLUMN).map(str::to_owned);
        let is_none = member == NONE;
        match rule {
            // A rule that takes no column leaves none with this meaning.
            Some(rule) if is_none && column(&rule).is_none() => Ok(Some(rule)),
            Some(rule) if column(&rule).as_ref() == Some(&member) => Ok(Some(rule)),
            Some(rule) => Err(InvalidValue::new(
                format!(
                    "{meaning}: {} contradicts {setting}, which is {}",
                    shown(&member),
                    shown(rule.trim())
                ),
                "give one of the two",
            )),
            None if !is_none => Ok(Some(format!("{COLUMN}{member}"))),
            None => match (self.without, default) {
                (Some(without), _) => Ok(Some(without.to_owned())),
                (None, Some(default)) if column(&default).is_none() => Ok(Some(default)),
                (None, _) => Err(InvalidValue::new(
                    format!("{meaning}: cannot be none without {setting}"),
                    format!("set {setting} to a name, or to a text with ${{column}}"),
                )),
            },
        }
    }
}
