//! One publisher for a slot: an advisory lock, held by the replication connection itself.
//!
//! Lock, slot and session are one connection, so they end together: the server lets go of a process that is frozen or cut off after
//! `wal_sender_timeout` (`idle_session_timeout` while it does not stream). Nobody ever waits inside the lock, since a waiting
//! session holds back vacuum for as long as it waits: others look at `pg_locks` now and then.
//! See <https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>.

use std::time::Duration;

use crate::config::Config;
use crate::error::Result;
use crate::postgres;
use crate::publisher::status::Board;
use crate::replication::ReplicationClient;

const LOOK: Duration = Duration::from_millis(250);

/// Takes the lock of this slot on the replication connection, without waiting. False: another instance has it.
pub(crate) async fn take(client: &mut ReplicationClient, slot: &str) -> Result<bool> {
    let take = format!("SELECT pg_catalog.pg_try_advisory_lock({})", key(slot));
    let rows = client.query(&take).await?;
    let taken = rows
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_deref);
    Ok(taken == Some("t"))
}

/// Returns when the lock was free in two looks: the instance that had it is gone.
pub(crate) async fn until_free(config: &Config, board: &Board) -> Result<()> {
    let session = postgres::connect(
        &config.database,
        "outboxd standby",
        config.operation_timeout,
    )
    .await?;
    let key = key(&config.slot);
    let (high, low) = ((key >> 32) as u32, key as u32);
    let holder = format!(
        "SELECT pid FROM pg_catalog.pg_locks \
         WHERE locktype = 'advisory' AND classid = {high} AND objid = {low} AND objsubid = 1 AND granted \
           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
    );
    let mut free = 0;
    while free < 2 {
        let row = session
            .bounded("looking at the lock", session.query_opt(&holder, &[]))
            .await?;
        match row.map(|row| row.get::<_, i32>(0)) {
            Some(pid) => {
                free = 0;
                board.update(|_| {});
                board.wait(Some(("lock", format!("held by server process {pid}"))));
            }
            None => free += 1,
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// The lock's number: FNV-1a of a prefix and the slot's name, the same in every version of outboxd.
fn key(slot: &str) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in b"outboxd:".iter().chain(slot.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_a_slot_never_changes_its_number() {
        assert_eq!(key("outboxd_orders"), key("outboxd_orders"));
        assert_ne!(key("outboxd_orders"), key("outboxd_order"));
        assert_eq!(key(""), 0xd059_0bc1_cdea_aca2_u64 as i64);
    }
}
