//! Skips a transaction that cannot be decoded: exactly this one, and only when everything before it
//! is confirmed.
//!
//! Either the server fails to decode it, in every session and for every client; or it was written
//! while the outbox lacked a required column, which a later fix of the table does not change in the
//! WAL. So the slot is moved past it, on a person's request. Its rows are not lost: each
//! unpublished row is filed by reference, to be read from the table and published like any dead
//! letter that is retried. The skip itself is filed too.

use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::output::SessionOutput;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::dead_letter::skipped::{self, SkippedTransaction};
use crate::postgres::server_settings::release_problem;
use crate::postgres::{Session, advisory_lock, slot};
use crate::publisher::connect::Connections;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::skip_search::{POSITION_HINT, Search, undecodable};
use crate::publisher::supervisor::Supervisor;

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The transaction that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The transaction.
    pub xid: u32,
    /// Why it cannot be decoded.
    pub error: String,
    /// Its rows that were unpublished, which are published from the table now.
    pub rows: u64,
}

impl Supervisor {
    /// Makes an error final if the server has failed twice in the same way at the same transaction,
    /// or the transaction's rows lack a required column: it can never be decoded. Everything before
    /// it is confirmed first, so that `skip-transaction` skips nothing else. Where the server's
    /// minor release fails by itself, the hint says so.
    pub(in crate::publisher) async fn undecodable(
        &mut self,
        error: &Error,
        transaction: Option<Lsn>,
        session: &Session,
        version: u32,
    ) -> Result<()> {
        if let Some(lsn) = transaction.filter(|_| error.code() == Code::Config) {
            self.confirm_what_is_before(session).await;
            let message = format!("the transaction committed at {lsn}: {}", error.message());
            return Err(Error::fatal(Code::Config, message).with_hint(format!(
                "fix the table, then run: outboxd skip-transaction --lsn {lsn} \
                 (its rows are published from the table)"
            )));
        }
        let found = transaction.zip(undecodable(error).map(|server| server.code.clone()));
        let repeats = self.resume.decoding_failed(found.clone());
        let of_release = undecodable(error).and_then(|_| release_problem(version.into()));
        let of_release = of_release.map(|it| format!("{}: {}", it.problem, it.hint));
        let Some((lsn, _)) = found else {
            return of_release.map_or(Ok(()), |hint| {
                Err(Error::transient(Code::Replication, error.reason()).with_hint(hint))
            });
        };
        if !repeats {
            // A single failure may be accidental, whatever its SQLSTATE.
            return Err(Error::transient(Code::Replication, error.report()));
        }
        let report = error.report();
        self.confirm_what_is_before(session).await;
        let message =
            format!("Postgres cannot decode the transaction committed at {lsn}: {report}");
        let of_release = of_release.map_or(String::new(), |it| format!("{it}; "));
        Err(Error::fatal(Code::Slot, message).with_hint(format!(
            "{of_release}if the server cannot be fixed, run: outboxd skip-transaction --lsn {lsn}"
        )))
    }

    /// Best effort; `skip-transaction` reports what remains.
    async fn confirm_what_is_before(&mut self, session: &Session) {
        let confirm = async {
            settle(&mut self.forwarder).await?;
            let flushed = self.forwarder.engine.stats().confirmed;
            slot::advance(session, &self.config.slot, flushed).await
        };
        let confirmed = tokio::time::timeout(self.config.operation_timeout, confirm).await;
        if let Ok(Err(error)) = confirmed {
            let error = error.report();
            tracing::warn!(
                error,
                "failed to advance the slot to the confirmed position"
            );
        }
    }
}

/// Waits without a session until everything is acknowledged and written back.
async fn settle(forwarder: &mut Forwarder) -> Result<()> {
    loop {
        let now = forwarder.tick();
        forwarder.take_reports();
        forwarder.engine.poll(now);
        while let Some(output) = forwarder.output()? {
            if let SessionOutput::End(end) = output {
                return Err(end.into_error());
            }
        }
        if forwarder.engine.is_drained() {
            return Ok(());
        }
        let rest = forwarder.rest(POLL_INTERVAL);
        tokio::select! {
            biased;
            () = forwarder.progressed() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Skips the transaction whose commit is at `lsn`, while no publisher runs. Repeatable.
///
/// # Errors
/// `SLOT_ERROR` when another instance holds the lock, the slot does not exist or is past `lsn`, the
/// transaction can be decoded, there is none at `lsn`, or events before it are not published yet.
/// Nothing is changed then.
pub async fn skip_transaction(config: &Config, lsn: Lsn) -> Result<Skipped> {
    let busy = || {
        Error::fatal(Code::Slot, "another instance holds the lock of this slot")
            .with_hint("stop it first")
    };
    // The server process of a publisher that has just ended may still be decoding the transaction.
    let deadline = Instant::now() + config.operation_timeout;
    let connections = loop {
        match Connections::open(config, &mut None).await? {
            Some(connections) => break connections,
            None if Instant::now() >= deadline => return Err(busy()),
            None => tokio::time::sleep(POLL_INTERVAL).await,
        }
    };
    let Connections {
        session,
        mut client,
        server,
        identity,
        shape,
        ..
    } = connections;
    if lsn >= identity.flush {
        let message = format!(
            "there is no transaction at {lsn}: the WAL ends at {}",
            identity.flush
        );
        return Err(Error::fatal(Code::Slot, message).with_hint(POSITION_HINT));
    }
    let slot = slot::read(&session, &config.slot).await?;
    let usable = slot.filter(|slot| !slot.is_lost());
    let confirmed = usable.and_then(|slot| slot.confirmed_flush);
    let confirmed = confirmed.ok_or_else(|| {
        Error::fatal(
            Code::Slot,
            format!("slot {} does not exist or is lost", config.slot),
        )
    })?;
    if confirmed > lsn {
        let message = format!("slot {} is past {lsn}: it is at {confirmed}", config.slot);
        return Err(Error::fatal(Code::Slot, message));
    }
    client
        .start(&config.slot, confirmed, &config.publication)
        .await?;
    let mut search = Search::new(config, lsn, confirmed);
    let found = search.run(&mut client).await;
    client.close().await;
    let (xid, error) = found?;
    search.nothing_is_left_before(&session, &shape).await?;
    // The server releases the other connection's lock when it has seen its end.
    let deadline = Instant::now() + config.operation_timeout;
    while !advisory_lock::take(&session, &config.slot, shape.oid).await? {
        if Instant::now() >= deadline {
            return Err(busy());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let system_id = server.lineage.system_id.to_string();
    let transaction = SkippedTransaction {
        system_id: &system_id,
        lsn,
        xid,
        error: &error,
    };
    let rows = skipped::file(&session, &shape, &transaction).await?;
    slot::advance_past_commit(&session, &config.slot, lsn).await?;
    let error = error.message;
    Ok(Skipped { xid, error, rows })
}
