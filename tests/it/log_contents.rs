//! What stands in the log: one form for all lines, and never a row's values or a password.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres;

const LIMIT: Duration = Duration::from_secs(60);

const PAYLOAD: &str = "4111PLANTEDPAYLOAD";
const KEY: &str = "PLANTEDKEY";
const PASSWORD: &str = "PLANTEDPASSWORD";

/// Every update says the row to the client. Marks fail at the value of the payload, with a text of
/// the trigger's own, and in a statement that is put together from the row; some fail for a while.
const TELLING_TRIGGER: &str = "CREATE SEQUENCE tries;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING 'the row is %', NEW;
    IF NEW.event_payload ? 'unmarkable' THEN
        PERFORM (NEW.event_payload ->> 'card')::integer;
    END IF;
    IF NEW.event_payload ? 'raised' THEN
        RAISE EXCEPTION 'the row is %', NEW USING
            ERRCODE = NEW.event_payload ->> 'raised',
            DETAIL = NEW.event_payload, HINT = NEW.event_payload;
    END IF;
    IF NEW.event_payload ? 'quoted' THEN
        EXECUTE format('SELECT %I', NEW.event_payload ->> 'card');
    END IF;
    IF NEW.event_payload ? 'waits' AND nextval('tries') <= 3 THEN
        RAISE EXCEPTION 'not yet: %', NEW USING ERRCODE = '40001', HINT = NEW.event_payload;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tell BEFORE UPDATE ON outbox.outbox FOR EACH ROW EXECUTE FUNCTION tell()";

/// The ways in which a value could be written.
fn forms(value: &str) -> [String; 3] {
    let decimal: Vec<String> = value.bytes().map(|byte| byte.to_string()).collect();
    let hex: Vec<String> = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    [value.to_owned(), decimal.join(", "), hex.concat()]
}

