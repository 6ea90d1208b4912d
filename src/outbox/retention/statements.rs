//! The statements of retention: what may be deleted, and how a range of pages is read.
//!
//! A row may be deleted that is a message of this outbox, is published, is old and has no open dead
//! letter. Its age counts from the time of its mark, or from its creation where the mark is no
//! time. A statement names a partition by its object id and goes through the table itself, so that
//! it needs no right on a partition. It waits for no lock of a row.

use crate::config::{Config, TableName};
use crate::outbox::dead_letter::{CLOSED, OPEN, is_about};
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::outbox::row_key::RowKey;
use crate::postgres::TableShape;
use crate::postgres::table_shape::is_table;
use crate::postgres::table_shape::row_mark::{age_column, now_of};

/// The pages of a step, as the parameters `$1` to `$3`: partition, first page, and the page behind
/// the last one.
const RANGE: &str = "t.tableoid = $1::oid \
                     AND t.ctid >= $2::text::pg_catalog.tid AND t.ctid < $3::text::pg_catalog.tid";

/// The object id, the pages and the kind of what a pass goes through: the table `$1` or its
/// partitions, and the table of dead letters `$2`.
pub(super) const LEAVES: &str = "
    SELECT c.oid, c.oid = $2::oid,
           pg_catalog.pg_relation_size(c.oid)
             / pg_catalog.current_setting('block_size')::bigint
      FROM pg_catalog.pg_class AS c
     WHERE c.relkind = 'r'
       AND (c.oid IN ($1::oid, $2::oid)
            OR c.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree($1::oid) AS p
                          WHERE p.isleaf))
     ORDER BY 2, 1";

/// The object id of the table of dead letters; null if there is none.
pub(super) fn dead_letter_oid(outbox: &TableName) -> String {
    let name = outbox.dead_letter().quoted().replace('\'', "''");
    format!("SELECT pg_catalog.to_regclass('{name}')::oid")
}

/// The statements about the rows of one table.
#[derive(Debug)]
pub(super) struct Deletion {
    /// Deletes up to `$5` rows that are older than `$4` seconds. Returns how many there were, how
    /// many are deleted, and the age of the oldest in seconds.
    pub(super) delete: String,
    /// The age of the oldest row that is there, published or closed.
    pub(super) oldest: String,
}

impl Deletion {
    /// Of the rows of the outbox; `None` if nothing shows how old a published row is.
    pub(super) fn of_rows(config: &Config, shape: &TableShape) -> Option<Self> {
        let marking = Marking::new(config.after_publish, shape);
        let column = age_column(shape)?;
        let published = marking.is_published("t")?;
        let dead_letters = config.table.dead_letter().quoted();
        let no_dead_letter = format!(
            "NOT EXISTS (SELECT FROM {dead_letters} AS d \
                          WHERE d.outbox_id = {id} AND d.{OPEN} AND {about})",
            id = RowKey::of(shape).text("t"),
            about = is_about(shape, "t"),
        );
        let which = format!("{published}{}", and_is_message(shape, "t"));
        Some(Deletion::new(
            &shape.name,
            &format!("{which} AND {}", is_table(&shape.name, shape.oid)),
            &no_dead_letter,
            &format!("t.{}", column.quoted()),
            &now_of(shape, column),
        ))
    }

    /// Of the closed dead letters.
    pub(super) fn of_dead_letters(outbox: &TableName) -> Self {
        let table = outbox.dead_letter();
        Deletion::new(&table, CLOSED, "true", "t.updated_at", "CURRENT_TIMESTAMP")
    }

    fn new(table: &TableName, which: &str, more: &str, time: &str, now: &str) -> Self {
        let table = table.quoted();
        let age = format!(
            "CASE WHEN pg_catalog.isfinite(pg_catalog.min(seen.time)) \
                  THEN extract(epoch FROM {now} - pg_catalog.min(seen.time))::float8 END"
        );
        Deletion {
            delete: format!(
                "WITH seen AS MATERIALIZED ( \
                     SELECT t.ctid AS place, {time} AS time FROM {table} AS t \
                      WHERE {RANGE} AND {which} AND {more} \
                        AND {time} < {now} - $4::float8 * INTERVAL '1 second' \
                      LIMIT $5::bigint FOR UPDATE OF t SKIP LOCKED), \
                  gone AS (DELETE FROM {table} AS t \
                            WHERE t.tableoid = $1::oid \
                              AND t.ctid = ANY (ARRAY(SELECT place FROM seen)) AND {which} \
                           RETURNING 1) \
                 SELECT (SELECT pg_catalog.count(*) FROM seen), \
                        (SELECT pg_catalog.count(*) FROM gone), (SELECT {age} FROM seen)"
            ),
            oldest: format!(
                "SELECT {age} FROM (SELECT {time} AS time FROM {table} AS t \
                                     WHERE {RANGE} AND {which}) AS seen"
            ),
        }
    }

    pub(super) fn all(&self) -> [&str; 2] {
        [&self.delete, &self.oldest]
    }
}
