//! The statements of the write-back, and how one session runs them.

use std::collections::{HashMap, HashSet};

use tokio_postgres::Row;

use crate::outbox::marking::Marking;
use crate::outbox::write_back::marks::{Changed, MarkedTable};
use crate::outbox::{CreatedAt, RowId, RowName};
use crate::postgres::{Session, is_lock_conflict};

/// The statements that mark or delete rows. Each names the table's object id as well: none changes
/// a row of a table that was dropped and recreated under the name.
#[derive(Debug)]
pub(crate) struct MarkStatements {
    mark: String,
    mark_free: String,
    look: String,
}

/// The end of the oldest snapshot, from which transactions count as running.
const XMAX: &str = "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text";

const IN_PROGRESS: &str = "SELECT t.xid FROM pg_catalog.unnest($1::text[]) AS t (xid) \
      WHERE pg_catalog.pg_xact_status(t.xid::pg_catalog.xid8) = 'in progress'";

/// Triggers that the table defers to the commit run at once.
const TRY: &str = "BEGIN; SET CONSTRAINTS ALL IMMEDIATE";

impl MarkStatements {
    pub(crate) fn new(marking: &Marking) -> Self {
        let (table, key) = (marking.table(), marking.key());
        let named = format!("{} AND {}", marking.is_named(), marking.candidates("t"));
        let free = format!(
            "SELECT {ids}, {created} AS row_created FROM {table} AS t WHERE {named} \
              ORDER BY {ids} FOR UPDATE SKIP LOCKED",
            ids = key.list("t"),
            created = marking.created(),
        );
        let is_free = format!(
            "{same} AND {created} IS NOT DISTINCT FROM free.row_created AND {candidates}",
            same = key.same("t", "free"),
            created = marking.created(),
            candidates = marking.candidates("t")
        );
        MarkStatements {
            mark: format!(
                "{changed} RETURNING {id}, {may_be_undone}",
                changed = marking.statement("", &named, "1"),
                id = key.value("t"),
                may_be_undone = marking.may_be_undone(),
            ),
            mark_free: format!(
                "WITH free AS ({free}), changed AS ({changed}) SELECT {id} FROM free",
                id = key.value("free"),
                changed = marking.statement("FROM free", &is_free, "1")
            ),
            look: format!(
                "SELECT {id}, {unpublished} FROM {table} AS t \
                  WHERE {is_named} AND {ours}",
                id = key.value("t"),
                unpublished = marking.unpublished("t"),
                is_named = marking.is_named(),
                ours = marking.is_ours(),
            ),
        }
    }

    /// Every statement.
    pub(crate) fn all(&self) -> [&str; 5] {
        [&self.mark, &self.mark_free, &self.look, XMAX, IN_PROGRESS]
    }
}

/// The statements on one session.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableOnSession<'a> {
    pub(super) session: &'a Session,
    pub(super) statements: &'a MarkStatements,
}

impl TableOnSession<'_> {
    async fn rows(&self, sql: &str, rows: &[RowName]) -> Result<Vec<Row>, tokio_postgres::Error> {
        debug_assert!(rows.is_sorted_by(|a, b| a.id < b.id), "each id once");
        let named = rows.iter().map(|row| (&row.id, row.created.or_any()));
        let (ids, created): (Vec<&RowId>, Vec<CreatedAt>) = named.unzip();
        let statement = self.session.prepared(sql).await?;
        self.session.query(&statement, &[&ids, &created]).await
    }
}

fn ids(rows: &[Row]) -> Result<HashSet<RowId>, tokio_postgres::Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

