//! `cutover`: from a real poller to outboxd and back, with the services writing on.
//!
//! The poller is the one of the manual: it reads ten unpublished rows, sends each, and marks each
//! by its id. Its records carry the row's id, as those of outboxd do, so one oracle judges both.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::task::JoinHandle;

use crate::support::fixture::Fixture;
use crate::support::folder::Folder;
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{Session, shared, turn};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, kafka};

const LIMIT: Duration = Duration::from_secs(120);
const MS: Duration = Duration::from_millis(1);
const BATCH: i64 = 10;

/// The statements of a poller.
#[derive(Debug, Clone)]
struct Statements {
    search: String,
    mark: String,
}

impl Statements {
    fn of_the_manual() -> Statements {
        let search = format!(
            "SELECT id, event_type, topic, event_payload::text FROM outbox.outbox \
             WHERE published_at IS NULL ORDER BY id LIMIT {BATCH}"
        );
        let mark = "UPDATE outbox.outbox SET published_at = now(), \
                           times_attempted = times_attempted + 1 WHERE id = $1";
        Statements {
            search,
            mark: mark.to_owned(),
        }
    }
}

/// A poller that runs until it is stopped.
struct Poller {
    stop: Arc<AtomicBool>,
    /// The next acknowledgement of Kafka waits until this is false.
    hold: Arc<AtomicBool>,
    held: Arc<AtomicBool>,
    published: Arc<AtomicU64>,
    denied: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl Poller {
    fn start(url: &str, kafka: ClientConfig, interval: Duration) -> Poller {
        Poller::with(url, kafka, interval, Statements::of_the_manual())
    }

    fn with(url: &str, kafka: ClientConfig, interval: Duration, sql: Statements) -> Poller {
        let stop = Arc::new(AtomicBool::new(false));
        let (hold, held): (Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let (published, denied): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let url = url.to_owned();
        let task = {
            let (stop, hold, held) = (Arc::clone(&stop), Arc::clone(&hold), Arc::clone(&held));
            let (published, denied) = (Arc::clone(&published), Arc::clone(&denied));
            tokio::spawn(async move {
                let session = Session::open(&url).await?;
                let producer: FutureProducer = kafka
                    .clone()
                    .set("partitioner", "murmur2_random")
                    .set("linger.ms", "0")
                    .create()?;
                while !stop.load(Ordering::Relaxed) {
                    let Ok(rows) = session.query(&sql.search, &[]).await else {
                        denied.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(interval).await;
                        continue;
                    };
                    for row in &rows {
                        let id: i64 = row.try_get(0)?;
                        let (key, topic): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
                        let value: &str = row.try_get(3)?;
                        let number = id.to_string();
                        let header = Header {
                            key: "outbox_id",
                            value: Some(&number),
                        };
                        let headers = OwnedHeaders::new().insert(header);
                        let record = FutureRecord::to(topic).key(key).payload(value);
                        let sent = producer.send(record.headers(headers), LIMIT).await;
                        sent.map_err(|(error, _)| error)?;
                        while hold.load(Ordering::Relaxed) {
                            held.store(true, Ordering::Relaxed);
                            tokio::time::sleep(MS * 5).await;
                        }
                        session.execute(&sql.mark, &[&id]).await.context("a mark")?;
                        published.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(interval).await;
                }
                Ok(())
            })
        };
        Poller {
            stop,
            hold,
            held,
            published,
            denied,
            task,
        }
    }

    fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }

    /// Waits until it has published this many more.
    async fn goes_on(&self, more: u64) -> Result<()> {
        let from = self.published();
        wait_until("the poller to publish", LIMIT, async || {
            ensure!(!self.task.is_finished(), "the poller has failed");
            let count = self.published();
            Ok(if count >= from + more {
                Ok(())
            } else {
                Err(count.to_string())
            })
        })
        .await
    }

    async fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

/// A prepared database with a role for outboxd and one for the service, and the settings of both.
struct Scene<'a> {
    fixture: Fixture<'a>,
    settings: Settings,
    relay: String,
    app: String,
    folder: Folder,
}

impl Scene<'_> {
    async fn set() -> Result<Scene<'static>> {
        let fixture = Fixture::create(shared(turn(17)), kafka::shared()).await?;
        let database = &fixture.database;
        let relay = format!("{}_relay", database.name);
        let made = command(&fixture.settings, &["init", "--role", &relay], LIMIT).await?;
        ensure!(made.status.success(), "{}", said(&made));
        let app = database.create_role("app", "").await?;
        let grants = format!(
            "GRANT USAGE ON SCHEMA outbox TO {app};
             GRANT SELECT, INSERT, UPDATE ON outbox.outbox TO {app}"
        );
        database.connect().await?.batch_execute(&grants).await?;
        let settings = fixture
            .settings
            .clone()
            .set("DATABASE_URL", database.url_as(&relay))
            .set("ADMIN_DATABASE_URL", database.unix_url());
        Ok(Scene {
            settings,
            relay,
            app,
            folder: Folder::new("cutover")?,
            fixture,
        })
    }

