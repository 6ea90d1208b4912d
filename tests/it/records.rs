//! What a record is where settings take its parts from the row: its partition, its time, its key
//! and its value, as a consumer of a real broker reads them. What the topic does not take is a dead
//! letter, and goes out once row or topic are mended.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, Session};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

const TABLE: &str = "CREATE TABLE message (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, topic text NOT NULL, key text, body text,
    place int, happened timestamptz, day date, millis bigint,
    created_at timestamptz NOT NULL DEFAULT now(), published_at timestamptz)";

const COLUMNS: &str = "id=id,type=none,payload=body,headers=none,created=created_at,\
                       published=published_at,attempts=none";

/// A database with the table, and a topic of three partitions.
struct Outbox {
    /// It is dropped last.
    _database: Database,
    session: Session,
    settings: Settings,
    kafka: &'static Kafka,
    topic: String,
}

impl Outbox {
    async fn create(settings: &[(&str, &str)], topic_settings: &[(&str, &str)]) -> Result<Outbox> {
        let database = Database::create_empty(postgres::shared(postgres::turn(17))).await?;
        let session = database.connect().await?;
        session.batch_execute(TABLE).await?;
        let kafka = kafka::shared();
        let topic = format!("records-{}", database.name);
        kafka.create_topic(&topic, 3, topic_settings).await?;
        let mut all = Settings::new(&database, kafka)?
            .set("OUTBOX_TABLE", "public.message")
            .set("OUTBOX_COLUMNS", COLUMNS)
            .set("OUTBOX_KEY", "column:key")
            .set("OUTBOX_BACKLOG", "publish");
        for (name, value) in settings {
            all = all.set(name, *value);
        }
        init(&all).await?;
        Ok(Outbox {
            _database: database,
            session,
            settings: all,
            kafka,
            topic,
        })
    }

    /// Inserts rows of these columns in one transaction.
    async fn insert(&self, columns: &str, rows: &str) -> Result<()> {
        let topic = &self.topic;
        let sql = format!(
            "INSERT INTO message (topic, {columns}) SELECT '{topic}', v.* FROM (VALUES {rows}) v"
        );
        self.session.batch_execute(&sql).await?;
        Ok(())
    }

    async fn streaming(&self) -> Result<Outboxd> {
        let outboxd = Outboxd::spawn(&self.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        Ok(outboxd)
    }

    /// Waits until this many rows are not marked.
    async fn unmarked(&self, outboxd: &Outboxd, wanted: i64) -> Result<()> {
        let sql = "SELECT count(*) FROM message WHERE published_at IS NULL";
        wait_until("every row to be marked", LIMIT, async || {
            let found = self.session.value::<i64>(sql).await?;
            Ok((found == wanted)
                .then_some(())
                .ok_or_else(|| format!("{found} rows are not, {}", outboxd.log())))
        })
        .await
    }

    /// Waits for these dead letters, such as `COLUMN_NULL dead 1`.
    async fn dead_letters(&self, outboxd: &Outboxd, wanted: &str) -> Result<()> {
        let sql = "SELECT coalesce(string_agg(line, ', ' ORDER BY line), '') FROM (
                     SELECT error_code || ' ' || state || ' ' || count(*) AS line
                       FROM message_dead_letter GROUP BY error_code, state) AS l";
        wait_until(wanted, LIMIT, async || {
            let found = self.session.value::<String>(sql).await?;
            Ok((found == wanted)
                .then_some(())
                .ok_or_else(|| format!("{found:?}, {}", outboxd.log())))
        })
        .await
    }

