//! `OUTBOX_RETAIN`: what is published and old is deleted, and nothing else, whatever the table is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, MAJORS, Session, turn};
use crate::support::wait::wait_for;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(90);

/// Rows that were published at an age in days, as an earlier run has left them.
async fn published(session: &Session, topic: &str, rows: i32, days: i32) -> Result<()> {
    let insert = "INSERT INTO outbox.outbox
                      (event_type, topic, event_payload, created_at, published_at)
                  SELECT 'old', $1, '{}', localtimestamp - make_interval(days => $3),
                         localtimestamp - make_interval(days => $3)
                    FROM generate_series(1, $2)";
    session.execute(insert, &[&topic, &rows, &days]).await?;
    Ok(())
}

const ALL: &str = "SELECT count(*) FROM outbox.outbox";
const OLD: &str = "SELECT count(*) FROM outbox.outbox
                    WHERE published_at < localtimestamp - interval '7 days'";

/// Settings that delete what is older than this, in half of the time.
fn deletes(settings: Settings, age: &str) -> Settings {
    settings
        .set("OUTBOX_RETAIN", age)
        .set("OUTBOX_RETAIN_SHARE", "50%")
}

/// Waits until the process has ended a pass over the table.
async fn pass(outboxd: &Outboxd) -> Result<serde_json::Value> {
    let ended = |status: &serde_json::Value| status["retention"]["last_pass"].is_number();
    outboxd
        .wait_for_status("the end of a pass", LIMIT, ended)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_and_old_is_deleted_in_both_modes_and_is_no_event() -> Result<()> {
    for (major, poll) in [(MAJORS[0], false), (MAJORS[1], true)] {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        published(&session, &fixture.topic, 2_000, 8).await?;
        published(&session, &fixture.topic, 40, 6).await?;
        fixture.database.insert("new", &fixture.topic, "{}").await?;
        let settings = match poll {
            true => fixture.settings.polling(),
            false => fixture.settings.clone(),
        };
        let mut outboxd = Outboxd::spawn(&deletes(settings, "7d"))?;
        let status = pass(&outboxd).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(session.value::<i64>(ALL).await?, 41, "{status}");
        assert_eq!(status["retention"]["deleted_rows"], 2_000, "{status}");
        let oldest = status["retention"]["oldest_row_seconds"].as_f64();
        let six_days = 6.0 * 86_400.0;
        ensure!(oldest.is_some_and(|age| (six_days..six_days + 600.0).contains(&age)));
        let deleted = outboxd.metric("outboxd_retention_deleted_rows_total");
        assert_eq!(deleted.await?, Some(2_000.0));
        let line = outboxd.wait_for_log(&["old rows deleted"], LIMIT).await?;
        ensure!(line.contains("rows=2000"), "{line}");
        fixture
            .database
            .insert("last", &fixture.topic, "{}")
            .await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        assert_eq!(consumed.len(), 2, "a deletion is no event");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_unpublished_locked_or_have_an_open_dead_letter_stay() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(17)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    published(&session, &fixture.topic, 3_000, 8).await?;
    let refused = fixture.database.insert("k", "no such topic", "{}").await?;
    let closed = fixture.database.insert("k", "no such topic", "{}").await?;
    let settings = fixture.settings.clone();
    let mut outboxd = Outboxd::spawn(&settings)?;
    let filed = |status: &serde_json::Value| status["dead_letters"]["open"] == 2;
    outboxd
        .wait_for_status("two dead letters", LIMIT, filed)
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    // One row is marked by hand while its dead letter is open. The other dead letter was closed.
    let prepare = format!(
        "UPDATE outbox.outbox SET created_at = localtimestamp - interval '30 days'
          WHERE id = {refused};
         UPDATE outbox.outbox SET published_at = localtimestamp - interval '9 days'
          WHERE id IN ({refused}, {closed});
         UPDATE outbox.dead_letter
            SET event_created_at = NULL, updated_at = now() - interval '30 days';
         UPDATE outbox.dead_letter SET state = 'discarded' WHERE outbox_id = '{closed}'"
    );
    session.batch_execute(&prepare).await?;
    let mut locks = fixture.database.connect().await?;
    let transaction = locks.transaction().await?;
    let locked = "SELECT id FROM outbox.outbox WHERE event_type = 'old' LIMIT 1 FOR UPDATE";
    let locked: i64 = transaction.query_one(locked, &[]).await?.get(0);

    *outboxd.settings() = deletes(settings, "7d");
    outboxd.respawn()?;
    let status = pass(&outboxd).await?;
    assert_eq!(status["retention"]["deleted_rows"], 3_000, "{status}");
    assert_eq!(status["retention"]["deleted_dead_letters"], 1, "{status}");
    let left: Vec<i64> = session
        .value("SELECT array_agg(id ORDER BY id) FROM outbox.outbox")
        .await?;
    assert_eq!(left, [locked, refused]);
    let letters: Vec<String> = session
        .value("SELECT array_agg(outbox_id) FROM outbox.dead_letter")
        .await?;
    assert_eq!(letters, [refused.to_string()]);
    transaction.rollback().await?;

    // The retry still finds its row, and the next pass the row that was locked.
    let mend = format!(
        "UPDATE outbox.outbox SET topic = '{}', published_at = NULL WHERE id = {refused}",
        fixture.topic
    );
    session.batch_execute(&mend).await?;
    let retry = command(
        &fixture.settings,
        &["dead-letter", "retry", "--all", "--wait"],
        LIMIT,
    );
    let retry = retry.await?;
    ensure!(retry.status.success(), "{retry:?}");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    outboxd.respawn()?;
    pass(&outboxd).await?;
    let left: Vec<i64> = session
        .value("SELECT array_agg(id ORDER BY id) FROM outbox.outbox")
        .await?;
    assert_eq!(left, [refused], "it is published, and young");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

/// The columns of a table, settings, and how a published row that was created at `$1` looks.
type Shape = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const EVENT: &str = "event_type text NOT NULL DEFAULT 'k', topic text NOT NULL DEFAULT 't',
                     event_payload jsonb NOT NULL DEFAULT '{}'";

const SHAPES: [Shape; 7] = [
    (
        "id bigint PRIMARY KEY, published_at timestamptz",
        &[],
        "(id, published_at) SELECT i, $1::timestamptz",
    ),
    (
        "id uuid PRIMARY KEY, created_at timestamptz, published_at boolean NOT NULL DEFAULT false",
        &[],
        "(id, created_at, published_at) SELECT gen_random_uuid(), $1::timestamptz, true",
    ),
    (
        "a text, b bigint, created_at timestamp, published_at smallint, PRIMARY KEY (a, b)",
        &[("OUTBOX_COLUMNS", "id=a+b")],
        "(a, b, created_at, published_at) SELECT 'ä', i, $1::timestamptz, 1",
    ),
    (
        "id text PRIMARY KEY, \"At\" timestamptz, \"StatusName\" text",
        &[("OUTBOX_COLUMNS", "created=At,published=StatusName='Done'")],
        "(id, \"At\", \"StatusName\") SELECT i::text, $1::timestamptz, 'Done'",
    ),
    (
        "id bigint GENERATED ALWAYS AS IDENTITY, published_at timestamp",
        &[],
        "(published_at) SELECT $1::timestamptz",
    ),
    (
        "id bigint PRIMARY KEY, published_at timestamptz, kind text DEFAULT 'mine'",
        &[("OUTBOX_WHERE", "kind = 'mine'")],
        "(id, published_at, kind) SELECT i, $1::timestamptz, (ARRAY['mine', 'other'])[i % 2 + 1]",
    ),
    (
        "id bigint PRIMARY KEY, published_at timestamptz,
         created_at timestamp DEFAULT (now() AT TIME ZONE 'Asia/Tokyo')",
        &[],
        "(id, published_at, created_at) SELECT i, $1::timestamptz, now()",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_mark_and_of_id_tells_the_age_of_a_row() -> Result<()> {
    for (number, (columns, settings, rows)) in SHAPES.into_iter().enumerate() {
        let major = MAJORS[number % 2];
        let database = Database::create_empty(postgres::shared(major)).await?;
        let session = database.connect().await?;
        // One of them is partitioned, of its id alone.
        let (key, partitions) = match columns.contains("IDENTITY") {
            true => (
                ", PRIMARY KEY (id)) PARTITION BY HASH (id",
                "CREATE TABLE outbox.one PARTITION OF outbox.outbox
                     FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE outbox.two PARTITION OF outbox.outbox
                     FOR VALUES WITH (MODULUS 2, REMAINDER 1);",
            ),
            false => ("", ""),
        };
        let table = format!(
            "CREATE SCHEMA outbox;
             CREATE TABLE outbox.outbox ({columns}, {EVENT}{key}); {partitions}"
        );
        session.batch_execute(&table).await?;
        let mut all = deletes(Settings::new(&database, kafka::shared())?, "2h");
        for (name, value) in settings {
            all = all.set(name, *value);
        }
        init(&all).await?;
        for (age, from, to) in [("3 hours", 1, 600), ("1 hour", 601, 620)] {
            let insert = format!(
                "INSERT INTO outbox.outbox {} FROM generate_series({from}, {to}) AS i",
                rows.replace("$1", &format!("(now() - interval '{age}')"))
            );
            session.batch_execute(&insert).await?;
        }
        let mut outboxd = Outboxd::spawn(&all)?;
        let status = pass(&outboxd).await?;
        // Rows that are not messages are not outboxd's to delete.
        let (deleted, left) = match columns.contains("kind") {
            true => (300, 320),
            false => (600, 20),
        };
        assert_eq!(
            status["retention"]["deleted_rows"],
            deleted,
            "{}",
            outboxd.log()
        );
        assert_eq!(session.value::<i64>(ALL).await?, left, "{columns}");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

/// The exit code and standard error of a `run` that does not start.
async fn refused(settings: &Settings) -> Result<(i32, String)> {
    let output = command(settings, &["run"], LIMIT).await?;
    let code = output.status.code().context("it was killed")?;
    Ok((code, String::from_utf8(output.stderr)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_time_and_a_role_without_the_right_are_refused_by_name() -> Result<()> {
    let database = Database::create_empty(postgres::shared(turn(15))).await?;
    let session = database.connect().await?;
    let table = format!(
        "CREATE SCHEMA outbox;
         CREATE TABLE outbox.outbox (id bigint PRIMARY KEY, published_at boolean, {EVENT})"
    );
    session.batch_execute(&table).await?;
    let settings = Settings::new(&database, kafka::shared())?;
    init(&settings).await?;
    let (code, said) = refused(&settings.set("OUTBOX_RETAIN", "7d")).await?;
    assert_eq!(code, 2, "{said}");
    let words = "the mark of outbox.outbox is no time, and no readable column of a timestamp";
    ensure!(
        said.contains(words) && said.contains("created=COLUMN"),
        "{said}"
    );

    let fixture = Fixture::create(postgres::shared(turn(17)), kafka::shared()).await?;
    let role = format!("{}_relay", fixture.database.name);
    let grants = ["init", "--role", &role];
    let output = command(&fixture.settings, &grants, LIMIT).await?;
    ensure!(output.status.success(), "{output:?}");
    let session = fixture.database.connect().await?;
    published(&session, &fixture.topic, 10, 8).await?;
    let retains = fixture.settings.clone().set("OUTBOX_RETAIN", "7d");
    let as_role = retains
        .clone()
        .set("DATABASE_URL", fixture.database.url_as(&role));
    let (code, said) = refused(&as_role).await?;
    assert_eq!(code, 2, "{said}");
    for words in [
        "lacks DELETE on outbox.outbox".to_owned(),
        format!("GRANT DELETE ON \"outbox\".\"outbox\" TO \"{role}\""),
        "lacks DELETE on outbox.dead_letter".to_owned(),
    ] {
        ensure!(said.contains(&words), "{said}");
    }
    let output = command(&retains, &grants, LIMIT).await?;
    ensure!(output.status.success(), "{output:?}");
    let mut outboxd = Outboxd::spawn(&as_role)?;
    pass(&outboxd).await?;
    assert_eq!(session.value::<i64>(ALL).await?, 0);
    let doctor = command(&as_role, &["doctor"], LIMIT).await?;
    let said = String::from_utf8(doctor.stdout)?;
    ensure!(said.contains("retention"), "{said}");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    session
        .batch_execute(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\""))
        .await?;
    Ok(())
}

/// A foreign key, a trigger that refuses, and one that suppresses the deletion without a word.
const REFUSALS: [&str; 3] = [
    "CREATE TABLE outbox.other (outbox_id bigint REFERENCES outbox.outbox (id));
     INSERT INTO outbox.other VALUES (1)",
    "CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
     CREATE TRIGGER refuse BEFORE DELETE ON outbox.outbox
         FOR EACH ROW WHEN (old.id = 1) EXECUTE FUNCTION outbox.refuse()",
    "CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN RETURN NULL; END$$;
     CREATE TRIGGER refuse BEFORE DELETE ON outbox.outbox
         FOR EACH ROW WHEN (old.id = 1) EXECUTE FUNCTION outbox.refuse()",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_table_refuses_to_delete_holds_up_only_its_page_and_no_event() -> Result<()>
{
    for (number, refusal) in REFUSALS.into_iter().enumerate() {
        let server = postgres::shared(MAJORS[number % 2]);
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        published(&session, &fixture.topic, 1_000, 8).await?;
        session.batch_execute(refusal).await?;
        let mut outboxd = Outboxd::spawn(&deletes(fixture.settings.clone(), "7d"))?;
        let status = pass(&outboxd).await?;
        let left: i64 = session.value(ALL).await?;
        let kept: bool = session
            .value("SELECT EXISTS (SELECT FROM outbox.outbox WHERE id = 1)")
            .await?;
        ensure!(kept && left < 200, "{left} rows are left: {status}");
        fixture.database.insert("k", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(status["troubles"], serde_json::json!([]), "{status}");
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_a_kill_cuts_off_begins_again_and_no_event_is_lost_under_load() -> Result<()> {
    const PATTERN: Pattern = Pattern {
        rows: 3,
        rest: Duration::from_millis(5),
    };
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    published(&session, &fixture.topic, 12_000, 20).await?;
    let oracle = Oracle::create(&fixture.database).await?;
    // The slot is there before the first event, so that each arrives in the order of the commits.
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
    *outboxd.settings() = fixture.settings.clone().set("OUTBOX_RETAIN", "7d");
    outboxd.respawn()?;
    wait_for("some rows are deleted", LIMIT, async || {
        let left: i64 = session.value(OLD).await?;
        Ok((left < 11_500).then_some(()))
    })
    .await?;
    outboxd.kill()?;
    let left: i64 = session.value(OLD).await?;
    ensure!(left > 0, "the pass had ended");
    outboxd.respawn()?;
    writers.stop().await?;
    session.wait_for_value("no old row", OLD, 0, LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    check(&oracle.committed().await?, &consumed).expect_complete()?;
    Ok(())
}

const PARTITIONS: &str = "SELECT coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}')
                            FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
                           WHERE i.inhparent = 'outbox.outbox'::regclass";

/// The names of the daily partitions that begin so many days from today, as `init` and `run` make
/// them.
async fn days(session: &Session, days: std::ops::RangeInclusive<i32>) -> Result<Vec<String>> {
    let names = format!(
        "SELECT array_agg('outbox_p' || to_char(current_date + i, 'YYYYMMDD') ORDER BY i)
           FROM generate_series({}, {}) AS i",
        days.start(),
        days.end()
    );
    session.value(&names).await
}

/// A database whose outbox `init --partitioned` has made, in the time zone of the tests.
async fn partitioned(major: u32, arguments: &[&str]) -> Result<(Database, String, Settings)> {
    let database = Database::create_empty(postgres::shared(major)).await?;
    let settings = deletes(Settings::new(&database, kafka::shared())?, "7d");
    let topic = kafka::shared().topic("partitioned", 2).await?;
    let arguments = [&["init", "--partitioned"], arguments].concat();
    let output = command(&settings, &arguments, LIMIT).await?;
    ensure!(output.status.success(), "{output:?}");
    Ok((database, topic, settings))
}

/// Makes a partition by hand for the day that was so many days ago, with rows that were published
/// then.
async fn old_day(session: &Session, topic: &str, ago: i32, rows: i32) -> Result<String> {
    let name = days(session, -ago..=-ago).await?.remove(0);
    let day = format!("current_date - {ago}");
    let make = format!(
        "DO $$BEGIN EXECUTE format('CREATE TABLE outbox.{name} PARTITION OF outbox.outbox
             FOR VALUES FROM (%L) TO (%L)', {day}, {day} + 1); END$$;
         INSERT INTO outbox.outbox (event_type, topic, event_payload, created_at, published_at)
         SELECT 'old', '{topic}', '{{}}', {day} + interval '1 hour', {day} + interval '2 hours'
           FROM generate_series(1, {rows})"
    );
    session.batch_execute(&make).await?;
    Ok(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn init_makes_a_table_that_is_partitioned_by_time_for_the_same_insert() -> Result<()> {
    for (major, arguments) in [
        (MAJORS[0], &[][..]),
        (MAJORS[1], &["--partition-by", "hour"][..]),
    ] {
        let (database, topic, settings) = partitioned(major, arguments).await?;
        let session = database.connect().await?;
        let made: Vec<String> = session.value(PARTITIONS).await?;
        let expected = if arguments.is_empty() { 3..=5 } else { 50..=56 };
        ensure!(expected.contains(&made.len()), "{made:?}");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        database.insert("k", &topic, "{\"a\": 1}").await?;
        let write = format!("SELECT outbox.write_event('k', '{topic}', '{{\"b\": 2}}')");
        session.batch_execute(&write).await?;
        database.all_marked(LIMIT).await?;
        pass(&outboxd).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = kafka::shared().consume_all(&[&topic]).await?;
        let mut ids: Vec<_> = consumed.iter().map(|it| it.outbox_id()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [Some(1), Some(2)]);
        // A second `init` finds everything.
        let again = command(&settings, &["init", "--partitioned"], LIMIT).await?;
        let said = String::from_utf8(again.stdout)?;
        ensure!(said.contains("exists    table outbox.outbox"), "{said}");
        ensure!(!said.contains("created "), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_made_ahead_and_old_ones_dropped_or_detached_once_all_is_published()
-> Result<()> {
    for (major, how) in [(MAJORS[0], "drop"), (MAJORS[1], "detach")] {
        let (database, topic, settings) = partitioned(major, &[]).await?;
        let session = database.connect().await?;
        // The ones ahead are taken away, so that a start has to make them.
        let ahead = days(&session, 1..=4).await?;
        for name in &ahead {
            let drop = format!("DROP TABLE IF EXISTS outbox.{name}");
            session.batch_execute(&drop).await?;
        }
        let old = old_day(&session, &topic, 20, 2_000).await?;
        let young = old_day(&session, &topic, 5, 10).await?;
        let unpublished = old_day(&session, &topic, 19, 10).await?;
        let refused = format!(
            "UPDATE outbox.outbox SET published_at = NULL, topic = 'no such topic'
              WHERE id = (SELECT max(id) FROM outbox.{unpublished})"
        );
        session.batch_execute(&refused).await?;
        let settings = settings
            .set("OUTBOX_RETAIN_PARTITIONS", how)
            .set("OUTBOX_BACKLOG", "publish");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd
            .wait_for_log(&["partitions made ahead"], LIMIT)
            .await?;
        outboxd
            .wait_for_log(&["old partitions taken away", how], LIMIT)
            .await?;
        let left: Vec<String> = session.value(PARTITIONS).await?;
        ensure!(!left.contains(&old), "{left:?}");
        ensure!(
            left.contains(&young) && left.contains(&unpublished),
            "{left:?}"
        );
        for name in days(&session, 1..=2).await? {
            ensure!(left.contains(&name), "{name} is not in {left:?}");
        }
        let detached = format!("SELECT to_regclass('outbox.{old}') IS NOT NULL");
        assert_eq!(session.value::<bool>(&detached).await?, how == "detach");
        // Nothing is deleted one by one while partitions are taken away whole.
        let status = pass(&outboxd).await?;
        assert_eq!(status["retention"]["deleted_rows"], 0, "{status}");
        let of_old = format!("SELECT count(*) FROM outbox.{unpublished}");
        assert_eq!(session.value::<i64>(&of_old).await?, 10);
        let filed = |status: &serde_json::Value| status["dead_letters"]["open"] == 1;
        outboxd
            .wait_for_status("a dead letter", LIMIT, filed)
            .await?;
        database.insert("k", &topic, "{}").await?;
        let left = "SELECT count(*) FROM outbox.outbox
                     WHERE published_at IS NULL AND topic <> 'no such topic'";
        session
            .wait_for_value("the last row to be marked", left, 0, LIMIT)
            .await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let consumed = kafka::shared().consume_all(&[&topic]).await?;
        assert_eq!(consumed.len(), 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_in_use_or_not_owned_stays_and_writers_do_not_wait() -> Result<()> {
    let (database, topic, settings) = partitioned(turn(17), &[]).await?;
    let session = database.connect().await?;
    let old = old_day(&session, &topic, 20, 100).await?;
    session
        .batch_execute("CREATE TABLE outbox.rest PARTITION OF outbox.outbox DEFAULT")
        .await?;
    let stray = "INSERT INTO outbox.outbox
                     (event_type, topic, event_payload, created_at, published_at)
                 SELECT 'old', 't', '{}', '2001-01-01', '2001-01-01'";
    session.batch_execute(stray).await?;
    // Another session has read the table, and its transaction goes on.
    let mut reads = database.connect().await?;
    let transaction = reads.transaction().await?;
    transaction
        .query("SELECT FROM outbox.outbox LIMIT 1", &[])
        .await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let trouble = |status: &serde_json::Value| {
        let troubles = status["troubles"].as_array();
        let is_it = |it: &serde_json::Value| {
            let detail = it["detail"].as_str().unwrap_or_default();
            it["name"] == "partitions" && detail.contains("cannot be taken away")
        };
        troubles.is_some_and(|troubles| troubles.iter().any(is_it))
    };
    outboxd
        .wait_for_status("the partition in use", LIMIT, trouble)
        .await?;
    database.insert("k", &topic, "{}").await?;
    let left: Vec<String> = session.value(PARTITIONS).await?;
    ensure!(
        left.contains(&old) && left.contains(&"rest".to_owned()),
        "{left:?}"
    );
    transaction.rollback().await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    outboxd.respawn()?;
    outboxd
        .wait_for_log(&["old partitions taken away"], LIMIT)
        .await?;
    pass(&outboxd).await?;
    let left: Vec<String> = session.value(PARTITIONS).await?;
    ensure!(
        left.contains(&"rest".to_owned()),
        "the default partition stays: {left:?}"
    );
    let rest = "SELECT count(*) FROM outbox.rest";
    session
        .wait_for_value("no old row in it", rest, 0, LIMIT)
        .await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

    // A role that is not the owner changes nothing, and says what the owner has to do.
    let role = format!("{}_relay", database.name);
    let output = command(&settings, &["init", "--role", &role], LIMIT).await?;
    ensure!(output.status.success(), "{output:?}");
    session.batch_execute("DROP TABLE outbox.rest").await?;
    let ahead = days(&session, 1..=4).await?;
    for name in &ahead {
        let drop = format!("DROP TABLE IF EXISTS outbox.{name}");
        session.batch_execute(&drop).await?;
    }
    let old = old_day(&session, &topic, 20, 100).await?;
    let as_role = settings.set("DATABASE_URL", database.url_as(&role));
    let mut outboxd = Outboxd::spawn(&as_role)?;
    let line = outboxd
        .wait_for_log(&["problem found", "partitions"], LIMIT)
        .await?;
    ensure!(
        line.contains("ATTACH PARTITION") && line.contains(&ahead[0]),
        "{line}"
    );
    let statements = outboxd.status().await?["troubles"][0]["remedy"].clone();
    let statements = statements.as_str().unwrap_or_default().to_owned();
    let (_, statements) = statements.split_once(": ").context("who runs them")?;
    pass(&outboxd).await?;
    session.batch_execute(statements).await?;
    let left: Vec<String> = session.value(PARTITIONS).await?;
    ensure!(left.contains(&ahead[0]) && left.contains(&old), "{left:?}");
    // Its rows are deleted one by one.
    let of_old = format!("SELECT count(*) FROM outbox.{old}");
    assert_eq!(session.value::<i64>(&of_old).await?, 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    session
        .batch_execute(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\""))
        .await?;
    Ok(())
}
