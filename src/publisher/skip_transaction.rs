//! Past a transaction that nobody can decode: exactly this one, and only when everything before it is done.
//!
//! Either the server fails at it, in every session and with every client; or it was written while the outbox lacked a column without
//! which a row is no event, and stays so in the log however the table is mended. So it is passed by moving the slot, which a person has
//! to want. What its rows say is not lost: each that is unpublished is filed by reference, to be read from the table and published like
//! any dead letter that is retried; and what was done is filed as well.

use std::time::{Duration, Instant};

use crate::config::{AfterPublish, Config};
use crate::engine::output::SessionOutput;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::skipped::{self, SkippedTransaction};
use crate::outbox::{Columns, Rejection};
use crate::pgoutput::Message;
use crate::postgres::{ServerError, Session, advisory_lock, slot};
use crate::publisher::connect::Connections;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::supervisor::Supervisor;
use crate::replication::{Frame, ReplicationClient, StandbyStatusUpdate};

const LOOK: Duration = Duration::from_millis(250);

/// What was passed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The transaction.
    pub xid: u32,
    /// Why it cannot be decoded.
    pub error: String,
    /// Rows of it that were unpublished, and are published from the table now.
    pub rows: u64,
}

/// Whether the server, and not the connection to it, has failed at what it was decoding. Gives the SQLSTATE.
pub(crate) fn undecodable(error: &Error) -> Option<&ServerError> {
    ServerError::of(error).filter(|server| server.is_undecodable())
}

impl Supervisor {
    /// The same error of the server in the same transaction twice, or an outbox that is none any more: it cannot be decoded, and never
    /// will. Everything before it is confirmed, so that whoever skips it skips nothing else.
    pub(in crate::publisher) async fn undecodable(
        &mut self,
        error: &Error,
        transaction: Option<Lsn>,
        session: &Session,
    ) -> Result<()> {
        if let Some(lsn) = transaction.filter(|_| error.code() == Code::Config) {
            self.confirm_what_is_before(session).await;
            let message = format!("the transaction committed at {lsn}: {}", error.message());
            return Err(Error::fatal(Code::Config, message).with_hint(format!(
                "mend the table, then: outboxd skip-transaction --lsn {lsn} (its rows are published from the table)"
            )));
        }
        let found = transaction.zip(undecodable(error).map(|server| server.code.clone()));
        let repeats = self.resume.decoding_failed(found.clone());
        let Some((lsn, _)) = found else {
            return Ok(());
        };
        if !repeats {
            // Once may be chance, whatever the server calls it.
            return Err(Error::transient(Code::Replication, error.report()));
        }
        let words = error.report();
        self.confirm_what_is_before(session).await;
        let message = format!("Postgres cannot decode the transaction committed at {lsn}: {words}");
        Err(Error::fatal(Code::Slot, message).with_hint(format!(
            "when the server cannot be mended: outboxd skip-transaction --lsn {lsn}"
        )))
    }

    /// As far as that can be done: what is left, whoever skips is told of.
    async fn confirm_what_is_before(&mut self, session: &Session) {
        let confirm = async {
            settle(&mut self.forwarder).await?;
            let flushed = self.forwarder.engine.stats().confirmed;
            slot::advance(session, &self.config.slot, flushed).await
        };
        let confirmed = tokio::time::timeout(self.config.operation_timeout, confirm).await;
        if let Ok(Err(error)) = confirmed {
            tracing::warn!(error = %error.report(), "the slot could not be moved up to it");
        }
    }
}

