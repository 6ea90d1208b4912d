//! The files of `sql/`, filled in for one configuration: whole for a person, and the single
//! statements that `init` runs once it has looked.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::postgres::setup::wanted::{PartitionPeriod, Setup};

const SCHEMA: &str = include_str!("../../../sql/schema.sql");
const SCHEMA_PARTITIONED: &str = include_str!("../../../sql/schema_partitioned.sql");
const CHECKS: &str = include_str!("../../../sql/checks.sql");
const FUNCTION: &str = include_str!("../../../sql/write_event.sql");
const FUNCTION_HEADERS: &str = include_str!("../../../sql/write_event_headers.sql");
const DEAD_LETTER: &str = include_str!("../../../sql/dead_letter.sql");
const STATE: &str = include_str!("../../../sql/state.sql");
const PUBLICATION: &str = include_str!("../../../sql/publication.sql");
const ROLE: &str = include_str!("../../../sql/role.sql");
const ROLE_REPLICATION: &str = include_str!("../../../sql/role_replication.sql");
const ROLE_DELETE: &str = include_str!("../../../sql/role_delete.sql");
const ROLE_STATE: &str = include_str!("../../../sql/role_state.sql");
const ROLE_RETAIN: &str = include_str!("../../../sql/role_retain.sql");

/// A comment in every version of the function.
pub(super) const MARK: &str = "-- Measured as Postgres prints it, because that text goes to Kafka";

/// What the constraints say about tables that are marked.
const UNLESS_PUBLISHED: &str = "published_at IS NOT NULL OR ";

/// The schema and the table, without the indexes, which depend on what is there.
pub(super) fn tables(setup: &Setup<'_>) -> String {
    match setup.partitioned {
        None => fill_in(setup, &statements(SCHEMA, "CREATE INDEX", false)),
        Some(_) => {
            let schema = fill_in(setup, &statements(SCHEMA, "CREATE SCHEMA", true));
            format!("{schema}\n\n{}", table(setup))
        }
    }
}

/// The statement that creates the table, with its partitions.
pub(super) fn table(setup: &Setup<'_>) -> String {
    let (period, format) = match setup.partitioned {
        None => return fill_in(setup, &statements(SCHEMA, "CREATE TABLE", true)),
        Some(PartitionPeriod::Day) => ("day", "YYYYMMDD"),
        Some(PartitionPeriod::Hour) => ("hour", "YYYYMMDDHH24"),
    };
    let table = &setup.config.table;
    fill_in(setup, body(SCHEMA_PARTITIONED))
        .replace("{{period}}", period)
        .replace("{{format}}", format)
        .replace("{{plain_schema}}", &table.schema)
        .replace("{{plain_table}}", &table.name)
}

/// The statements of a file that contain these words, or those that do not.
fn statements(file: &str, words: &str, with: bool) -> String {
    let all = body(file).split_inclusive(";\n");
    all.filter(|statement| statement.contains(words) == with)
        .collect()
}

pub(super) fn checks(setup: &Setup<'_>) -> String {
    fill_in(setup, body(CHECKS))
}

/// Each constraint: its name, and the clause of ALTER TABLE that adds it.
pub(super) fn constraints(is_marked: bool) -> Vec<(&'static str, String)> {
    let clauses = CHECKS
        .split("ALTER TABLE {{table}} ADD CONSTRAINT ")
        .skip(1);
    let clauses = clauses.filter_map(|rest| {
        let (clause, _rest) = rest.split_once(';')?;
        let (name, _condition) = clause.split_once(char::is_whitespace)?;
        let clause = format!("ADD CONSTRAINT {}", one_line(clause));
        Some(match is_marked {
            true => (name, clause),
            false => (name, clause.replace(UNLESS_PUBLISHED, "")),
        })
    });
    clauses.collect()
}

pub(super) fn dead_letters(setup: &Setup<'_>) -> String {
    fill_in(setup, body(DEAD_LETTER))
}

pub(super) fn state(setup: &Setup<'_>) -> String {
    fill_in(setup, body(STATE))
}

