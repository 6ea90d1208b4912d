//! Commands before the stream starts, by the simple query protocol: SQL and the replication
//! commands.
//!
//! Callers pass bare names; this module quotes them. Every command has a time limit, because TCP
//! does not notice an answer that a proxy has lost. The creation of a slot has none: the server
//! waits there for other transactions. See
//! <https://www.postgresql.org/docs/current/protocol-replication.html>.

use postgres_protocol::escape::escape_identifier;
use postgres_protocol::message::backend::{DataRowBody, ERROR_RESPONSE_TAG, Message};
use tokio::time::timeout;
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::process_sql;
use crate::postgres::slot::{classify_replication, needs_replication};
use crate::postgres::sqlstate::{self, ServerError};
use crate::replication::connection::Connection;

/// The limit on the whole result of a query. Commands return a row or two; more is a programming
/// error.
const RESULT_MAX: usize = 4 << 20;

/// CopyBothResponse, which postgres-protocol does not define.
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// Rows of nullable text.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// The reply to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentifySystem {
    /// Identifies the cluster and all its standbys.
    pub system_id: u64,
    /// The timeline, which each promotion increments.
    pub timeline: u32,
    /// The end of the WAL flushed to disk.
    pub flush: Lsn,
    /// The database of this connection.
    pub database: String,
}

/// The server process of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// As [`Server::postmaster_start`](crate::postgres::Server::postmaster_start).
    pub(crate) postmaster_start: String,
}

/// A new slot and its exported snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot sends transactions that commit after this position; the snapshot shows those
    /// before.
    pub consistent_point: Lsn,
    /// For `SET TRANSACTION SNAPSHOT`; valid until the next command on this connection.
    pub snapshot: String,
}

/// Runs `sql` to its end and returns the rows of all its statements. Not cancel-safe: dropping the
/// future leaves the connection in the middle of a reply, as does the time limit.
pub(crate) async fn query(connection: &mut Connection, sql: &str) -> Result<Rows> {
    match timeout(connection.command_timeout(), run(connection, sql)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(connection.no_answer(sql)),
    }
}

/// The same without a time limit.
async fn run(connection: &mut Connection, sql: &str) -> Result<Rows> {
    connection.command(sql).await?;
    let (mut rows, mut size, mut refusal) = (Rows::new(), 0, None);
    loop {
        let raw = match connection.receive_reply().await {
            Ok(raw) => raw,
            // An ErrorResponse explains more than the end of the connection that follows it.
            Err(closed) => return Err(refusal.unwrap_or(closed)),
        };
        if raw.tag == ERROR_RESPONSE_TAG {
            let error = connection.server_error(&raw);
            let context = format!("Postgres at {} refused `{sql}`", connection.peer());
            let refused = match sql.starts_with("SELECT") {
                true => sqlstate::classify(context, error),
                false => classify_replication(context, error),
            };
            refusal = refusal.or(Some(refused));
            continue;
        }
        match connection.parse(&raw)? {
            Message::DataRow(row) => {
                size += raw.body.len();
                if size > RESULT_MAX {
                    return Err(
                        connection.protocol_error(format!("`{sql}` returned more than 4 MiB"))
                    );
                }
                rows.push(texts(&row).map_err(|e| connection.protocol_error(e))?);
            }
            Message::RowDescription(_)
            | Message::CommandComplete(_)
            | Message::EmptyQueryResponse => {}
            Message::ReadyForQuery(_) => return refusal.map_or(Ok(rows), Err),
            _ => return Err(connection.unexpected(&raw, "a query result")),
        }
    }
}

pub(crate) async fn identify_system(connection: &mut Connection) -> Result<IdentifySystem> {
    let rows = query(connection, "IDENTIFY_SYSTEM").await;
    let rows = rows.map_err(|error| match ServerError::of(&error) {
        // syntax_error: this is a session for SQL.
        Some(server) if server.code == "42601" => {
            let message = format!("{} is not in replication mode", connection.peer());
            Error::fatal(Code::Connect, message).with_hint(
                "a connection pooler leaves the parameter `replication` out: connect to Postgres \
                 itself",
            )
        }
        _ => error,
    })?;
    let read = || {
        let [system_id, timeline, flush, database] = only(&rows)?.as_slice() else {
            return None;
        };
        Some(IdentifySystem {
            system_id: system_id.as_ref()?.parse().ok()?,
            timeline: timeline.as_ref()?.parse().ok()?,
            flush: flush.as_ref()?.parse().ok()?,
            database: database.clone()?,
        })
    };
    read().ok_or_else(|| connection.protocol_error("unexpected reply to IDENTIFY_SYSTEM"))
}

