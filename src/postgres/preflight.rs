//! The preconditions for publishing, checked against the server all at once.
//!
//! Every problem that a person can fix is reported with the statement that fixes it, before a slot
//! is created or an event is read: a publisher that starts and then cannot mark its rows would make
//! the server retain WAL. The checks change nothing. Passing conditions (a slot in use, an open
//! transaction) are not checked.

use postgres_protocol::escape::escape_identifier;

use crate::config::mapping::{ColumnName, ColumnNames, TopicRule};
use crate::config::{AfterPublish, Backlog, Config, KeyRule, Source};
use crate::error::{Code, Error, Result};
use crate::postgres::facts::dead_letter_table;
use crate::postgres::problem::ServerProblem;
use crate::postgres::server_settings::ServerSettings;
use crate::postgres::session::{Columns, Session};
use crate::postgres::sqlstate::ServerError;
use crate::postgres::table_shape::row_mark::age_column;
use crate::postgres::table_shape::{self, Column, PLAIN, TableShape};
use crate::postgres::walsender::synchronous_standby;
use crate::postgres::{publication, slot};

/// How many slots a first start needs: one while the backlog is read, and its permanent copy.
const SLOTS_NEEDED: i64 = 2;

/// The table's shape, and the problems of server, table, publication and slots.
#[derive(Debug)]
pub(crate) struct Inspection {
    /// `None` when there is no such table.
    pub(crate) shape: Option<TableShape>,
    pub(crate) problems: Vec<ServerProblem>,
}

impl Inspection {
    /// The table's shape, or all problems as one error.
    pub(crate) fn verdict(self) -> Result<TableShape> {
        match combined(self.problems) {
            Some(error) => Err(error),
            None => Ok(self.shape.expect("a missing table is a problem")),
        }
    }
}

/// Checks server, role, table, publication and slots against `config`, and returns the table's
/// shape. Polling needs the table alone.
///
/// Fatal with every problem in one line; transient when the server is a standby, which may be
/// promoted.
pub async fn check(session: &Session, config: &Config) -> Result<TableShape> {
    inspect(session, config).await?.verdict()
}

/// The same checks, for a caller that continues despite problems.
///
/// # Errors
/// Those of the session; transient when the server is a standby.
pub(crate) async fn inspect(session: &Session, config: &Config) -> Result<Inspection> {
    let mut problems = server_problems(session, config).await?;
    let shape = table_shape::read(session, &config.table, &config.mapping).await?;
    match &shape {
        None => problems.push(missing_table_problem(config)),
        Some(shape) => {
            problems.extend(table_problems(shape, config, session).await?);
            problems.extend(dead_letter_table::problem(session, config).await?);
            if config.source == Source::Slot {
                problems.extend(publication_problems(session, config, shape).await?);
            }
        }
    }
    if config.source == Source::Slot {
        problems.extend(slot_problem(session, config, &problems).await?);
        problems.extend(synchronous_standby::problem(session, None).await?);
    }
    Ok(Inspection { shape, problems })
}

/// The table does not exist.
pub(crate) fn missing_table_problem(config: &Config) -> ServerProblem {
    let problem = format!("there is no table {}", config.table);
    let problem = ServerProblem::config(problem, "run `outboxd init`, or set OUTBOX_TABLE");
    problem.gap("table-missing")
}

/// What keeps the slot from being used or created. Without logical decoding, which is a problem
/// of its own among those `known`, a provider may show no slot and no position.
async fn slot_problem(
    session: &Session,
    config: &Config,
    known: &[ServerProblem],
) -> Result<Option<ServerProblem>> {
    match slot::read(session, &config.slot).await {
        Ok(Some(_)) => Ok(None),
        Ok(None) => {
            let (used, max) = slot::used_and_max(session).await?;
            Ok(free_slots_problem(used, max))
        }
        Err(error) if ServerError::of(&error).is_some() && !known.is_empty() => {
            tracing::debug!(error = error.report(), "the slot is not shown");
            Ok(None)
        }
        Err(error) if error.is_transient() => Err(error),
        Err(error) => Ok(Some(ServerProblem::config(
            error.reason(),
            error.hint().unwrap_or("see pg_replication_slots"),
        ))),
    }
}

/// A first start creates slots.
pub(crate) fn free_slots_problem(used: i64, max: i64) -> Option<ServerProblem> {
    let needed = used + SLOTS_NEEDED;
    (needed > max).then(|| {
        ServerProblem::slot(
            format!("{used} of {max} replication slots are in use and a start needs two"),
            format!(
                "drop an unused slot, or ALTER SYSTEM SET max_replication_slots = {needed} and \
                 restart the server"
            ),
        )
    })
}

