//! Settings as a person gives them, and the errors for those that are not valid.

#![allow(clippy::unwrap_used)]

mod columns;
mod database;
mod exactly_once;
mod fuzz;
mod kafka;
mod kafka_login;
mod mapping;
mod policy;
mod presets;
mod row_filter;
mod secrets;
mod service;
mod settings;

use clap::{Args, Command, FromArgMatches};

use super::*;
use crate::error::{Code, Error};

const URL: &str = "postgres://outboxd@db.example/orders";

/// An empty environment.
fn nothing(_: &str) -> Option<String> {
    None
}

fn valid() -> Settings {
    Settings {
        database_url: Some(URL.to_owned()),
        kafka_brokers: Some("kafka.example:9092".to_owned()),
        ..Settings::default()
    }
}

fn build(settings: Settings) -> Result<Config, SettingErrors> {
    Config::build(settings, true, &nothing)
}

/// `valid()` with one setting as the file would give it.
fn with(name: &str, value: &str) -> Settings {
    file(&format!("{name} = {value:?}")).or(valid())
}

fn file(text: &str) -> Settings {
    Settings::parse(text, "outboxd.toml")
}

fn flags(arguments: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("outboxd").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).unwrap();
    Settings::from_arg_matches(&matches).unwrap()
}

fn messages(errors: &SettingErrors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn only_error(result: Result<Config, SettingErrors>) -> String {
    let errors = messages(&result.unwrap_err());
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors[0].clone()
}

/// `valid()` with the columns as a flag or a variable gives them.
fn given_columns(list: &str) -> Settings {
    Settings {
        columns: Some(list.to_owned()),
        ..valid()
    }
}

fn mapping_of(settings: Settings) -> Mapping {
    build(settings).unwrap().mapping
}

/// There is one problem, and it begins so.
#[track_caller]
fn fails(settings: Settings, beginning: &str) {
    let error = only_error(build(settings));
    assert!(error.starts_with(beginning), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

fn database(url: &str) -> Result<Database, SettingErrors> {
    database_in(url, &nothing)
}

fn database_in(url: &str, env: Env<'_>) -> Result<Database, SettingErrors> {
    let settings = Settings {
        database_url: Some(url.to_owned()),
        ..Settings::default()
    };
    Config::build(settings, false, env).map(|config| config.database)
}
