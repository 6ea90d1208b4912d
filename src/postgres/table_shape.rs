//! The outbox table's shape, from the catalog: columns by name, key, partitions, and the rights of
//! outboxd's role.

use tokio_postgres::Row;

use crate::config::{Source, TableName};
use crate::error::{Error, Result};
use crate::postgres::problem::ServerProblem;
use crate::postgres::session::Session;
use crate::postgres::sql_error::sql_error;
use crate::postgres::sqlstate::ServerError;

/// The types that SQL writes like this.
pub(crate) const TIMESTAMP: &str = "timestamp without time zone";
pub(crate) const TIMESTAMPTZ: &str = "timestamp with time zone";

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its number, which no column gets again: a column that was dropped and added has another.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// Its type as SQL writes it, such as `timestamp without time zone`.
    pub type_name: String,
    /// The same, or the type that a domain is made of.
    pub base_type: String,
    /// Whether it is computed from others; before Postgres 18 the stream does not carry such a
    /// column.
    pub generated: bool,
    /// The expression of its default, if it has one.
    pub default: Option<String>,
    /// Whether outboxd's role may read it.
    pub can_select: bool,
    /// Whether outboxd's role may update it.
    pub can_update: bool,
}

/// The shape of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    /// Its name.
    pub name: TableName,
    /// Its object id; a table that was dropped and created again has another.
    pub oid: u32,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Whether it is partitioned.
    pub partitioned: bool,
    /// Its leaf partitions, if it is partitioned.
    pub partitions: Vec<u32>,
    /// Whether `id` alone is a valid primary or unique key, or its first column where the table is
    /// partitioned.
    pub id_is_key: bool,
    /// Whether the table is permanent, so that its rows are in the WAL.
    pub logged: bool,
    /// The tables that inherit from it, if it is not partitioned.
    pub(crate) children: Vec<String>,
    /// Its leaf partitions whose rows are not in the WAL.
    pub(crate) unlogged: Vec<String>,
    pub(crate) family: Vec<u32>,
    pub(crate) replica_identity: bool,
    pub(crate) rows_hidden: bool,
    pub(crate) can_use_schema: bool,
    pub(crate) can_delete: bool,
}

impl TableShape {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether `id` is an integer, which write-back needs.
    pub fn id_is_integer(&self) -> bool {
        self.column("id")
            .is_some_and(|id| matches!(id.type_name.as_str(), "smallint" | "integer" | "bigint"))
    }

    /// What keeps rows, or a part of each row, from being read from this source.
    pub(crate) fn problems(&self, source: Source) -> Vec<ServerProblem> {
        let mut problems = Vec::new();
        let (name, quoted) = (&self.name, self.name.quoted());
        if let Some(child) = self.children.first() {
            problems.push(
                ServerProblem::config(
                    format!("table {child} inherits from {name}, and its rows are not read"),
                    format!(
                        "ALTER TABLE {child} NO INHERIT {quoted}, \
                         or make {name} a partitioned table"
                    ),
                )
                .gap("table-inherited"),
            );
        }
        if let Some(partition) = self.unlogged.first().filter(|_| source == Source::Slot) {
            problems.push(
                ServerProblem::config(
                    format!(
                        "partition {partition} is unlogged or foreign, \
                         so its rows are not in the WAL"
                    ),
                    format!("ALTER TABLE {partition} SET LOGGED, or detach it"),
                )
                .gap("table-unlogged"),
            );
        }
        if let Some(headers) = self.column("headers").filter(|column| !column.is_json()) {
            problems.push(ServerProblem::config(
                format!("{name}.headers has the type {}", headers.type_name),
                "outboxd reads a column of this name as a JSON object: \
                 change its type to jsonb, or rename it",
            ));
        }
        problems
    }
}

impl Column {
    /// The type that decides how a value prints in the stream. A domain over a time with time zone
    /// prints as the time does; one over a `bytea` counts as text there.
    pub(crate) fn printed_type(&self) -> &str {
        match self.base_type.as_str() {
            TIMESTAMPTZ => TIMESTAMPTZ,
            _ => &self.type_name,
        }
    }

    /// Whether its values are moments, which can be compared.
    pub(crate) fn is_time(&self) -> bool {
        self.is_timestamp() || self.base_type == "date"
    }

    /// Whether its values are times with microseconds.
    pub(crate) fn is_timestamp(&self) -> bool {
        [TIMESTAMP, TIMESTAMPTZ].contains(&self.base_type.as_str())
    }

    fn is_json(&self) -> bool {
        matches!(self.base_type.as_str(), "json" | "jsonb")
    }
}

