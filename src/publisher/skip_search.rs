//! Searches the stream for the transaction to skip: reads from the slot's position, confirms
//! nothing, and ends at the failure, behind the position, or when the server makes no progress.

use std::time::{Duration, Instant};

use crate::config::{AfterPublish, Config};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::skipped;
use crate::outbox::{Columns, Rejection, RowId};
use crate::pgoutput::Message;
use crate::postgres::{ServerError, Session, TableShape};
use crate::replication::{Frame, ReplicationClient, StandbyStatusUpdate};

/// What to do about a position without a transaction.
pub(crate) const POSITION_HINT: &str = "the position is in the error of `outboxd run`";

/// The shortest time without progress that ends the search: a server may be busy decoding.
const SILENCE_MIN: Duration = Duration::from_secs(25);

/// The server's error, if the server and not the connection has failed at decoding.
pub(crate) fn undecodable(error: &Error) -> Option<&ServerError> {
    ServerError::of(error).filter(|server| server.is_undecodable())
}

/// Reads the stream from the slot's position up to the failure.
pub(crate) struct Search<'a> {
    config: &'a Config,
    lsn: Lsn,
    confirmed: Lsn,
    /// The id of the transaction at `lsn`, when it has begun.
    xid: Option<u32>,
    outbox: Option<(u32, Columns)>,
    /// Rows of the outbox that earlier transactions have inserted.
    before: Vec<RowId>,
    /// The highest position that the server has sent.
    sent: Lsn,
    /// When that position has moved, or a change came.
    moved_at: Instant,
}

impl<'a> Search<'a> {
    pub(crate) fn new(config: &'a Config, lsn: Lsn, confirmed: Lsn) -> Self {
        Search {
            config,
            lsn,
            confirmed,
            xid: None,
            outbox: None,
            before: Vec::new(),
            sent: Lsn::INVALID,
            moved_at: Instant::now(),
        }
    }

    /// The transaction's id, and why it cannot be decoded.
    pub(crate) async fn run(&mut self, client: &mut ReplicationClient) -> Result<(u32, Rejection)> {
        loop {
            match self.read(client) {
                Ok(true) => {}
                Ok(false) => self.wait(client).await?,
                Err(error) => {
                    return match (rejection(&error), self.xid) {
                        (Some(rejection), Some(xid)) => Ok((xid, rejection)),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    /// Keepalives at the same position are no progress, and an idle server sends them for ever.
    async fn wait(&mut self, client: &mut ReplicationClient) -> Result<()> {
        let limit = self.config.operation_timeout.max(SILENCE_MIN);
        let left = limit.saturating_sub(self.moved_at.elapsed());
        match tokio::time::timeout(left, client.readable()).await {
            Ok(received) if !left.is_zero() => received,
            _ => {
                let message = format!("no transaction at {} within {limit:?}", self.lsn);
                Err(Error::fatal(Code::Slot, message).with_hint(POSITION_HINT))
            }
        }
    }

    /// The server has decoded everything before this position.
    fn reached(&mut self, position: Lsn) -> Result<()> {
        if position > self.sent {
            (self.sent, self.moved_at) = (position, Instant::now());
        }
        if self.xid.is_none() && position > self.lsn {
            return Err(self.no_transaction());
        }
        Ok(())
    }

    fn no_transaction(&self) -> Error {
        let message = format!("there is no transaction with its commit at {}", self.lsn);
        Error::fatal(Code::Slot, message).with_hint(POSITION_HINT)
    }

    /// Takes in the messages that are ready. False if it has to wait for more.
    fn read(&mut self, client: &mut ReplicationClient) -> Result<bool> {
        if client.try_read()? == 0 {
            return Ok(false);
        }
        loop {
            let answer = match client.next()? {
                None => return Ok(true),
                Some(Frame::XLogData { payload, .. }) => {
                    self.moved_at = Instant::now();
                    self.take(payload)?;
                    false
                }
                Some(Frame::Keepalive {
                    wal_end,
                    reply_requested,
                    ..
                }) => {
                    self.reached(wal_end)?;
                    reply_requested
                }
                Some(Frame::CopyDone) => {
                    let message = "the server ended the stream";
                    return Err(Error::transient(Code::Replication, message));
                }
            };
            if answer {
                client.queue_status(StandbyStatusUpdate {
                    write: self.confirmed,
                    flush: self.confirmed,
                    apply: self.confirmed,
                    reply_requested: false,
                });
                client.try_flush()?;
            }
        }
    }

    fn take(&mut self, payload: &[u8]) -> Result<()> {
        match Message::decode(payload)? {
            Message::Begin(begin) if begin.final_lsn == self.lsn => self.xid = Some(begin.xid),
            Message::Begin(begin) if begin.final_lsn > self.lsn => {
                return Err(self.no_transaction());
            }
            Message::Commit(_) if self.xid.is_some() => {
                let message = format!("the transaction at {} can be decoded", self.lsn);
                return Err(Error::fatal(Code::Slot, message).with_hint("start outboxd"));
            }
            Message::Relation(relation) => {
                let table = &self.config.table;
                if table.schema == relation.namespace && table.name == relation.name {
                    let columns = Columns::of_relation(&relation, &self.config.mapping)?;
                    self.outbox = Some((relation.id, columns));
                }
            }
            Message::Insert(insert) if self.xid.is_none() => {
                let outbox = self.outbox.as_ref();
                if let Some((_, columns)) = outbox.filter(|(id, _)| *id == insert.relation_id) {
                    let event = columns.event_from_tuple(insert.new)?;
                    self.before.extend(
                        event
                            .row_id
                            .filter(|_| event.is_message && !event.published),
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The slot moves past the earlier transactions too: they must be done.
    pub(crate) async fn nothing_is_left_before(
        &self,
        session: &Session,
        shape: &TableShape,
    ) -> Result<()> {
        let left = match self.config.after_publish {
            AfterPublish::Keep => self.before.len() as i64,
            AfterPublish::Mark | AfterPublish::Delete => {
                skipped::open_count(session, shape, &self.before).await?
            }
        };
        if left == 0 {
            return Ok(());
        }
        let message = format!("{left} events before {} are not confirmed", self.lsn);
        Err(Error::fatal(Code::Slot, message)
            .with_hint("run outboxd until it ends with the error about this transaction"))
    }
}

/// Why the transaction cannot be decoded, if that is the error.
fn rejection(error: &Error) -> Option<Rejection> {
    if error.code() == Code::Config {
        return Some(Rejection {
            code: error.code().to_string(),
            message: error.message().to_owned(),
        });
    }
    undecodable(error).map(|server| Rejection {
        code: server.code.clone(),
        message: server.to_string(),
    })
}
