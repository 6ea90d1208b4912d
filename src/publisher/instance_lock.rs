//! One publisher at a time: the lock belongs to the very session that reads events.
//!
//! With a slot that is the replication connection, so that lock, slot and session end together: the
//! server ends the session of a suspended or unreachable process after `wal_sender_timeout`
//! (`idle_session_timeout` while it does not stream). Polling has one SQL session for lock and
//! reading, with an `idle_session_timeout` of the same length. Standbys query whether the lock is
//! free, and name what holds it.

use std::cell::Cell;
use std::time::Duration;

use crate::config::Config;
use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::error::Result;
use crate::postgres::advisory_lock::{self, KEEPALIVE};
use crate::postgres::{self, Server, Session};
use crate::publisher::clock::Moment;
use crate::publisher::lock_holders::{ForeignHolder, LockState, judge};
use crate::replication::ReplicationClient;
use crate::status::{FOREIGN_LOCK, LOCK, StatusBoard};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// After [`WAL_SENDER_TIMEOUT`] of silence the server releases the lock. The session queries three
/// times as often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 3);

/// The longest time since the session that holds the lock has answered, after which it has to
/// answer again before anything is sent. The server waits twice as long.
const PROOF_LIMIT: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 2);

/// Takes the lock of this slot and this table on the replication connection, without waiting.
/// False: another session holds it.
pub(crate) async fn take(client: &mut ReplicationClient, slot: &str, table: u32) -> Result<bool> {
    let rows = client.query(&advisory_lock::take_sql(slot, table)).await?;
    let taken = rows
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_deref);
    Ok(taken == Some("t"))
}

/// Takes the lock on this session, without waiting. The server ends the session when it falls
/// silent.
pub(crate) async fn take_by_sql(session: &Session, slot: &str, table: u32) -> Result<bool> {
    advisory_lock::limit_silence(session, WAL_SENDER_TIMEOUT).await?;
    advisory_lock::take(session, slot, table).await
}