const TABLE: &str = "
    SELECT c.oid, c.relkind = 'p', c.relpersistence = 'p',
           ARRAY(SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf),
           ARRAY(SELECT pg_catalog.format('%I.%I', m.nspname, i.relname)
                   FROM pg_catalog.pg_inherits AS h
                   JOIN pg_catalog.pg_class AS i ON i.oid = h.inhrelid
                   JOIN pg_catalog.pg_namespace AS m ON m.oid = i.relnamespace
                  WHERE h.inhparent = c.oid AND c.relkind = 'r' ORDER BY 1),
           ARRAY(SELECT pg_catalog.format('%I.%I', m.nspname, l.relname)
                   FROM pg_catalog.pg_partition_tree(c.oid) AS t
                   JOIN pg_catalog.pg_class AS l ON l.oid = t.relid
                   JOIN pg_catalog.pg_namespace AS m ON m.oid = l.relnamespace
                  WHERE t.isleaf AND t.relid <> c.oid
                    AND (l.relpersistence <> 'p' OR l.relkind = 'f') ORDER BY 1),
           ARRAY(SELECT c.oid
                  UNION SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid)
                  UNION SELECT relid::oid FROM pg_catalog.pg_partition_ancestors(c.oid)),
           EXISTS (SELECT FROM pg_catalog.pg_index AS i
                     JOIN pg_catalog.pg_attribute AS a
                       ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                    WHERE i.indrelid = c.oid AND a.attname = 'id'
                      AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                      AND (i.indnkeyatts = 1 OR c.relkind = 'p')),
           c.relreplident = 'f'
             OR EXISTS (SELECT FROM pg_catalog.pg_index AS i
                         WHERE i.indrelid = c.oid
                           AND (c.relreplident = 'd' AND i.indisprimary
                                OR c.relreplident = 'i' AND i.indisreplident)),
           pg_catalog.row_security_active(c.oid),
           pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
           pg_catalog.has_table_privilege(c.oid, 'DELETE')
      FROM pg_catalog.pg_class AS c
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

const COLUMNS: &str = "
    SELECT a.attnum, a.attname::text, pg_catalog.format_type(a.atttypid, NULL),
           (WITH RECURSIVE base AS (
                SELECT a.atttypid AS id
                 UNION ALL
                SELECT t.typbasetype FROM base JOIN pg_catalog.pg_type AS t ON t.oid = base.id
                 WHERE t.typtype = 'd')
            SELECT pg_catalog.format_type(t.oid, NULL)
              FROM base JOIN pg_catalog.pg_type AS t ON t.oid = base.id
             WHERE t.typtype <> 'd'),
           a.attgenerated <> '',
           coalesce(pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'), false),
           coalesce(pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'UPDATE'), false),
           (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef AS d
             WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum)
      FROM pg_catalog.pg_attribute AS a
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     ORDER BY a.attnum";

/// Reads the shape of `name`; `None` when there is no such table (a view is none). Needs no right
/// on the table.
pub async fn read(session: &Session, name: &TableName) -> Result<Option<TableShape>> {
    let what = format!("reading the shape of {name}");
    let table = session
        .row_if_any(&what, TABLE, &[&name.schema, &name.name])
        .await?;
    let Some(table) = table else {
        return Ok(None);
    };
    let oid: u32 = table.try_get(0).map_err(|error| sql_error(&what, error))?;
    let columns = session.rows(&what, COLUMNS, &[&oid]).await?;
    shape_of(name, &table, &columns)
        .map(Some)
        .map_err(|error| sql_error(what, error))
}

fn shape_of(
    name: &TableName,
    table: &Row,
    columns: &[Row],
) -> Result<TableShape, tokio_postgres::Error> {
    let column = |row: &Row| {
        Ok(Column {
            number: row.try_get(0)?,
            name: row.try_get(1)?,
            type_name: row.try_get(2)?,
            base_type: row.try_get(3)?,
            generated: row.try_get(4)?,
            can_select: row.try_get(5)?,
            can_update: row.try_get(6)?,
            default: row.try_get(7)?,
        })
    };
    Ok(TableShape {
        name: name.clone(),
        oid: table.try_get(0)?,
        columns: columns.iter().map(column).collect::<Result<_, _>>()?,
        partitioned: table.try_get(1)?,
        logged: table.try_get(2)?,
        partitions: table.try_get(3)?,
        children: table.try_get(4)?,
        unlogged: table.try_get(5)?,
        family: table.try_get(6)?,
        id_is_key: table.try_get(7)?,
        replica_identity: table.try_get(8)?,
        rows_hidden: table.try_get(9)?,
        can_use_schema: table.try_get(10)?,
        can_delete: table.try_get(11)?,
    })
}

/// An error of a statement that was made for a table of this shape: transient if the table was
/// altered since. The next attempt reads the shape again.
pub(crate) async fn recheck(session: &Session, shape: &TableShape, error: Error) -> Error {
    let suspicious = ServerError::of(&error).is_some_and(ServerError::may_be_of_altered_table);
    if error.is_transient() || !suspicious {
        return error;
    }
    match read(session, &shape.name).await {
        Ok(Some(found)) if found == *shape => error,
        _ => error.into_transient(),
    }
}

/// An SQL condition: the name is still that of this table. A statement locks its table when it is
/// parsed, so the name cannot change during the statement.
pub(crate) fn is_table(table: &TableName, oid: u32) -> String {
    let name = table.quoted().replace('\'', "''");
    format!("pg_catalog.to_regclass('{name}')::oid = {oid}")
}

#[cfg(test)]
impl TableShape {
    /// The table `outbox.outbox` with these columns, each with its type, and all rights.
    pub(crate) fn of_columns(oid: u32, columns: &[(&str, &str)]) -> Self {
        let column = |(number, (name, type_name)): (i16, &(&str, &str))| Column {
            number,
            name: (*name).to_owned(),
            type_name: (*type_name).to_owned(),
            base_type: (*type_name).to_owned(),
            generated: false,
            default: None,
            can_select: true,
            can_update: true,
        };
        TableShape {
            name: TableName {
                schema: "outbox".to_owned(),
                name: "outbox".to_owned(),
            },
            oid,
            columns: (1..).zip(columns).map(column).collect(),
            partitioned: false,
            partitions: Vec::new(),
            id_is_key: true,
            logged: true,
            children: Vec::new(),
            unlogged: Vec::new(),
            family: vec![oid],
            replica_identity: true,
            rows_hidden: false,
            can_use_schema: true,
            can_delete: true,
        }
    }
}