pub(super) fn write_event(setup: &Setup<'_>) -> String {
    fill_in(setup, body(FUNCTION))
}

pub(super) fn write_event_headers(setup: &Setup<'_>) -> String {
    fill_in(setup, body(FUNCTION_HEADERS))
}

/// The statement that creates the function of this name, with headers and a key or without.
pub(super) fn function(setup: &Setup<'_>, name: &str, with_headers: bool) -> String {
    let file = match with_headers {
        true => FUNCTION_HEADERS,
        false => FUNCTION,
    };
    let start = file.find("CREATE FUNCTION").unwrap_or_default();
    let end = file.rfind("$function$").map_or(file.len(), |at| at + 10);
    fill_in_function(setup, &file[start..end], name)
}

/// The body of that function as the catalog has it.
pub(super) fn function_body(setup: &Setup<'_>, name: &str, with_headers: bool) -> String {
    let statement = function(setup, name, with_headers);
    let body = statement.split("$function$").nth(1);
    body.unwrap_or_default().to_owned()
}

/// The names that outboxd gives to its function, in the order in which it tries them.
pub(super) fn function_names(table: &TableName) -> Vec<String> {
    let mut names = vec![table.write_event(), table.long_write_event()];
    names.dedup();
    names
}

pub(super) fn publication(setup: &Setup<'_>) -> Option<String> {
    setup.publication()?;
    Some(fill_in(setup, body(PUBLICATION)))
}

/// The role, with what it needs in this configuration.
pub(super) fn role(setup: &Setup<'_>) -> Option<String> {
    setup.role?;
    let mut parts = vec![body(ROLE), body(ROLE_STATE)];
    let streams = setup.publication().is_some();
    if streams && setup.replication_role.is_none() {
        parts.push(body(ROLE_REPLICATION));
    }
    if setup.deletes() {
        parts.push(body(ROLE_DELETE));
    }
    if setup.retains() {
        parts.push(body(ROLE_RETAIN));
    }
    let sql = fill_in(setup, &parts.join("\n"));
    let written = format!("UPDATE ({})", setup.written_columns().join(", "));
    Some(sql.replace("UPDATE (times_attempted, published_at)", &written))
}

/// The role of the login for replication, which has no right on a table.
pub(super) fn replication_role(setup: &Setup<'_>) -> Option<String> {
    setup.publication()?;
    let role = Some(setup.replication_role?);
    let create = statements(ROLE, "$outboxd$", true);
    let sql = format!("{create}\n{}", body(ROLE_REPLICATION));
    Some(fill_in(&Setup { role, ..*setup }, &sql))
}

fn fill_in(setup: &Setup<'_>, sql: &str) -> String {
    fill_in_function(setup, sql, &setup.config.table.write_event())
}

fn fill_in_function(setup: &Setup<'_>, sql: &str, function: &str) -> String {
    let table = &setup.config.table;
    sql.trim()
        .replace("{{schema}}", &escape_identifier(&table.schema))
        .replace("{{table}}", &table.quoted())
        .replace("{{dead_letter}}", &table.dead_letter().quoted())
        .replace("{{state}}", &table.state().quoted())
        .replace(
            "{{publication}}",
            &escape_identifier(setup.publication().unwrap_or_default()),
        )
        .replace(
            "{{role}}",
            &escape_identifier(setup.role.unwrap_or_default()),
        )
        .replace("{{function}}", &escape_identifier(function))
        .replace("{{key}}", &escape_identifier(setup.key_column()))
}

/// A file without its head, which says how to run it by hand.
fn body(file: &str) -> &str {
    file.split_once("\n\n").map_or(file, |(_head, body)| body)
}

/// The statement on one line, for the list that `init` prints.
pub(super) fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub(super) const FILES: [&str; 13] = [
    SCHEMA,
    SCHEMA_PARTITIONED,
    CHECKS,
    FUNCTION,
    FUNCTION_HEADERS,
    DEAD_LETTER,
    STATE,
    PUBLICATION,
    ROLE,
    ROLE_REPLICATION,
    ROLE_DELETE,
    ROLE_STATE,
    ROLE_RETAIN,
];
