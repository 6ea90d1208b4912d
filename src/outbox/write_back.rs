//! Telling the table what Kafka has: marks or deletes rows, in batches, over one SQL connection of its own.
//!
//! The slot moves only past events whose rows are settled here, so that what the table shows as unpublished is what is
//! unpublished. Decides for each row of a batch whether it is settled; never drops one. Asks no clock: a row that cannot be seen is
//! judged by the transaction that inserted it (`pg_xact_status`), since under synchronous replication an event is streamed before its row
//! is visible, for as long as the standby is away. A locked row is passed over and stays unsettled; so is a row that the table itself refuses
//! to change (a constraint, a trigger), after the batch was halved down to it. Errors of table or server are the caller's to retry.
//!
//! The update repeats safely: it touches unpublished rows only, so a batch of unknown outcome is just written again.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;

use crate::config::{AfterPublish, Config, TableName};
use crate::error::{Code, Error, Result};
use crate::postgres::{self, Server, Session, sql_error};

/// One row to mark or delete, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Names the event for the publisher.
    pub(crate) ticket: u64,
    pub(crate) row: i64,
    /// The transaction that inserted the row.
    pub(crate) xid: u32,
    /// Set by [`WriteBack::write`] when nothing is left to do for the row.
    pub(crate) settled: bool,
}

/// The server that the replication connection is on, while there is one. Row ids mean something on that server only.
pub(crate) type CurrentServer = Rc<RefCell<Option<Server>>>;

/// Writes back over a connection that it opens when it needs one.
#[derive(Debug)]
pub(crate) struct WriteBack {
    config: Arc<Config>,
    current: CurrentServer,
    open: Option<Prepared>,
}

impl WriteBack {
    /// Connects to nothing yet.
    pub(crate) fn new(config: Arc<Config>, current: CurrentServer) -> Self {
        WriteBack {
            config,
            current,
            open: None,
        }
    }

    /// Writes a batch back and sets `settled` on every row that needs nothing more.
    ///
    /// # Errors
    /// Of the table or the server (`WRITE_ERROR`, `CONNECT_ERROR`): the outcome of unsettled rows is then unknown, and the
    /// connection is made anew for the next batch. Also when the server that answers is not the one that streams.
    pub(crate) async fn write(&mut self, marks: &mut [Mark]) -> Result<()> {
        let current = self.current.borrow().clone();
        let current = current.ok_or_else(|| {
            Error::transient(
                Code::Write,
                "no replication session says which server to write to",
            )
        })?;
        let prepared = match self.open.take() {
            Some(open) if open.server == current && !open.session.is_closed() => open,
            _ => Prepared::open(&self.config, current).await?,
        };
        prepared.write(marks).await?;
        self.open = Some(prepared);
        Ok(())
    }
}

/// A session and the statements prepared on it.
#[derive(Debug)]
struct Prepared {
    session: Session,
    server: Server,
    table: TableName,
    update: Statement,
    update_unlocked: Statement,
    look: Statement,
}

impl Prepared {
    async fn open(config: &Config, current: Server) -> Result<Self> {
        let (database, timeout) = (&config.database, config.operation_timeout);
        let session = postgres::connect(database, "outboxd write-back", timeout).await?;
        let server = postgres::server(&session).await?;
        if server != current {
            let message = "the server that answers SQL is not the one that streams";
            return Err(Error::transient(Code::Write, message));
        }
        let table = config.table.clone();
        let name = table.quoted();
        let marks = "SET published_at = CURRENT_TIMESTAMP, \
                     times_attempted = coalesce(times_attempted, 0) + 1";
        let unpublished = "published_at IS NULL AND id = ANY ($1::bigint[])";
        let free =
            format!("SELECT id FROM {name} WHERE {unpublished} ORDER BY id FOR UPDATE SKIP LOCKED");
        let (update, update_unlocked) = if config.after_publish == AfterPublish::Delete {
            (
                format!("DELETE FROM {name} WHERE {unpublished}"),
                format!(
                    "WITH free AS ({free}) DELETE FROM {name} t USING free WHERE t.id = free.id"
                ),
            )
        } else {
            (
                format!("UPDATE {name} {marks} WHERE {unpublished}"),
                format!(
                    "WITH free AS ({free}) UPDATE {name} t {marks} FROM free WHERE t.id = free.id"
                ),
            )
        };
        let look = format!(
            "SELECT id::bigint, published_at IS NULL FROM {name} WHERE id = ANY ($1::bigint[])"
        );
        let what = format!("preparing the write-back to {table}");
        session
            .bounded(&what, session.batch_execute(LOCK_TIMEOUT))
            .await?;
        Ok(Prepared {
            update: session.bounded(&what, session.prepare(&update)).await?,
            update_unlocked: session
                .bounded(&what, session.prepare(&update_unlocked))
                .await?,
            look: session.bounded(&what, session.prepare(&look)).await?,
            session,
            server,
            table,
        })
    }

