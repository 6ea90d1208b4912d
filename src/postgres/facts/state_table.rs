//! The table of outboxd's state, known by its columns. An unrelated table may have its name;
//! outboxd neither uses nor alters that.

use postgres_protocol::escape::escape_identifier;

use crate::config::TableName;
use crate::error::{Code, Error, Result};
use crate::postgres::session::{Columns, Session};

/// A relation that has the name of the state's table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateTable {
    pub(crate) owner: String,
    /// Whether the session's role has the rights of the owner.
    pub(crate) is_owned: bool,
    /// It is a table and has the columns.
    pub(crate) is_ours: bool,
    /// Whether the session's role may read and write it.
    may_use: bool,
    role: String,
}

impl StateTable {
    /// Fails if the session's role lacks a right on it.
    pub(crate) fn check_rights(&self, table: &TableName) -> Result<()> {
        if self.may_use {
            return Ok(());
        }
        let role = escape_identifier(&self.role);
        let message = format!("role {role} lacks SELECT, INSERT or UPDATE on {table}");
        Err(Error::fatal(Code::Config, message).with_hint(format!(
            "run `outboxd init --role {}`, or GRANT SELECT, INSERT, UPDATE ON {} TO {role}",
            self.role,
            table.quoted()
        )))
    }
}

/// Reads what has that name. Needs no right on it.
pub(crate) async fn read(session: &Session, name: &TableName) -> Result<Option<StateTable>> {
    const SQL: &str = "
        SELECT pg_catalog.pg_get_userbyid(c.relowner)::text,
               pg_catalog.pg_has_role(c.relowner, 'USAGE'),
               c.relkind = 'r' AND 4 =
               (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute AS a
                 WHERE a.attrelid = c.oid AND NOT a.attisdropped
                   AND (a.attname::text, a.atttypid::oid) IN (
                       ('name', 'pg_catalog.text'::regtype::oid),
                       ('value', 'pg_catalog.jsonb'::regtype::oid),
                       ('changed_at', 'pg_catalog.timestamptz'::regtype::oid),
                       ('changed_by', 'pg_catalog.text'::regtype::oid))),
               (SELECT pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, r.name))
                  FROM (VALUES ('SELECT'), ('INSERT'), ('UPDATE')) AS r (name)),
               current_user::text
          FROM pg_catalog.pg_class AS c
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2";
    let what = "looking for the table of outboxd's state";
    let row = session
        .row_if_any(what, SQL, &[&name.schema, &name.name])
        .await?;
    row.map(|row| {
        Ok(StateTable {
            owner: row.column(0)?,
            is_owned: row.column(1)?,
            is_ours: row.column(2)?,
            may_use: row.column(3)?,
            role: row.column(4)?,
        })
    })
    .transpose()
}

#[cfg(test)]
impl StateTable {
    /// One of the session's role.
    pub(crate) fn of(is_ours: bool) -> StateTable {
        StateTable {
            owner: "postgres".to_owned(),
            is_owned: true,
            is_ours,
            may_use: true,
            role: "postgres".to_owned(),
        }
    }
}
