//! The settings file: TOML, with the names of the settings as keys.

use std::path::Path;

use crate::config::error::{InvalidValue, SettingError};
use crate::config::settings::{Settings, command};
use crate::config::unknown_variables::closest;
use crate::error::may_be_secret;

impl Settings {
    /// The settings of a TOML file. `Config::from_settings` reports the problems of the file
    /// together with all others.
    pub fn load(path: &Path) -> Settings {
        let mut file = path.display().to_string();
        if may_be_secret(&file) {
            file = "OUTBOX_CONFIG".to_owned();
        }
        match std::fs::read_to_string(path) {
            Ok(text) => Settings::parse(&text, &file),
            Err(e) => Settings::invalid(vec![
                InvalidValue::new(
                    format!("cannot be read: {e}"),
                    "name a settings file that exists (--config)",
                )
                .of(file),
            ]),
        }
    }

    /// The settings of a TOML text; `file` names it in errors.
    ///
    /// The parser's own error is not passed on: it quotes the line, which may contain a password.
    pub(crate) fn parse(text: &str, file: &str) -> Settings {
        let mut table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(e) => {
                let line = e.span().map_or(1, |span| line_of(text, span.start));
                let wrong = InvalidValue::new(
                    "is not valid TOML",
                    "write `name = \"value\"`, each setting once",
                );
                return Settings::invalid(vec![wrong.of(format!("{file}:{line}"))]);
            }
        };
        let known = known();
        let mut errors = Vec::new();
        table.retain(|name, value| {
            let Err(wrong) = check(name, value, &known) else {
                return true;
            };
            errors.push(wrong.of(format!("{file}: {}", name.escape_debug())));
            false
        });
        for Inner { name, lists, .. } in TABLES {
            let Some(toml::Value::Table(entries)) = table.remove(name) else {
                continue;
            };
            let mut flat = toml::Table::new();
            for (entry, value) in entries {
                flatten(entry, value, lists, &mut flat, &mut |entry| {
                    let place = format!("{file}: [{name}] {}", entry.escape_debug());
                    errors.push(no_single_value().of(place));
                });
            }
            table.insert(name.to_owned(), toml::Value::Table(flat));
        }
        match table.try_into::<Settings>() {
            Ok(settings) => Settings { errors, ..settings },
            Err(_) => {
                let wrong = InvalidValue::new(
                    "has a value of the wrong type",
                    "give texts, integers or booleans",
                );
                Settings::invalid(vec![wrong.of(file)])
            }
        }
    }

    fn invalid(errors: Vec<SettingError>) -> Settings {
        Settings {
            errors,
            ..Settings::default()
        }
    }
}

/// A table inside the file.
struct Inner {
    name: &'static str,
    /// What each of its lines is.
    line: &'static str,
    /// Whether a value may be a list.
    lists: bool,
}

const TABLES: [Inner; 3] = [
    Inner {
        name: "kafka",
        line: "property",
        lists: false,
    },
    Inner {
        name: "columns",
        line: "meaning",
        lists: true,
    },
    Inner {
        name: "topics",
        line: "value",
        lists: false,
    },
];

/// Whether a file may have this.
fn check(name: &str, value: &toml::Value, known: &[String]) -> Result<(), InvalidValue> {
    if !known.iter().any(|known| known == name) {
        return Err(unknown(name, known));
    }
    match TABLES.iter().find(|table| table.name == name) {
        Some(_) if value.is_table() => Ok(()),
        Some(Inner { name, line, .. }) => Err(InvalidValue::new(
            "is not a table",
            format!("write [{name}] and below it one {line} a line"),
        )),
        None if is_scalar(value) => Ok(()),
        None => Err(no_single_value()),
    }
}

fn no_single_value() -> InvalidValue {
    InvalidValue::new(
        "is not a single value",
        "give a text, an integer or a boolean",
    )
}

/// The names that a file may use: those of the flags, where `kafka` is a table that also replaces
/// `kafka_properties`.
fn known() -> Vec<String> {
    let command = command();
    let names = command
        .get_arguments()
        .map(|argument| argument.get_id().to_string());
    names.filter(|name| name != "kafka_properties").collect()
}

fn unknown(name: &str, known: &[String]) -> InvalidValue {
    let folded = name.to_lowercase().replace('-', "_");
    let folded = folded.strip_prefix("outbox_").unwrap_or(&folded);
    let hint = match closest(folded, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "remove it; `outboxd run --help` lists the settings".to_owned(),
    };
    InvalidValue::new("is not a setting", hint)
}

/// Stores `linger.ms = 5` under its whole name: TOML reads a dotted key as a table in a table.
fn flatten(
    name: String,
    value: toml::Value,
    lists: bool,
    flat: &mut toml::Table,
    refuse: &mut impl FnMut(&str),
) {
    match value {
        toml::Value::Table(inner) => {
            for (key, value) in inner {
                flatten(format!("{name}.{key}"), value, lists, flat, refuse);
            }
        }
        toml::Value::Array(values) if lists && values.iter().all(is_scalar) => {
            flat.insert(name, toml::Value::Array(values));
        }
        value if is_scalar(&value) => {
            flat.insert(name, value);
        }
        _ => refuse(&name),
    }
}

fn is_scalar(value: &toml::Value) -> bool {
    value.is_str() || value.is_integer() || value.is_bool()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}