/// One error for all problems; the hint of a single problem stays separate.
fn combined(mut problems: Vec<ServerProblem>) -> Option<Error> {
    if problems.len() == 1 {
        let problem = problems.remove(0);
        return Some(Error::fatal(problem.code, problem.problem).with_hint(problem.hint));
    }
    let code = problems.first()?.code;
    let each = problems.into_iter().map(|one| (one.problem, one.hint));
    Some(Error::of_problems(code, each.collect()))
}

async fn server_problems(session: &Session, config: &Config) -> Result<Vec<ServerProblem>> {
    let server = ServerSettings::read(session, &config.database).await?;
    if server.in_recovery {
        return Err(Error::transient(Code::Connect, "the server is a standby")
            .with_hint("connect to the primary, or name all hosts of the cluster"));
    }
    let mut problems = Vec::from_iter(server.encoding_problem());
    if config.source == Source::Slot {
        problems.extend(server.wal_level_problem());
        problems.extend(server.role_problem());
    }
    Ok(problems)
}

/// The columns that publishing needs with this configuration, each once.
pub(crate) fn needed_columns(config: &Config) -> Vec<&str> {
    let (mapping, columns) = (&config.mapping, &config.mapping.columns);
    let mut needed: Vec<&str> = Vec::new();
    let mut add = |name| {
        if !needed.contains(&name) {
            needed.push(name);
        }
    };
    if let KeyRule::Column(name) = &mapping.key {
        add(name);
    }
    if let TopicRule::Column(name) = &mapping.topic {
        add(name);
    }
    add(&columns.payload);
    let marked = &columns.published.column;
    let optional = [
        &columns.event_type,
        &columns.created,
        &columns.attempts,
        marked,
    ];
    let optional = optional.into_iter().chain([&columns.headers.column]);
    let given = optional.filter(|column| column.given);
    given.filter_map(ColumnName::as_deref).for_each(&mut add);
    columns.order.as_deref().into_iter().for_each(&mut add);
    mapping.extra_columns().into_iter().for_each(&mut add);
    if config.after_publish != AfterPublish::Keep || config.backlog == Backlog::Publish {
        columns.id.iter().map(String::as_str).for_each(&mut add);
    }
    // Without it, every row that is there is unpublished.
    if config.after_publish == AfterPublish::Mark {
        marked.as_deref().into_iter().for_each(&mut add);
    }
    needed
}

async fn table_problems(
    shape: &TableShape,
    config: &Config,
    session: &Session,
) -> Result<Vec<ServerProblem>> {
    let role = session
        .row("reading the current role", "SELECT current_user::text", &[])
        .await?;
    let role = role.column(0)?;
    let mut problems = shape_problems(shape, config);
    problems.extend(right_problems(shape, config, role));
    problems.extend(row_security_problem(shape, role));
    Ok(problems)
}

/// What is wrong with the table's columns, keys and partitions.
pub(crate) fn shape_problems(shape: &TableShape, config: &Config) -> Vec<ServerProblem> {
    let mut problems = column_problems(shape, config);
    problems.extend(shape.problems(config.source));
    problems.extend(retention_problem(shape, config));
    if !shape.logged && config.source == Source::Slot {
        let problem = format!(
            "table {} is unlogged or temporary, so its rows are not in the WAL",
            shape.name
        );
        let hint = format!("ALTER TABLE {} SET LOGGED", shape.name.quoted());
        problems.push(ServerProblem::config(problem, hint).gap("table-unlogged"));
    }
    if config.after_publish != AfterPublish::Keep {
        problems.extend(id_problem(shape));
    }
    problems
}

/// Rows are deleted by their place in the table, once their time says that they are old.
fn retention_problem(shape: &TableShape, config: &Config) -> Option<ServerProblem> {
    config.retain?;
    let (problem, hint) = if shape.is_view {
        let problem = format!("OUTBOX_RETAIN: {} is a view", shape.name);
        (problem, "remove OUTBOX_RETAIN, or delete old rows yourself")
    } else if age_column(shape).is_none_or(|column| !column.can_select) {
        let problem = format!(
            "OUTBOX_RETAIN: the mark of {} is no time, and no readable column of a timestamp type \
             says when a row was created",
            shape.name
        );
        let hint = "name the time of creation with OUTBOX_COLUMNS=created=COLUMN, or a timestamp \
                    as the mark; or remove OUTBOX_RETAIN";
        (problem, hint)
    } else {
        return None;
    };
    Some(ServerProblem::config(problem, hint))
}

/// Rows that the role does not see are never published.
pub(crate) fn row_security_problem(shape: &TableShape, role: &str) -> Option<ServerProblem> {
    shape.rows_hidden.then(|| {
        ServerProblem::config(
            format!("row-level security hides rows of {}", shape.name),
            format!("ALTER ROLE {} BYPASSRLS", escape_identifier(role)),
        )
    })
}