pub(crate) async fn identify_process(connection: &mut Connection) -> Result<Process> {
    let rows = query(connection, &process_sql()).await?;
    let read = || {
        let [postmaster_start, pid] = only(&rows)?.as_slice() else {
            return None;
        };
        Some(Process {
            pid: pid.as_ref()?.parse().ok()?,
            postmaster_start: postmaster_start.clone()?,
        })
    };
    read().ok_or_else(|| connection.protocol_error("unexpected reply to a query"))
}

pub(crate) async fn create_temporary_slot(
    connection: &mut Connection,
    name: &str,
) -> Result<CreatedSlot> {
    // The keyword form, which all servers since 10 accept; the parenthesized form is new in 15.
    let sql = format!(
        "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
        escape_identifier(name)
    );
    let rows = run(connection, &sql).await?;
    let read = || {
        let [_name, consistent_point, snapshot, ..] = only(&rows)?.as_slice() else {
            return None;
        };
        Some(CreatedSlot {
            consistent_point: consistent_point.as_ref()?.parse().ok()?,
            snapshot: snapshot.clone()?,
        })
    };
    read().ok_or_else(|| connection.protocol_error("unexpected reply to CREATE_REPLICATION_SLOT"))
}

/// The position of the copy.
pub(crate) async fn copy_to_temporary_slot(
    connection: &mut Connection,
    from: &str,
    to: &str,
) -> Result<Lsn> {
    let sql = format!(
        "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot({}, {}, true)",
        literal(from),
        literal(to)
    );
    let rows = query(connection, &sql).await.map_err(needs_replication)?;
    let read = || only(&rows)?.first()?.as_ref()?.parse().ok();
    read().ok_or_else(|| connection.protocol_error("unexpected reply to the copy of a slot"))
}

pub(crate) async fn drop_slot(connection: &mut Connection, name: &str) -> Result<()> {
    query(
        connection,
        &format!("DROP_REPLICATION_SLOT {}", escape_identifier(name)),
    )
    .await
    .map(drop)
}

pub(crate) async fn enable_failover(connection: &mut Connection, slot: &str) -> Result<()> {
    let alter = format!(
        "ALTER_REPLICATION_SLOT {} (FAILOVER true)",
        escape_identifier(slot)
    );
    query(connection, &alter).await.map(drop)
}

/// Sends START_REPLICATION and waits for the stream to start.
pub(crate) async fn start_replication(
    connection: &mut Connection,
    slot: &str,
    from: Lsn,
    publication: &str,
) -> Result<()> {
    let sql = start_command(slot, from, publication);
    match timeout(connection.command_timeout(), start(connection, slot, &sql)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(connection.no_answer(&sql)),
    }
}

async fn start(connection: &mut Connection, slot: &str, sql: &str) -> Result<()> {
    connection.command(sql).await?;
    let raw = connection.receive_reply().await?;
    match raw.tag {
        COPY_BOTH_RESPONSE_TAG => Ok(()),
        ERROR_RESPONSE_TAG => {
            let error = connection.server_error(&raw);
            await_ready(connection, &error).await;
            let context = format!(
                "Postgres at {} refused to stream from slot {slot}",
                connection.peer()
            );
            Err(classify_replication(context, error))
        }
        _ => Err(connection.unexpected(&raw, "the reply to START_REPLICATION")),
    }
}

/// After severity ERROR the session survives: waits for ReadyForQuery, so that the connection can
/// be used again.
async fn await_ready(connection: &mut Connection, error: &ServerError) {
    if error.severity == "ERROR" {
        // A failure here is reported by the next command.
        let _ = connection.receive_reply().await;
    }
}

fn start_command(slot: &str, from: Lsn, publication: &str) -> String {
    // Protocol version 1 sends transactions only after they commit.
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {})",
        escape_identifier(slot),
        literal(&escape_identifier(publication))
    )
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn only(rows: &Rows) -> Option<&Vec<Option<String>>> {
    match rows.as_slice() {
        [row] => Some(row),
        _ => None,
    }
}

fn texts(row: &DataRowBody) -> std::io::Result<Vec<Option<String>>> {
    row.ranges()
        .map(|range| {
            let bytes = range.map(|range| row.buffer().get(range).unwrap_or_default());
            Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_the_replication_grammar() {
        assert_eq!(
            start_command("a\"b", Lsn::new(0x16_B374_D848), "it's \"mine\""),
            "START_REPLICATION SLOT \"a\"\"b\" LOGICAL 16/B374D848 \
             (proto_version '1', publication_names '\"it''s \"\"mine\"\"\"')"
        );
    }
}
