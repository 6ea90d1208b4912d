//! The same rows through both, and their records one by one.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::groups::{GROUPS, Group};
use super::{LIMIT, imported, offered, options};
use crate::support::debezium::{Connector, Distribution};
use crate::support::folder::Folder;
use crate::support::heavy;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, init};
use crate::support::postgres::{self, Database};
use crate::support::run_cases;
use crate::support::wait::wait_until;

/// Each topic has so many partitions.
pub(super) const PARTITIONS: i32 = 3;

/// What a consumer sees of a record.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    /// Without the prefix of its side.
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) key: Option<String>,
    pub(super) value: Option<Vec<u8>>,
    /// A header without a value, or with an empty one, has none.
    pub(super) headers: BTreeMap<String, Option<String>>,
    pub(super) timestamp: Option<i64>,
}

impl View {
    /// Of Debezium Server, which writes headers as JSON.
    fn of_debezium(record: &ConsumedRecord, prefix: &str) -> Result<View> {
        View::of(record, prefix, |bytes| {
            Ok(match serde_json::from_slice(bytes)? {
                Value::Null => None,
                Value::String(text) => Some(text).filter(|text| !text.is_empty()),
                other => Some(other.to_string()),
            })
        })
    }

    fn of_outboxd(record: &ConsumedRecord, prefix: &str) -> Result<View> {
        View::of(record, prefix, |bytes| {
            let text = String::from_utf8(bytes.to_vec())?;
            Ok(Some(text).filter(|text| !text.is_empty()))
        })
    }

    fn of(
        record: &ConsumedRecord,
        prefix: &str,
        header: impl Fn(&[u8]) -> Result<Option<String>>,
    ) -> Result<View> {
        let topic = record.topic.strip_prefix(prefix).context("a prefix")?;
        let key = record.key.clone().map(String::from_utf8).transpose()?;
        let mut headers = BTreeMap::new();
        for (name, value) in &record.headers {
            let value = header(value).with_context(|| format!("header {name}"))?;
            let twice = headers.insert(name.clone(), value);
            ensure!(twice.is_none(), "header {name} is there twice");
        }
        Ok(View {
            topic: topic.to_owned(),
            partition: record.partition,
            key,
            value: record.value.clone(),
            headers,
            timestamp: record.timestamp,
        })
    }

    fn id(&self) -> Result<String> {
        let id = self.headers.get("id").context("a header id")?;
        id.clone().context("a header id with a value")
    }

    /// The value as JSON, whose numbers are compared as what consumers make of them.
    pub(super) fn json(&self) -> Result<Option<Value>> {
        let Some(bytes) = &self.value else {
            return Ok(None);
        };
        Ok(Some(by_value(serde_json::from_slice(bytes)?)))
    }
}

/// JSON with each number as the double that it is read as.
fn by_value(json: Value) -> Value {
    match json {
        Value::Number(number) => Value::from(number.as_f64()),
        Value::Array(items) => items.into_iter().map(by_value).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| (name, by_value(value)))
            .collect(),
        other => other,
    }
}

/// The records of one side by id, in the order of their partitions.
struct Side {
    by_id: BTreeMap<String, View>,
    /// The ids of each topic, partition and key in the order of their records.
    of_keys: BTreeMap<(String, i32, String), Vec<String>>,
}

impl Side {
    fn new(views: Vec<View>) -> Result<Side> {
        let (mut by_id, mut of_keys) = (BTreeMap::new(), BTreeMap::new());
        for view in views {
            let id = view.id()?;
            if let Some(key) = &view.key {
                let of_key: &mut Vec<String> = of_keys
                    .entry((view.topic.clone(), view.partition, key.clone()))
                    .or_default();
                of_key.push(id.clone());
            }
            ensure!(by_id.insert(id.clone(), view).is_none(), "{id} came twice");
        }
        Ok(Side { by_id, of_keys })
    }

    /// Whether each of its keys has the order that `other` gives to it. A column may spread a key
    /// over partitions, between which there is no order.
    fn is_ordered_as(&self, other: &Side) -> bool {
        let places: BTreeMap<&String, usize> = other
            .of_keys
            .values()
            .flat_map(|ids| ids.iter().enumerate().map(|(place, id)| (id, place)))
            .collect();
        let mut keys = self.of_keys.values();
        keys.all(|ids| ids.iter().is_sorted_by_key(|id| places.get(id)))
    }
}

