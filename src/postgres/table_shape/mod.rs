//! The outbox table's shape, from the catalog: columns by name, key, partitions, and the rights of
//! outboxd's role.

mod catalog;
pub(crate) mod row_mark;
mod shape;

pub use self::catalog::read;
pub(crate) use self::catalog::recheck;
pub use self::shape::{Column, TableShape};
pub(crate) use self::shape::{
    PLAIN, TIMESTAMP, TIMESTAMPTZ, identifier, is_part, is_table, may_change_rows,
};
