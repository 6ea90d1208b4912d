//! Turns a connector's options into settings of outboxd. Pure.
//!
//! Every option is carried over, or noted with the reason why not. No value of an option that is
//! not carried over is shown, since it may be a secret.

use crate::cli::debezium::connector::Connector;
use crate::cli::debezium::imported::Imported;
use crate::cli::debezium::properties::Unreadable;
use crate::cli::debezium::{converters, database, kafka, options, router};

/// Reads a connector's file.
pub(super) fn import(text: &str) -> Result<Imported, Unreadable> {
    let mut connector = Connector::read(text)?;
    let class = connector.value("connector.class");
    if let Some(class) = class.filter(|class| !class.ends_with("PostgresConnector")) {
        return Err(Unreadable {
            problem: format!(
                "its connector is {}, and not one of Postgres",
                shown(&class)
            ),
            hint: "name the file of a connector with the class \
                   io.debezium.connector.postgresql.PostgresConnector",
        });
    }
    let mut imported = Imported {
        name: connector.name.clone(),
        ..Imported::default()
    };
    imported.set("preset", "debezium");
    database::carry_over(&mut connector, &mut imported);
    kafka::carry_brokers_over(&mut connector, &mut imported);
    table(&mut connector, &mut imported);
    let expands = router::carry_over(&mut connector, &mut imported)?;
    slot(&mut connector, &mut imported);
    converters::compare(&mut connector, &mut imported, expands);
    kafka::carry_properties_over(&mut connector, &mut imported);
    imported.rest(options::CONNECTOR, connector.rest());
    Ok(imported)
}

/// The table is known where the connector captures no other.
fn table(connector: &mut Connector, imported: &mut Imported) {
    let current = connector.take("table.include.list");
    let Some(given) = current.or(connector.take("table.whitelist")) else {
        let why = "The connector names no table".to_owned();
        return imported.leave_open("table", "public.outboxevent", why);
    };
    let only = Some(given.value.trim()).filter(|list| !list.contains(','));
    match only.and_then(literal) {
        Some(table) => imported.set("table", table),
        None => {
            let why = format!("{} does not name exactly one table", given.name);
            imported.leave_open("table", "public.outboxevent", why);
        }
    }
}

/// The connector's slot is copied at the hand-over, and outboxd has one of its own.
fn slot(connector: &mut Connector, imported: &mut Imported) {
    let Some(given) = connector.take("slot.name") else {
        return;
    };
    imported.leave_out(
        &given,
        "outboxd has a slot of its own, which OUTBOX_SLOT names",
    );
    let is_of_slot = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    imported.slot = Some(given.value).filter(|name| name.chars().all(is_of_slot));
}

/// The name that a regular expression stands for, by SQL's rules for quoting, if it is one name.
fn literal(expression: &str) -> Option<String> {
    let plain = expression.replace("\\.", ".").replace("\\$", "$");
    let (schema, name) = plain.split_once('.')?;
    let is_plain = |text: &str| {
        let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '-' | ' ');
        !text.is_empty() && text.chars().all(is_of_name)
    };
    let all_plain = is_plain(schema) && is_plain(name);
    all_plain.then(|| format!("{}.{}", identifier(schema), identifier(name)))
}

/// The name as SQL reads it.
fn identifier(name: &str) -> String {
    let is_lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let begins_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    match begins_well && name.chars().all(is_lower) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// A text of the file as an error may quote it.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("`{}`", short.escape_debug())
}
