//! `outboxd replay`: which rows it sends, what it leaves alone, and how it goes on after an end.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::support::fixture::Fixture;
use crate::support::folder::Folder;
use crate::support::kafka::{self, ConsumedRecord, Kafka};
use crate::support::outboxd::{Outboxd, PROGRAM, Settings, command, init};
use crate::support::postgres::{self, Database};
use crate::support::process::signal;
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};
use crate::support::{heavy, is_long_run};

const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const REPLAYED: &str = "outbox_replayed";

/// What a replay printed, and its exit code.
pub(crate) struct Ended {
    code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn expect(&self, code: i32, parts: &[&str]) -> Result<()> {
        let Ended { out, err, .. } = self;
        ensure!(self.code == code, "exit code {}: {out}{err}", self.code);
        for part in parts {
            ensure!(
                out.contains(part) || err.contains(part),
                "no {part:?} in {out}{err}"
            );
        }
        Ok(())
    }

    /// The command that continues.
    pub(crate) fn continued(&self) -> Result<&str> {
        let line = self
            .out
            .lines()
            .find_map(|it| it.strip_prefix("continue  "));
        line.with_context(|| format!("no command: {}{}", self.out, self.err))
    }
}

pub(crate) async fn replay(settings: &Settings, arguments: &[&str]) -> Result<Ended> {
    let output = command(settings, &[&["replay"], arguments].concat(), LIMIT).await?;
    Ok(Ended {
        code: output.status.code().context("it was killed")?,
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

/// A replay that runs. What it prints goes to files.
pub(crate) struct Running {
    child: tokio::process::Child,
    files: Folder,
}

impl Running {
    pub(crate) fn start(settings: &Settings, arguments: &[&str]) -> Result<Running> {
        Running::shell(settings, PROGRAM, &[&["replay"], arguments].concat())
    }

    /// The command that a replay has printed, as a shell runs it.
    pub(crate) fn again(settings: &Settings, line: &str) -> Result<Running> {
        let rest = line.strip_prefix("outboxd ").context("a command")?;
        Running::shell(settings, "sh", &["-c", &format!("exec {PROGRAM} {rest}")])
    }

    fn shell(settings: &Settings, program: &str, arguments: &[&str]) -> Result<Running> {
        let files = Folder::new("replay")?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(settings.variables());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
            .stdout(File::create(files.join("out"))?)
            .stderr(File::create(files.join("err"))?);
        Ok(Running {
            child: command.spawn()?,
            files,
        })
    }

    pub(crate) fn printed(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.files.join(name))?)
    }

    /// Waits until its log has these words.
    pub(crate) async fn says(&self, words: &str) -> Result<()> {
        wait_until(&format!("a log with {words:?}"), LIMIT, async || {
            let log = self.printed("err")?;
            Ok(match log.contains(words) {
                true => Ok(()),
                false => Err(log),
            })
        })
        .await
    }

    pub(crate) fn interrupt(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("it has ended")?;
        signal(pid, name)
    }

    /// Kills it; false if it has ended already.
    pub(crate) async fn kill(&mut self) -> Result<bool> {
        let is_running = self.child.try_wait()?.is_none();
        self.child.kill().await?;
        Ok(is_running)
    }

    pub(crate) async fn ended(mut self) -> Result<Ended> {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let status = status.with_context(|| format!("it does not end in {LIMIT:?}"))??;
        Ok(Ended {
            code: status.code().context("it was killed")?,
            out: self.printed("out")?,
            err: self.printed("err")?,
        })
    }
}

/// The ids of the replayed records by the time of their replay.
pub(crate) async fn replays(kafka: &Kafka, topics: &[&str]) -> Result<BTreeMap<String, Vec<i64>>> {
    let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in kafka.consume_all(topics).await? {
        if let (Some(at), Some(id)) = (record.header(REPLAYED), record.outbox_id()) {
            found.entry(at.to_owned()).or_default().push(id);
        }
    }
    found.values_mut().for_each(|ids| ids.sort_unstable());
    Ok(found)
}

/// How often each row was replayed, in all replays.
pub(crate) fn times(replays: &BTreeMap<String, Vec<i64>>) -> BTreeMap<i64, usize> {
    let mut times = BTreeMap::new();
    for id in replays.values().flatten() {
        *times.entry(*id).or_default() += 1;
    }
    times
}

/// Publishes what is there, and stops.
async fn publish(fixture: &Fixture<'_>) -> Result<()> {
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_chooses_its_published_rows_and_a_dry_run_sends_none() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let other = fixture.kafka.topic("other", 1).await?;
    let session = fixture.database.connect().await?;
    for id in 1..=10 {
        let topic = if id % 3 == 0 { &other } else { &fixture.topic };
        let kind = if id % 2 == 0 { "even" } else { "odd" };
        fixture.database.insert(kind, topic, "{\"a\": 1}").await?;
    }
    publish(&fixture).await?;
    // Unpublished, and with an open dead letter: neither is replayed.
    fixture
        .database
        .insert("even", &fixture.topic, "{}")
        .await?;
    let set = "UPDATE outbox.outbox SET created_at = created_at - interval '2 days' WHERE id <= 4;
               INSERT INTO outbox.dead_letter
                   (system_id, outbox_id, event_created_at, payload_sha256, error_code, error,
                    state, table_oid)
               SELECT (SELECT system_identifier::text FROM pg_control_system()), '10',
                      created_at::text, '', 'X', 'x', 'dead', 'outbox.outbox'::regclass::oid::int8
                 FROM outbox.outbox WHERE id = 10";
    session.batch_execute(set).await?;
    let state = "SELECT md5(string_agg(o::text, ' ' ORDER BY id)) FROM outbox.outbox AS o";
    let before: String = session.value(state).await?;
    let topics = [fixture.topic.as_str(), other.as_str()];
    let dry = replay(&fixture.settings, &["--all", "--dry-run"]).await?;
    let counts = [
        format!(
            "rows      9\ntopic     {}: 6\ntopic     {other}: 3\nfirst     1, created ",
            topics[0]
        ),
        "last      9, created ".to_owned(),
        format!("row       3\ntopic     {other}\nkey       odd\nheader    outbox_id: 3\n"),
        "header    outbox_source: table\n".to_owned(),
        "header    outbox_replayed: 20".to_owned(),
        "value     {\"a\": 1}\n\nnothing was sent\n".to_owned(),
    ];
    dry.expect(0, &counts.each_ref().map(String::as_str))?;
    assert!(!dry.out.contains("row       4"), "{}", dry.out);
    assert_eq!(replays(fixture.kafka, &topics).await?.len(), 0);
    let cases: [(&[&str], &[i64]); 11] = [
        (&["--from-id", "4", "--to-id=6"], &[4, 5, 6]),
        (&["--to-id", "2"], &[1, 2]),
        (&["--since", "1d"], &[5, 6, 7, 8, 9]),
        (&["--until", "1d", "--from-id", "3"], &[3, 4]),
        (
            &[
                "--since",
                "2000-01-01T00:00:00Z",
                "--until",
                "2001-01-01 00:00:00+01:00",
            ],
            &[],
        ),
        (&["--only-topic", &other], &[3, 6, 9]),
        (
            &["--only-type", "even", "--only-type", "none"],
            &[2, 4, 6, 8],
        ),
        (
            &[
                "--only-where",
                "event_type <> 'even' AND published_at IS NOT NULL",
            ],
            &[1, 3, 5, 7, 9],
        ),
        (&["--all", "--after", "7"], &[8, 9]),
        (&["--all"], &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (
            &["--only-topic", &other, "--only-type", "odd", "--after=3"],
            &[9],
        ),
    ];
    let mut known = 0;
    for (arguments, expected) in cases {
        let ended = replay(&fixture.settings, arguments).await?;
        let sent = match expected.len() {
            1 => "sent      1 event\n".to_owned(),
            count => format!("sent      {count} events\n"),
        };
        ended
            .expect(0, &[&sent])
            .with_context(|| format!("{arguments:?}"))?;
        let all = replays(fixture.kafka, &topics).await?;
        let found = all.values().nth(known).map_or(&[][..], |ids| ids);
        assert_eq!(found, expected, "{arguments:?}");
        known = all.len();
    }
    assert_eq!(
        session.value::<String>(state).await?,
        before,
        "the table is as it was"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_refused_with_its_reason() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let usage: [(&[&str], &str); 9] = [
        (&[], "--all"),
        (&["--all", "--to-id", "3"], "cannot be used with"),
        (&["--after", "3"], "--all"),
        (
            &["--since", "yesterday"],
            "is no time; write one such as 2026-01-31T12:00:00Z",
        ),
        (
            &["--since", "2026-02-31T12:00:00Z"],
            "--since 2026-02-31T12:00:00Z is no time",
        ),
        (&["--to-id", "x"], "--to-id x is no id of outbox.outbox"),
        (
            &["--only-where", "a > 3"],
            "where =, <>, IN, NOT IN or IS has to stand",
        ),
        (
            &["--only-where", "a = 3"],
            "table outbox.outbox has no column a",
        ),
        (&["--all", "--rate=-1"], "--rate"),
    ];
    for (arguments, words) in usage {
        let ended = replay(&fixture.settings, arguments).await?;
        ended
            .expect(2, &[words])
            .with_context(|| format!("{arguments:?}"))?;
    }
    let session = fixture.database.connect().await?;
    let role = fixture.database.create_role("reader", "").await?;
    let grant = format!("GRANT USAGE ON SCHEMA outbox TO {role}");
    session.batch_execute(&grant).await?;
    let url = fixture.database.url_as(&role);
    let reader = fixture.settings.clone().set("DATABASE_URL", url);
    let ended = replay(&reader, &["--all"]).await?;
    let lacks = format!("role \"{role}\" lacks SELECT on outbox.outbox");
    ended.expect(2, &[&lacks, "GRANT SELECT ON \"outbox\".\"outbox\""])?;
    let grant = format!("GRANT SELECT ON outbox.outbox TO {role}");
    session.batch_execute(&grant).await?;
    let ended = replay(&reader, &["--all"]).await?;
    ended.expect(2, &["outbox.dead_letter", "GRANT"])?;
    let grant = format!("GRANT SELECT, INSERT, UPDATE ON outbox.dead_letter TO {role}");
    session.batch_execute(&grant).await?;
    replay(&reader, &["--all"])
        .await?
        .expect(0, &["sent      0 events"])
}

/// Each row in the range is sent once in all, and none twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_a_signal_stops_continues_with_the_command_that_it_prints() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let rows = 6_000;
    fixture.database.fill(&fixture.topic, rows).await?;
    publish(&fixture).await?;
    let topics = [fixture.topic.as_str()];
    let mut next = Running::start(&fixture.settings, &["--all", "--rate=2000"])?;
    for (name, sent) in [("INT", 1_000), ("TERM", 2_500)] {
        let count = async || fixture.kafka.record_count(&topics).await;
        wait_until("some records", LIMIT, async || {
            let found = count().await? - rows;
            Ok(if found >= sent {
                Ok(())
            } else {
                Err(format!("{found}"))
            })
        })
        .await?;
        next.interrupt(name)?;
        let ended = next.ended().await?;
        ended.expect(3, &["error: stopped by a signal before the last row"])?;
        let line = ended.continued()?;
        assert!(line.contains("--to-id 6000 --after "), "{line}");
        assert!(!ended.out.contains("unsettled"), "{}", ended.out);
        // Published meanwhile, and not of this range.
        fixture.database.fill(&fixture.topic, 10).await?;
        publish(&fixture).await?;
        next = Running::again(&fixture.settings, line)?;
    }
    next.ended().await?.expect(0, &["sent "])?;
    let all = replays(fixture.kafka, &topics).await?;
    assert_eq!(all.len(), 3);
    let expected: BTreeMap<i64, usize> = (1..=rows).map(|id| (id, 1)).collect();
    assert!(times(&all) == expected, "each row once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_kafka_is_waited_for_and_a_stop_meanwhile_loses_no_row() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 4).await?;
    let settings = Settings::new(&database, &kafka)?.set("OUTBOX_OPERATION_TIMEOUT", "4s");
    init(&settings).await?;
    let rows = 6_000;
    database.fill(&topic, rows).await?;
    let mut outboxd = Outboxd::spawn(&settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let topics = [topic.as_str()];
    let some = async |kafka: &Kafka, more: i64| {
        wait_until("some records", LIMIT, async || {
            // A broker that was frozen for longer than its session leads no partition at first.
            Ok(match kafka.record_count(&topics).await {
                Ok(found) if found >= more => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
        .await
    };
    let first = Running::start(&settings, &["--all", "--rate=1500"])?;
    some(&kafka, rows + 1_000).await?;
    kafka.freeze()?;
    // Between two groups nothing is in flight.
    first.says("Kafka has not acknowledged").await?;
    first.interrupt("INT")?;
    let stopped = first.ended().await?;
    let parts = ["stopped by a signal", "unsettled "];
    let frozen = stopped.expect(3, &parts);
    kafka.thaw()?;
    frozen?;
    let second = Running::again(&settings, stopped.continued()?)?;
    some(&kafka, rows + 3_000).await?;
    kafka.freeze()?;
    second.says("Kafka has not acknowledged").await?;
    kafka.thaw()?;
    let ended = second.ended().await?;
    ended.expect(0, &["Kafka has not acknowledged", "sent "])?;
    let all = times(&replays(&kafka, &topics).await?);
    assert_eq!(all.len() as i64, rows, "each row at least once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_event_that_is_refused_is_filed_and_retried_or_discarded() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    for kind in ["a", "b", "c"] {
        fixture.database.insert(kind, &fixture.topic, "{}").await?;
    }
    let settings = fixture.settings.clone().set("OUTBOX_ON_POISON", "park-key");
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    let session = fixture.database.connect().await?;
    let topic_is = async |topic: &str| {
        let set = "UPDATE outbox.outbox SET topic = $1 WHERE id <= 2";
        session.execute(set, &[&topic]).await
    };
    topic_is("no such topic").await?;
    let marks = "SELECT string_agg(published_at::text || times_attempted, ' ' ORDER BY id)
                   FROM outbox.outbox";
    let before: String = session.value(marks).await?;
    let ended = replay(&settings, &["--all"]).await?;
    let words = "sent      1 event\nrefused   2 events, filed: `outboxd dead-letter list`";
    ended.expect(0, &[words])?;
    let letters = "SELECT string_agg(outbox_id || ' ' || state || ' ' || parks_key, ', '
                                     ORDER BY outbox_id)
                     FROM outbox.dead_letter";
    let open = "1 dead false, 2 dead false";
    assert_eq!(session.value::<String>(letters).await?, open);
    // A row with an open letter is left to the request about it.
    let again = replay(&settings, &["--all"]).await?;
    again.expect(0, &["rows      1\n", "sent      1 event\n"])?;

    topic_is(&fixture.topic).await?;
    let ids: String = session
        .value("SELECT string_agg(id::text, ' ' ORDER BY outbox_id) FROM outbox.dead_letter")
        .await?;
    let (first, second) = ids.split_once(' ').context("two letters")?;
    let retry = command(&settings, &["dead-letter", "retry", first, "--wait"], LIMIT).await?;
    assert!(retry.status.success(), "{retry:?}");
    let discard = ["dead-letter", "discard", second, "--yes"];
    let discard = command(&settings, &discard, LIMIT).await?;
    assert!(discard.status.success(), "{discard:?}");
    let closed = "1 retried false, 2 discarded false";
    wait_until("closed letters", LIMIT, async || {
        let found: String = session.value(letters).await?;
        Ok(if found == closed { Ok(()) } else { Err(found) })
    })
    .await?;
    assert_eq!(
        session.value::<String>(marks).await?,
        before,
        "the rows are as they were"
    );
    // Keys of the replay are not parked: the event behind them goes out.
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    let sent = |records: &[ConsumedRecord], id| {
        let of_row = records.iter().filter(|it| it.outbox_id() == Some(id));
        of_row.count()
    };
    let records = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let counts = [1, 2, 3, 4].map(|id| sent(&records, id));
    assert_eq!(counts, [2, 1, 3, 1]);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_halting_policy_ends_the_replay_before_the_event_and_it_continues_there() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    fixture.database.fill(&fixture.topic, 20).await?;
    publish(&fixture).await?;
    let session = fixture.database.connect().await?;
    let set = "UPDATE outbox.outbox SET topic = $1 WHERE id = 12";
    session.execute(set, &[&"no such topic"]).await?;
    let settings = fixture.settings.clone().set("OUTBOX_ON_POISON", "halt");
    let ended = replay(&settings, &["--all"]).await?;
    ended.expect(1, &["stopped at an event that cannot be published"])?;
    let line = ended.continued()?.to_owned();
    session.execute(set, &[&fixture.topic]).await?;
    let ended = Running::again(&settings, &line)?.ended().await?;
    ended.expect(0, &["sent "])?;
    let all = times(&replays(fixture.kafka, &[&fixture.topic]).await?);
    let expected: BTreeMap<i64, usize> = (1..=20).map(|id| (id, 1)).collect();
    assert_eq!(all, expected);
    Ok(())
}

/// Live events go on beside it, the slot moves, and rows that are inserted meanwhile are sent by
/// the publisher alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_running_publisher_is_undisturbed_by_a_replay() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let rows = 3_000;
    fixture.database.fill(&fixture.topic, rows).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    let pattern = Pattern {
        rows: 2,
        rest: Duration::from_millis(20),
    };
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, pattern);
    let before = fixture.window().await?;
    let running = Running::start(&fixture.settings, &["--all", "--rate=1000"])?;
    let topics = [fixture.topic.as_str()];
    wait_until("half of the replay", LIMIT, async || {
        let found = times(&replays(fixture.kafka, &topics).await?).len();
        Ok(if found > 1_000 {
            Ok(())
        } else {
            Err(format!("{found}"))
        })
    })
    .await?;
    // The slot passes what was written while the replay runs.
    let now = fixture.window().await?;
    fixture.all_confirmed(LIMIT).await?;
    assert!(now.written > before.confirmed);
    running.ended().await?.expect(0, &["sent      "])?;
    let written = writers.stop().await?;
    fixture.all_marked(LIMIT).await?;
    let status = outboxd.status().await?;
    assert_eq!(status["reconnects"], 0, "{status}");
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let all = times(&replays(fixture.kafka, &topics).await?);
    ensure!(all.values().all(|times| *times == 1), "none twice");
    let last = *all.keys().max().context("some rows")?;
    // Rows of the writers that were there when it began are of its range.
    if !(rows..rows + written as i64).contains(&last) {
        bail!("the last replayed row is {last}, with {written} written beside it");
    }
    let mut live: BTreeMap<i64, usize> = BTreeMap::new();
    for record in fixture.kafka.consume_all(&topics).await? {
        if record.header(REPLAYED).is_none() {
            *live
                .entry(record.outbox_id().context("an id")?)
                .or_default() += 1;
        }
    }
    ensure!(
        live.values().all(|times| *times == 1),
        "each live event once"
    );
    assert_eq!(live.len() as i64, rows + written as i64);
    Ok(())
}

/// How late a live event is, of a hundred the latest but one, in milliseconds: from its commit to
/// the broker.
async fn live_p99(fixture: &Fixture<'_>, topic: &str, arguments: Option<&[&str]>) -> Result<f64> {
    let before = fixture.kafka.record_count(&[topic]).await?;
    let pattern = Pattern {
        rows: 1,
        rest: Duration::from_millis(9),
    };
    let running = match arguments {
        Some(arguments) => Some(Running::start(&fixture.settings, arguments)?),
        None => None,
    };
    let writers = Writers::start(&fixture.database, topic, 2, pattern);
    tokio::time::sleep(ROUND).await;
    writers.stop().await?;
    if let Some(running) = running {
        running.interrupt("INT")?;
        running.ended().await?;
    }
    fixture.all_marked(LIMIT).await?;
    let records = fixture.kafka.consume_all(&[topic]).await?;
    let live = records.iter().filter(|it| it.header(REPLAYED).is_none());
    let live: Vec<_> = live.skip(usize::try_from(before)?).collect();
    let committed = live
        .iter()
        .filter_map(|it| it.header("outbox_committed_at"));
    let committed: Vec<&str> = committed.collect();
    let sql = "SELECT (extract(epoch FROM t.at::timestamptz) * 1000)::float8
                 FROM unnest($1::text[]) WITH ORDINALITY AS t (at, n) ORDER BY n";
    let session = fixture.database.connect().await?;
    let rows = session.query(sql, &[&committed]).await?;
    let mut late = Vec::with_capacity(live.len());
    for (record, row) in live.iter().zip(&rows) {
        let at = record.timestamp.context("a time")? as f64;
        late.push(at - row.try_get::<_, f64>(0)?);
    }
    late.sort_unstable_by(f64::total_cmp);
    ensure!(late.len() > 1_000, "{} live events", late.len());
    Ok(late[late.len() * 99 / 100])
}

const ROUND: Duration = Duration::from_secs(10);

/// The rounds alternate, so that what else the machine does counts for both.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_at_the_default_rate_makes_live_events_hardly_later() -> Result<()> {
    if !is_long_run("how much a replay delays live events") {
        return Ok(());
    }
    let _alone = heavy().await;
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    fixture.database.fill(&fixture.topic, 100_000).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BACKLOG", "publish"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    let live = fixture.kafka.topic("live", 1).await?;
    let append = [("message.timestamp.type", "LogAppendTime")];
    fixture.kafka.alter_topic(&live, &append).await?;
    let rate = std::env::var("OUTBOXD_TEST_REPLAY_RATE").ok();
    let mut arguments = vec!["--only-topic", &fixture.topic];
    arguments.extend(rate.iter().flat_map(|rate| ["--rate", rate.as_str()]));
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        without.push(live_p99(&fixture, &live, None).await?);
        with.push(live_p99(&fixture, &live, Some(&arguments)).await?);
    }
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    println!("p99 in ms of live events without a replay {without:?}, with one {with:?}");
    for rounds in [&mut without, &mut with] {
        rounds.sort_unstable_by(f64::total_cmp);
    }
    let (without, with) = (without[2], with[2]);
    // The broker's time has whole milliseconds.
    ensure!(
        with <= without * 1.2 + 1.0,
        "p99 {without} ms without, {with} ms with a replay"
    );
    Ok(())
}
