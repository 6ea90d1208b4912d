//! What an import found: settings, and what a person has to know about the rest. Pure.

use crate::cli::debezium::connector::Given;
use crate::cli::debezium::options;

/// The settings in parts, as the file has them, and what a person has to know.
#[derive(Debug, Default)]
pub(super) struct Imported {
    pub(super) name: Option<String>,
    /// The slot of the connector, if the file names it.
    pub(super) slot: Option<String>,
    pub(super) settings: Vec<Setting>,
    /// Members of `[columns]`, in their order; one may come several times.
    pub(super) columns: Vec<(&'static str, String)>,
    /// The values of `[topics]` have to be written by a person.
    pub(super) lacks_topics: bool,
    /// Properties of librdkafka.
    pub(super) kafka: Vec<(&'static str, String)>,
    /// What consumers see differently.
    pub(super) differences: Vec<Note>,
    /// Options without a counterpart.
    pub(super) left_out: Vec<Note>,
    /// Options that are none of Debezium's.
    pub(super) unknown: Vec<String>,
}

/// A setting with its value, or a place for one that a person has to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// Why a person has to write it.
    pub(super) open: Option<String>,
}

/// An option, and what there is to say about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) option: String,
    pub(super) text: String,
}

impl Imported {
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.settings.push(Setting {
            name,
            value: value.into(),
            open: None,
        });
    }

    /// Whether a setting was carried over with this value.
    pub(super) fn has(&self, name: &str, value: &str) -> bool {
        let mut settings = self.settings.iter();
        settings.any(|setting| setting.name == name && setting.value == value)
    }

    /// Leaves a setting to a person; `example` shows its form.
    pub(super) fn leave_open(&mut self, name: &'static str, example: &str, why: String) {
        self.settings.push(Setting {
            name,
            value: example.to_owned(),
            open: Some(why),
        });
    }

    pub(super) fn leave_out(&mut self, given: &Given, text: impl Into<String>) {
        self.left_out.push(Note {
            option: given.name.clone(),
            text: text.into(),
        });
    }

    pub(super) fn differs(&mut self, option: &str, text: impl Into<String>) {
        self.differences.push(Note {
            option: option.to_owned(),
            text: text.into(),
        });
    }

    /// What is left of a group of options.
    pub(super) fn rest(
        &mut self,
        groups: &[options::Group],
        rest: impl Iterator<Item = (String, Given)>,
    ) {
        for (name, given) in rest {
            match options::reason(groups, &name) {
                Some(reason) => self.leave_out(&given, reason),
                None => self.unknown.push(given.name),
            }
        }
    }
}
