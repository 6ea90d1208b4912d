//! The oracle: what Postgres' own `test_decoding` plugin says was committed, and in which order,
//! compared with what a consumer reads.

use std::collections::{HashMap, HashSet};
use std::fmt;

use anyhow::{Context, Result, bail};

use super::kafka::ConsumedRecord;
use super::postgres::Database;

/// One committed insert into the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: i64,
    pub(crate) event_type: String,
    pub(crate) topic: String,
    /// As Postgres prints it.
    pub(crate) payload: String,
    /// Whether the row was inserted with `published_at` set, and so must not be published.
    pub(crate) published: bool,
}

/// A slot that retains what is committed after its creation. Create it before the writers start; it
/// is dropped with its database.
pub(crate) struct Oracle<'a> {
    database: &'a Database,
    slot: String,
}

impl<'a> Oracle<'a> {
    pub(crate) async fn create(database: &'a Database) -> Result<Oracle<'a>> {
        let slot = format!("oracle_{}", database.name);
        let sql = "SELECT pg_create_logical_replication_slot($1, 'test_decoding')";
        database.connect().await?.execute(sql, &[&slot]).await?;
        Ok(Oracle { database, slot })
    }

    /// The committed inserts into `outbox.outbox` in commit order, without rows inserted as
    /// published.
    pub(crate) async fn committed(&self) -> Result<Vec<Event>> {
        let sql = "SELECT data FROM pg_logical_slot_peek_changes($1, NULL, NULL,
                       'include-xids', '0', 'skip-empty-xacts', '1')
                   WHERE starts_with(data, 'table outbox.outbox: INSERT: ')";
        let rows = self
            .database
            .connect()
            .await?
            .query(sql, &[&self.slot])
            .await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let event = parse(row.try_get(0)?)?;
            if !event.published {
                events.push(event);
            }
        }
        Ok(events)
    }
}

/// Parses `table outbox.outbox: INSERT: id[bigint]:1 event_type[text]:'created' …`, in which quotes
/// inside quotes are doubled.
fn parse(line: &str) -> Result<Event> {
    let mut rest = line
        .split_once(": INSERT: ")
        .with_context(|| line.to_owned())?
        .1;
    let mut columns: HashMap<&str, Option<String>> = HashMap::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('[').with_context(|| line.to_owned())?;
        let (_, after) = after.split_once("]:").with_context(|| line.to_owned())?;
        let (value, after) = if let Some(quoted) = after.strip_prefix('\'') {
            let (value, after) = unquote(quoted).with_context(|| line.to_owned())?;
            (Some(value), after)
        } else {
            let (value, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
            ((value != "null").then(|| value.to_owned()), after)
        };
        columns.insert(name, value);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    let mut take = |name: &str| columns.remove(name).flatten();
    let Some(id) = take("id") else {
        bail!("a column is missing in {line}");
    };
    // Only a poison row has a null in one of these columns.
    Ok(Event {
        id: id.parse()?,
        event_type: take("event_type").unwrap_or_default(),
        topic: take("topic").unwrap_or_default(),
        payload: take("event_payload").unwrap_or_default(),
        published: take("published_at").is_some(),
    })
}

/// The text before the closing quote, and the rest.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        let Some(more) = after.strip_prefix('\'') else {
            return Some((value, after));
        };
        value.push('\'');
        rest = more;
    }
}

/// The differences between a consumer's view and the oracle's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Number of records read.
    pub(crate) consumed: usize,
    /// Committed and never delivered.
    pub(crate) missing: Vec<i64>,
    /// Delivered and never committed: the `outbox_id` header, if present.
    pub(crate) phantom: Vec<Option<i64>>,
    /// Delivered with another topic, key or value than was committed.
    pub(crate) altered: Vec<i64>,
    /// Delivered more than once: id and number of deliveries.
    pub(crate) duplicates: Vec<(i64, usize)>,
    /// First delivered after a later event of the same topic and key, or the key is in several
    /// partitions.
    pub(crate) out_of_order: Vec<i64>,
}

impl Report {
    /// Each event once, unaltered and in order.
    pub(crate) fn is_exact(&self) -> bool {
        self.is_complete() && self.duplicates.is_empty()
    }

