//! Whether the server accepts every statement that the chosen mode will ever run, before the first
//! event is sent.
//!
//! A publisher that sends events and then cannot mark their rows, or cannot file one, sends them
//! again at every start. So names, types and rights of all statements are checked by the server
//! itself, without running one.

use std::error::Error as _;

use postgres_protocol::escape::escape_identifier;

use crate::config::{Config, Source};
use crate::error::{Code, Error, Result};
use crate::outbox::marking::Marking;
use crate::outbox::write_back::MarkStatements;
use crate::outbox::{DeadLetters, MissedRows, RetentionStatements, UnpublishedRows};
use crate::postgres::server_settings::ServerSettings;
use crate::postgres::{self, Inspection, ServerError, Session, TableShape};

/// All that publishing needs with this configuration: [`preflight::check`], and every statement.
/// Returns the table's shape.
///
/// [`preflight::check`]: crate::postgres::preflight::check
///
/// # Errors
/// Fatal with every problem, or with the first statement that the server refuses.
pub async fn preflight(session: &Session, config: &Config) -> Result<TableShape> {
    let shape = postgres::preflight::check(session, config).await?;
    check_statements(session, config, &shape).await?;
    Ok(shape)
}

/// What keeps a publisher from starting: each problem with its code and what to do about it.
///
/// `role` is the one that will publish, where that is not the session's. Its rights are checked, if
/// the session's role may become it.
///
/// # Errors
/// Those that may pass.
pub async fn readiness(
    session: &Session,
    config: &Config,
    role: Option<&str>,
) -> Result<Vec<(Code, String, String)>> {
    let what = "becoming the role that publishes";
    let becomes = match role {
        Some(role) => {
            let set = format!("SET ROLE {}", escape_identifier(role));
            session.run(what, &set).await.is_ok()
        }
        None => false,
    };
    let found = problems(session, config).await;
    if becomes {
        session.run(what, "RESET ROLE").await?;
    }
    let mut found = found?;
    // Whether the session's own role may replicate says nothing about the other.
    if role.is_some() && !becomes {
        let own = ServerSettings::read(session, &config.database).await?;
        let own = own.role_problem();
        found.retain(|(_, problem, _)| own.as_ref().is_none_or(|own| own.problem != *problem));
    }
    Ok(found)
}

async fn problems(session: &Session, config: &Config) -> Result<Vec<(Code, String, String)>> {
    let Inspection { shape, problems } = postgres::preflight::inspect(session, config).await?;
    let problems = problems.into_iter();
    let mut found: Vec<_> = problems.map(|it| (it.code, it.problem, it.hint)).collect();
    if let Some(shape) = shape.filter(|_| found.is_empty()) {
        match check_statements(session, config, &shape).await {
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let hint = error.hint().unwrap_or("see the server's log").to_owned();
                found.push((error.code(), error.reason(), hint));
            }
            Ok(()) => {}
        }
    }
    Ok(found)
}

/// Checks the statements alone, for a table that passed the other checks.
pub(crate) async fn check_statements(
    session: &Session,
    config: &Config,
    shape: &TableShape,
) -> Result<()> {
    let table = &config.table;
    let marking = Marking::new(config.after_publish, shape);
    let dead_letters = DeadLetters::new(config, shape);
    if let Some(count) = dead_letters.count_statement() {
        let what = format!("checking how attempts are counted in {table}");
        let counts = session.explain(&what, count).await;
        counts.map_err(|error| not_countable(error, shape))?;
    }
    if marking.writes() {
        let what = format!("checking how rows of {table} are marked");
        for statement in MarkStatements::new(&marking).all() {
            session.explain(&what, statement).await?;
        }
    }
    if config.retain.is_some()
        && let Some(retention) = RetentionStatements::new(config, shape)
    {
        let what = format!("checking how old rows of {table} are deleted");
        for statement in retention.all() {
            session.explain(&what, statement).await?;
        }
    }
    let rows = UnpublishedRows::new(config, shape)?;
    if marking.writes() || config.source == Source::Poll {
        let what = format!("checking how {table} is read");
        let missed = MissedRows::new(&rows);
        let missed = missed.statements().into_iter();
        for statement in rows.statements().chain(missed) {
            session.explain(&what, statement).await?;
        }
    }
    let what = format!("checking the use of {}", table.dead_letter());
    for statement in dead_letters.statements() {
        session.explain(&what, &statement).await?;
    }
    Ok(())
}

/// The problem of a counter whose type has no addition.
fn not_countable(error: Error, shape: &TableShape) -> Error {
    let is_type = error.source().and_then(|source| source.downcast_ref());
    let is_type = is_type.is_some_and(ServerError::is_of_a_type);
    let column = shape.attempts().filter(|_| is_type);
    let Some(column) = column else { return error };
    let (table, type_name) = (&shape.name, &column.type_name);
    let (name, quoted) = (&column.name, column.quoted());
    let message = format!("{table}.{name} has the type {type_name}, which cannot be counted");
    Error::fatal(Code::Config, message).with_hint(format!(
        "ALTER TABLE {} ALTER COLUMN {quoted} TYPE integer \
         USING {quoted}::text::integer, drop the column, or set OUTBOX_COLUMNS=attempts=none",
        table.quoted()
    ))
}
