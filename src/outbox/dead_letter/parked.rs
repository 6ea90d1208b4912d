//! The keys whose later events wait for a dead letter, as the table has them.
//!
//! A key may have a megabyte, so the server computes hashes, and only those are received and kept.
//! A topic of whose keys there are too many is listed as a whole. No key is missing: what waits for
//! too much keeps its order, what waits for too little does not.

use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::config::TableName;
use crate::error::Result;
use crate::outbox::KeyHash;
use crate::outbox::dead_letter::OPEN;
use crate::postgres::{Session, sql_error};

/// The most parked keys that are kept apart: some megabytes.
pub(crate) const PARKED_KEYS_MAX: usize = 100_000;

/// Two expressions for the [`KeyHash`] of a dead letter `d`: the second is null without a key.
pub(super) fn sql_hashes() -> String {
    let sum = |of: &str| format!("pg_catalog.substr(pg_catalog.sha256({of}), 1, 8)");
    let topic = "pg_catalog.convert_to(d.topic, 'UTF8')";
    let key = format!("{topic} || '\\x00'::bytea || d.key");
    format!("{}, {}", sum(topic), sum(&key))
}

/// A topic and key whose later events wait for a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedKey {
    /// Both of them.
    pub hash: KeyHash,
    /// Its open rows among the dead letters.
    pub rows: u64,
    /// One of them is dead, without a request.
    pub blocked: bool,
}

/// All parked keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ParkedKeyList {
    /// The keys that are listed one by one.
    pub keys: Vec<ParkedKey>,
    /// Hashes of the topics of which every key counts as parked.
    pub topics: Vec<u64>,
    /// Every key of every topic counts as parked.
    pub everything: bool,
    limit: usize,
}

impl ParkedKeyList {
    /// An empty list, for at most `limit` keys and as many topics.
    pub(crate) fn new(limit: usize) -> Self {
        ParkedKeyList {
            limit,
            ..ParkedKeyList::default()
        }
    }

    /// Adds a key. The keys of a topic must follow one another.
    pub(crate) fn push(&mut self, key: ParkedKey) {
        let topic = key.hash.topic;
        if self.everything || self.topics.last() == Some(&topic) {
            return;
        }
        if self.keys.len() < self.limit {
            self.keys.push(key);
            return;
        }
        while self
            .keys
            .pop_if(|known| known.hash.topic == topic)
            .is_some()
        {}
        self.topics.push(topic);
        if self.topics.len() > self.limit {
            (self.keys, self.topics) = (Vec::new(), Vec::new());
            self.everything = true;
        }
    }
}

/// The statement of [`read`].
pub(super) fn read_sql(dead_letters: &TableName) -> String {
    format!(
        "SELECT p.topic, p.key, pg_catalog.count(*), pg_catalog.bool_or(p.blocks) FROM ( \
             SELECT {hashes}, d.state = 'dead' AND d.parks_key FROM {table} AS d \
              WHERE d.state IN ('dead', 'parked', 'retry') AND d.{OPEN} \
                AND (d.parks_key OR d.state = 'parked') \
                AND d.topic IS NOT NULL AND d.key IS NOT NULL) AS p (topic, key, blocks) \
          GROUP BY p.topic, p.key ORDER BY p.topic",
        hashes = sql_hashes(),
        table = dead_letters.quoted()
    )
}

/// Reads the parked keys by the statement of [`read_sql`].
///
/// # Errors
/// Of the table or the server.
pub(super) async fn read(
    session: &Session,
    dead_letters: &TableName,
    sql: &str,
) -> Result<ParkedKeyList> {
    let what = format!("reading parked keys from {dead_letters}");
    let none: [&(dyn ToSql + Sync); 0] = [];
    let rows = session.bounded(&what, session.query_raw(sql, none)).await?;
    pin_mut!(rows);
    let mut list = ParkedKeyList::new(PARKED_KEYS_MAX);
    while let Some(row) = session.bounded(&what, rows.try_next()).await? {
        let key = key_of(&row).map_err(|error| sql_error(&what, error))?;
        key.into_iter().for_each(|key| list.push(key));
    }
    if list.everything || !list.topics.is_empty() {
        let topics = list.topics.len();
        tracing::warn!(
            topics,
            "too many keys are parked, parking all keys of these topics"
        );
    }
    Ok(list)
}

fn key_of(row: &Row) -> Result<Option<ParkedKey>, tokio_postgres::Error> {
    let Some(hash) = KeyHash::of_row(row, 0)? else {
        return Ok(None);
    };
    Ok(Some(ParkedKey {
        hash,
        rows: row.try_get::<_, i64>(2)?.unsigned_abs(),
        blocked: row.try_get(3)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(limit: usize, keys: &[(u64, u64)]) -> ParkedKeyList {
        let mut list = ParkedKeyList::new(limit);
        for (topic, key) in keys {
            list.push(ParkedKey {
                hash: KeyHash {
                    topic: *topic,
                    key: *key,
                },
                rows: 1,
                blocked: true,
            });
        }
        list
    }

    #[test]
    fn a_topic_with_too_many_keys_is_listed_as_a_whole_and_none_is_forgotten() {
        let keys: Vec<(u64, u64)> = vec![(1, 1), (2, 1), (2, 2), (2, 3), (3, 1)];
        let all = list(5, &keys);
        assert_eq!((all.keys.len(), all.topics.len()), (5, 0));
        let few = list(3, &keys);
        assert_eq!(few.topics, [2]);
        let left: Vec<u64> = few.keys.iter().map(|key| key.hash.topic).collect();
        assert_eq!(left, [1, 3]);
        let one = list(1, &[(1, 1), (2, 1), (2, 2), (3, 1)]);
        assert!(one.everything && one.keys.is_empty() && one.topics.is_empty());
    }
}
