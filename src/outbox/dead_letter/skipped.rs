//! The statements of `skip-transaction`: counting the open events before the transaction, and
//! filing the transaction with its unpublished rows.
//!
//! The transaction itself gets one entry (`skipped`), for the record. Each of its unpublished rows
//! gets one in state `retry`, by reference: the publisher reads the row from the table and
//! publishes it like any dead letter that is retried. Both statements are repeatable.

use tokio_postgres::types::ToSql;

use crate::config::AfterPublish;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::outbox::RowId;
use crate::outbox::dead_letter::Rejection;
use crate::outbox::dead_letter::row_identity::{created_at, is_about};
use crate::outbox::marking::Marking;
use crate::outbox::row_filter::and_is_message;
use crate::outbox::row_key::{ReadOrder, RowKey};
use crate::postgres::{Columns, Session, TableShape};

/// A transaction that is skipped.
#[derive(Debug)]
pub(crate) struct SkippedTransaction<'a> {
    /// The server's system identifier.
    pub(crate) system_id: &'a str,
    /// The position of its commit.
    pub(crate) lsn: Lsn,
    pub(crate) xid: u32,
    /// Why it cannot be decoded.
    pub(crate) error: &'a Rejection,
}

/// How many of these rows are neither published nor filed.
pub(crate) async fn open_count(
    session: &Session,
    shape: &TableShape,
    ids: &[RowId],
) -> Result<i64> {
    let sql = open_sql(shape);
    let row = session
        .row(
            "counting the open rows before the transaction",
            &sql,
            &[&ids],
        )
        .await?;
    row.column(0)
}

/// Files the transaction, and each of its unpublished rows to be retried from the table. Returns
/// the number of rows.
pub(crate) async fn file(
    session: &Session,
    shape: &TableShape,
    transaction: &SkippedTransaction<'_>,
) -> Result<u64> {
    let sql = file_sql(shape);
    let SkippedTransaction {
        system_id,
        lsn,
        xid,
        error,
    } = transaction;
    let position = lsn.to_string();
    let message = format!("transaction {xid} was skipped: {}", error.message);
    let what = format!("filing the transaction at {lsn}");
    session.restore_search_path().await?;
    let params: [&(dyn ToSql + Sync); 5] = [
        system_id,
        &position,
        &error.code,
        &message,
        &i64::from(*xid),
    ];
    let row = session.row(&what, &sql, &params).await?;
    Ok(row.column::<i64>(0)?.unsigned_abs())
}

fn open_sql(shape: &TableShape) -> String {
    let key = RowKey::of(shape);
    format!(
        "SELECT pg_catalog.count(*) FROM {table} AS o
          WHERE {is_any} AND {unpublished}
            AND NOT EXISTS (SELECT FROM {dead_letters} AS d
                             WHERE d.outbox_id = {id} AND {about})",
        is_any = key.is_any("o", "$1"),
        id = key.text("o"),
        table = shape.name.quoted(),
        unpublished = unpublished(shape),
        dead_letters = shape.name.dead_letter().quoted(),
        about = is_about(shape, "o"),
    )
}

fn file_sql(shape: &TableShape) -> String {
    let key = RowKey::of(shape);
    format!(
        "WITH audit AS (
             INSERT INTO {dead_letters} (system_id, commit_lsn, event_index, payload_sha256,
                                         error_code, error, state)
             VALUES ($1, $2::text::pg_lsn, 0, pg_catalog.sha256(''), $3, $4, 'skipped')
             ON CONFLICT DO NOTHING),
         rows AS (
             INSERT INTO {dead_letters} (system_id, outbox_id, commit_lsn, payload_sha256,
                                         error_code, error, state, event_created_at, table_oid)
             SELECT $1, {id}, $2::text::pg_lsn, pg_catalog.sha256(''), $3, $4, 'retry',
                    {created_at}, {oid}
               FROM {table} AS o
              WHERE {xid} = $5::bigint AND {unpublished}
                AND NOT EXISTS (SELECT FROM {dead_letters} AS d
                                 WHERE d.outbox_id = {id} AND {about})
              ORDER BY {by}
             RETURNING 1)
         SELECT pg_catalog.count(*) FROM rows",
        dead_letters = shape.name.dead_letter().quoted(),
        table = shape.name.quoted(),
        id = key.text("o"),
        by = ReadOrder::of(shape).by("o"),
        xid = shape.xid("o"),
        created_at = created_at(shape, "o").unwrap_or_else(|| "NULL".to_owned()),
        unpublished = unpublished(shape),
        oid = shape.oid,
        about = is_about(shape, "o"),
    )
}

/// Whether the row `o` is unpublished, in any mode.
fn unpublished(shape: &TableShape) -> String {
    let unpublished = Marking::new(AfterPublish::Keep, shape).unpublished("o");
    unpublished + &and_is_message(shape, "o")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_marks_can_have_a_transaction_skipped() {
        let columns = [("id", "bigint"), ("event_payload", "jsonb")];
        let bare = TableShape::of_columns(1, &columns);
        let marked = TableShape::of_columns(1, &[("published_at", "timestamptz")]);
        for sql in [open_sql, file_sql] {
            assert!(!sql(&bare).contains("published_at"), "{}", sql(&bare));
            assert!(sql(&marked).contains("o.published_at IS NULL"));
        }
    }
}
