//! The schema, the table, its partitions and its indexes, as rows of the catalog's statements.

use tokio_postgres::Row;

use crate::config::TableName;
use crate::error::Result;
use crate::postgres::session::Columns;

#[derive(Debug, Clone, Default)]
pub(super) struct Schema {
    pub(super) owner: String,
    pub(super) is_owned: bool,
    pub(super) may_create: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Relation {
    /// `r` and `p` are tables.
    pub(super) kind: String,
    pub(super) owner: String,
    pub(super) is_owned: bool,
}

/// An index, valid or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundIndex {
    pub(super) table: u32,
    pub(super) name: TableName,
    pub(super) is_valid: bool,
    /// The first column; none where that is an expression.
    pub(super) column: Option<String>,
    pub(super) predicate: Option<String>,
    pub(super) method: String,
    /// The process that is building it.
    pub(super) builder: Option<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) oid: u32,
    pub(super) name: TableName,
}

pub(super) fn name_of(row: &Row, column: usize) -> Result<TableName> {
    Ok(TableName {
        schema: row.column(column)?,
        name: row.column(column + 1)?,
    })
}

pub(super) fn schema_of(row: &Row) -> Result<Schema> {
    Ok(Schema {
        owner: row.column(0)?,
        is_owned: row.column(1)?,
        may_create: row.column(2)?,
    })
}

pub(super) fn relation_of(row: &Row) -> Result<Relation> {
    Ok(Relation {
        kind: row.column(0)?,
        owner: row.column(1)?,
        is_owned: row.column(2)?,
    })
}

pub(super) fn index_of(row: &Row) -> Result<FoundIndex> {
    Ok(FoundIndex {
        table: row.column(0)?,
        name: name_of(row, 1)?,
        is_valid: row.column(3)?,
        column: row.column(4)?,
        predicate: row.column(5)?,
        method: row.column(6)?,
        builder: row.column(7)?,
    })
}

pub(super) fn leaf_of(row: &Row) -> Result<Leaf> {
    Ok(Leaf {
        oid: row.column(0)?,
        name: name_of(row, 1)?,
    })
}