    async fn retry(&self) -> Result<()> {
        let retry = ["dead-letter", "retry", "--all", "--wait"];
        let retry = command(&self.settings, &retry, LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        Ok(())
    }

    async fn records(&self) -> Result<Vec<ConsumedRecord>> {
        self.kafka.consume_all(&[&self.topic]).await
    }

    /// The records by their values, each once.
    async fn by_value(&self) -> Result<BTreeMap<String, ConsumedRecord>> {
        let mut found = BTreeMap::new();
        for record in self.records().await? {
            let value = text(&record.value).context("a value")?;
            let earlier = found.insert(value, record);
            ensure!(earlier.is_none(), "twice: {earlier:?}");
        }
        Ok(found)
    }
}

fn text(bytes: &Option<Vec<u8>>) -> Option<String> {
    let bytes = bytes.as_ref()?;
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// The clock, in milliseconds since 1970. Servers and tests have the same one.
fn now() -> Result<i64> {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(i64::try_from(passed.as_millis())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_names_the_partition_of_its_record() -> Result<()> {
    let outbox = Outbox::create(&[("OUTBOX_PARTITION", "column:place")], &[]).await?;
    let columns = "key, body, place";
    // Written before the first start.
    outbox
        .insert(columns, "('a', '1', 2), ('a', '2', 0), ('b', '3', 1)")
        .await?;
    let mut outboxd = outbox.streaming().await?;
    outbox
        .insert(
            columns,
            "('a', '4', 1), (NULL, '5', 2), ('d', '6', NULL), ('d', '7', NULL)",
        )
        .await?;
    outbox.unmarked(&outboxd, 0).await?;
    outbox
        .insert(columns, "('e', '8', 3), ('f', '9', -1)")
        .await?;
    outbox
        .dead_letters(
            &outboxd,
            "PARTITION_INVALID dead 1, PARTITION_UNKNOWN dead 1",
        )
        .await?;
    // The topic is mended for one of them, and the row of the other.
    outbox.kafka.grow_topic(&outbox.topic, 4).await?;
    let mend = "UPDATE message SET place = 1 WHERE body = '9'";
    outbox.session.batch_execute(mend).await?;
    outbox.retry().await?;
    outbox.unmarked(&outboxd, 0).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let records = outbox.by_value().await?;
    let place = |value: &str| {
        let record = &records[value];
        (record.partition, text(&record.key))
    };
    let key = |key: &str| Some(key.to_owned());
    for (value, expected) in [
        ("1", (2, key("a"))),
        ("2", (0, key("a"))),
        ("3", (1, key("b"))),
        ("4", (1, key("a"))),
        ("5", (2, None)),
        ("8", (3, key("e"))),
        ("9", (1, key("f"))),
    ] {
        assert_eq!(place(value), expected, "the record {value}");
    }
    // A row that names none leaves the choice to its key.
    assert_eq!(place("6"), place("7"));
    assert_eq!(records.len(), 9);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spread_gives_every_partition_its_turn_whatever_the_key() -> Result<()> {
    let outbox = Outbox::create(&[("OUTBOX_PARTITION", "spread")], &[]).await?;
    let mut outboxd = outbox.streaming().await?;
    for first in [1, 7] {
        let rows: Vec<String> = (first..first + 6)
            .map(|i| format!("('k', '{i:02}')"))
            .collect();
        outbox.insert("key, body", &rows.join(", ")).await?;
        outbox.unmarked(&outboxd, 0).await?;
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let records = outbox.by_value().await?;
    let partitions: Vec<i32> = records.values().map(|record| record.partition).collect();
    assert_eq!(
        partitions,
        [0, 1, 2].repeat(4),
        "in the order of their commit"
    );
    assert!(
        records
            .values()
            .all(|record| record.key.as_deref() == Some(b"k"))
    );
    Ok(())
}

/// The rows' times, of each type that a column may have.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_the_time_of_a_record() -> Result<()> {
    for (column, millis) in [
        (
            "happened",
            "floor(extract(epoch FROM happened) * 1000)::bigint",
        ),
        ("day", "(extract(epoch FROM day) * 1000)::bigint"),
        ("millis", "millis"),
    ] {
        let rule = format!("column:{column}");
        let outbox = Outbox::create(&[("OUTBOX_TIMESTAMP", &rule)], &[]).await?;
        let columns = "key, body, happened, day, millis";
        let first = "('k', '1', now() - interval '40 days', current_date - 40, 1714979289123)";
        outbox.insert(columns, first).await?;
        let mut outboxd = outbox.streaming().await?;
        let before = now()?;
        let rows = "('k', '2', timestamptz '1999-12-31 23:59:59.9999+00', date '1999-12-31', 1),
                    ('k', '3', NULL, NULL, NULL)";
        outbox.insert(columns, rows).await?;
        outbox.unmarked(&outboxd, 0).await?;
        // Kafka has no time before 1970.
        let rows = "('other', '4', timestamptz '1969-12-31 23:59:59+00', date '1969-12-31', -1)";
        outbox.insert(columns, rows).await?;
        outbox
            .dead_letters(&outboxd, "TIMESTAMP_INVALID dead 1")
            .await?;
        let mend = "UPDATE message SET happened = '2001-02-03 04:05:06.789+00', day = '2001-02-03',
                                       millis = 981173106789 WHERE body = '4'";
        outbox.session.batch_execute(mend).await?;
        outbox.retry().await?;
        outbox.unmarked(&outboxd, 0).await?;
        let after = now()?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let records = outbox.by_value().await?;
        assert_eq!(records.len(), 4, "{column}");
        assert!(records.values().all(|record| record.is_create_time));
        for value in ["1", "2", "4"] {
            let sql = format!("SELECT {millis} FROM message WHERE body = '{value}'");
            let expected = outbox.session.value::<i64>(&sql).await?;
            assert_eq!(
                records[value].timestamp,
                Some(expected),
                "{column} of {value}"
            );
        }
        let sent = records["3"].timestamp.context("a time")?;
        assert!(
            (before..=after).contains(&sent),
            "a null is the time of sending"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_is_the_time_of_a_record() -> Result<()> {
    let outbox = Outbox::create(&[("OUTBOX_TIMESTAMP", "commit")], &[]).await?;
    // An event that is read from the table has the time of its creation.
    let row = "('k', '1', timestamptz '2020-02-03 04:05:06.789123+00')";
    outbox.insert("key, body, created_at", row).await?;
    let mut outboxd = outbox.streaming().await?;
    outbox.unmarked(&outboxd, 0).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    // These are sent later than they are committed.
    let before = now()?;
    outbox.insert("key, body", "('k', '2'), ('l', '3')").await?;
    let after = now()?;
    wait_until("the next millisecond", LIMIT, async || {
        Ok((now()? > after).then_some(()).ok_or_else(String::new))
    })
    .await?;
    let mut outboxd = outbox.streaming().await?;
    outbox.unmarked(&outboxd, 0).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let records = outbox.by_value().await?;
    assert_eq!(records["1"].timestamp, Some(1_580_702_706_789));
    let header = records["2"].header("outbox_committed_at").context("it")?;
    let sql = format!("SELECT floor(extract(epoch FROM timestamptz '{header}') * 1000)::bigint");
    let committed = outbox.session.value::<i64>(&sql).await?;
    assert!((before..=after).contains(&committed), "{header}");
    for value in ["2", "3"] {
        assert_eq!(records[value].timestamp, Some(committed), "{value}");
    }
    assert!(records.values().all(|record| record.is_create_time));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_the_topic_does_not_take_is_a_dead_letter_until_one_of_them_is_mended()
-> Result<()> {
    let limits = [
        ("message.timestamp.before.max.ms", "3600000"),
        ("message.timestamp.after.max.ms", "600000"),
    ];
    let outbox = Outbox::create(&[("OUTBOX_TIMESTAMP", "column:happened")], &limits).await?;
    let mut outboxd = outbox.streaming().await?;
    let rows =
        "('a', '1', now() - interval '30 minutes'), ('a', '2', now() + interval '5 minutes'),
                ('b', '3', now() - interval '2 hours'), ('c', '4', now() + interval '30 minutes')";
    outbox.insert("key, body, happened", rows).await?;
    outbox.unmarked(&outboxd, 2).await?;
    outbox
        .dead_letters(&outboxd, "TIMESTAMP_OUT_OF_RANGE dead 2")
        .await?;
    assert_eq!(outbox.by_value().await?.len(), 2, "those within the limits");
    let mend = "UPDATE message SET happened = now() WHERE body = '3'";
    outbox.session.batch_execute(mend).await?;
    let limits = [limits[0], ("message.timestamp.after.max.ms", "3600000")];
    outbox.kafka.alter_topic(&outbox.topic, &limits).await?;
    outbox.retry().await?;
    outbox.unmarked(&outboxd, 0).await?;
    outbox
        .dead_letters(&outboxd, "TIMESTAMP_OUT_OF_RANGE retried 2")
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let records = outbox.by_value().await?;
    assert_eq!(records.len(), 4);
    for (value, record) in &records {
        let sql = format!(
            "SELECT floor(extract(epoch FROM happened) * 1000)::bigint FROM message
              WHERE body = '{value}'"
        );
        let expected = outbox.session.value::<i64>(&sql).await?;
        assert_eq!(record.timestamp, Some(expected), "{value}");
        assert!(record.is_create_time);
    }
    Ok(())
}

/// Its limits are about times that it does not use.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_times_of_its_own_takes_a_record_of_any_time() -> Result<()> {
    let limits = [
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "3600000"),
    ];
    let outbox = Outbox::create(&[("OUTBOX_TIMESTAMP", "column:happened")], &limits).await?;
    let mut outboxd = outbox.streaming().await?;
    let before = now()?;
    let rows = "('a', '1', now() - interval '2 hours')";
    outbox.insert("key, body, happened", rows).await?;
    outbox.unmarked(&outboxd, 0).await?;
    let after = now()?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let record = &outbox.by_value().await?["1"];
    assert!(!record.is_create_time);
    let appended = record.timestamp.context("a time")?;
    assert!((before..=after).contains(&appended));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_key_has_a_null_key_and_not_an_empty_one() -> Result<()> {
    let of_rows = [None, Some(""), Some("k")];
    for (rule, expected) in [
        ("column:key", of_rows),
        ("${key}", of_rows),
        ("payload:/key", of_rows),
        ("none", [None; 3]),
    ] {
        let outbox = Outbox::create(&[("OUTBOX_KEY", rule)], &[]).await?;
        let mut outboxd = outbox.streaming().await?;
        let rows = r#"(NULL, '{"n": 1}'), ('', '{"n": 2, "key": ""}'),
                      ('k', '{"n": 3, "key": "k"}')"#;
        outbox.insert("key, body", rows).await?;
        outbox.unmarked(&outboxd, 0).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let records = outbox.by_value().await?;
        let keys: Vec<Option<String>> = records.values().map(|it| text(&it.key)).collect();
        // `{"n": 1}`, `{"n": 2, …` and `{"n": 3, …` sort like this.
        let expected = expected.map(|key| key.map(str::to_owned));
        assert_eq!(keys, expected, "{rule}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_null_payload_becomes_what_the_setting_says() -> Result<()> {
    for (rule, expected) in [
        ("tombstone", None),
        ("empty", Some("")),
        ("dead-letter", Some("mended")),
    ] {
        let outbox = Outbox::create(&[("OUTBOX_NULL_PAYLOAD", rule)], &[]).await?;
        // Before the first start and behind it.
        outbox.insert("key, body", "('table', NULL)").await?;
        let mut outboxd = outbox.streaming().await?;
        outbox
            .insert("key, body", "('stream', NULL), ('value', 'v')")
            .await?;
        if rule == "dead-letter" {
            outbox.dead_letters(&outboxd, "COLUMN_NULL dead 2").await?;
            outbox.unmarked(&outboxd, 2).await?;
            let mend = "UPDATE message SET body = 'mended' WHERE body IS NULL";
            outbox.session.batch_execute(mend).await?;
            outbox.retry().await?;
        }
        outbox.unmarked(&outboxd, 0).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let mut found = BTreeMap::new();
        for record in outbox.records().await? {
            let key = text(&record.key).context("a key")?;
            ensure!(found.insert(key, text(&record.value)).is_none(), "twice");
        }
        let expected = expected.map(str::to_owned);
        let expected = [
            ("stream".to_owned(), expected.clone()),
            ("table".to_owned(), expected),
            ("value".to_owned(), Some("v".to_owned())),
        ];
        assert_eq!(found, expected.into(), "{rule}");
    }
    Ok(())
}
