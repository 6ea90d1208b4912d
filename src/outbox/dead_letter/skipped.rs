//! The statements of `skip-transaction`: counting the open events before the transaction, and
//! filing the transaction with its unpublished rows.
//!
//! The transaction itself gets one entry (`skipped`), for the record. Each of its unpublished rows
//! gets one in state `retry`, by reference: the publisher reads the row from the table and
//! publishes it like any dead letter that is retried. Both statements are repeatable.

use tokio_postgres::types::ToSql;

use crate::error::Result;
use crate::lsn::Lsn;
use crate::outbox::dead_letter::Rejection;
use crate::outbox::dead_letter::row_identity::{created_at, is_about};
use crate::postgres::{Session, TableShape};

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
pub(crate) async fn open_count(session: &Session, shape: &TableShape, ids: &[i64]) -> Result<i64> {
    let sql = format!(
        "SELECT count(*) FROM {table} AS o
          WHERE o.id = ANY ($1::bigint[]) AND o.published_at IS NULL
            AND NOT EXISTS (SELECT FROM {dead_letters} AS d
                             WHERE d.outbox_id = o.id::text AND {about})",
        table = shape.name.quoted(),
        dead_letters = shape.name.dead_letter().quoted(),
        about = is_about(shape, "o"),
    );
    let row = session
        .row(
            "counting the open rows before the transaction",
            &sql,
            &[&ids],
        )
        .await?;
    Ok(row.get(0))
}

/// Files the transaction, and each of its unpublished rows to be retried from the table. Returns
/// the number of rows.
pub(crate) async fn file(
    session: &Session,
    shape: &TableShape,
    transaction: &SkippedTransaction<'_>,
) -> Result<u64> {
    let sql = format!(
        "WITH audit AS (
             INSERT INTO {dead_letters} (system_id, commit_lsn, event_index, payload_sha256,
                                         error_code, error, state)
             VALUES ($1, $2::text::pg_lsn, 0, sha256(''), $3, $4, 'skipped')
             ON CONFLICT DO NOTHING),
         rows AS (
             INSERT INTO {dead_letters} (system_id, outbox_id, commit_lsn, payload_sha256,
                                         error_code, error, state, event_created_at, table_oid)
             SELECT $1, o.id::text, $2::text::pg_lsn, sha256(''), $3, $4, 'retry',
                    {created_at}, {oid}
               FROM {table} AS o
              WHERE o.xmin::text::bigint = $5::bigint AND o.published_at IS NULL
                AND NOT EXISTS (SELECT FROM {dead_letters} AS d
                                 WHERE d.outbox_id = o.id::text AND {about})
              ORDER BY o.id
             RETURNING 1)
         SELECT count(*) FROM rows",
        dead_letters = shape.name.dead_letter().quoted(),
        table = shape.name.quoted(),
        created_at = created_at(shape, "o").unwrap_or_else(|| "NULL".to_owned()),
        oid = shape.oid,
        about = is_about(shape, "o"),
    );
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
    Ok(row.get::<_, i64>(0).unsigned_abs())
}
