//! What acts on the rows of the outbox beside its writers, and how well it is kept: triggers,
//! rules, indexes, dead rows.

use tokio_postgres::Row;

use crate::error::Result;
use crate::postgres::session::{Columns, Session};
use crate::postgres::table_shape::TableShape;
use crate::postgres::table_shape::row_mark::RowMark;

/// How many triggers or rules are named at most.
const NAMED_MAX: i64 = 10;

/// An enabled trigger of the table or a partition that fires when a row is marked or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trigger {
    pub(crate) name: String,
    pub(crate) table: String,
    /// It fires before the change, and may refuse or alter it.
    pub(crate) is_before: bool,
    pub(crate) on_update: bool,
    pub(crate) on_delete: bool,
}

/// An enabled rule that rewrites updates or deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) table: String,
    /// It takes the place of the change.
    pub(crate) is_instead: bool,
    pub(crate) on_update: bool,
}

/// An index whose condition is that a row is unpublished, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnpublishedIndex {
    pub(crate) name: String,
    /// Whether it may be used; a concurrent build that failed leaves one that may not.
    pub(crate) is_valid: bool,
    pub(crate) bytes: i64,
}

/// See the module's head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TableFacts {
    pub(crate) triggers: Vec<Trigger>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) indexes: Vec<UnpublishedIndex>,
    /// The estimates of the server, of all partitions.
    pub(crate) live_rows: i64,
    pub(crate) dead_rows: i64,
    /// Whether autovacuum leaves the table or a partition out.
    pub(crate) has_no_autovacuum: bool,
    /// With the indexes, of all partitions.
    pub(crate) bytes: i64,
}

/// `tgtype`: 1 for each row, 2 before, 8 delete, 16 update, 64 instead of.
const TRIGGERS: &str = "
    SELECT t.tgname::text, t.tgrelid::regclass::text, (t.tgtype & 2) <> 0,
           (t.tgtype & 16) <> 0, (t.tgtype & 8) <> 0
      FROM pg_catalog.pg_trigger AS t
     WHERE t.tgrelid = ANY ($1) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
       AND (t.tgtype & 24) <> 0
     ORDER BY 2, 1 LIMIT $2";

const RULES: &str = "
    SELECT r.rulename::text, r.ev_class::regclass::text, r.is_instead, r.ev_type = '2'
      FROM pg_catalog.pg_rewrite AS r
     WHERE r.ev_class = ANY ($1) AND r.ev_type IN ('2', '4') AND r.ev_enabled IN ('O', 'A')
     ORDER BY 2, 1 LIMIT $2";

const INDEXES: &str = "
    SELECT i.indexrelid::regclass::text, i.indisvalid,
           pg_catalog.pg_relation_size(i.indexrelid::regclass),
           pg_catalog.pg_get_expr(i.indpred, i.indrelid)
      FROM pg_catalog.pg_index AS i
      JOIN pg_catalog.pg_attribute AS a
        ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = $1 AND a.attname = $3 AND i.indpred IS NOT NULL
     ORDER BY 1 LIMIT $2";

const ROWS: &str = "
    SELECT coalesce(pg_catalog.sum(s.n_live_tup), 0)::int8,
           coalesce(pg_catalog.sum(s.n_dead_tup), 0)::int8,
           coalesce((SELECT pg_catalog.bool_or(c.reloptions && ARRAY['autovacuum_enabled=false',
                                                'autovacuum_enabled=off'])
                       FROM pg_catalog.pg_class AS c WHERE c.oid = ANY ($1)), false),
           coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(s.relid)), 0)::int8
      FROM pg_catalog.pg_stat_all_tables AS s WHERE s.relid = ANY ($1)";

/// Reads them for the table of this shape.
pub(crate) async fn table(session: &Session, shape: &TableShape) -> Result<TableFacts> {
    let what = format!("reading triggers and indexes of {}", shape.name);
    let family = &shape.family;
    let triggers = session.rows(&what, TRIGGERS, &[family, &NAMED_MAX]).await?;
    let rules = session.rows(&what, RULES, &[family, &NAMED_MAX]).await?;
    let order = shape.order_columns();
    let first = order.first().map_or("id", |column| column.name.as_str());
    let indexes = session
        .rows(&what, INDEXES, &[&shape.oid, &NAMED_MAX, &first])
        .await?;
    let rows = session.row(&what, ROWS, &[family]).await?;
    let triggers = triggers.iter().map(|row| {
        Ok(Trigger {
            name: row.column(0)?,
            table: row.column(1)?,
            is_before: row.column(2)?,
            on_update: row.column(3)?,
            on_delete: row.column(4)?,
        })
    });
    let rules = rules.iter().map(|row| {
        Ok(Rule {
            name: row.column(0)?,
            table: row.column(1)?,
            is_instead: row.column(2)?,
            on_update: row.column(3)?,
        })
    });
    let mark = RowMark::of(shape);
    let is_of_unpublished = |row: &&Row| {
        let printed: Result<&str> = row.column(3);
        let of_mark = mark.as_ref().zip(printed.ok());
        of_mark.is_some_and(|(mark, printed)| mark.is_predicate(printed))
    };
    let indexes = indexes.iter().filter(is_of_unpublished).map(|row| {
        Ok(UnpublishedIndex {
            name: row.column(0)?,
            is_valid: row.column(1)?,
            bytes: row.column(2)?,
        })
    });
    Ok(TableFacts {
        triggers: triggers.collect::<Result<_>>()?,
        rules: rules.collect::<Result<_>>()?,
        indexes: indexes.collect::<Result<_>>()?,
        live_rows: rows.column(0)?,
        dead_rows: rows.column(1)?,
        has_no_autovacuum: rows.column(2)?,
        bytes: rows.column(3)?,
    })
}