/// Returns when the lock was free in two queries in a row. Sets `taken` when it is held by another
/// server process than `own`, which is an earlier session of this instance that the server has not
/// ended yet. A session that is not outboxd is named, and waited for as well.
///
/// # Errors
/// Of the session. Fatal: an instance with another table, or another slot on this table, holds the
/// lock.
pub(crate) async fn until_free(
    config: &Config,
    board: &StatusBoard,
    own: Option<&(Server, i32)>,
    taken: &Cell<bool>,
) -> Result<()> {
    let (database, limit) = (&config.database, config.operation_timeout);
    let session = postgres::connect(database, "outboxd standby", limit).await?;
    let server = postgres::server(&session).await?;
    let own = own.filter(|(own, _)| *own == server).map(|(_, pid)| *pid);
    let (mut free, mut named) = (0, None);
    while free < 2 {
        let holders = advisory_lock::holders(&session, &config.slot, &config.table).await?;
        let state = judge(&holders, config);
        board.update(|_| {});
        if matches!(state, LockState::Free) {
            free += 1;
        } else {
            free = 0;
        }
        match state {
            LockState::Free => {}
            LockState::Sibling(pid) => {
                taken.set(Some(pid) != own);
                board.wait(Some((LOCK, format!("held by server process {pid}"))));
            }
            LockState::Foreign(holder) => {
                taken.set(true);
                board.wait(Some((FOREIGN_LOCK, holder.detail.clone())));
                log_foreign(&mut named, holder, &config.slot);
            }
            LockState::Refused(error) => return Err(error),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    if named.is_some() {
        tracing::info!(slot = %config.slot, "the lock is free");
    }
    Ok(())
}

/// Logs a holder that is not outboxd once.
fn log_foreign(named: &mut Option<ForeignHolder>, holder: ForeignHolder, slot: &str) {
    if named.as_ref() == Some(&holder) {
        return;
    }
    let (detail, hint) = (&holder.detail, &holder.hint);
    tracing::warn!(%slot, detail, hint, "the lock keeps this instance from publishing");
    *named = Some(holder);
}

/// The session that holds the lock, often an idle one: it has to query from time to time.
#[derive(Debug)]
pub(crate) struct LockHolder<'a> {
    holder: Holder<'a>,
    proved: Moment,
}

#[derive(Debug)]
enum Holder<'a> {
    Replication(&'a mut ReplicationClient),
    Sql(&'a Session),
    /// Lent out; its own command keeps the session alive.
    Lent,
}

/// Whether the lock may have gone to another instance since this moment, at which its session was
/// known to exist.
fn is_stale(proved: Moment, now: Moment) -> bool {
    proved.jumps != now.jumps || now.at > proved.at + PROOF_LIMIT
}

impl<'a> LockHolder<'a> {
    /// A replication connection that does not stream, and that has answered at this time.
    pub(crate) fn of_client(client: &'a mut ReplicationClient, proved: Moment) -> Self {
        let holder = Holder::Replication(client);
        LockHolder { holder, proved }
    }

    /// An SQL session.
    pub(crate) fn of_session(session: &'a Session, proved: Moment) -> Self {
        let holder = Holder::Sql(session);
        LockHolder { holder, proved }
    }

    /// Sends a query, if one is due.
    pub(crate) async fn keep(&mut self, now: Moment) -> Result<()> {
        if now.at <= self.proved.at + KEEPALIVE_INTERVAL && self.proved.jumps == now.jumps {
            return Ok(());
        }
        self.prove(now).await
    }

    /// Makes sure that this instance still holds the lock, before it sends anything: after a gap
    /// the server may have given it to another one.
    pub(crate) async fn confirm(&mut self, now: Moment) -> Result<()> {
        if !is_stale(self.proved, now) {
            return Ok(());
        }
        self.prove(now).await
    }

    async fn prove(&mut self, now: Moment) -> Result<()> {
        match &mut self.holder {
            Holder::Replication(client) => client.query(KEEPALIVE).await.map(drop)?,
            Holder::Sql(session) => session.run("keeping the lock", KEEPALIVE).await?,
            Holder::Lent => {}
        }
        self.proved = now;
        Ok(())
    }

    /// The same while a statement runs on the SQL session, which keeps that session alive.
    pub(crate) async fn keep_beside_a_statement(&mut self, now: Moment) -> Result<()> {
        match self.holder {
            Holder::Sql(_) => Ok(()),
            Holder::Replication(_) | Holder::Lent => self.keep(now).await,
        }
    }

    /// The replication connection, for a command; `None` while it is lent out.
    pub(crate) fn client(&mut self) -> Option<&mut ReplicationClient> {
        match &mut self.holder {
            Holder::Replication(client) => Some(client),
            Holder::Sql(_) | Holder::Lent => None,
        }
    }

    /// Lends the replication connection out, until it is returned.
    pub(crate) fn take_client(&mut self) -> Option<&'a mut ReplicationClient> {
        match std::mem::replace(&mut self.holder, Holder::Lent) {
            Holder::Replication(client) => Some(client),
            other => {
                self.holder = other;
                None
            }
        }
    }

    /// Returns it.
    pub(crate) fn return_client(&mut self, client: &'a mut ReplicationClient) {
        self.holder = Holder::Replication(client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_proved_before_a_gap_or_a_jump_is_proved_again() {
        let second = Duration::from_secs(1);
        let proof = |seconds: u32, jumps| Moment {
            at: second * seconds,
            jumps,
        };
        assert!(!is_stale(proof(100, 0), proof(100, 0)));
        assert!(!is_stale(proof(100, 0), proof(115, 0)));
        assert!(is_stale(proof(100, 0), proof(116, 0)));
        assert!(is_stale(proof(100, 0), proof(101, 1)));
        assert!(PROOF_LIMIT < WAL_SENDER_TIMEOUT);
        assert!(KEEPALIVE_INTERVAL < PROOF_LIMIT);
    }
}
