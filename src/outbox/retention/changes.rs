//! The statements about the partitions of an outbox.

use postgres_protocol::escape::escape_identifier;

use crate::config::{Config, OldPartitions};
use crate::outbox::retention::bounds::{Partition, Wanted, literal};
use crate::outbox::retention::rule::deletable;
use crate::postgres::TableShape;

/// The column of a table that is partitioned by ranges of one column, its type, the table's owner,
/// and whether the session's role may act as the owner: `$1` is the table.
pub(super) const TABLE: &str = "
    SELECT a.attname::text, pg_catalog.format_type(a.atttypid, NULL),
           pg_catalog.pg_get_userbyid(c.relowner)::text,
           pg_catalog.pg_has_role(c.relowner, 'MEMBER')
      FROM pg_catalog.pg_partitioned_table AS p
      JOIN pg_catalog.pg_class AS c ON c.oid = p.partrelid
      JOIN pg_catalog.pg_attribute AS a
        ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
     WHERE p.partrelid = $1 AND p.partstrat = 'r' AND p.partnatts = 1";

/// The partitions of the table `$1` with their bounds, as values of this type.
pub(super) fn partitions(column: &str) -> String {
    let bound = |word: &str| {
        format!(
            "extract(epoch FROM (pg_catalog.regexp_match(b.bound, \
                 '{word} \\(''([^'']+)''\\)'))[1]::{column})::float8"
        )
    };
    format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), b.bound = 'DEFAULT', \
                {from}, {to}, \
                ARRAY(SELECT t.relid::oid FROM pg_catalog.pg_partition_tree(c.oid) AS t \
                       WHERE t.isleaf) \
           FROM pg_catalog.pg_inherits AS i \
           JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid \
           JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
          CROSS JOIN LATERAL (SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bound) AS b \
          WHERE i.inhparent = $1 ORDER BY 1",
        from = bound("FROM"),
        to = bound("TO"),
    )
}

/// The statements that change the table's partitions.
#[derive(Debug)]
pub(super) struct Changes<'a> {
    pub(super) shape: &'a TableShape,
    /// The type of the column that partitions the table.
    pub(super) column: &'a str,
    pub(super) owner: &'a str,
}

/// A lock is waited for and held for this long at most, in milliseconds: writers queue behind it.
const LOCK: u32 = 40;
/// The server ends a session that holds a lock and says nothing for so many milliseconds, such as
/// that of a process which is suspended.
const SILENT: u32 = 1_000;

impl Changes<'_> {
    fn begin(&self, statement: u32) -> String {
        format!(
            "BEGIN; SET LOCAL lock_timeout = {LOCK}; SET LOCAL statement_timeout = {statement}; \
             SET LOCAL idle_in_transaction_session_timeout = {SILENT}; SET LOCAL ROLE {}",
            escape_identifier(self.owner)
        )
    }

    /// The statements that make a partition, as a person may run them. A table is made and then
    /// attached: that holds up neither a read nor a write.
    pub(super) fn by_hand(&self, wanted: Wanted) -> String {
        let table = self.shape.name.quoted();
        let name = self
            .shape
            .name
            .beside(wanted.name(&self.shape.name.name))
            .quoted();
        let [from, to] = [wanted.from, wanted.to].map(|it| literal(it, self.column));
        format!(
            "CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS \
             INCLUDING GENERATED INCLUDING STORAGE); \
             ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
        )
    }

    /// The same, as one transaction.
    pub(super) fn make(&self, wanted: Wanted) -> String {
        format!("{}; {}; COMMIT", self.begin(1_000), self.by_hand(wanted))
    }

    /// Locks an old partition, before [`unpublished`].
    pub(super) fn lock(&self, partition: &Partition) -> String {
        format!(
            "{}; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
            self.begin(90),
            partition.name
        )
    }

    /// Takes it away from the table.
    pub(super) fn take(&self, partition: &Partition, how: OldPartitions) -> String {
        let name = &partition.name;
        match how {
            OldPartitions::Drop => format!("DROP TABLE {name}; COMMIT"),
            OldPartitions::Detach => format!(
                "ALTER TABLE {} DETACH PARTITION {name}; COMMIT",
                self.shape.name.quoted()
            ),
        }
    }
}

/// Whether a partition has a row that may not be deleted yet, in a leaf, between two pages.
pub(super) fn kept(config: &Config, shape: &TableShape) -> Option<String> {
    let deletable = deletable(config, shape)?;
    Some(format!(
        "SELECT EXISTS (SELECT FROM {} AS t WHERE t.tableoid = $1::oid \
             AND t.ctid >= $2::text::pg_catalog.tid AND t.ctid < $3::text::pg_catalog.tid \
             AND NOT coalesce(({deletable}), false))",
        shape.name.quoted()
    ))
}

/// Whether a partition has an unpublished row. An index finds it.
pub(super) fn unpublished(unpublished: &str, partition: &Partition) -> String {
    format!(
        "SELECT EXISTS (SELECT FROM {} AS t WHERE {unpublished})",
        partition.name
    )
}
