//! Outbox tables of other projects, each with the settings that serve it, on a real server and a
//! real broker: the stream, the backlog of a first start, healing, the audit, dead letters and
//! their retry, in each mode that the table allows.

mod shapes;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, Session};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// An outbox table, how services write to it, and what its records look like.
pub(crate) struct Shape {
    /// The settings, beside the connections.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    pub(crate) ddl: &'static str,
    /// Inserts the rows `$2` to `$3` for the topic (or what the topic is made of) `$1`.
    pub(crate) insert: &'static str,
    /// What stands before the topic's variable part in its name.
    pub(crate) topic_prefix: &'static str,
    /// Sets what the topic is made of to `$1` in the row 91.
    pub(crate) mend: &'static str,
    /// Counts the rows that are not marked; empty for a table without a mark.
    pub(crate) unmarked: &'static str,
    /// Takes the mark of row 3 away.
    pub(crate) unmark: &'static str,
    pub(crate) count: &'static str,
    pub(crate) key: fn(i32) -> Option<String>,
    pub(crate) value: fn(i32) -> Option<String>,
}

/// A database with the table, and a topic for it.
struct Outbox<'a> {
    shape: &'a Shape,
    database: Database,
    session: Session,
    settings: Settings,
    kafka: &'static Kafka,
    topic: String,
}

impl<'a> Outbox<'a> {
    async fn create(shape: &'a Shape, after: &str) -> Result<Outbox<'a>> {
        let server = postgres::shared(postgres::turn(17));
        let database = Database::create_empty(server).await?;
        let session = database.connect().await?;
        session.batch_execute(shape.ddl).await?;
        let kafka = kafka::shared();
        let topic = kafka.topic(&format!("{}t", shape.topic_prefix), 3).await?;
        let mut settings = Settings::new(&database, kafka)?
            .set("OUTBOX_AFTER_PUBLISH", after)
            .set("OUTBOX_AUDIT_INTERVAL", "1s")
            .set("OUTBOX_PROCESS_INTERVAL", "200ms");
        for (name, value) in shape.settings {
            settings = settings.set(name, *value);
        }
        if after != "keep" {
            settings = settings.set("OUTBOX_BACKLOG", "publish");
        }
        init(&settings).await?;
        Ok(Outbox {
            shape,
            database,
            session,
            settings,
            kafka,
            topic,
        })
    }

    /// The part of the topic's name that rows hold.
    fn written_topic(&self) -> &str {
        let prefix = self.shape.topic_prefix;
        self.topic.strip_prefix(prefix).unwrap_or(&self.topic)
    }

    async fn insert(&self, first: i32, last: i32) -> Result<()> {
        let topic = self.written_topic();
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&topic, &first, &last];
        self.session.execute(self.shape.insert, &params).await?;
        Ok(())
    }

    /// Waits until no row is left to be marked or deleted.
    async fn settled(&self, after: &str) -> Result<()> {
        let count = match after {
            "mark" => self.shape.unmarked,
            "delete" => self.shape.count,
            _ => return Ok(()),
        };
        wait_until("every row to be settled", LIMIT, async || {
            match self.session.value::<i64>(count).await? {
                0 => Ok(Ok(())),
                left => Ok(Err(format!("{left} rows are not"))),
            }
        })
        .await
    }

    async fn published(&self, outboxd: &Outboxd, total: i64) -> Result<()> {
        let is_there = |status: &serde_json::Value| status["published_total"] == total;
        let what = format!("{total} published events");
        outboxd.wait_for_status(&what, LIMIT, is_there).await?;
        Ok(())
    }

    /// Fails unless the topic has each of these rows this many times, with its key and value.
    async fn expect(&self, rows: &BTreeMap<i32, usize>) -> Result<Vec<ConsumedRecord>> {
        let consumed = self.kafka.consume_all(&[&self.topic]).await?;
        let mut found: BTreeMap<(Option<String>, Option<String>), usize> = BTreeMap::new();
        for record in &consumed {
            let text = |bytes: &Option<Vec<u8>>| {
                bytes
                    .as_ref()
                    .map(|it| String::from_utf8_lossy(it).into_owned())
            };
            *found
                .entry((text(&record.key), text(&record.value)))
                .or_default() += 1;
        }
        let mut expected = BTreeMap::new();
        for (row, times) in rows {
            *expected
                .entry(((self.shape.key)(*row), (self.shape.value)(*row)))
                .or_default() += *times;
        }
        if found != expected {
            bail!("found {found:#?}, expected {expected:#?}");
        }
        Ok(consumed)
    }
}

