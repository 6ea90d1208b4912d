//! What a table looks like: its columns and what they mean, its key, its partitions, and the rights
//! of outboxd's role on it.

use std::sync::Arc;

use crate::config::mapping::ColumnName;
use crate::config::{Mapping, Source, TableName};
use crate::postgres::problem::ServerProblem;
use postgres_protocol::escape::escape_identifier;

/// The types that SQL writes like this.
pub(crate) const TIMESTAMP: &str = "timestamp without time zone";
pub(crate) const TIMESTAMPTZ: &str = "timestamp with time zone";

/// One column.
///
/// Two are the same whatever the names of their types are: a session writes the name of a type in a
/// schema of its search_path without the schema.
#[derive(Debug, Clone, Eq)]
pub struct Column {
    /// Its number, which no column gets again: a column that was dropped and added has another.
    pub number: i16,
    /// Its name.
    pub name: String,
    /// The object id of its type.
    pub type_id: u32,
    /// Its type as SQL writes it, such as `timestamp without time zone`.
    pub type_name: String,
    /// The same, or the type that a domain is made of.
    pub base_type: String,
    /// Whether it is computed from others; before Postgres 18 the stream does not carry such a
    /// column.
    pub generated: bool,
    /// Whether it is never null.
    pub not_null: bool,
    /// The time zone that its default names, if it names one.
    pub zone: Option<String>,
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
    /// What its columns mean.
    pub mapping: Arc<Mapping>,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Whether it is a view, which only a poller can read. Whether its id is unique is not known.
    pub is_view: bool,
    /// Whether it is partitioned.
    pub partitioned: bool,
    /// Its leaf partitions, if it is partitioned.
    pub partitions: Vec<u32>,
    /// Whether the columns of the id hold a valid primary or unique key or, where the table is
    /// partitioned, are a part of one that begins with them.
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

    /// The column of this meaning, if the table has one.
    fn meaning(&self, name: &ColumnName) -> Option<&Column> {
        self.column(name.as_deref()?)
    }

    /// The columns of the id, in the order of the setting; those that the table lacks are left out.
    pub(crate) fn id_columns(&self) -> Vec<&Column> {
        let names = self.mapping.columns.id.iter();
        names.filter_map(|name| self.column(name)).collect()
    }

    /// The column of the payload.
    pub(crate) fn payload(&self) -> Option<&Column> {
        self.column(&self.mapping.columns.payload)
    }

    /// The column of the time of creation.
    pub(crate) fn created(&self) -> Option<&Column> {
        self.meaning(&self.mapping.columns.created)
    }

    /// The column that shows whether a row is published.
    pub(crate) fn published(&self) -> Option<&Column> {
        self.meaning(&self.mapping.columns.published.column)
    }

    /// The column that counts attempts.
    pub(crate) fn attempts(&self) -> Option<&Column> {
        self.meaning(&self.mapping.columns.attempts)
    }

    /// The column of the row's own headers.
    pub(crate) fn headers(&self) -> Option<&Column> {
        self.meaning(&self.mapping.columns.headers.column)
    }

    /// An expression for the transaction that inserted the row `alias`, or changed it last; 0 where
    /// the table does not tell.
    pub(crate) fn xid(&self, alias: &str) -> String {
        match self.is_view {
            true => "0::bigint".to_owned(),
            false => format!("{alias}.xmin::text::bigint"),
        }
    }

    /// The columns in whose order the table is read: the one that a setting names, and the id.
    pub(crate) fn order_columns(&self) -> Vec<&Column> {
        let order = self.mapping.columns.order.as_deref();
        let order = order.and_then(|name| self.column(name));
        order.into_iter().chain(self.id_columns()).collect()
    }

    /// Whether the id is one integer. A domain is none, since the stream does not tell what it is
    /// made of.
    pub fn id_is_integer(&self) -> bool {
        let is_integer = |id: &Column| id.is_integer() && id.type_name == id.base_type;
        let ids = self.id_columns();
        matches!(&ids[..], [id] if is_integer(id) && self.mapping.columns.id.len() == 1)
    }

    /// What keeps rows, or a part of each row, from being read from this source.
    pub(crate) fn problems(&self, source: Source) -> Vec<ServerProblem> {
        let mut problems = Vec::new();
        let (name, quoted) = (&self.name, self.name.quoted());
        if self.is_view && source == Source::Slot {
            problems.push(ServerProblem::config(
                format!("{name} is a view, and the WAL has the rows of tables alone"),
                "set OUTBOX_SOURCE=poll, or OUTBOX_TABLE to the table behind the view",
            ));
        }
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
        let is_given = self.mapping.columns.headers.column.given;
        let fits = |column: &&Column| column.is_json() || is_given && column.is_text();
        if let Some(headers) = self.headers().filter(|column| !fits(column)) {
            problems.push(ServerProblem::config(
                format!("{name}.{} has the type {}", headers.name, headers.type_name),
                "outboxd reads the column as a JSON object: \
                 change its type to jsonb, or set OUTBOX_COLUMNS=headers=none",
            ));
        }
        problems
    }
}