    fn record(&self) -> String {
        self.folder.join("record.json").display().to_string()
    }

    fn poller(&self, interval: Duration) -> Poller {
        let url = self.fixture.database.url_as(&self.app);
        Poller::start(&url, self.fixture.kafka.client(), interval)
    }

    fn cutover(&self, words: &[&str]) -> Result<Outboxd> {
        let record = self.record();
        let fixed = ["cutover", "--yes", "--record", &record];
        Outboxd::spawn_command(&self.settings, &[&fixed, words].concat())
    }

    /// Runs `cutover` to its end.
    async fn run(&self, words: &[&str]) -> Result<Output> {
        let record = self.record();
        let fixed = ["cutover", "--record", &record];
        command(&self.settings, &[&fixed, words].concat(), LIMIT).await
    }

    async fn undo(&self) -> Result<()> {
        let undone = self.run(&["--undo", "--yes"]).await?;
        ensure!(undone.status.success(), "{}", said(&undone));
        ensure!(
            !std::path::Path::new(&self.record()).exists(),
            "the record stays"
        );
        Ok(())
    }

    /// Who has which right to read the table.
    async fn rights(&self) -> Result<String> {
        let sql = "SELECT coalesce(string_agg(x, ' ' ORDER BY x), '') FROM (
            SELECT a.grantee::regrole::text || coalesce('.' || t.attname, '')
                   || CASE WHEN a.is_grantable THEN '*' ELSE '' END AS x
              FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
              LEFT JOIN pg_attribute t ON false
             WHERE c.oid = 'outbox.outbox'::regclass AND a.privilege_type = 'SELECT'
             UNION ALL
            SELECT a.grantee::regrole::text || '.' || t.attname
                   || CASE WHEN a.is_grantable THEN '*' ELSE '' END
              FROM pg_attribute t CROSS JOIN LATERAL aclexplode(t.attacl) a
             WHERE t.attrelid = 'outbox.outbox'::regclass AND a.privilege_type = 'SELECT') AS all_";
        self.fixture.database.connect().await?.value(sql).await
    }

    /// Nothing is missing, and nothing is there twice.
    async fn check(&self, oracle: &Oracle<'_>) -> Result<usize> {
        self.fixture.all_marked(LIMIT).await?;
        let report = self.fixture.verdict(oracle).await?;
        let is_exact = report.missing.is_empty()
            && report.duplicates.is_empty()
            && report.phantom.is_empty()
            && report.altered.is_empty();
        ensure!(is_exact, "{report}");
        Ok(report.consumed)
    }
}

