//! The outbox table's shape, from the catalog: columns by name, key, partitions, and the rights of
//! outboxd's role.

use crate::config::TableName;
use crate::error::Result;
use crate::postgres::session::Session;

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as SQL writes it, such as `timestamp without time zone`.
    pub type_name: String,
    /// Whether it is computed from others; before Postgres 18 the stream does not carry such a
    /// column.
    pub generated: bool,
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
}

const TABLE: &str = "
    SELECT c.oid, c.relkind = 'p', c.relpersistence = 'p',
           ARRAY(SELECT relid::oid FROM pg_catalog.pg_partition_tree(c.oid) WHERE isleaf),
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
    SELECT a.attname::text, pg_catalog.format_type(a.atttypid, NULL), a.attgenerated <> '',
           pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
           pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'UPDATE')
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
    let oid: u32 = table.get(0);
    let columns = session.rows(&what, COLUMNS, &[&oid]).await?;
    let columns = columns.iter().map(|row| Column {
        name: row.get(0),
        type_name: row.get(1),
        generated: row.get(2),
        can_select: row.get(3),
        can_update: row.get(4),
    });
    Ok(Some(TableShape {
        name: name.clone(),
        oid,
        columns: columns.collect(),
        partitioned: table.get(1),
        logged: table.get(2),
        partitions: table.get(3),
        family: table.get(4),
        id_is_key: table.get(5),
        replica_identity: table.get(6),
        rows_hidden: table.get(7),
        can_use_schema: table.get(8),
        can_delete: table.get(9),
    }))
}

/// An SQL condition: the name is still that of this table. A statement locks its table when it is
/// parsed, so the name cannot change during the statement.
pub(crate) fn is_table(table: &TableName, oid: u32) -> String {
    let name = table.quoted().replace('\'', "''");
    format!("pg_catalog.to_regclass('{name}')::oid = {oid}")
}
