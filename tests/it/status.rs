//! `outboxd status`: both sides of the picture, and an exit code that says whether events get
//! through.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::ephemeral::free_port;
use crate::support::fixture::Fixture;
use crate::support::outboxd::{Outboxd, PROGRAM, Settings, command};
use crate::support::wait::wait_until;
use crate::support::{kafka, not_offered, postgres};

const LIMIT: Duration = Duration::from_secs(60);
const NOT_HEALTHY: i32 = 4;
const NOT_KNOWN: i32 = 5;

/// What `outboxd status` printed, and its exit code.
struct Answer {
    code: i32,
    out: String,
    err: String,
}

async fn status(settings: &Settings, arguments: &[&str]) -> Result<Answer> {
    let arguments = [&["status"], arguments].concat();
    let output = command(settings, &arguments, LIMIT).await?;
    Ok(Answer {
        code: output.status.code().context("it was killed")?,
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}

impl Answer {
    #[track_caller]
    fn expect(&self, code: i32, out: &[&str], err: &[&str]) {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for words in out {
            assert!(self.out.contains(words), "no {words:?} in {}", self.out);
        }
        for words in err {
            assert!(self.err.contains(words), "no {words:?} in {}", self.err);
        }
    }
}

/// An outboxd that has published one event and is ready.
async fn running<'a>(polls: bool) -> Result<(Fixture<'a>, Outboxd)> {
    let mut fixture =
        Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    if polls {
        fixture.settings = fixture.settings.polling();
    }
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    let phase = if polls { "polling" } else { "streaming" };
    outboxd.wait_for_phase(phase, LIMIT).await?;
    fixture.database.insert("a", &fixture.topic, "{}").await?;
    fixture.all_marked(LIMIT).await?;
    outboxd.wait_until_ready(LIMIT).await?;
    Ok((fixture, outboxd))
}

#[tokio::test(flavor = "multi_thread")]
async fn status_asks_the_database_and_the_running_outboxd_and_says_which_did_not_answer()
-> Result<()> {
    for polls in [false, true] {
        let (fixture, mut outboxd) = running(polls).await?;
        let phase = if polls {
            "polling, ready"
        } else {
            "streaming, ready"
        };
        let well = status(&fixture.settings, &[]).await?;
        let shown = [
            phase,
            "1 since it was started",
            "unpublished rows  0",
            "healthy           yes",
        ];
        well.expect(0, &shown, &[]);
        let json = status(&fixture.settings, &["--json"]).await?;
        let json: Value = serde_json::from_str(&json.out)?;
        assert_eq!(json["healthy"], true, "{json}");
        assert_eq!(json["instance"]["ready"], true, "{json}");
        assert_eq!(json["instance"]["status"]["published_total"], 1, "{json}");
        let ours = outboxd.status().await?;
        for (name, _) in ours.as_object().context("an object")? {
            ensure!(json["instance"]["status"].get(name).is_some(), "no {name}");
        }

        let nowhere = format!("127.0.0.1:{}", free_port()?);
        let silent = status(&fixture.settings, &["--http-listen", &nowhere]).await?;
        let words = format!("health not known: no outboxd answers at {nowhere}: ");
        silent.expect(
            NOT_KNOWN,
            &["healthy           not known"],
            &[&words, "hint: "],
        );
        let off = status(&fixture.settings, &["--http-listen", "off"]).await?;
        let alone = [
            "not asked: OUTBOX_HTTP_LISTEN is off",
            "healthy           yes, by the database alone",
        ];
        off.expect(0, &alone, &[]);

        let away = format!("postgresql://nobody@127.0.0.1:{}/orders", free_port()?);
        let away = fixture.settings.clone().set("DATABASE_URL", away);
        let away = if polls {
            away
        } else {
            away.set("OUTBOX_SLOT", fixture.slot())
        };
        let cut_off = status(&away, &[]).await?;
        let words = [
            "health not known: CONNECT_ERROR: ",
            "hint: is the server up",
        ];
        cut_off.expect(NOT_KNOWN, &[phase], &words);

        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let stopped = status(&fixture.settings, &[]).await?;
        let words = ["not healthy: no process ", "hint: is outboxd running?"];
        stopped.expect(NOT_HEALTHY, &["no outboxd answers at"], &words);
        let off = status(&fixture.settings, &["--http-listen", "off", "--json"]).await?;
        off.expect(NOT_HEALTHY, &["\"judged_by\":\"database alone\""], &words);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outboxd_that_cannot_reach_kafka_is_not_healthy_though_the_database_is_well()
-> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let nowhere = format!("127.0.0.1:{}", free_port()?);
    let settings = fixture.settings.clone().set("KAFKA_BROKERS", nowhere);
    let outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let answer = status(&settings, &[]).await?;
    let words = ["is not ready: no Kafka broker has answered yet"];
    answer.expect(NOT_HEALTHY, &["streaming, not ready", words[0]], &words);
    let json: Value = serde_json::from_str(&status(&settings, &["--json"]).await?.out)?;
    assert_eq!(json["healthy"], false, "{json}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outboxd_of_another_slot_or_server_is_not_taken_for_this_one() -> Result<()> {
    let (fixture, _outboxd) = running(false).await?;
    let other = fixture.settings.clone().set("OUTBOX_SLOT", "another");
    let answer = status(&other, &[]).await?;
    let theirs = format!(
        "publishes outbox.outbox from replication slot {}",
        fixture.slot()
    );
    answer.expect(
        NOT_HEALTHY,
        &[&theirs],
        &["replication slot another does not exist"],
    );

    // The same names on another server.
    let server = postgres::private(postgres::turn(17), &[])?;
    let session = postgres::Session::open(&server.url("postgres", "postgres")).await?;
    session
        .batch_execute(&format!("CREATE DATABASE {}", fixture.database.name))
        .await?;
    let url = server.url(&fixture.database.name, "postgres");
    let elsewhere = fixture.settings.clone().set("DATABASE_URL", url);
    let answer = status(&elsewhere, &[]).await?;
    answer.expect(NOT_HEALTHY, &["reads another server"], &["outboxd init"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublished_rows_are_split_into_waiting_held_and_dead_and_one_bad_row_is_not_unhealthy()
-> Result<()> {
    let (fixture, mut outboxd) = running(false).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0);
    let settings = fixture.settings.clone().set("OUTBOX_ON_POISON", "park-key");
    let outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    // Too large for the topic; the other two wait for it.
    let session = fixture.database.connect().await?;
    let fill = "INSERT INTO outbox.outbox (event_type, topic, event_payload)
                SELECT 'a', $1, jsonb_build_object('x', repeat('x', size))
                  FROM unnest(ARRAY[2000000, 1, 1]) AS size";
    session.execute(fill, &[&fixture.topic]).await?;
    let filed = |status: &Value| status["dead_letters"]["open"] == 3;
    outboxd
        .wait_for_status("three dead letters", LIMIT, filed)
        .await?;
    outboxd.wait_until_ready(LIMIT).await?;
    let shown = [
        "unpublished rows  3: 0 waiting, 2 held, 1 dead",
        "attention         dead letters: ",
    ];
    status(&settings, &[]).await?.expect(0, &shown, &[]);
    let json: Value = serde_json::from_str(&status(&settings, &["--json"]).await?.out)?;
    let rows = ["waiting_rows", "held_rows", "dead_letter_rows"].map(|name| json[name].as_i64());
    assert_eq!(rows, [Some(0), Some(2), Some(3)], "{json}");
    Ok(())
}

fn watch(settings: &Settings, program: &str, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(settings.variables());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
        .kill_on_drop(true)
        .spawn()
        .context(program.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_time_and_rates_and_takes_the_place_of_the_last_block_on_a_terminal()
-> Result<()> {
    let (fixture, _outboxd) = running(false).await?;
    let mut child = watch(&fixture.settings, PROGRAM, &["status", "--watch", "--json"])?;
    let mut lines = BufReader::new(child.stdout.take().context("a pipe")?).lines();
    let [first, second] = [lines.next_line().await?, lines.next_line().await?];
    let first: Value = serde_json::from_str(&first.context("a line")?)?;
    let second: Value = serde_json::from_str(&second.context("a line")?)?;
    assert_eq!(first["rates"], Value::Null, "{first}");
    assert!(second["rates"]["events_per_second"].is_f64(), "{second}");
    assert!(second["rates"]["wal_bytes_per_second"].is_f64(), "{second}");
    child.kill().await?;

    let mut child = watch(&fixture.settings, PROGRAM, &["status", "--watch"])?;
    let text = two_blocks(&mut child).await?;
    assert!(text.contains("rate              0.0 events/s, "), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    child.kill().await?;

    if Command::new("script")
        .arg("--version")
        .output()
        .await
        .is_err()
    {
        not_offered("`script`, for a terminal");
        return Ok(());
    }
    let line = format!("stty rows 40 cols 60; exec {PROGRAM} status --watch");
    let mut child = watch(&fixture.settings, "script", &["-qfc", &line, "/dev/null"])?;
    let text = two_blocks(&mut child).await?;
    let (first, second) = text.split_once("\x1b[J").context(text.clone())?;
    let height = first.lines().count() - 1;
    assert!(first.ends_with(&format!("\x1b[{height}F")), "{first:?}");
    assert!(second.starts_with("outboxd status at "), "{second:?}");
    assert!(
        first.lines().all(|line| line.chars().count() <= 70),
        "{first}"
    );
    child.kill().await?;
    Ok(())
}

/// The output up to the second block's first lines.
async fn two_blocks(child: &mut Child) -> Result<String> {
    let mut out = child.stdout.take().context("a pipe")?;
    let mut bytes = Vec::new();
    wait_until("two blocks", LIMIT, async || {
        let mut part = [0; 4096];
        let count = tokio::time::timeout(LIMIT, out.read(&mut part)).await??;
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let whole = text.matches("healthy ").count() > 1;
        Ok(if whole { Ok(text) } else { Err(text) })
    })
    .await
}