/// `peek` shows these rows, and no others, as they are sent.
async fn peek(outbox: &Outbox<'_>, from: &str, rows: RangeInclusive<i32>) -> Result<()> {
    let peek = ["peek", "--json", "--full", "--count", "1000"];
    let peek = command(&outbox.settings, &peek, LIMIT).await?;
    let printed = String::from_utf8_lossy(&peek.stdout).into_owned();
    if !peek.status.success() {
        bail!("{printed}{}", String::from_utf8_lossy(&peek.stderr));
    }
    let mut found = Vec::new();
    for line in printed.lines() {
        let event: serde_json::Value = serde_json::from_str(line)?;
        assert_eq!(event["topic"], *outbox.topic, "{line}");
        assert_eq!(event["refused"], serde_json::Value::Null, "{line}");
        assert_eq!(event["lsn"].is_string(), from == "slot", "{line}");
        let text = |name: &str| event[name].as_str().map(str::to_owned);
        found.push((text("key"), text("value")));
    }
    let shape = outbox.shape;
    let mut expected: Vec<_> = rows
        .map(|row| ((shape.key)(row), (shape.value)(row)))
        .collect();
    // Not every table has an order of its own.
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "from {from}");
    Ok(())
}

/// The whole life of a table in one mode.
async fn serve(shape: &Shape, after: &str) -> Result<()> {
    let outbox = Outbox::create(shape, after).await?;
    let mut rows: BTreeMap<i32, usize> = BTreeMap::new();
    let marks = after != "keep";
    let mut total = 0;
    if marks {
        // Written before the first start.
        outbox.insert(1, 5).await?;
        peek(&outbox, "table", 1..=5).await?;
        rows.extend((1..=5).map(|row| (row, 1)));
        total += 5;
    }
    let mut outboxd = Outboxd::spawn(&outbox.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for first in [11, 14, 17] {
        outbox.insert(first, first + 2).await?;
    }
    rows.extend((11..=19).map(|row| (row, 1)));
    total += 9;
    outbox.published(&outboxd, total).await?;
    outbox.settled(after).await?;

    dead_letter(&outbox, &outboxd, after, total).await?;
    rows.insert(91, 1);
    total += 1;

    if after == "mark" {
        // The audit sends a row again whose mark was taken away.
        outbox.session.batch_execute(shape.unmark).await?;
        *rows.entry(3).or_default() += 1;
        total += 1;
        outbox.published(&outboxd, total).await?;
        outbox.settled(after).await?;
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let replayed = replay(&outbox, after, &mut rows).await?;
    outbox.insert(21, 23).await?;
    peek(&outbox, "slot", 21..=23).await?;
    if marks {
        rows.extend((21..=23).map(|row| (row, 1)));
        heal(&outbox, after).await?;
        rows.extend((41..=44).map(|row| (row, 1)));
    }
    outbox.expect(&rows).await?;
    compare(&outbox, after, &rows, replayed).await
}

/// `outboxd verify` finds each row, those that were replayed, and the record that was sent twice.
async fn compare(
    outbox: &Outbox<'_>,
    after: &str,
    rows: &BTreeMap<i32, usize>,
    replayed: usize,
) -> Result<()> {
    let exclusive = ["verify", "--json", "--wait", "0s", "--exclusive"];
    // Where rows are deleted, none is left that names the topic.
    let arguments = [&exclusive[..], &["--also-topic", &outbox.topic]].concat();
    let printed = command(&outbox.settings, &arguments, LIMIT).await?;
    let found: serde_json::Value = serde_json::from_slice(&printed.stdout)
        .with_context(|| String::from_utf8_lossy(&printed.stderr).into_owned())?;
    let copies = rows.values().map(|times| times - 1).sum::<usize>() - replayed;
    let (matched, unknown) = match after {
        // Nothing is left to compare the records with.
        "delete" => (0, rows.len()),
        // Written behind the last run.
        "keep" => (rows.len(), 3),
        _ => (rows.len(), 0),
    };
    let expected = [
        ("missing", 0),
        ("duplicate", copies),
        ("replayed", replayed),
        ("phantom", 0),
        ("altered", 0),
        ("out_of_order", 0),
        ("unknown", unknown),
        ("matched", matched),
    ];
    for (name, number) in expected {
        anyhow::ensure!(found[name] == number, "{name} is not {number}: {found:#}");
    }
    Ok(())
}

/// A row whose topic does not exist is filed, and goes out once it is mended and retried.
async fn dead_letter(
    outbox: &Outbox<'_>,
    outboxd: &Outboxd,
    after: &str,
    total: i64,
) -> Result<()> {
    let shape = outbox.shape;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&"no such topic", &91, &91];
    outbox.session.execute(shape.insert, &params).await?;
    let filed = |status: &serde_json::Value| status["dead_letters"]["open"] == 1;
    outboxd
        .wait_for_status("a dead letter", LIMIT, filed)
        .await?;
    let mended = outbox
        .session
        .execute(shape.mend, &[&outbox.written_topic()])
        .await?;
    assert_eq!(mended, 1, "the row of the dead letter");
    let retry = ["dead-letter", "retry", "--all", "--wait"];
    let retry = command(&outbox.settings, &retry, LIMIT).await;
    let retry = retry.with_context(|| outboxd.log())?;
    let printed = String::from_utf8_lossy(&retry.stdout).into_owned();
    if !retry.status.success() {
        bail!("{printed}{}", String::from_utf8_lossy(&retry.stderr));
    }
    outbox.published(outboxd, total + 1).await?;
    outbox.settled(after).await
}

/// A replay sends every published row once more, wherever it is continued. Returns how many.
async fn replay(
    outbox: &Outbox<'_>,
    after: &str,
    rows: &mut BTreeMap<i32, usize>,
) -> Result<usize> {
    let replayed = command(&outbox.settings, &["replay", "--all", "--rate", "0"], LIMIT).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&replayed.stdout), text(&replayed.stderr));
    if after == "delete" && outbox.shape.unmarked.is_empty() {
        assert_eq!(replayed.status.code(), Some(2), "{out}{err}");
        assert!(err.contains("are deleted, so none is left"), "{err}");
        return Ok(0);
    }
    assert_eq!(replayed.status.code(), Some(0), "{out}{err}");
    if after == "delete" {
        assert!(out.contains("sent      0 events"), "{out}");
        return Ok(0);
    }
    let sent = format!("sent      {} events", rows.len());
    assert!(out.contains(&sent), "{sent}: {out}{err}");
    rows.values_mut().for_each(|times| *times += 1);
    // Behind the last row there is none, whatever identifies and orders the rows.
    let last = out.lines().find_map(|line| line.strip_prefix("last      "));
    let last = last.context("the last row is named")?;
    let last = last.split(", created ").next().unwrap_or(last);
    let behind = ["replay", "--all", "--after", last];
    let behind = command(&outbox.settings, &behind, LIMIT).await?;
    let out = text(&behind.stdout) + &text(&behind.stderr);
    assert!(out.contains("sent      0 events"), "{last}: {out}");
    Ok(rows.len())
}

