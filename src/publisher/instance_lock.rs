//! One publisher at a time: the lock belongs to the very session that reads events.
//!
//! With a slot that is the replication connection, so that lock, slot and session end together: the
//! server ends the session of a suspended or unreachable process after `wal_sender_timeout`
//! (`idle_session_timeout` while it does not stream). Polling has one SQL session for lock and
//! reading, with an `idle_session_timeout` of the same length. Standbys query whether the lock is
//! free, and name what holds it.
//!
//! A session that has taken the lock draws a number before it sends anything, so that an instance
//! that was away learns whether another one has held the lock meanwhile (see `holder_number`).

use std::cell::Cell;
use std::time::Duration;

use crate::config::{Config, Source};
use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::error::Result;
use crate::outbox::HolderNumber;
use crate::postgres::advisory_lock::{self, KEEPALIVE};
use crate::postgres::{self, Server, Session};
use crate::publisher::clock::Moment;
use crate::publisher::lock_holders::{LockState, judge};
use crate::replication::ReplicationClient;
use crate::status::{FOREIGN_LOCK, LOCK, StatusBoard};

const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// After [`WAL_SENDER_TIMEOUT`] of silence the server releases the lock. The session queries three
/// times as often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 3);

/// The longest time since the session that holds the lock has answered, after which it has to
/// answer again before anything is sent. The server waits twice as long.
const PROOF_LIMIT: Duration = Duration::from_secs(WAL_SENDER_TIMEOUT.as_secs() / 2);

/// A session that has taken the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tenure {
    /// The server process that holds it.
    pub(crate) process: i32,
    /// `None` if the dead-letter table gives no number: other holders are not known then.
    pub(crate) number: Option<HolderNumber>,
}

impl Tenure {
    /// The server process has taken the lock: draws its number over this session.
    ///
    /// # Errors
    /// Of the server or the session.
    pub(crate) async fn begin(process: i32, session: &Session, config: &Config) -> Result<Self> {
        let streams = config.source == Source::Slot;
        let number = HolderNumber::draw(session, &config.table.dead_letter(), streams).await?;
        Ok(Tenure { process, number })
    }

    /// Server process 1 has drawn first, and each later one behind the one before.
    #[cfg(test)]
    pub(in crate::publisher) fn for_tests(process: i32, drawn_at: crate::lsn::Lsn) -> Self {
        let number = HolderNumber {
            first: i64::from(process) * crate::outbox::dead_letter::holder_number::DRAWN,
            file: 9,
            drawn_at,
        };
        let number = Some(number);
        Tenure { process, number }
    }
}

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

/// An instance that waits for the lock. Pure.
#[derive(Debug)]
pub(in crate::publisher) struct Standby {
    /// The server process of an earlier session of this instance, which the server may not have
    /// ended yet.
    own: Option<i32>,
    /// How many times in a row the lock was free.
    free: u32,
    taken: bool,
    /// At the last look an instance that must not run beside this one held a lock.
    refused: bool,
}

impl Standby {
    /// On this server; `own` is the server process that held the lock for this instance last.
    pub(in crate::publisher) fn new(own: Option<&(Server, i32)>, server: &Server) -> Self {
        let own = own.filter(|(own, _)| own.is_same(server));
        Standby {
            own: own.map(|(_, pid)| *pid),
            free: 0,
            taken: false,
            refused: false,
        }
    }

    /// The lock is held by this server process, or by none. True: it was free twice in a row.
    pub(in crate::publisher) fn looked(&mut self, holder: Option<i32>) -> bool {
        self.taken |= holder.is_some() && holder != self.own;
        self.refused = false;
        self.free = match holder {
            Some(_) => 0,
            None => self.free + 1,
        };
        self.free >= 2
    }

    /// A session that is not outboxd holds the lock.
    fn is_foreign(&mut self) {
        (self.free, self.taken, self.refused) = (0, true, false);
    }

    /// An instance that must not run beside this one holds a lock. True: it was so at the last look
    /// as well. The server releases the locks of a session one by one, and a sibling that ends
    /// looks for a moment as if it had never held the slot's.
    fn is_refused(&mut self) -> bool {
        self.free = 0;
        std::mem::replace(&mut self.refused, true)
    }