impl MarkedTable for TableOnSession<'_> {
    type Error = tokio_postgres::Error;

    async fn mark(&self, rows: &[RowName]) -> Result<Option<Changed>, Self::Error> {
        let changed = match self.rows(&self.statements.mark, rows).await {
            Ok(changed) => changed,
            Err(error) if is_lock_conflict(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The same in each row.
        let may_be_undone = changed.first().map(|row| row.try_get(1)).transpose()?;
        Ok(Some(Changed {
            ids: ids(&changed)?,
            may_be_undone: may_be_undone.unwrap_or_default(),
        }))
    }

    async fn mark_free(&self, rows: &[RowName]) -> Result<HashSet<RowId>, Self::Error> {
        ids(&self.rows(&self.statements.mark_free, rows).await?)
    }

    async fn look(&self, rows: &[RowName]) -> Result<HashMap<RowId, bool>, Self::Error> {
        let mut unpublished = HashMap::new();
        // In a partitioned table, two partitions may have the same id: the unpublished row counts.
        for row in self.rows(&self.statements.look, rows).await? {
            *unpublished.entry(row.try_get(0)?).or_default() |= row.try_get::<_, bool>(1)?;
        }
        Ok(unpublished)
    }

    async fn try_mark(
        &self,
        rows: &[RowName],
    ) -> Result<(HashSet<RowId>, HashMap<RowId, bool>), Self::Error> {
        self.session.batch_execute(TRY).await?;
        let found = async { Ok((self.mark_free(rows).await?, self.look(rows).await?)) }.await;
        self.session.batch_execute("ROLLBACK").await?;
        found
    }

    /// A transaction that is too old for `pg_xact_status` is over.
    ///
    /// `pg_xact_status` needs 64 bits, the stream has 32: the epoch is the one that brings the id
    /// closest to the snapshot's xmax. An id at or beyond xmax is running; `pg_xact_status` would
    /// refuse some of those as being in the future.
    async fn running(&self, xids: &[u32]) -> Result<HashSet<u32>, Self::Error> {
        let statement = self.session.prepared(XMAX).await?;
        let row = self.session.query_one(&statement, &[]).await?;
        let xmax: i64 = row.try_get::<_, String>(0)?.parse().unwrap_or(0);
        let full = |xid: u32| xmax + i64::from(xid.wrapping_sub(xmax as u32) as i32);
        let (over, running): (Vec<u32>, Vec<u32>) = xids.iter().partition(|xid| full(**xid) < xmax);
        let known: Vec<String> = over
            .iter()
            .filter(|xid| full(**xid) > 0)
            .map(|xid| full(*xid).to_string())
            .collect();
        let statement = self.session.prepared(IN_PROGRESS).await?;
        let rows = self.session.query(&statement, &[&known]).await?;
        // The low half of the 64 bits is the id as the stream gives it.
        let low = |text: String| text.parse::<u64>().map(|full| full as u32).ok();
        let mut running = HashSet::from_iter(running);
        for row in &rows {
            running.extend(low(row.try_get(0)?));
        }
        Ok(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AfterPublish;

    const COLUMNS: [(&str, &str); 3] = [
        ("id", "bigint"),
        ("times_attempted", "integer"),
        ("published_at", "timestamp without time zone"),
    ];

    fn normal(sql: &str) -> String {
        sql.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The id of a dropped table names another row, if its name was given to another table.
    #[test]
    fn a_statement_about_ids_names_the_table_that_they_belong_to() {
        for after_publish in [AfterPublish::Mark, AfterPublish::Delete] {
            let statements = MarkStatements::new(&Marking::of_columns(after_publish, &COLUMNS));
            let changes = normal(&statements.mark_free);
            for sql in &statements.all()[..3] {
                let named = "to_regclass('\"outbox\".\"outbox\"')::oid = 4711";
                assert!(sql.contains(named), "{sql}");
            }
            assert_eq!(changes.matches("= 4711").count(), 2, "{changes}");
        }
    }

    #[test]
    fn a_published_row_is_neither_marked_nor_deleted_again() {
        for (after_publish, verb) in [
            (AfterPublish::Mark, "UPDATE"),
            (AfterPublish::Delete, "DELETE"),
        ] {
            let statements = MarkStatements::new(&Marking::of_columns(after_publish, &COLUMNS));
            for sql in [&statements.mark, &statements.mark_free] {
                let change = sql.rsplit_once(verb).map_or("", |(_, change)| change);
                let condition = change
                    .split_once("WHERE")
                    .map_or("", |(_, condition)| condition);
                assert!(condition.contains("t.published_at IS NULL"), "{sql}");
            }
        }
    }
}