/// Rows that were written while there was no slot are published from the table.
async fn heal(outbox: &Outbox<'_>, after: &str) -> Result<()> {
    let slot = format!("outboxd_{}", outbox.database.name);
    let slots = "SELECT slot_name::text FROM pg_replication_slots \
          WHERE database = current_database() AND NOT temporary";
    let slot: String = outbox.session.value(slots).await.context(slot)?;
    outbox.session.drop_slot(&slot, LIMIT).await?;
    outbox.insert(41, 44).await?;
    let mut outboxd = Outboxd::spawn(&outbox.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    outbox.settled(after).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// A view that Postgres can update stands for its table.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_polled_and_marked() -> Result<()> {
    let shape = Shape {
        settings: &[
            ("OUTBOX_PRESET", "pgx-outbox"),
            ("OUTBOX_TABLE", "public.events_to_send"),
            ("OUTBOX_SOURCE", "poll"),
        ],
        ..shapes::PGX_OUTBOX
    };
    let ddl = format!(
        "{}; CREATE VIEW events_to_send AS SELECT * FROM outbox_messages WHERE broker = 'kafka'",
        shape.ddl
    );
    let shape = Shape {
        ddl: ddl.leak(),
        ..shape
    };
    for after in ["mark", "delete"] {
        let outbox = Outbox::create(&shape, after).await?;
        outbox.insert(1, 5).await?;
        let mut outboxd = Outboxd::spawn(&outbox.settings)?;
        outboxd.wait_for_phase("polling", LIMIT).await?;
        outbox.insert(11, 13).await?;
        outbox.settled(after).await?;
        dead_letter(&outbox, &outboxd, after, 8).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let rows = [1, 2, 3, 4, 5, 11, 12, 13, 91];
        outbox.expect(&rows.map(|row| (row, 1)).into()).await?;
    }
    let slot = Shape {
        settings: &[
            ("OUTBOX_PRESET", "pgx-outbox"),
            ("OUTBOX_TABLE", "public.events_to_send"),
        ],
        ..shape
    };
    let refused = Outbox::create(&slot, "mark")
        .await
        .err()
        .context("a slot reads no view")?;
    assert!(
        refused.to_string().contains("OUTBOX_SOURCE=poll"),
        "{refused}"
    );
    Ok(())
}

/// Several batches end among rows with a time, and several among rows without one.
#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_ordering_column_is_null_are_read_last_and_once() -> Result<()> {
    let shape = Shape {
        settings: &[
            ("OUTBOX_TABLE", "public.msg"),
            (
                "OUTBOX_COLUMNS",
                "id=id,type=none,payload=p,headers=none,created=at,published=done,attempts=none,\
                 order=created",
            ),
            ("OUTBOX_KEY", "column:topic"),
        ],
        ddl: "CREATE TABLE msg (
                  id uuid PRIMARY KEY DEFAULT gen_random_uuid(), topic text NOT NULL,
                  p text NOT NULL, at timestamptz, done timestamptz)",
        insert: "INSERT INTO msg (topic, p, at)
                 SELECT $1, i::text, CASE WHEN i <= 2100 THEN now() - i * interval '1 second' END
                   FROM generate_series($2::int, $3::int) i",
        unmarked: "SELECT count(*) FROM msg WHERE done IS NULL",
        ..shapes::NUMERIC
    };
    let outbox = Outbox::create(&shape, "mark").await?;
    outbox.insert(1, 4_300).await?;
    let mut outboxd = Outboxd::spawn(&outbox.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    outbox.settled("mark").await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let in_order = "SELECT array_agg(p ORDER BY at, id) FROM msg";
    let expected = outbox.session.value::<Vec<String>>(in_order).await?;
    // One key, so one partition.
    let records = outbox.kafka.consume_all(&[&outbox.topic]).await?;
    let text = |record: ConsumedRecord| String::from_utf8(record.value.unwrap_or_default());
    let found = records
        .into_iter()
        .map(text)
        .collect::<Result<Vec<_>, _>>()?;
    assert!(found == expected, "{found:?}");
    Ok(())
}

async fn serve_in(shape: &Shape, modes: &[&str]) -> Result<()> {
    for after in modes {
        serve(shape, after)
            .await
            .with_context(|| (*after).to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pgx_outbox_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::PGX_OUTBOX, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tomorrow_one_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::TOMORROW_ONE, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn debeziums_table_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::DEBEZIUM, &["delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pg_transactional_outbox_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::ZEHELEIN, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn eventuate_tram_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::EVENTUATE, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn spring_modulith_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::MODULITH, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn cap_is_served_by_its_preset() -> Result<()> {
    serve_in(&shapes::CAP, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_composite_key_and_a_boolean_mark_are_served() -> Result<()> {
    serve_in(&shapes::COMPOSITE, &["mark", "delete", "keep"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_numeric_id_and_a_row_filter_are_served() -> Result<()> {
    serve_in(&shapes::NUMERIC, &["mark", "delete", "keep"]).await
}