fn expect_nothing_planted(log: &str) -> Result<()> {
    ensure!(log.contains("DEBUG") && log.contains("TRACE"), "{log}");
    for value in [PAYLOAD, KEY, PASSWORD] {
        for form in forms(value) {
            let line = log.lines().find(|line| line.contains(&form));
            ensure!(line.is_none(), "{value} stands in {line:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_and_no_password_stands_in_the_log_at_any_level() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let database = &fixture.database;
    let session = database.connect().await?;
    session.batch_execute(TELLING_TRIGGER).await?;
    let url = database.url().replacen('@', &format!(":{PASSWORD}@"), 1);
    ensure!(url.contains(PASSWORD), "{url}");
    let settings = fixture
        .settings
        .clone()
        .set("DATABASE_URL", url)
        .set("KAFKA_PROPERTIES", format!("sasl.password={PASSWORD}"))
        .set("OUTBOX_PROCESS_INTERVAL", "100ms")
        .set("OUTBOX_LOG", "trace,tokio_postgres::query=trace");
    let card = format!(r#"{{"card": "{PAYLOAD}"}}"#);
    let with = |name: &str, value: &str| format!(r#"{{"card": "{PAYLOAD}", "{name}": "{value}"}}"#);
    let refused = [
        with("unmarkable", ""),
        with("raised", "P0001"),
        with("raised", "ZZ001"),
        with("raised", "55000"),
        with("quoted", ""),
    ];
    for source in ["slot", "poll"] {
        let mut outboxd = Outboxd::spawn(&settings.clone().set("OUTBOX_SOURCE", source))?;
        let phase = if source == "slot" {
            "streaming"
        } else {
            "polling"
        };
        outboxd.wait_for_phase(phase, LIMIT).await?;
        database.insert(KEY, &fixture.topic, &card).await?;
        database.insert(KEY, "no topic's name", &card).await?;
        let waits = with("waits", "");
        database.insert(KEY, &fixture.topic, &waits).await?;
        for payload in &refused {
            database.insert(KEY, &fixture.topic, payload).await?;
        }
        let dead = "SELECT count(*) FROM outbox.dead_letter \
                    WHERE state IN ('dead', 'published-not-marked')";
        let count = refused.len() as i64 + 1;
        let filed = session.wait_for_value("the dead letters", dead, count, LIMIT);
        filed.await.with_context(|| outboxd.log())?;
        let retry = command(&settings, &["dead-letter", "retry", "--all"], LIMIT).await?;
        ensure!(retry.status.success(), "{retry:?}");
        let attempts = "SELECT count(*) FROM outbox.dead_letter WHERE state = 'dead' \
                        AND jsonb_array_length(history) > 0";
        let retried = session.wait_for_value("a retry", attempts, 1, LIMIT);
        retried.await.with_context(|| outboxd.log())?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        expect_nothing_planted(&outboxd.log())?;
        for words in ["PL/pgSQL function", "SQLSTATE 40001"] {
            ensure!(
                outboxd.log().contains(words),
                "no {words}: {}",
                outboxd.log()
            );
        }
        let text = "SELECT count(*) FROM outbox.dead_letter WHERE error LIKE 'the row is %'";
        assert_eq!(
            session.value::<i64>(text).await?,
            3,
            "the table has the text"
        );
        let clear = "DELETE FROM outbox.dead_letter; DELETE FROM outbox.outbox; \
                     ALTER SEQUENCE tries RESTART";
        session.batch_execute(clear).await?;
    }
    Ok(())
}

fn lines_of(text: &str) -> Result<Vec<Value>> {
    let line = |line: &str| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"));
    text.lines().map(line).collect()
}

#[tokio::test]
async fn every_line_is_json_where_json_is_asked_for() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let json = fixture.settings.clone().set("OUTBOX_LOG_FORMAT", "json");
    let failed = async |settings: &Settings, arguments: &[&str]| {
        let output = command(settings, arguments, LIMIT).await?;
        ensure!(!output.status.success(), "{arguments:?}");
        let lines = lines_of(&String::from_utf8(output.stderr)?)?;
        ensure!(!lines.is_empty(), "{arguments:?} says nothing");
        Ok(lines)
    };
    let nowhere = json.clone().set("OUTBOX_TABLE", "outbox.nowhere");
    let lines = failed(&nowhere, &["run"]).await?;
    let (first, last) = (&lines[0], &lines[lines.len() - 1]);
    assert_eq!(first["message"], "outboxd starting");
    assert_eq!(first["table"], "outbox.nowhere");
    assert_eq!(first["after_publish"], "mark");
    assert_eq!(first["process_interval"], "5s");
    for (name, rule) in [
        ("topic", "column:topic"),
        ("key", "column:event_type"),
        ("value", "payload"),
        ("headers", "outboxd"),
        ("partition", "key"),
        ("record_timestamp", "now"),
    ] {
        assert_eq!(first[name], rule, "{name}");
    }
    for value in first.as_object().context("an object")?.values() {
        let text = value.to_string();
        ensure!(!text.contains('{') && !text.contains("Some("), "{text}");
    }
    assert_eq!(last["level"], "ERROR", "{last}");
    assert_eq!(last["code"], "CONFIG_ERROR", "{last}");
    ensure!(last["hint"].to_string().contains("init"), "{last}");
    ensure!(
        last["timestamp"].as_str() > first["timestamp"].as_str(),
        "{last}"
    );

    let wrong = json.clone().set("OUTBOX_MAX_RETRIES", "many");
    let lines = failed(&wrong.set("OUTBOX_BATCH_SIZE", "0"), &["run"]).await?;
    assert_eq!(lines.len(), 2, "{lines:?}");
    failed(&json, &["run", "--no-such-flag"]).await?;
    let text = fixture.settings.clone();
    failed(&text, &["run", "--log-format", "json", "--key", "wrong"]).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outboxd.toml");
    std::fs::write(&file, "log_format = \"json\"\nkey = \"wrong\"\n")?;
    let file = text.set("OUTBOX_CONFIG", file.display().to_string());
    failed(&file, &["run"]).await?;
    Ok(())
}
