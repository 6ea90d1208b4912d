//! The advisory lock that lets one of several instances publish: its number, its holder, and how
//! it is taken.
//!
//! No session waits for the lock, because a waiting session holds back vacuum: an instance that
//! stands by queries `pg_locks` at intervals. The lock belongs to a database and a slot's name.
//! Polling takes the lock of the same name, so that a publisher that polls and one that streams
//! exclude each other.
//! See <https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>.

use std::time::Duration;

use crate::error::Result;
use crate::fnv::fnv1a_64;
use crate::postgres::session::Session;

/// A statement without effect, which keeps the session that holds the lock from being silent.
pub(crate) const KEEPALIVE: &str = "SELECT 1";

/// The statement that takes the lock without waiting; true when the lock was free.
pub(crate) fn take_sql(slot: &str) -> String {
    format!("SELECT pg_catalog.pg_try_advisory_lock({})", number(slot))
}

/// Takes the lock for this session, without waiting. False when another session has it.
pub async fn take(session: &Session, slot: &str) -> Result<bool> {
    let row = session.row("taking the lock", &take_sql(slot), &[]).await?;
    Ok(row.get(0))
}

/// Makes the server end the session, and so release its lock, after this much silence.
pub(crate) async fn limit_silence(session: &Session, limit: Duration) -> Result<()> {
    let limit = limit.as_millis();
    let set = format!("SET idle_session_timeout = '{limit}ms'");
    session.run("limiting the session's silence", &set).await
}

/// The server process that holds the lock.
pub async fn holder(session: &Session, slot: &str) -> Result<Option<i32>> {
    let number = number(slot);
    let (high, low) = ((number >> 32) as u32, number as u32);
    let sql = format!(
        "SELECT pid FROM pg_catalog.pg_locks
          WHERE locktype = 'advisory' AND classid = {high} AND objid = {low} AND objsubid = 1
            AND granted
            AND database = (SELECT oid FROM pg_catalog.pg_database
                             WHERE datname = pg_catalog.current_database())"
    );
    let row = session
        .row_if_any("reading the holder of the lock", &sql, &[])
        .await?;
    Ok(row.map(|row| row.get(0)))
}

/// The lock's number: FNV-1a of a prefix and the slot's name, the same in every version of outboxd.
fn number(slot: &str) -> i64 {
    fnv1a_64(&[b"outboxd:", slot.as_bytes()]) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_a_slot_never_changes_its_number() {
        assert_eq!(number("outboxd_orders"), 0x3254_cad5_5bbb_4f4f);
        assert_ne!(number("outboxd_orders"), number("outboxd_order"));
        assert_eq!(number(""), 0xd059_0bc1_cdea_aca2_u64 as i64);
    }
}