    /// Whether another server process was seen with the lock.
    pub(in crate::publisher) fn is_taken(&self) -> bool {
        self.taken
    }
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
    let mut standby = Standby::new(own, &server);
    loop {
        let holders = advisory_lock::holders(&session, &config.slot, &config.table).await?;
        let state = judge(&holders, config);
        board.update(|_| {});
        let is_free = match state {
            LockState::Free => standby.looked(None),
            LockState::Sibling(pid) => {
                board.wait(Some((LOCK, format!("held by server process {pid}"))));
                standby.looked(Some(pid))
            }
            LockState::Foreign(holder) => {
                standby.is_foreign();
                let detail = format!("{} ({})", holder.detail, holder.hint);
                board.wait(Some((FOREIGN_LOCK, detail)));
                false
            }
            LockState::Refused(error) if standby.is_refused() => return Err(error),
            LockState::Refused(_) => false,
        };
        taken.set(standby.is_taken());
        if is_free {
            return Ok(());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// When the session that holds the lock was last known to exist. Pure.
#[derive(Debug, Clone, Copy)]
pub(in crate::publisher) struct LockProof(Moment);

impl LockProof {
    /// Its server process has answered to what was sent at this time.
    pub(in crate::publisher) fn new(answered: Moment) -> Self {
        LockProof(answered)
    }

    /// The same again.
    pub(in crate::publisher) fn answered(&mut self, now: Moment) {
        self.0 = now;
    }

    /// Whether the session has to query, so that the server does not end it.
    pub(in crate::publisher) fn is_due(self, now: Moment) -> bool {
        now.at > self.0.at + KEEPALIVE_INTERVAL || self.0.jumps != now.jumps
    }

    /// Whether the lock may have gone to another instance since.
    pub(in crate::publisher) fn is_stale(self, now: Moment) -> bool {
        self.0.jumps != now.jumps || now.at > self.0.at + PROOF_LIMIT
    }
}

/// The session that holds the lock, often an idle one: it has to query from time to time.
#[derive(Debug)]
pub(crate) struct LockHolder<'a> {
    holder: Holder<'a>,
    proof: LockProof,
}

#[derive(Debug)]
enum Holder<'a> {
    Replication(&'a mut ReplicationClient),
    Sql(&'a Session),
    /// Lent out; its own command keeps the session alive.
    Lent,
}

impl<'a> LockHolder<'a> {
    /// A replication connection that does not stream, and that has answered at this time.
    pub(crate) fn of_client(client: &'a mut ReplicationClient, proved: Moment) -> Self {
        let (holder, proof) = (Holder::Replication(client), LockProof::new(proved));
        LockHolder { holder, proof }
    }

    /// An SQL session.
    pub(crate) fn of_session(session: &'a Session, proved: Moment) -> Self {
        let (holder, proof) = (Holder::Sql(session), LockProof::new(proved));
        LockHolder { holder, proof }
    }

    /// Sends a query, if one is due.
    pub(crate) async fn keep(&mut self, now: Moment) -> Result<()> {
        match self.proof.is_due(now) {
            true => self.prove(now).await,
            false => Ok(()),
        }
    }

    /// Makes sure that this instance still holds the lock, before it sends anything: after a gap
    /// the server may have given it to another one.
    pub(crate) async fn confirm(&mut self, now: Moment) -> Result<()> {
        match self.proof.is_stale(now) {
            true => self.prove(now).await,
            false => Ok(()),
        }
    }

    async fn prove(&mut self, now: Moment) -> Result<()> {
        match &mut self.holder {
            Holder::Replication(client) => client.query(KEEPALIVE).await.map(drop)?,
            Holder::Sql(session) => session.run("keeping the lock", KEEPALIVE).await?,
            Holder::Lent => {}
        }
        self.proof.answered(now);
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
    fn the_lock_is_free_when_it_was_so_twice_in_a_row_and_only_another_process_takes_it() {
        let mut standby = Standby {
            own: Some(7),
            free: 0,
            taken: false,
            refused: false,
        };
        for holder in [Some(7), None, Some(7), None] {
            assert!(!standby.looked(holder));
        }
        assert!(!standby.is_taken());
        assert!(standby.looked(None));
        assert!(!standby.looked(Some(8)) && standby.is_taken());
        assert!(!standby.looked(None));
        standby.is_foreign();
        assert!(!standby.looked(None) && standby.looked(None));
    }

    #[test]
    fn an_instance_that_must_not_run_beside_this_one_is_believed_at_the_second_look() {
        let mut standby = Standby {
            own: None,
            free: 1,
            taken: false,
            refused: false,
        };
        // The locks of a sibling that ends are released one by one.
        assert!(!standby.is_refused());
        assert!(!standby.looked(None) && standby.looked(None));
        assert!(!standby.is_refused() && standby.is_refused());
    }

    #[test]
    fn what_was_proved_before_a_gap_or_a_jump_is_proved_again() {
        let second = Duration::from_secs(1);
        let moment = |seconds: u32, jumps| Moment {
            at: second * seconds,
            jumps,
        };
        let proof = LockProof::new(moment(100, 0));
        for (now, is_due, is_stale) in [
            (moment(100, 0), false, false),
            (moment(110, 0), false, false),
            (moment(111, 0), true, false),
            (moment(115, 0), true, false),
            (moment(116, 0), true, true),
            (moment(101, 1), true, true),
        ] {
            assert_eq!((proof.is_due(now), proof.is_stale(now)), (is_due, is_stale));
        }
        assert!(PROOF_LIMIT < WAL_SENDER_TIMEOUT);
        assert!(KEEPALIVE_INTERVAL < PROOF_LIMIT);
    }
}
