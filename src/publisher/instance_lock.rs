//! One publisher at a time: the lock belongs to the very session that reads events.
//!
//! With a slot that is the replication connection, so that lock, slot and session end together: the
//! server ends the session of a suspended or unreachable process after `wal_sender_timeout`
//! (`idle_session_timeout` while it does not stream). Polling has one SQL session for lock and
//! reading, with an `idle_session_timeout` of the same length. Standbys query whether the lock is
//! free.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::error::Result;
use crate::postgres::advisory_lock::{self, KEEPALIVE};
use crate::postgres::{self, Server, Session};
use crate::replication::ReplicationClient;
use crate::status::StatusBoard;

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// After [`WAL_SENDER_TIMEOUT`] of silence the server releases the lock. The session queries three
/// times as often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 3);

/// Takes the lock of this slot on the replication connection, without waiting. False: another
/// instance holds it.
pub(crate) async fn take(client: &mut ReplicationClient, slot: &str) -> Result<bool> {
    let rows = client.query(&advisory_lock::take_sql(slot)).await?;
    let taken = rows
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_deref);
    Ok(taken == Some("t"))
}

/// Takes the lock on this session, without waiting. The server ends the session when it falls
/// silent.
pub(crate) async fn take_by_sql(session: &Session, slot: &str) -> Result<bool> {
    advisory_lock::limit_silence(session, WAL_SENDER_TIMEOUT).await?;
    advisory_lock::take(session, slot).await
}

/// Returns when the lock was free in two queries in a row. Sets `taken` when it is held by another
/// server process than `own`, which is an earlier session of this instance that the server has not
/// ended yet.
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
    let mut free = 0;
    while free < 2 {
        match advisory_lock::holder(&session, &config.slot).await? {
            Some(pid) => {
                free = 0;
                taken.set(Some(pid) != own);
                board.update(|_| {});
                board.wait(Some(("lock", format!("held by server process {pid}"))));
            }
            None => free += 1,
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// The session that holds the lock, often an idle one: it has to query from time to time.
#[derive(Debug)]
pub(crate) struct LockHolder<'a> {
    holder: Holder<'a>,
    queried_at: Instant,
}

#[derive(Debug)]
enum Holder<'a> {
    Replication(&'a mut ReplicationClient),
    Sql(&'a Session),
    /// Lent out; its own command keeps the session alive.
    Lent,
}

impl<'a> LockHolder<'a> {
    /// A replication connection that does not stream.
    pub(crate) fn of_client(client: &'a mut ReplicationClient) -> Self {
        LockHolder::new(Holder::Replication(client))
    }

    /// An SQL session.
    pub(crate) fn of_session(session: &'a Session) -> Self {
        LockHolder::new(Holder::Sql(session))
    }

    fn new(holder: Holder<'a>) -> Self {
        let queried_at = Instant::now();
        LockHolder { holder, queried_at }
    }

    /// Sends a query, if one is due.
    pub(crate) async fn keep(&mut self) -> Result<()> {
        if self.queried_at.elapsed() <= KEEPALIVE_INTERVAL {
            return Ok(());
        }
        self.queried_at = Instant::now();
        match &mut self.holder {
            Holder::Replication(client) => client.query(KEEPALIVE).await.map(drop),
            Holder::Sql(session) => session.run("keeping the lock", KEEPALIVE).await,
            Holder::Lent => Ok(()),
        }
    }

    /// The same while a statement runs on the SQL session, which keeps that session alive.
    pub(crate) async fn keep_beside_a_statement(&mut self) -> Result<()> {
        match self.holder {
            Holder::Sql(_) => Ok(()),
            Holder::Replication(_) | Holder::Lent => self.keep().await,
        }
    }

    /// The replication connection, for a command; `None` while it is lent out.
    pub(crate) fn client(&mut self) -> Option<&mut ReplicationClient> {
        self.queried_at = Instant::now();
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
        *self = LockHolder::of_client(client);
    }
}
