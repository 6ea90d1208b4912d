//! The statements that delete old rows in a range of pages.
//!
//! A statement names a partition by its object id and goes through the table itself, so that it
//! needs no right on a partition. It waits for no lock of a row.

use crate::config::{Config, TableName};
use crate::outbox::dead_letter::CLOSED;
use crate::outbox::retention::rule::{Rule, is_old};
use crate::postgres::TableShape;

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
        let rule = Rule::new(config, shape)?;
        Some(Deletion::new(&shape.name, &rule))
    }

    /// Of the closed dead letters.
    pub(super) fn of_dead_letters(outbox: &TableName) -> Self {
        let rule = Rule {
            published: CLOSED.to_owned(),
            no_dead_letter: "true".to_owned(),
            time: "t.updated_at".to_owned(),
            now: "CURRENT_TIMESTAMP".to_owned(),
        };
        Deletion::new(&outbox.dead_letter(), &rule)
    }

    fn new(table: &TableName, rule: &Rule) -> Self {
        let Rule {
            published: which,
            no_dead_letter,
            time,
            now,
        } = rule;
        let is_old = is_old(time, now);
        let table = table.quoted();
        let age = format!(
            "CASE WHEN pg_catalog.isfinite(pg_catalog.min(seen.time)) \
                  THEN extract(epoch FROM {now} - pg_catalog.min(seen.time))::float8 END"
        );
        Deletion {
            delete: format!(
                "WITH seen AS MATERIALIZED ( \
                     SELECT t.ctid AS place, {time} AS time FROM {table} AS t \
                      WHERE {RANGE} AND {which} AND {no_dead_letter} AND {is_old} \
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