fn said(output: &Output) -> String {
    let both = [output.stdout.clone(), output.stderr.clone()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// The milliseconds that the log gives for the gap.
fn gap(line: &str) -> Result<u64> {
    let (_, rest) = line.split_once("gap_ms=").context("no gap")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

const FIRST: [&str; 1] = ["first record behind the proof"];

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_beside_a_poller_under_load_nothing_is_missing_and_nothing_twice()
-> Result<()> {
    let _alone = heavy().await;
    let scene = Scene::set().await?;
    let (fixture, topic) = (&scene.fixture, &scene.fixture.topic);
    let oracle = Oracle::create(&fixture.database).await?;
    let before = scene.rights().await?;
    let pattern = Pattern {
        rows: 2,
        rest: MS * 40,
    };
    let writers = Writers::start(&fixture.database, topic, 2, pattern);
    let mut gaps = Vec::new();
    for (interval, observe) in [(200, "1s"), (200, "1s"), (5_000, "6s")] {
        let poller = scene.poller(MS * interval);
        poller.goes_on(15).await?;
        let mut outboxd = scene.cutover(&["--observe", observe])?;
        let line = outboxd.wait_for_log(&FIRST, LIMIT).await?;
        gaps.push(gap(&line)?);
        let from = writers.events();
        wait_until("more events", LIMIT, async || {
            let events = writers.events();
            Ok(if events > from + 100 {
                Ok(())
            } else {
                Err(events.to_string())
            })
        })
        .await?;
        let refused = scene.run(&["--undo", "--yes"]).await?;
        assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
        assert!(said(&refused).contains("an outboxd publishes this table"));
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert!(
            !outboxd.log().contains("somebody-else"),
            "{}",
            outboxd.log()
        );
        assert!(poller.denied.load(Ordering::Relaxed) > 0);
        scene.undo().await?;
        assert_eq!(scene.rights().await?, before);
        poller.goes_on(15).await?;
        poller.stop().await?;
    }
    writers.stop().await?;
    let mut last = Outboxd::spawn(&scene.settings)?;
    let consumed = scene.check(&oracle).await?;
    assert_eq!(last.stop(LIMIT).await?, 0, "{}", last.log());
    println!("{consumed} events, 0 missing, 0 twice; gaps of {gaps:?} ms");
    assert!(gaps.iter().all(|gap| *gap < 30_000), "{gaps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_whose_batch_is_in_hand_is_awaited_and_one_that_never_ends_it_keeps_the_table()
-> Result<()> {
    let scene = Scene::set().await?;
    let fixture = &scene.fixture;
    let oracle = Oracle::create(&fixture.database).await?;
    let before = scene.rights().await?;
    fixture.database.fill(&fixture.topic, 40).await?;
    let poller = scene.poller(MS * 200);
    poller.hold.store(true, Ordering::Relaxed);
    wait_until("a batch in hand", LIMIT, async || {
        let is_held = poller.held.load(Ordering::Relaxed);
        Ok(if is_held {
            Ok(())
        } else {
            Err("nothing is held".to_owned())
        })
    })
    .await?;
    let late = scene
        .run(&["--yes", "--no-run", "--observe", "0s", "--wait", "2s"])
        .await?;
    assert_eq!(late.status.code(), Some(3), "{}", said(&late));
    assert!(
        said(&late).contains("has not ended its batch within 2s"),
        "{}",
        said(&late)
    );
    assert!(said(&late).contains("restored"), "{}", said(&late));
    assert_eq!(scene.rights().await?, before);
    let outboxd = scene.cutover(&["--observe", "0s"])?;
    outboxd.wait_for_log(&["fenced"], LIMIT).await?;
    assert!(!outboxd.log().contains("proof"), "{}", outboxd.log());
    poller.hold.store(false, Ordering::Relaxed);
    outboxd.wait_for_log(&FIRST, LIMIT).await?;
    assert_eq!(scene.check(&oracle).await?, 40);
    drop(outboxd);
    poller.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pollers_one_of_which_dies_and_the_owner_are_fenced_and_get_their_rights_back()
-> Result<()> {
    let scene = Scene::set().await?;
    let (fixture, app) = (&scene.fixture, &scene.app);
    let admin = fixture.database.connect().await?;
    let owner = fixture.database.create_role("owner", "").await?;
    let give = format!(
        "GRANT USAGE ON SCHEMA outbox TO {owner};
         ALTER TABLE outbox.outbox OWNER TO {owner};
         GRANT SELECT ON outbox.outbox TO {app} WITH GRANT OPTION;
         GRANT SELECT (id, topic) ON outbox.outbox TO {app}"
    );
    admin.batch_execute(&give).await?;
    let before = scene.rights().await?;
    let oracle = Oracle::create(&fixture.database).await?;
    let first = scene.poller(MS * 200);
    fixture.database.fill(&fixture.topic, 20).await?;
    first.goes_on(15).await?;
    let url = fixture.database.url_as(&owner);
    fixture.all_marked(LIMIT).await?;
    first.stop().await?;
    // They find none of the rows, and are not known to have none in hand.
    let mut finds_none = Statements::of_the_manual();
    finds_none.search = finds_none.search.replace("ORDER BY", "AND id < 0 ORDER BY");
    let start = |url: &str, interval| {
        let (kafka, sql) = (fixture.kafka.client(), finds_none.clone());
        Poller::with(url, kafka, interval, sql)
    };
    fixture.database.fill(&fixture.topic, 20).await?;
    let dies = start(&url, MS * 200);
    let stays = start(&fixture.database.url_as(app), MS * 700);
    wait_until("both pollers to search", LIMIT, async || {
        let count = admin
            .value::<i64>(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                  AND query LIKE 'SELECT id, event_type%'",
            )
            .await?;
        Ok(if count >= 2 {
            Ok(())
        } else {
            Err(count.to_string())
        })
    })
    .await?;
    let outboxd = scene.cutover(&["--observe", "1s", "--wait", "20s"])?;
    outboxd.wait_for_log(&["would run"], LIMIT).await?;
    dies.task.abort();
    outboxd
        .wait_for_log(&["proof", "was denied"], LIMIT)
        .await?;
    outboxd.wait_for_log(&["proof", "has ended"], LIMIT).await?;
    outboxd.wait_for_log(&FIRST, LIMIT).await?;
    scene.check(&oracle).await?;
    let mut outboxd = outboxd;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    scene.undo().await?;
    assert_eq!(scene.rights().await?, before);
    stays.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fenced_is_refused_with_words_and_nothing_is_changed() -> Result<()> {
    let scene = Scene::set().await?;
    let (fixture, app) = (&scene.fixture, &scene.app);
    let before = scene.rights().await?;
    let plan = scene.run(&["--observe", "0s"]).await?;
    assert_eq!(plan.status.code(), Some(1), "{}", said(&plan));
    for words in [
        "would run REVOKE SELECT",
        "undo runs",
        "nothing is changed without --yes",
    ] {
        assert!(said(&plan).contains(words), "{}", said(&plan));
    }
    let relay = format!("reader    {}: used by outboxd", scene.relay);
    assert!(said(&plan).contains(&relay), "{}", said(&plan));

    let superuser = scene
        .run(&["--yes", "--observe", "0s", "--role", "postgres"])
        .await?;
    assert_eq!(superuser.status.code(), Some(2), "{}", said(&superuser));
    assert!(
        said(&superuser).contains("is a superuser"),
        "{}",
        said(&superuser)
    );
    let kafka = fixture.kafka.client();
    let by_root = Poller::start(fixture.database.unix_url(), kafka, MS * 100);
    let found = wait_until("the poller of a superuser to be seen", LIMIT, async || {
        let found = said(
            &scene
                .run(&["--yes", "--no-run", "--observe", "500ms"])
                .await?,
        );
        let is_seen = found.contains("searches: role postgres is a superuser");
        Ok(if is_seen { Ok(()) } else { Err(found) })
    });
    found.await?;
    by_root.stop().await?;
    let own = scene
        .run(&["--yes", "--observe", "0s", "--role", &scene.relay])
        .await?;
    assert_eq!(own.status.code(), Some(2), "{}", said(&own));
    assert!(
        said(&own).contains("the one that outboxd uses"),
        "{}",
        said(&own)
    );

    let by_relay = Settings::clone(&scene.settings).without("ADMIN_DATABASE_URL");
    let words = ["cutover", "--yes", "--observe", "0s"];
    let denied = command(&by_relay, &words, LIMIT).await?;
    assert_eq!(denied.status.code(), Some(2), "{}", said(&denied));
    assert!(
        said(&denied).contains("may not change the rights"),
        "{}",
        said(&denied)
    );
    let printed = command(&by_relay, &["cutover", "--print-sql"], LIMIT).await?;
    assert!(printed.status.success(), "{}", said(&printed));
    assert!(
        said(&printed).contains("REVOKE SELECT ON"),
        "{}",
        said(&printed)
    );

    let admin = fixture.database.connect().await?;
    let public = "GRANT SELECT ON outbox.outbox TO PUBLIC";
    admin.batch_execute(public).await?;
    let twice = scene
        .run(&["--yes", "--no-run", "--observe", "0s", "--role", app])
        .await?;
    assert_eq!(twice.status.code(), Some(2), "{}", said(&twice));
    assert!(
        said(&twice).contains("has the right twice"),
        "{}",
        said(&twice)
    );
    admin
        .batch_execute("REVOKE SELECT ON outbox.outbox FROM PUBLIC")
        .await?;
    assert_eq!(scene.rights().await?, before);
    let none = scene.run(&["--undo", "--yes"]).await?;
    assert_eq!(none.status.code(), Some(2), "{}", said(&none));
    assert!(said(&none).contains("no fence is known"), "{}", said(&none));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_that_was_left_beside_outboxd_is_named_until_it_is_stopped() -> Result<()> {
    let scene = Scene::set().await?;
    let fixture = &scene.fixture;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_until_ready(LIMIT).await?;
    // Alone, outboxd marks its rows, and names nothing.
    fixture.database.fill(&fixture.topic, 50).await?;
    fixture.all_marked(LIMIT).await?;
    let poller = scene.poller(MS * 50);
    let count = async || {
        let series = "outboxd_foreign_marks_total";
        Ok::<_, anyhow::Error>(outboxd.metric(series).await?.unwrap_or(0.0))
    };
    assert_eq!(count().await?, 0.0);
    let named = wait_until("the poller to be named", LIMIT, async || {
        fixture.database.fill(&fixture.topic, 5).await?;
        let log = outboxd.log();
        let line = log
            .lines()
            .find(|line| line.contains("somebody-else-publishes"));
        Ok(line.map(str::to_owned).ok_or_else(|| log.clone()))
    });
    let line = named.await?;
    for words in [
        "WARN",
        "count=",
        "with id",
        "pg_stat_activity",
        "outboxd cutover",
    ] {
        assert!(line.contains(words), "{line}");
    }
    assert!(count().await? > 0.0);
    let status = outboxd.status().await?;
    let problems = status["troubles"].as_array().context("problems")?;
    let name = |it: &serde_json::Value| it["name"] == "somebody-else-publishes";
    assert!(problems.iter().any(name), "{status}");
    poller.stop().await
}

/// Its marks are a boolean, and no column has its usual name.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_other_names_and_marks_is_taken_over_in_the_same_way() -> Result<()> {
    let scene = Scene::set().await?;
    let (fixture, app) = (&scene.fixture, &scene.app);
    let admin = fixture.database.connect().await?;
    let table = format!(
        "CREATE TABLE outbox.messages (code bigint PRIMARY KEY, kind text, target text NOT NULL,
                body jsonb NOT NULL, done boolean NOT NULL DEFAULT false, tries integer DEFAULT 0);
         GRANT SELECT, INSERT, UPDATE ON outbox.messages TO {app};
         INSERT INTO outbox.messages (code, kind, target, body)
         SELECT i, 'k', '{}', jsonb_build_object('i', i) FROM generate_series(1, 30) i",
        fixture.topic
    );
    admin.batch_execute(&table).await?;
    let settings = scene
        .settings
        .clone()
        .set("OUTBOX_TABLE", "outbox.messages")
        .set("OUTBOX_SLOT", format!("{}_messages", fixture.database.name))
        .set("OUTBOX_PUBLICATION", "messages")
        .set("OUTBOX_TOPIC", "column:target")
        .set(
            "OUTBOX_COLUMNS",
            "id=code,type=kind,payload=body,headers=none,created=none,published=done,\
             attempts=tries",
        );
    let by_root = settings
        .clone()
        .set("DATABASE_URL", fixture.database.unix_url());
    let made = command(&by_root, &["init", "--role", &scene.relay], LIMIT).await?;
    ensure!(made.status.success(), "{}", said(&made));
    let sql = Statements {
        search: "SELECT code, kind, target, body::text FROM outbox.messages \
                 WHERE NOT done ORDER BY code LIMIT 10"
            .to_owned(),
        mark: "UPDATE outbox.messages SET done = true, tries = tries + 1 WHERE code = $1"
            .to_owned(),
    };
    let (url, kafka) = (fixture.database.url_as(app), fixture.kafka.client());
    let poller = Poller::with(&url, kafka, MS * 300, sql);
    poller.goes_on(1).await?;
    let record = scene.record();
    let words = ["cutover", "--yes", "--observe", "0s", "--record", &record];
    let outboxd = Outboxd::spawn_command(&settings, &words)?;
    let fenced = outboxd.wait_for_log(&["would run GRANT"], LIMIT).await?;
    assert!(fenced.contains(r#"("code", "tries")"#), "{fenced}");
    let left = "SELECT count(*) FROM outbox.messages WHERE NOT done";
    admin
        .wait_for_value("every row to be done", left, 0, LIMIT)
        .await?;
    poller.stop().await?;
    let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let mut values: Vec<_> = consumed.iter().map(|record| record.value.clone()).collect();
    values.sort();
    values.dedup();
    assert_eq!((values.len(), consumed.len()), (30, 30));
    Ok(())
}