impl PartialEq for Column {
    fn eq(&self, other: &Self) -> bool {
        let facts = |it: &Column| {
            let rights = (it.can_select, it.can_update);
            (it.number, it.type_id, it.generated, it.not_null, rights)
        };
        facts(self) == facts(other) && self.name == other.name && self.zone == other.zone
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

    /// The name, quoted where that is needed.
    pub(crate) fn quoted(&self) -> String {
        identifier(&self.name)
    }

    /// Whether its values are JSON.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self.base_type.as_str(), "json" | "jsonb")
    }

    /// Whether its values are text.
    pub(crate) fn is_text(&self) -> bool {
        matches!(
            self.base_type.as_str(),
            "text" | "character varying" | "character"
        )
    }

    /// Whether its values are integers.
    pub(crate) fn is_integer(&self) -> bool {
        matches!(self.base_type.as_str(), "smallint" | "integer" | "bigint")
    }
}

/// The names of the columns of `outbox.outbox`, none of which SQL needs to quote.
pub(crate) const PLAIN: [&str; 8] = [
    "id",
    "event_type",
    "topic",
    "event_payload",
    "created_at",
    "times_attempted",
    "published_at",
    "headers",
];

/// A column's name in a statement. The names of `outbox.outbox` are not quoted, since people read
/// statements with them.
pub(crate) fn identifier(name: &str) -> String {
    match PLAIN.contains(&name) {
        true => name.to_owned(),
        false => escape_identifier(name),
    }
}

/// An SQL condition: the name is still that of this table. A statement locks its table when it is
/// parsed, so the name cannot change during the statement.
pub(crate) fn is_table(table: &TableName, oid: u32) -> String {
    let name = table.quoted().replace('\'', "''");
    format!("pg_catalog.to_regclass('{name}')::oid = {oid}")
}

/// An SQL expression for a statement that changes rows of this table: the table or one of its
/// partitions may change them once more, by a trigger, a rule, or as a foreign table. The statement
/// holds a lock under which no trigger and no rule can be created.
pub(crate) fn may_change_rows(oid: u32) -> String {
    format!(
        "(SELECT pg_catalog.bool_or(c.relhastriggers OR c.relhasrules \
                 OR c.relkind NOT IN ('r', 'p') OR (c.relkind = 'r' AND c.relhassubclass)) \
            FROM pg_catalog.pg_class AS c WHERE {})",
        is_part(oid)
    )
}

/// An SQL condition for the row `c` of `pg_class`: it is this table or one of its partitions.
pub(crate) fn is_part(oid: u32) -> String {
    format!(
        "c.oid = ANY (ARRAY(SELECT p.relid::oid FROM pg_catalog.pg_partition_tree({oid}) AS p \
                             UNION ALL SELECT {oid}::oid))"
    )
}

impl TableShape {
    /// The shape of a table that is not read: these columns, each with its type, and all rights.
    pub(crate) fn assumed(
        name: TableName,
        oid: u32,
        columns: &[(&str, &str)],
        mapping: Mapping,
    ) -> Self {
        let column = |(number, (name, type_name)): (i16, &(&str, &str))| Column {
            number,
            name: (*name).to_owned(),
            type_name: (*type_name).to_owned(),
            base_type: (*type_name).to_owned(),
            generated: false,
            not_null: true,
            type_id: 0,
            zone: None,
            can_select: true,
            can_update: true,
        };
        TableShape {
            name,
            oid,
            mapping: Arc::new(mapping),
            columns: (1..).zip(columns).map(column).collect(),
            is_view: false,
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

#[cfg(test)]
impl TableShape {
    /// The table `outbox.outbox` with these columns, each with its type, and all rights.
    pub(crate) fn of_columns(oid: u32, columns: &[(&str, &str)]) -> Self {
        TableShape::of_mapping(oid, columns, Mapping::default())
    }

    /// The same, whose columns mean what `mapping` says.
    pub(crate) fn of_mapping(oid: u32, columns: &[(&str, &str)], mapping: Mapping) -> Self {
        TableShape::assumed(TableName::default(), oid, columns, mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_another_session_writes_with_its_schema_is_the_same() {
        let column = |type_name| TableShape::of_columns(1, &[("kind", type_name)]).columns;
        assert_eq!(column("mood"), column("app.mood"));
        let mut other = column("mood");
        other[0].type_id = 1;
        assert_ne!(column("mood"), other);
    }
}