/// Waits until everything that was handed over is acknowledged and written back, without a session.
async fn settle(forwarder: &mut Forwarder) -> Result<()> {
    loop {
        let now = forwarder.tick();
        forwarder.take_reports()?;
        forwarder.engine.poll(now);
        while let Some(output) = forwarder.output()? {
            if let SessionOutput::End(end) = output {
                return Err(end.into_error());
            }
        }
        if forwarder.engine.is_drained() {
            return Ok(());
        }
        let rest = forwarder.rest(LOOK);
        tokio::select! {
            biased;
            result = forwarder.progressed() => result?,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Passes the transaction whose commit is at `lsn`, while no publisher runs. Safe to repeat.
///
/// # Errors
/// `SLOT_ERROR` when another instance has the lock, the slot is not there or past it, the transaction can be decoded, there is none at `lsn`, or events before it are not published yet. Nothing is changed then.
pub async fn skip_transaction(config: &Config, lsn: Lsn) -> Result<Skipped> {
    let busy = || {
        Error::fatal(Code::Slot, "another outboxd has the lock of this slot")
            .with_hint("stop it first")
    };
    // The server process of a publisher that has just ended may still be at work on the transaction.
    let deadline = Instant::now() + config.operation_timeout;
    let connections = loop {
        match Connections::open(config, &mut None).await? {
            Some(connections) => break connections,
            None if Instant::now() >= deadline => return Err(busy()),
            None => tokio::time::sleep(LOOK).await,
        }
    };
    let Connections {
        session,
        mut client,
        server,
        ..
    } = connections;
    let slot = slot::read(&session, &config.slot).await?;
    let confirmed = slot
        .filter(|slot| !slot.is_lost())
        .and_then(|slot| slot.confirmed_flush);
    let confirmed = confirmed.ok_or_else(|| {
        Error::fatal(
            Code::Slot,
            format!("there is no slot {} to move", config.slot),
        )
    })?;
    if confirmed > lsn {
        let message = format!("slot {} is past {lsn}: it is at {confirmed}", config.slot);
        return Err(Error::fatal(Code::Slot, message));
    }
    client
        .start(&config.slot, confirmed, &config.publication)
        .await?;
    let mut search = Search {
        config,
        lsn,
        confirmed,
        xid: None,
        outbox: None,
        before: Vec::new(),
    };
    let found = search.run(&mut client).await;
    client.close().await;
    let (xid, error) = found?;
    search.nothing_is_left_before(&session).await?;
    // The lock was the other connection's, and goes when the server has seen its end.
    let deadline = Instant::now() + config.operation_timeout;
    while !advisory_lock::take(&session, &config.slot).await? {
        if Instant::now() >= deadline {
            return Err(busy());
        }
        tokio::time::sleep(LOOK).await;
    }
    let system_id = server.lineage.system_id.to_string();
    let transaction = SkippedTransaction {
        system_id: &system_id,
        lsn,
        xid,
        error: &error,
    };
    let rows = skipped::file(&session, &config.table, &transaction).await?;
    slot::advance_past_commit(&session, &config.slot, lsn).await?;
    let error = error.message;
    Ok(Skipped { xid, error, rows })
}

/// Reading on from the slot's position up to where the server fails.
struct Search<'a> {
    config: &'a Config,
    lsn: Lsn,
    confirmed: Lsn,
    /// Of the transaction at the position, when it has begun.
    xid: Option<u32>,
    outbox: Option<(u32, Columns)>,
    /// Rows of the outbox that earlier transactions have inserted.
    before: Vec<i64>,
}

impl Search<'_> {
    async fn run(&mut self, client: &mut ReplicationClient) -> Result<(u32, Rejection)> {
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

    async fn wait(&mut self, client: &mut ReplicationClient) -> Result<()> {
        let limit = self.config.operation_timeout.max(Duration::from_secs(25));
        let received = tokio::time::timeout(limit, client.readable()).await;
        received.map_err(|_| {
            let message = format!("no transaction at {} within {limit:?}", self.lsn);
            Error::fatal(Code::Slot, message)
                .with_hint("the position stands in the error of `outboxd run`")
        })?
    }

    /// Takes what is there. False: it has to wait for more.
    fn read(&mut self, client: &mut ReplicationClient) -> Result<bool> {
        if client.try_read()? == 0 {
            return Ok(false);
        }
        loop {
            let answer = match client.next()? {
                None => return Ok(true),
                Some(Frame::XLogData { payload, .. }) => {
                    self.take(payload)?;
                    false
                }
                Some(Frame::Keepalive {
                    reply_requested, ..
                }) => reply_requested,
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
                let message = format!("there is no transaction with its commit at {}", self.lsn);
                return Err(Error::fatal(Code::Slot, message));
            }
            Message::Commit(_) if self.xid.is_some() => {
                let message = format!("the transaction at {} can be decoded", self.lsn);
                return Err(Error::fatal(Code::Slot, message).with_hint("start outboxd"));
            }
            Message::Relation(relation) => {
                let table = &self.config.table;
                if table.schema == relation.namespace && table.name == relation.name {
                    let columns = Columns::of_relation(&relation, &self.config.key)?;
                    self.outbox = Some((relation.id, columns));
                }
            }
            Message::Insert(insert) if self.xid.is_none() => {
                let outbox = self.outbox.as_ref();
                if let Some((_, columns)) = outbox.filter(|(id, _)| *id == insert.relation_id) {
                    let event = columns.event_from_tuple(insert.new)?;
                    self.before
                        .extend(event.row_id.filter(|_| !event.published));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The slot is moved over the transactions before as well: they must be done.
    async fn nothing_is_left_before(&self, session: &Session) -> Result<()> {
        let left = match self.config.after_publish {
            AfterPublish::Keep => self.before.len() as i64,
            AfterPublish::Mark | AfterPublish::Delete => {
                skipped::open_count(session, &self.config.table, &self.before).await?
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

/// Why a transaction cannot be decoded, if that is the error.
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
