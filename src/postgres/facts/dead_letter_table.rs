//! The table of dead letters, known by its shape.
//!
//! Its name is a plain word, so an unrelated table may have it. outboxd neither uses nor alters
//! such a table.

use postgres_protocol::escape::escape_identifier;

use crate::config::{Config, TableName};
use crate::error::Result;
use crate::postgres::problem::ServerProblem;
use crate::postgres::session::{Columns, Session};

/// The columns of every version. The first version had no `table_oid`.
const COLUMNS: [&str; 20] = [
    "id",
    "system_id",
    "outbox_id",
    "commit_lsn",
    "event_index",
    "topic",
    "event_type",
    "key",
    "headers",
    "payload",
    "payload_sha256",
    "event_created_at",
    "error_code",
    "error",
    "attempts",
    "history",
    "parks_key",
    "state",
    "filed_at",
    "updated_at",
];

/// A relation that has the name of the dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeadLetterTable {
    pub(crate) owner: String,
    /// Whether the session's role has the rights of the owner.
    pub(crate) is_owned: bool,
    is_table: bool,
    columns: Vec<String>,
    /// Whether the session's role may read, file and close letters.
    may_use: bool,
    /// Whether it may delete them.
    may_delete: bool,
}

impl DeadLetterTable {
    /// Why it cannot be outboxd's.
    pub(crate) fn strangeness(&self) -> Option<String> {
        if !self.is_table {
            return Some("is no table".to_owned());
        }
        let lacks = |name: &&&str| !self.columns.iter().any(|column| column == *name);
        let absent: Vec<&str> = COLUMNS.iter().filter(lacks).take(3).copied().collect();
        (!absent.is_empty()).then(|| format!("has no column {}", absent.join(", ")))
    }

    /// Whether it is of an earlier version, which `init` completes.
    pub(crate) fn is_earlier(&self) -> bool {
        !self.columns.iter().any(|column| column == "table_oid")
    }
}

#[cfg(test)]
impl DeadLetterTable {
    /// A table with these columns, in place of some of those that every version has.
    pub(crate) fn of_columns(own: bool, more: &[&str]) -> DeadLetterTable {
        let ours = COLUMNS.iter().filter(|_| own);
        DeadLetterTable {
            owner: "postgres".to_owned(),
            is_owned: true,
            is_table: true,
            columns: ours.chain(more).map(|name| (*name).to_owned()).collect(),
            may_use: true,
            may_delete: true,
        }
    }
}

/// Reads what has that name.
pub(crate) async fn read(session: &Session, name: &TableName) -> Result<Option<DeadLetterTable>> {
    const SQL: &str = "
        SELECT pg_catalog.pg_get_userbyid(c.relowner)::text,
               pg_catalog.pg_has_role(c.relowner, 'USAGE'), c.relkind IN ('r', 'p'),
               ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
               (SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, r.name))
                  FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS r (name)),
               pg_catalog.has_table_privilege(c.oid, 'DELETE')
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2";
    let what = "checking the dead-letter table";
    let row = session
        .row_if_any(what, SQL, &[&name.schema, &name.name])
        .await?;
    row.map(|row| {
        Ok(DeadLetterTable {
            owner: row.column(0)?,
            is_owned: row.column(1)?,
            is_table: row.column(2)?,
            columns: row.column(3)?,
            may_use: row.column(4)?,
            may_delete: row.column(5)?,
        })
    })
    .transpose()
}

/// The statement that makes room for outboxd's own.
pub(crate) fn make_room(table: &TableName) -> String {
    let other = escape_identifier(&format!("{}_of_another", table.name));
    format!("ALTER TABLE {} RENAME TO {other}", table.quoted())
}

/// Without the dead-letter table, one rejected event would hold up all events behind it.
pub(crate) async fn problem(session: &Session, config: &Config) -> Result<Option<ServerProblem>> {
    let table = config.table.dead_letter();
    let Some(found) = read(session, &table).await? else {
        return Ok(Some(missing(session, config, &table).await?));
    };
    if let Some(strange) = found.strangeness() {
        return Ok(Some(ServerProblem::config(
            format!("{table} {strange}: it is not the table of dead letters"),
            format!(
                "{} and adapt what uses it, or move the outbox to another schema; then run \
                 `outboxd init`",
                make_room(&table)
            ),
        )));
    }
    if found.is_earlier() {
        return Ok(Some(ServerProblem::config(
            format!("table {table} has no column table_oid: it is of an earlier version"),
            "run `outboxd init`, which adds it",
        )));
    }
    let deletes = config.retain.is_some();
    if found.may_use && (found.may_delete || !deletes) {
        return Ok(None);
    }
    let role = "SELECT current_user::text";
    let role = session.row("reading the current role", role, &[]).await?;
    let role: &str = role.column(0)?;
    let quoted = escape_identifier(role);
    let (lacks, rights) = match (found.may_use, deletes) {
        (true, _) => ("DELETE", "DELETE"),
        (false, false) => ("SELECT, INSERT or UPDATE", "SELECT, INSERT, UPDATE"),
        (false, true) => (
            "SELECT, INSERT, UPDATE or DELETE",
            "SELECT, INSERT, UPDATE, DELETE",
        ),
    };
    Ok(Some(ServerProblem::config(
        format!("role {quoted} lacks {lacks} on {table}"),
        format!(
            "run `outboxd init --role {role}`, or GRANT {rights} ON {} TO {quoted}",
            table.quoted(),
        ),
    )))
}

async fn missing(session: &Session, config: &Config, table: &TableName) -> Result<ServerProblem> {
    let problem = format!("there is no table {table} for dead letters");
    let mut hint = "run `outboxd init`".to_owned();
    if let Some(earlier) = config.table.earlier_dead_letter() {
        let exists = "SELECT pg_catalog.to_regclass($1) IS NOT NULL";
        let what = "looking for the dead letters of an earlier version";
        let row = session.row(what, exists, &[&earlier.quoted()]).await?;
        if row.column(0)? {
            hint = format!(
                "if {earlier} has the dead letters of this outbox alone, first ALTER TABLE {} \
                 RENAME TO {}; then run `outboxd init`",
                earlier.quoted(),
                escape_identifier(&table.name)
            );
        }
    }
    Ok(ServerProblem::config(problem, hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_ours_by_its_columns_and_anything_else_is_strange() {
        let ours = DeadLetterTable::of_columns(true, &["table_oid", "note"]);
        assert_eq!((ours.strangeness(), ours.is_earlier()), (None, false));
        let earlier = DeadLetterTable::of_columns(true, &[]);
        assert_eq!((earlier.strangeness(), earlier.is_earlier()), (None, true));
        let theirs = DeadLetterTable::of_columns(false, &["id", "payload_sha256", "body"]);
        let strange = theirs.strangeness().unwrap_or_default();
        assert_eq!(strange, "has no column system_id, outbox_id, commit_lsn");
        let view = DeadLetterTable {
            is_table: false,
            ..ours
        };
        assert_eq!(view.strangeness().as_deref(), Some("is no table"));
    }
}
