//! Poison under load: events that can never be published are filed, each once, and hold up no
//! others; once fixed, they are published.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::heavy;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::oracle::{Event, Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, Session};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(120);
/// The least number of good events among which the poison is mixed.
const GOOD: u64 = 100_000;
/// Events of each kind of poison.
const EACH: usize = 10;

/// A kind of poison: its name, the three columns as SQL (`{narrow}` is a topic whose limit is
/// lowered while events flow), and its headers.
const KINDS: [(&str, &str, &str, &str, &str); 10] = [
    (
        "spaces in the topic",
        "'k'",
        "'no such topic'",
        "'{}'",
        "NULL",
    ),
    ("a long topic", "'k'", "repeat('t', 300)", "'{}'", "NULL"),
    (
        "a topic of Kafka's own",
        "'k'",
        "'__consumer_offsets'",
        "'{}'",
        "NULL",
    ),
    (
        "a topic that is not there",
        "'k'",
        "'nowhere'",
        "'{}'",
        "NULL",
    ),
    ("no payload", "'k'", "'{topic}'", "NULL", "NULL"),
    ("no key", "NULL", "'{topic}'", "'{}'", "NULL"),
    (
        "a key that is too large",
        "repeat('k', 1100000)",
        "'{topic}'",
        "'{}'",
        "NULL",
    ),
    (
        "a record larger than its topic takes",
        "'k'",
        "'{topic}'",
        "jsonb_build_object('x', repeat('x', 2000000))",
        "NULL",
    ),
    ("invalid headers", "'k'", "'{topic}'", "'{}'", "'[1, 2]'"),
    (
        "rejected by the broker alone",
        "'k' || {n} % 3",
        "'{narrow}'",
        "jsonb_build_object('x', repeat('x', 5000))",
        "NULL",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_among_a_hundred_thousand_are_filed_and_go_out_when_they_are_mended() -> Result<()>
{
    let _alone = heavy().await;
    poisoned(false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_a_minute_in_the_middle_makes_not_one_more_of_them() -> Result<()> {
    let _alone = heavy().await;
    poisoned(true).await
}

async fn poisoned(outage: bool) -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let narrow = kafka.topic("narrow", 2).await?;
    let topic = kafka.topic("events", 4).await?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let settings = Settings::new(&database, &kafka)?;
    init(&settings).await?;
    let session = database.connect().await?;
    session
        .batch_execute(
            "ALTER TABLE outbox.outbox ADD headers jsonb, ALTER event_type DROP NOT NULL, \
                 ALTER topic TYPE text, ALTER event_type TYPE text, \
                 ALTER event_payload DROP NOT NULL",
        )
        .await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    // The publisher reads the topic's limit, which is then lowered: for half a minute only the
    // broker knows the new one.
    let first = database.insert("k0", &narrow, "{}").await?;
    wait_until("the first record", LIMIT, async || {
        Ok(match kafka.record_count(&[&narrow]).await? {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        })
    })
    .await?;
    kafka
        .alter_topic(&narrow, &[("max.message.bytes", "2000")])
        .await?;
    let writers = Writers::start(
        &database,
        &topic,
        4,
        Pattern {
            rows: 40,
            rest: Duration::from_millis(20),
        },
    );
    let mut poison = HashMap::new();
    for n in 0..EACH {
        // Poison that only the broker rejects comes first, while only the broker knows the limit.
        for kind in KINDS.iter().rev() {
            let id = poison_and_neighbours(&session, kind, n, &topic, &narrow).await?;
            poison.insert(id, kind.0);
        }
        if outage && n == EACH / 2 {
            kafka.stop()?;
            tokio::time::sleep(Duration::from_secs(60)).await;
            kafka.resume()?;
        }
    }
    wait_until("the load", LIMIT, async || {
        Ok(match writers.events() {
            enough if enough >= GOOD => Ok(()),
            events => Err(format!("{events} events")),
        })
    })
    .await?;
    writers.stop().await?;
    let slot = format!("outboxd_{}", database.name);
    let end: String = session
        .value("SELECT pg_current_wal_insert_lsn()::text")
        .await?;
    wait_until("the slot to be past all of it", LIMIT, async || {
        let past = format!(
            "SELECT confirmed_flush_lsn >= '{end}' \
             FROM pg_replication_slots WHERE slot_name = '{slot}'"
        );
        Ok(match session.value::<bool>(&past).await? {
            true => Ok(()),
            false => Err(format!("{} {}", outboxd.status().await?, outboxd.log())),
        })
    })
    .await?;

    let dead_letters = listed(&settings).await?;
    let filed: HashSet<i64> = dead_letters.iter().filter_map(row_of).collect();
    let expected: HashSet<i64> = poison.keys().copied().collect();
    ensure!(
        dead_letters.len() == poison.len() && filed == expected,
        "{} dead letters: {:?}",
        dead_letters.len(),
        by_code(&dead_letters)
    );
    ensure!(dead_letters.iter().all(|entry| entry["state"] == "dead"));
    let committed = oracle.committed().await?;
    let (dead, good): (Vec<Event>, Vec<Event>) = committed
        .into_iter()
        .partition(|event| poison.contains_key(&event.id));
    ensure!(dead.len() == poison.len() && good.len() as u64 > GOOD);
    expect_good_delivered(&kafka, &good, &topic, &narrow, outage).await?;
    let unpublished = database.unpublished().await?;
    ensure!(
        unpublished == poison.len() as i64,
        "{unpublished} unpublished"
    );
    let counted = published(&outboxd, &[&topic, &narrow]).await?;
    ensure!(
        counted == good.len() as f64,
        "{counted} of {} counted",
        good.len()
    );
    let rewinds = outboxd.metric("outboxd_partition_rewinds_total").await?;
    ensure!(rewinds > Some(0.0), "the broker rejected nothing");

    fix_rows(&session, &poison, &topic).await?;
    kafka
        .alter_topic(&narrow, &[("max.message.bytes", "1048588")])
        .await?;
    let retry = command(&settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
    ensure!(
        retry.status.success(),
        "{}",
        String::from_utf8_lossy(&retry.stderr)
    );
    wait_until("every row to be marked", LIMIT, async || {
        Ok(match database.unpublished().await? {
            0 => Ok(()),
            left => Err(format!("{left} rows are unpublished: {}", outboxd.log())),
        })
    })
    .await?;
    let consumed = kafka.consume_all(&[&topic, &narrow]).await?;
    let mut times: HashMap<i64, usize> = HashMap::new();
    for id in consumed.iter().filter_map(ConsumedRecord::outbox_id) {
        *times.entry(id).or_default() += 1;
    }
    let wrong: Vec<_> = poison
        .iter()
        .filter(|(id, _)| times.get(id) != Some(&1))
        .map(|(id, kind)| (id, kind, times.get(id)))
        .collect();
    ensure!(wrong.is_empty(), "not delivered exactly once: {wrong:?}");
    let all = good.len() + poison.len();
    ensure!(times.len() == all, "{} events of {all}", times.len());
    ensure!(times.contains_key(&first));
    let dead_letters = listed(&settings).await?;
    let open: Vec<_> = dead_letters
        .iter()
        .filter(|entry| entry["state"] != "retried")
        .collect();
    ensure!(open.is_empty(), "{open:?}");
    ensure!(published(&outboxd, &[&topic, &narrow]).await? == all as f64);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// Inserts one poison event between good ones in a transaction; returns its id.
async fn poison_and_neighbours(
    session: &Session,
    (_, key, to, payload, headers): &(&str, &str, &str, &str, &str),
    n: usize,
    topic: &str,
    narrow: &str,
) -> Result<i64> {
    let fill = |text: &str| {
        let text = text.replace("{topic}", topic).replace("{narrow}", narrow);
        text.replace("{n}", &n.to_string())
    };
    let good = format!(
        "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
         SELECT 'k' || i % 3, '{narrow}', jsonb_build_object('i', i) FROM generate_series(1, 6) i"
    );
    session.batch_execute(&format!("BEGIN; {good}")).await?;
    let id = session
        .value(&format!(
            "INSERT INTO outbox.outbox (event_type, topic, event_payload, headers) \
             VALUES ({}, {}, {}, {headers}) RETURNING id",
            fill(key),
            fill(to),
            fill(payload)
        ))
        .await?;
    session.batch_execute(&format!("{good}; COMMIT")).await?;
    Ok(id)
}

/// Each good event was delivered: to the load's topic once and in order. The other topic was
/// rewound, so some came twice; the last record of each key is still its newest.
async fn expect_good_delivered(
    kafka: &Kafka,
    good: &[Event],
    topic: &str,
    narrow: &str,
    outage: bool,
) -> Result<()> {
    let of = |name: &str| -> Vec<Event> {
        let of = good.iter().filter(|event| event.topic == name);
        of.cloned().collect()
    };
    let consumed = kafka.consume_all(&[topic]).await?;
    let report = check(&of(topic), &consumed);
    match outage {
        false => report.expect_exact()?,
        true => report.expect_complete()?,
    }
    let consumed = kafka.consume_all(&[narrow]).await?;
    let events = of(narrow);
    let report = check(&events, &consumed);
    ensure!(
        report.missing.is_empty() && report.phantom.is_empty() && report.altered.is_empty(),
        "{report}"
    );
    let places: HashMap<i64, usize> = events
        .iter()
        .enumerate()
        .map(|(at, event)| (event.id, at))
        .collect();
    let mut last: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for record in consumed {
        let id = record.outbox_id().context("an id")?;
        let deliveries = last.entry(record.key.unwrap_or_default()).or_default();
        let place = places[&id];
        deliveries.retain(|known| *known != place);
        deliveries.push(place);
    }
    for (key, places) in last {
        ensure!(
            places.is_sorted(),
            "the last record of key {key:?} is an old event"
        );
    }
    Ok(())
}

async fn listed(settings: &Settings) -> Result<Vec<Value>> {
    let arguments = [
        "dead-letter",
        "list",
        "--closed",
        "--json",
        "--limit",
        "1000",
    ];
    let list = command(settings, &arguments, LIMIT).await?;
    ensure!(
        list.status.success(),
        "{}",
        String::from_utf8_lossy(&list.stderr)
    );
    let lines = String::from_utf8(list.stdout)?;
    lines
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn row_of(entry: &Value) -> Option<i64> {
    entry["outbox_id"].as_str()?.parse().ok()
}

fn by_code(dead_letters: &[Value]) -> BTreeMap<String, usize> {
    let mut codes = BTreeMap::new();
    for entry in dead_letters {
        *codes.entry(entry["error_code"].to_string()).or_default() += 1;
    }
    codes
}

async fn published(outboxd: &Outboxd, topics: &[&str]) -> Result<f64> {
    let mut sum = 0.0;
    for topic in topics {
        let series =
            format!("outbox_events_processed_total{{topic=\"{topic}\",status=\"published\"}}");
        sum += outboxd.metric(&series).await?.unwrap_or_default();
    }
    Ok(sum)
}

/// Corrects the rows.
async fn fix_rows(session: &Session, poison: &HashMap<i64, &str>, topic: &str) -> Result<()> {
    let ids: Vec<i64> = poison
        .iter()
        .filter(|(_, kind)| **kind != "rejected by the broker alone")
        .map(|(id, _)| *id)
        .collect();
    session
        .execute(
            "UPDATE outbox.outbox SET topic = $1, headers = NULL, \
                 event_type = 'fixed', event_payload = '{}' \
              WHERE id = ANY ($2)",
            &[&topic, &ids],
        )
        .await?;
    Ok(())
}
