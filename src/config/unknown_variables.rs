//! Variables that are named like settings and that no setting reads. Without a warning, a misspelt
//! name would leave the default in use unnoticed.
//!
//! They are not an error: a deployment may still set variables of the poller that outboxd replaced,
//! or of another program.

use std::ffi::OsString;

use crate::config::settings::{self, Settings};
use crate::config::variables::KAFKA_BROKERS;

/// The prefixes of outboxd's variables.
const PREFIXES: [&str; 2] = ["OUTBOX_", "OUTBOXD_"];
/// The variable that names the settings file. It is not a setting.
const FILE: &str = "OUTBOX_CONFIG";
/// What other programs call a setting.
const ALIASES: [(&str, &str); 1] = [("KAFKA_BOOTSTRAP_SERVERS", KAFKA_BROKERS)];

/// How similar two names are (0 to 1) when one may be a misspelling of the other: a letter or two
/// differ.
const ALIKE: f64 = 0.85;

/// A variable that is named like a setting and is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IgnoredVariable {
    /// Its name. Its value may be a secret, and is not read.
    pub name: String,
    /// The variable that may be meant.
    pub meant: Option<String>,
}

impl Settings {
    /// Those of `names` that look like the variable of a setting and are not one, sorted. One
    /// without outboxd's prefix may be another program's, and counts only while the setting that it
    /// resembles is not set.
    pub fn ignored_variables(names: impl IntoIterator<Item = OsString>) -> Vec<IgnoredVariable> {
        let known = variables();
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        let ignored = names.iter().filter_map(|name| {
            if name == FILE || known.contains(name) {
                return None;
            }
            let meant = match PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
                Some(bare) => meant(bare, &known),
                None => Some(resembled(name, &known).filter(|meant| !names.contains(meant))?),
            };
            let name = name.clone();
            Some(IgnoredVariable { name, meant })
        });
        ignored.collect()
    }
}

/// The variables of all settings, in the order of the help.
pub(super) fn variables() -> Vec<String> {
    let command = settings::command();
    let names = command
        .get_arguments()
        .filter_map(|setting| setting.get_env());
    names
        .filter_map(|name| name.to_str().map(str::to_owned))
        .collect()
}

/// The setting that a name with outboxd's prefix, here without it, is meant to be.
fn meant(bare: &str, known: &[String]) -> Option<String> {
    let likeness = |known: &String| {
        let bare_known = known.strip_prefix(PREFIXES[0]).unwrap_or(known);
        likeness(bare, bare_known)
    };
    let alike = known.iter().map(|known| (likeness(known), known));
    let (likeness, closest) = alike.max_by(|one, other| one.0.total_cmp(&other.0))?;
    is_alike(likeness).then(|| closest.clone())
}

/// The setting that any other name resembles.
fn resembled(name: &str, known: &[String]) -> Option<String> {
    let aliases = ALIASES.iter().map(|(alias, _)| *alias);
    let closest = closest(name, known.iter().map(String::as_str).chain(aliases))?;
    let named = ALIASES.iter().find(|(alias, _)| *alias == closest);
    Some(named.map_or(closest, |(_, setting)| setting).to_owned())
}

/// How similar the two are.
fn likeness(name: &str, known: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(name, known)
}

/// Whether this likeness is that of a misspelling.
fn is_alike(likeness: f64) -> bool {
    likeness >= ALIKE
}

/// The name that is meant, if one is similar enough.
pub(super) fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let alike = known.map(|known| (likeness(name, known), known));
    let (likeness, closest) = alike.max_by(|one, other| one.0.total_cmp(&other.0))?;
    is_alike(likeness).then_some(closest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(names: &[&str]) -> Vec<(String, Option<String>)> {
        let names = names.iter().map(OsString::from);
        let ignored = Settings::ignored_variables(names).into_iter();
        ignored
            .map(|variable| (variable.name, variable.meant))
            .collect()
    }

    fn says(name: &str, meant: Option<&str>) {
        let expected = (name.to_owned(), meant.map(str::to_owned));
        assert_eq!(ignored(&[name]), [expected]);
    }

    #[test]
    fn settings_and_what_is_not_ours_are_not_named() {
        let names = [
            "OUTBOX_BATCH_SIZE",
            "OUTBOX_CONFIG",
            "DATABASE_URL",
            "KAFKA_BROKERS",
        ];
        assert_eq!(ignored(&names), []);
        assert_eq!(
            ignored(&["PATH", "KAFKA_HEAP_OPTS", "DATABASE", "outbox_table"]),
            []
        );
    }

    #[test]
    fn a_name_that_is_nearly_a_setting_names_it() {
        says("OUTBOX_BATCHSIZE", Some("OUTBOX_BATCH_SIZE"));
        says("OUTBOX_ON_SLOT_LOST", Some("OUTBOX_ON_SLOT_LOSS"));
        says("OUTBOXD_SLOT", Some("OUTBOX_SLOT"));
        says("OUTBOX_KAFKA_PROPERTIES", Some("KAFKA_PROPERTIES"));
        says("OUTBOX_DATABASE_URL", Some("DATABASE_URL"));
    }

    #[test]
    fn a_name_without_the_prefix_counts_while_the_setting_that_it_resembles_is_not_set() {
        says("DATABASE_URI", Some("DATABASE_URL"));
        says("KAFKA_BROKER", Some("KAFKA_BROKERS"));
        says("KAFKA_BOOTSTRAP_SERVER", Some("KAFKA_BROKERS"));
        says("OUTBX_TABLE", Some("OUTBOX_TABLE"));
        assert_eq!(ignored(&["DATABASE_URI", "DATABASE_URL"]), []);
        assert_eq!(ignored(&["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BROKERS"]), []);
    }

    #[test]
    fn a_name_that_is_like_none_names_none() {
        says("OUTBOX_ENABLED", None);
        says("OUTBOX_", None);
    }
}