    async fn write(&self, marks: &mut [Mark]) -> Result<()> {
        // Halves of a batch that one of its rows refused, the rest of the batch behind them.
        let mut parts = vec![marks];
        while let Some(part) = parts.pop() {
            // The inner error says what the row's fault is; the outer one is the server's.
            let work = async { Ok(self.write_part(part).await) };
            match self.session.bounded("the write-back", work).await? {
                Ok(()) => {}
                Err(error) if is_of_the_row(&error) && part.len() > 1 => {
                    let (left, right) = part.split_at_mut(part.len() / 2);
                    parts.push(right);
                    parts.push(left);
                }
                Err(error) if is_of_the_row(&error) => {
                    let row = part.first().map_or(0, |mark| mark.row);
                    tracing::error!(row, error = %error, "row cannot be marked as published");
                }
                Err(error) => {
                    return Err(sql_error(format!("writing back to {}", self.table), error));
                }
            }
        }
        Ok(())
    }

    async fn write_part(&self, marks: &mut [Mark]) -> Result<(), tokio_postgres::Error> {
        let ids: Vec<i64> = marks.iter().map(|mark| mark.row).collect();
        let changed = match self.session.execute(&self.update, &[&ids]).await {
            Err(error) if is_lock_trouble(&error) => {
                self.session.execute(&self.update_unlocked, &[&ids]).await?
            }
            other => other?,
        };
        if changed == ids.len() as u64 {
            marks.iter_mut().for_each(|mark| mark.settled = true);
            return Ok(());
        }
        self.settle_the_rest(&ids, marks).await
    }

    /// Some rows of a batch did not change: published by then, gone, locked, or not visible yet.
    async fn settle_the_rest(
        &self,
        ids: &[i64],
        marks: &mut [Mark],
    ) -> Result<(), tokio_postgres::Error> {
        let mut xids: Vec<u32> = marks.iter().map(|mark| mark.xid).collect();
        xids.sort_unstable();
        xids.dedup();
        // Asked before the update that decides: a transaction that is over by then has shown its rows to that update.
        let running = self.running(&xids).await?;
        self.session.execute(&self.update_unlocked, &[&ids]).await?;
        let rows = self.session.query(&self.look, &[&ids]).await?;
        let unpublished: HashMap<i64, bool> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for mark in marks {
            mark.settled = match unpublished.get(&mark.row) {
                Some(unpublished) => !unpublished,
                None => !running.contains(&mark.xid),
            };
        }
        Ok(())
    }

    /// Those of the transactions that are not over for other sessions. A transaction too old to be known is over.
    ///
    /// `pg_xact_status` wants 64 bits, the stream gives 32: the epoch is the one that brings it closest to the snapshot's
    /// xmax. What lies at or beyond xmax is running; `pg_xact_status` would refuse some of it as being in the future.
    async fn running(&self, xids: &[u32]) -> Result<Vec<u32>, tokio_postgres::Error> {
        let xmax = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let row = self.session.query_one(xmax, &[]).await?;
        let xmax: i64 = row.get::<_, String>(0).parse().unwrap_or(0);
        let full = |xid: u32| xmax + i64::from(xid.wrapping_sub(xmax as u32) as i32);
        let (over, mut running): (Vec<u32>, Vec<u32>) =
            xids.iter().partition(|xid| full(**xid) < xmax);
        let known: Vec<String> = over
            .iter()
            .filter(|xid| full(**xid) > 0)
            .map(|xid| full(*xid).to_string())
            .collect();
        let status = "SELECT xid FROM unnest($1::text[]) AS t (xid) \
                      WHERE pg_xact_status(xid::xid8) = 'in progress'";
        let rows = self.session.query(status, &[&known]).await?;
        // The low half of the 64 bits is the id as the stream gives it.
        let low = |text: String| text.parse::<u64>().map(|full| full as u32).ok();
        running.extend(rows.iter().filter_map(|row| low(row.get(0))));
        Ok(running)
    }
}

/// Locked rows must not hold up the batch for longer than this.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '1s'";

/// 22xxx, 23xxx and what a trigger raises: the row's own fault, not the table's or the server's.
fn is_of_the_row(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|state| {
        ["22", "23", "P0"]
            .iter()
            .any(|class| state.code().starts_with(class))
    })
}

fn is_lock_trouble(error: &tokio_postgres::Error) -> bool {
    let states = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::QUERY_CANCELED,
    ];
    error.code().is_some_and(|state| states.contains(state))
}
