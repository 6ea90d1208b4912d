//! The numbers that show which sessions have held the lock, one after another.
//!
//! The advisory lock leaves no trace, and an instance that was away cannot see what held it. So
//! each session that has taken the lock draws numbers from the identity of the dead-letter table
//! before it sends anything. Of two sessions of one instance, the second one
//! [follows](HolderNumber::follows) the first if no other session has held the lock between them.
//!
//! Why that is a proof: an identity never gives a number twice, and each holder draws [`DRAWN`] of
//! them. With another holder between the two, their first numbers are at least twice that apart.
//! Without one they are closer: `DRAWN`, at most 32 that Postgres leaves out after a crash, and one
//! for each dead letter that was filed. Too many of these look like another holder, never the
//! reverse. The draw is on the server's disk before its holder goes on, so a crash takes nothing
//! back, and no standby is waited for. A restored older copy of the files may lack a draw: the
//! caller compares [`drawn_at`](HolderNumber::drawn_at).
//!
//! The numbers are drawn by an insert that is rolled back. It needs the right that filing a dead
//! letter needs, and none on the sequence. It leaves no row: of the rows to insert, all but the
//! first conflict with it.

use tokio_postgres::SimpleQueryMessage;

use crate::config::TableName;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::postgres::{ROLES_SEARCH_PATH, Session, is_of_the_row, is_of_the_statement, sql_error};

/// How many numbers each holder of the lock draws.
pub(crate) const DRAWN: i64 = 100;

/// The numbers that one holder of the lock has drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HolderNumber {
    /// The first of them.
    pub(crate) first: i64,
    /// The file of the dead-letter table: the numbers of another table, and those behind a
    /// TRUNCATE, begin again.
    pub(crate) file: u32,
    /// The WAL position behind the draw; invalid when polling.
    pub(crate) drawn_at: Lsn,
}

impl HolderNumber {
    /// Draws the numbers of a holder of the lock from this dead-letter table, and the WAL position
    /// if the holder `streams`. `None` if the table refuses it, which costs repeated events and
    /// nothing else.
    ///
    /// # Errors
    /// Of the server or the session.
    pub(crate) async fn draw(
        session: &Session,
        dead_letters: &TableName,
        streams: bool,
    ) -> Result<Option<Self>> {
        let what = format!("drawing numbers from {dead_letters}");
        let sql = draw_sql(dead_letters, streams);
        let statement = async { Ok(session.simple_query(&sql).await) };
        let error = match session.bounded(&what, statement).await? {
            Ok(messages) => return Ok(messages.iter().find_map(read)),
            Err(error) if is_of_the_row(&error) || is_of_the_statement(&error) => error,
            Err(error) => return Err(sql_error(what, error)),
        };
        let error = sql_error(&what, error).report();
        session.run(&what, "ROLLBACK").await?;
        tracing::warn!(
            error,
            "no number for the holder of the lock, a lost session costs repeated events"
        );
        Ok(None)
    }

    /// Whether no other session has held the lock since the one that has drawn `last`.
    pub(crate) fn follows(self, last: HolderNumber) -> bool {
        let apart = self.first.saturating_sub(last.first);
        self.file == last.file && (DRAWN..2 * DRAWN).contains(&apart)
    }
}

/// The row that the insert returns.
fn read(message: &SimpleQueryMessage) -> Option<HolderNumber> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    Some(HolderNumber {
        first: row.try_get("first").ok()??.parse().ok()?,
        file: row.try_get("file").ok()??.parse().ok()?,
        drawn_at: row.try_get("drawn_at").ok()??.parse().ok()?,
    })
}

/// The rollback also takes back the `search_path`, which is for triggers of the table's owner. A
/// server that is polled may refuse to show its WAL position.
fn draw_sql(dead_letters: &TableName, streams: bool) -> String {
    let drawn_at = match streams {
        true => "pg_catalog.pg_current_wal_insert_lsn()",
        false => "'0/0'",
    };
    format!(
        "BEGIN; SET LOCAL synchronous_commit = local; SAVEPOINT drawn; {ROLES_SEARCH_PATH}; \
         INSERT INTO {table} (system_id, commit_lsn, event_index, payload_sha256, error_code, \
                error, state) \
         SELECT '', '0/0', 0, '', '', '', 'discarded' FROM pg_catalog.generate_series(1, {DRAWN}) \
         ON CONFLICT DO NOTHING \
         RETURNING id AS first, pg_catalog.pg_relation_filenode(tableoid) AS file, \
                   {drawn_at} AS drawn_at; \
         ROLLBACK TO SAVEPOINT drawn; COMMIT",
        table = dead_letters.quoted()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(first: i64) -> HolderNumber {
        HolderNumber {
            first,
            file: 16_500,
            drawn_at: Lsn::new(7),
        }
    }

    #[test]
    fn a_session_follows_only_if_no_other_has_drawn_between() {
        let last = number(201);
        assert!(number(301).follows(last));
        // Another holder, whatever else was drawn.
        assert!(!number(401).follows(last));
        assert!(!number(433).follows(last));
        // A crash and dead letters, as long as they cannot be another holder.
        assert!(number(333).follows(last));
        assert!(number(400).follows(last));
        // Numbers that began again.
        assert!(!number(201).follows(last) && !number(1).follows(last));
        assert!(!number(i64::MIN).follows(last));
        let other = HolderNumber {
            file: 16_501,
            ..number(301)
        };
        assert!(!other.follows(last));
    }
}