/// Rows are marked and deleted by their ids.
fn id_problem(shape: &TableShape) -> Option<ServerProblem> {
    let ids = shape.id_columns();
    if shape.id_is_key || ids.is_empty() {
        return None;
    }
    let names = ids
        .iter()
        .map(|id| id.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let quoted = ids
        .iter()
        .map(|id| id.quoted())
        .collect::<Vec<_>>()
        .join(", ");
    let table = shape.name.quoted();
    let verb = if ids.len() == 1 { "is" } else { "are" };
    Some(ServerProblem::config(
        format!("{}.{names} {verb} no primary or unique key", shape.name),
        format!("ALTER TABLE {table} ADD UNIQUE ({quoted}), or OUTBOX_AFTER_PUBLISH=keep"),
    ))
}

fn column_problems(shape: &TableShape, config: &Config) -> Vec<ServerProblem> {
    let mut problems = Vec::new();
    let is_default = config.mapping.columns == ColumnNames::default();
    for name in needed_columns(config) {
        match shape.column(name) {
            None => problems.push(missing_column(shape, name, is_default)),
            Some(column) if !type_fits(shape, column) => problems.push(ServerProblem::config(
                format!("{}.{name} has the type {}", shape.name, column.type_name),
                match is_default {
                    true => "compare it with `outboxd init --print-sql`",
                    false => "name another column in OUTBOX_COLUMNS; docs/tables.md has the types",
                },
            )),
            Some(_) => {}
        }
    }
    problems
}

/// A column that is needed and is not there. The columns that are there are its best hint.
fn missing_column(shape: &TableShape, name: &str, is_default: bool) -> ServerProblem {
    let problem = format!("table {} has no column {name}", shape.name);
    if is_default && PLAIN.contains(&name) {
        return ServerProblem::config(problem, "compare it with `outboxd init --print-sql`");
    }
    let names = shape.columns.iter().map(|column| column.name.as_str());
    let names = names.collect::<Vec<_>>().join(", ");
    let hint = format!("name one of {names} in OUTBOX_COLUMNS or the rule that names it");
    ServerProblem::config(problem, hint)
}

/// Payload and mark alone need certain types.
fn type_fits(shape: &TableShape, column: &Column) -> bool {
    let mapping = &shape.mapping.columns;
    let is_payload = column.name == mapping.payload;
    let is_mark = mapping.published.column.as_deref() == Some(&column.name);
    let fits_payload = || {
        let other = ["text", "character varying", "json", "jsonb", "bytea"];
        other.contains(&column.type_name.as_str())
    };
    let fits_mark = || match mapping.published.constant {
        Some(_) => column.is_text(),
        None => column.is_timestamp() || column.is_integer() || column.base_type == "boolean",
    };
    (!is_payload || fits_payload()) && (!is_mark || fits_mark())
}

/// The rights on the table that the role lacks.
pub(crate) fn right_problems(
    shape: &TableShape,
    config: &Config,
    role: &str,
) -> Vec<ServerProblem> {
    let role = escape_identifier(role);
    let reads = config.after_publish != AfterPublish::Keep || config.backlog == Backlog::Publish;
    if !reads {
        return Vec::new();
    }
    let table = shape.name.quoted();
    let mut problems = Vec::new();
    let mut lacking = |right: &str, object: &str| {
        problems.push(ServerProblem::config(
            format!("role {role} lacks {right} on {}", shape.name),
            format!("GRANT {right} ON {object} TO {role}"),
        ));
    };
    if !shape.can_use_schema {
        lacking(
            "USAGE",
            &format!("SCHEMA {}", escape_identifier(&shape.name.schema)),
        );
    }
    if shape.columns.iter().any(|column| !column.can_select) {
        lacking("SELECT", &table);
    }
    let marks = shape.attempts().into_iter().chain(shape.published());
    match config.after_publish {
        AfterPublish::Mark if marks.clone().any(|column| !column.can_update) => {
            let names: Vec<_> = marks.map(Column::quoted).collect();
            lacking(&format!("UPDATE ({})", names.join(", ")), &table);
        }
        AfterPublish::Delete if !shape.can_delete => lacking("DELETE", &table),
        AfterPublish::Mark | AfterPublish::Delete | AfterPublish::Keep => {}
    }
    if config.retain.is_some() && !shape.can_delete {
        lacking("DELETE", &table);
    }
    problems
}

/// What keeps the table's events from the publication.
pub(crate) async fn publication_problems(
    session: &Session,
    config: &Config,
    shape: &TableShape,
) -> Result<Vec<ServerProblem>> {
    let name = &config.publication;
    Ok(match publication::inspect(session, name, shape).await? {
        Some(state) => state.problems(name, shape, &needed_columns(config)),
        None => {
            let problem = format!("there is no publication {name}");
            let sql = publication::create_sql(name, &shape.name);
            let problem = ServerProblem::slot(problem, format!("run `outboxd init`, or {sql}"));
            vec![problem.gap("publication-missing")]
        }
    })
}