#[test]
fn another_order_within_a_key_is_seen() -> Result<()> {
    let record = |partition, id: &str| View {
        topic: "t".to_owned(),
        partition,
        key: Some("k".to_owned()),
        value: None,
        headers: [("id".to_owned(), Some(id.to_owned()))].into(),
        timestamp: None,
    };
    let theirs = Side::new(["a", "b", "c"].map(|id| record(0, id)).into())?;
    let spread = vec![record(1, "c"), record(2, "a"), record(2, "b")];
    assert!(Side::new(spread)?.is_ordered_as(&theirs));
    let swapped = vec![record(1, "b"), record(1, "a"), record(2, "c")];
    assert!(!Side::new(swapped)?.is_ordered_as(&theirs));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_records_are_those_of_debeziums_event_router() -> Result<()> {
    let Some(debezium) = offered("the records of Debezium's event router") else {
        return Ok(());
    };
    let _turn = heavy().await;
    let kafka = kafka::shared();
    let total: usize = GROUPS.iter().map(|group| (group.rows)().len()).sum();
    assert!(total >= 200, "{total} cases");
    let cases = GROUPS.iter().map(|group| {
        let debezium = debezium.clone();
        (group.name.to_owned(), async move {
            compare(group, &debezium, kafka).await
        })
    });
    run_cases(cases).await
}

async fn compare(group: &Group, debezium: &Distribution, kafka: &Kafka) -> Result<()> {
    let database = Database::create_empty(postgres::shared(postgres::turn(17))).await?;
    let session = database.connect().await?;
    let publication = "CREATE PUBLICATION debezium FOR TABLE outboxevent";
    session
        .batch_execute(&format!("{}; {publication}", group.ddl))
        .await?;
    let prefixes = ["d", "o"].map(|side| format!("{side}.{}.{}.", group.name, database.name));
    for prefix in &prefixes {
        for route in group.routes {
            let topic = format!("{prefix}{route}");
            kafka.create_topic(&topic, PARTITIONS, &[]).await?;
        }
    }
    let slot = format!("debezium_{}", database.name);
    let text = |prefix: &str| -> Result<String> {
        let common = options(&database, &slot, kafka)?;
        Ok(common + &group.options.concat().replace("PREFIX", prefix))
    };
    let connector = Connector::start(debezium, &text(&prefixes[0])?)?;
    let folder = Folder::new("import")?;
    let file = folder.join("application.properties");
    fs::write(&file, text(&prefixes[1])?)?;
    let settings = imported(&file, &folder).await?;
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    connector.wait_streaming().await?;

    let rows = (group.rows)();
    // Transactions of one row and of several.
    for (number, some) in rows.chunks(7).enumerate() {
        let each = if number % 2 == 0 { 1 } else { some.len() };
        for rows in some.chunks(each) {
            let values = rows.join("), (");
            let sql = format!(
                "INSERT INTO outboxevent {} VALUES ({values})",
                group.columns
            );
            session.batch_execute(&sql).await.context(sql)?;
        }
    }
    session.batch_execute(group.then).await?;
    let mut sides = Vec::new();
    for prefix in &prefixes {
        let topics: Vec<String> = group
            .routes
            .iter()
            .map(|it| format!("{prefix}{it}"))
            .collect();
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        let what = format!("{} records of {prefix}", rows.len());
        wait_until(&what, LIMIT, async || {
            connector.must_run()?;
            let count = kafka.record_count(&topics).await?;
            let is_there = usize::try_from(count)? >= rows.len();
            Ok(if is_there {
                Ok(())
            } else {
                Err(format!("{count}, {}", outboxd.log()))
            })
        })
        .await?;
        sides.push(kafka.consume_all(&topics).await?);
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let views = |at: usize, view: fn(&ConsumedRecord, &str) -> Result<View>| {
        let views = sides[at].iter().map(|record| view(record, &prefixes[at]));
        Side::new(views.collect::<Result<_>>()?)
    };
    let theirs = views(0, View::of_debezium)?;
    let ours = views(1, View::of_outboxd)?;
    same(group, rows.len(), theirs, ours)
}

fn same(group: &Group, rows: usize, theirs: Side, ours: Side) -> Result<()> {
    ensure!(theirs.by_id.len() == rows, "{} records", theirs.by_id.len());
    ensure!(ours.by_id.len() == rows, "{} of ours", ours.by_id.len());
    ensure!(ours.is_ordered_as(&theirs), "another order");
    let mut wrong = Vec::new();
    for (id, their) in &theirs.by_id {
        let our = ours.by_id.get(id).with_context(|| format!("no {id}"))?;
        if let Err(error) = (group.compare)(their, our) {
            wrong.push(format!("{id}: {error:#}"));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

/// Fails unless the two records are the same to a consumer. The time of sending is each side's own,
/// and a record without a key may go to any partition.
pub(super) fn alike(their: &View, our: &View) -> Result<()> {
    let mut our = our.clone();
    our.timestamp = their.timestamp;
    if our.key.is_none() {
        our.partition = their.partition;
    }
    let shown = |view: &View| {
        let mut text = format!("{view:?}");
        if let Some(value) = &view.value {
            let value = String::from_utf8_lossy(value);
            text = format!("{:.300} value {value:.300}", text);
        }
        text
    };
    ensure!(
        *their == our,
        "\n  Debezium {}\n  outboxd  {}",
        shown(their),
        shown(&our)
    );
    Ok(())
}