    /// Each event at least once, unaltered and in order.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
            && self.phantom.is_empty()
            && self.altered.is_empty()
            && self.out_of_order.is_empty()
    }

    /// How many deliveries were one too many.
    pub(crate) fn repeated(&self) -> usize {
        self.duplicates.iter().map(|(_, times)| times - 1).sum()
    }

    /// Fails unless [`is_exact`](Report::is_exact).
    pub(crate) fn expect_exact(&self) -> Result<()> {
        if self.is_exact() {
            Ok(())
        } else {
            bail!("not exact: {self}")
        }
    }

    /// Fails unless [`is_complete`](Report::is_complete).
    pub(crate) fn expect_complete(&self) -> Result<()> {
        if self.is_complete() {
            Ok(())
        } else {
            bail!("not complete: {self}")
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Debug>(name: &str, all: &[T]) -> String {
            let first = &all[..all.len().min(10)];
            format!(", {name} {} {first:?}", all.len())
        }
        write!(f, "{} records", self.consumed)?;
        f.write_str(&list("missing", &self.missing))?;
        f.write_str(&list("phantom", &self.phantom))?;
        f.write_str(&list("altered", &self.altered))?;
        f.write_str(&list("duplicates", &self.duplicates))?;
        f.write_str(&list("out of order", &self.out_of_order))
    }
}

/// Compares `committed`, in commit order, with `consumed`, in offset order within each partition.
/// The key must be the event's type, and the value its payload as Postgres prints it.
pub(crate) fn check(committed: &[Event], consumed: &[ConsumedRecord]) -> Report {
    let places: HashMap<i64, usize> = committed
        .iter()
        .enumerate()
        .map(|(place, event)| (event.id, place))
        .collect();
    let mut report = Report {
        consumed: consumed.len(),
        ..Report::default()
    };
    let mut deliveries = vec![0usize; committed.len()];
    // For each topic and key: the partition, and the latest event delivered so far.
    let mut heads: HashMap<(&str, &str), (i32, usize)> = HashMap::new();
    let mut altered = HashSet::new();
    for record in consumed {
        let Some(&place) = record.outbox_id().and_then(|id| places.get(&id)) else {
            report.phantom.push(record.outbox_id());
            continue;
        };
        let event = &committed[place];
        let same = record.topic == event.topic
            && record.key.as_deref() == Some(event.event_type.as_bytes())
            && record.value.as_deref() == Some(event.payload.as_bytes());
        if !same && altered.insert(event.id) {
            report.altered.push(event.id);
        }
        deliveries[place] += 1;
        if deliveries[place] > 1 {
            continue;
        }
        let head = heads
            .entry((&event.topic, &event.event_type))
            .or_insert((record.partition, place));
        if head.0 != record.partition || place < head.1 {
            report.out_of_order.push(event.id);
        }
        head.1 = head.1.max(place);
    }
    for (event, count) in committed.iter().zip(deliveries) {
        match count {
            0 => report.missing.push(event.id),
            1 => {}
            more => report.duplicates.push((event.id, more)),
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_test_decoding_gives_the_event_with_its_quotes_and_brackets() -> Result<()> {
        let line = "table outbox.outbox: INSERT: id[bigint]:7 \
                    event_type[text]:'it''s [text]:x' topic[text]:'a b' \
                    event_payload[jsonb]:'{\"q\": \"''\"}' \
                    created_at[timestamp without time zone]:'2024-01-01 00:00:00' \
                    times_attempted[integer]:0 published_at[timestamp without time zone]:null";
        let event = parse(line)?;
        assert_eq!(event.id, 7);
        assert_eq!(event.event_type, "it's [text]:x");
        assert_eq!(event.topic, "a b");
        assert_eq!(event.payload, "{\"q\": \"'\"}");
        assert!(!event.published);
        Ok(())
    }

    fn event(id: i64, key: &str) -> Event {
        let text = |text: &str| text.to_owned();
        Event {
            id,
            event_type: text(key),
            topic: text("t"),
            payload: text("{}"),
            published: false,
        }
    }

    fn record(id: i64, key: &str, offset: i64) -> ConsumedRecord {
        ConsumedRecord {
            topic: "t".to_owned(),
            partition: 0,
            offset,
            key: Some(key.into()),
            value: Some("{}".into()),
            headers: vec![("outbox_id".to_owned(), id.to_string().into_bytes())],
            timestamp: None,
            is_create_time: true,
        }
    }

    #[test]
    fn the_witness_sees_every_kind_of_fault() {
        let committed = [event(1, "a"), event(3, "b"), event(2, "a"), event(4, "a")];
        let exact = [
            record(1, "a", 0),
            record(3, "b", 1),
            record(2, "a", 2),
            record(4, "a", 3),
        ];
        assert!(check(&committed, &exact).is_exact());

        let mut repeated = exact.to_vec();
        repeated.push(record(1, "a", 4));
        let report = check(&committed, &repeated);
        assert_eq!(report.duplicates, [(1, 2)]);
        assert!(report.is_complete() && !report.is_exact());

        let faulty = [
            record(2, "a", 0),
            record(1, "a", 1),
            record(9, "a", 2),
            record(4, "x", 3),
        ];
        let report = check(&committed, &faulty);
        assert_eq!(report.out_of_order, [1]);
        assert_eq!(report.phantom, [Some(9)]);
        assert_eq!(report.altered, [4]);
        assert_eq!(report.missing, [3]);
    }
}
