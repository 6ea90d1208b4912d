//! The statements that read requests about dead letters, and the stored copies of their records.

use crate::config::TableName;
use crate::outbox::dead_letter::parked;
use crate::outbox::dead_letter::types::OPEN;

/// The order in which events were committed. An older event can be filed behind a newer one of its
/// key, if it was delivered and a restart repeats it. A row that was read from the table has no
/// position in the WAL, and counts as older than all events of the slot.
const PLACE: &str = "d.commit_lsn NULLS FIRST, d.event_index, d.id";

/// The characters of a topic that are read: no topic has a longer name.
const TOPIC_CHARS: usize = 250;

/// The statement that reads requests, at most `$1` of them.
pub(super) fn requests_sql(dead_letters: &TableName) -> String {
    let place = |row: &str| {
        format!("(coalesce({row}.commit_lsn, '0/0'), coalesce({row}.event_index, 0), {row}.id)")
    };
    // A parked key never overtakes its dead letter.
    let before = format!("{} < {}", place("h"), place("d"));
    format!(
        "SELECT d.id, d.outbox_id, d.state, d.parks_key, d.commit_lsn::text, d.event_index, \
                pg_catalog.left(d.topic, {TOPIC_CHARS}), {hashes} FROM ( \
             (SELECT * FROM {table} AS d \
               WHERE d.state IN ('retry', 'discard') AND d.{OPEN} \
                 AND NOT (d.state = 'retry' AND d.parks_key \
                          AND EXISTS (SELECT FROM {table} AS h \
                            WHERE h.state = 'dead' AND h.parks_key AND h.topic = d.topic \
                              AND h.key IS NOT DISTINCT FROM d.key AND {before})) \
               ORDER BY {PLACE} LIMIT $1::bigint) \
             UNION ALL \
             (SELECT * FROM {table} AS d \
               WHERE d.state = 'parked' AND d.{OPEN} \
                 AND NOT EXISTS (SELECT FROM {table} AS h \
                                  WHERE h.state = 'dead' AND h.parks_key \
                                    AND h.topic = d.topic \
                                    AND h.key IS NOT DISTINCT FROM d.key) \
               ORDER BY {PLACE} LIMIT $1::bigint)) AS d \
         ORDER BY {PLACE} LIMIT $1::bigint",
        hashes = parked::sql_hashes(),
        table = dead_letters.quoted()
    )
}

/// The statement that reads a record as it was filed.
pub(super) fn copy_sql(dead_letters: &TableName) -> String {
    let table = dead_letters.quoted();
    format!(
        "SELECT topic, key, payload, headers::text FROM {table} WHERE id = $1 AND topic IS NOT NULL"
    )
}
