//! The description of a table, sent before its first row and again after each change of the table.
//!
//! A [`Relation`] owns its names: it is kept for all rows that follow, and is sent too rarely for
//! its allocations to matter.

use crate::pgoutput::DecodeError;
use crate::pgoutput::reader::Reader;

/// The table's columns at the time when the rows that follow were written: `R`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's oid, which the rows carry.
    pub id: u32,
    /// The schema. The server sends an empty name for `pg_catalog`; it is filled in here.
    pub namespace: String,
    /// The table's name.
    pub name: String,
    /// The columns of the old row that updates and deletes include.
    pub replica_identity: ReplicaIdentity,
    /// The columns, in the order of the tuples' values.
    pub columns: Vec<RelationColumn>,
}

/// A column of a [`Relation`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationColumn {
    /// Whether it is part of the replica identity.
    pub key: bool,
    /// The column's name.
    pub name: String,
    /// The oid of its type.
    pub type_id: u32,
    /// The type's modifier, such as the length of a `varchar`; −1 for none.
    pub type_modifier: i32,
}

/// The columns that identify a row in the WAL:
/// <https://www.postgresql.org/docs/current/sql-altertable.html#SQL-ALTERTABLE-REPLICA-IDENTITY>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key, if there is one.
    Default,
    /// Nothing.
    Nothing,
    /// All columns.
    Full,
    /// A unique index.
    Index,
}

/// The minimum size of a column: flags, an empty name's zero byte, type, modifier.
const COLUMN_BYTES_MIN: usize = 10;

impl Relation {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let id = reader.u32()?;
        let namespace = match reader.string()? {
            "" => "pg_catalog",
            namespace => namespace,
        }
        .to_owned();
        let name = reader.string()?.to_owned();
        let replica_identity = match reader.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            letter => return Err(DecodeError::UnknownReplicaIdentity(letter)),
        };
        let count = usize::from(reader.column_count()?);
        // The count is unchecked input: reserve memory only for columns that the bytes can hold.
        let mut columns = Vec::with_capacity(count.min(reader.rest().len() / COLUMN_BYTES_MIN));
        for _ in 0..count {
            columns.push(RelationColumn::decode(reader)?);
        }
        Ok(Relation {
            id,
            namespace,
            name,
            replica_identity,
            columns,
        })
    }
}

impl RelationColumn {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(RelationColumn {
            key: reader.u8()? & 1 != 0,
            name: reader.string()?.to_owned(),
            type_id: reader.u32()?,
            type_modifier: reader.i32()?,
        })
    }
}
