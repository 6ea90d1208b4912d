//! One publisher at a time: the lock belongs to the very session that reads events.
//!
//! In front of a slot that is the replication connection, so that lock, slot and session end together: the server lets go of a
//! process that is frozen or cut off after `wal_sender_timeout` (`idle_session_timeout` while it does not stream). Polling has one SQL
//! session for lock and reading, with `idle_session_timeout` of the same length. Others look whether the lock is free.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::error::Result;
use crate::postgres::advisory_lock::{self, KEEPALIVE};
use crate::postgres::{self, Server, Session};
use crate::replication::ReplicationClient;
use crate::status::StatusBoard;

const LOOK: Duration = Duration::from_millis(250);
/// Without a word for [`WAL_SENDER_TIMEOUT`] the server gives the lock to another instance; we speak three times as often.
const SPEAK: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 3);

/// Takes the lock of this slot on the replication connection, without waiting. False: another instance has it.
pub(crate) async fn take(client: &mut ReplicationClient, slot: &str) -> Result<bool> {
    let rows = client.query(&advisory_lock::take_sql(slot)).await?;
    let taken = rows
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_deref);
    Ok(taken == Some("t"))
}

/// Takes the lock on this session, without waiting, and lets the server end the session when it falls silent.
pub(crate) async fn take_by_sql(session: &Session, slot: &str) -> Result<bool> {
    advisory_lock::limit_silence(session, WAL_SENDER_TIMEOUT).await?;
    advisory_lock::take(session, slot).await
}

/// Returns when the lock was free in two looks: the instance that had it is gone. `taken` is set when another than `own` has it, an
/// earlier session of ours that the server has not let go of yet.
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
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The hold on the lock by a session that is often idle: it has to be heard now and then.
#[derive(Debug)]
pub(crate) struct LockHolder<'a> {
    holder: Holder<'a>,
    spoken: Instant,
}

#[derive(Debug)]
enum Holder<'a> {
    Replication(&'a mut ReplicationClient),
    Sql(&'a Session),
    /// Busy with something else, and heard thereby.
    Away,
}

impl<'a> LockHolder<'a> {
    /// Held by a replication connection that does not stream.
    pub(crate) fn of_client(client: &'a mut ReplicationClient) -> Self {
        LockHolder::new(Holder::Replication(client))
    }

    /// Held by an SQL session.
    pub(crate) fn of_session(session: &'a Session) -> Self {
        LockHolder::new(Holder::Sql(session))
    }

    fn new(holder: Holder<'a>) -> Self {
        let spoken = Instant::now();
        LockHolder { holder, spoken }
    }

    /// Speaks, if it is time to.
    pub(crate) async fn keep(&mut self) -> Result<()> {
        if self.spoken.elapsed() <= SPEAK {
            return Ok(());
        }
        self.spoken = Instant::now();
        match &mut self.holder {
            Holder::Replication(client) => client.query(KEEPALIVE).await.map(drop),
            Holder::Sql(session) => session.run("keeping the lock", KEEPALIVE).await,
            Holder::Away => Ok(()),
        }
    }

    /// The same while a statement runs on the SQL session, which is heard thereby.
    pub(crate) async fn keep_beside_a_statement(&mut self) -> Result<()> {
        match self.holder {
            Holder::Sql(_) => Ok(()),
            Holder::Replication(_) | Holder::Away => self.keep().await,
        }
    }

    /// The replication connection, which is heard now; `None` while it is away.
    pub(crate) fn client(&mut self) -> Option<&mut ReplicationClient> {
        self.spoken = Instant::now();
        match &mut self.holder {
            Holder::Replication(client) => Some(client),
            Holder::Sql(_) | Holder::Away => None,
        }
    }

    /// Takes the replication connection away, until it is given back.
    pub(crate) fn take_client(&mut self) -> Option<&'a mut ReplicationClient> {
        match std::mem::replace(&mut self.holder, Holder::Away) {
            Holder::Replication(client) => Some(client),
            other => {
                self.holder = other;
                None
            }
        }
    }

    /// Gives it back.
    pub(crate) fn give_back(&mut self, client: &'a mut ReplicationClient) {
        *self = LockHolder::of_client(client);
    }
}
