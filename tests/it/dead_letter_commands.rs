//! `outboxd dead-letter retry --wait` and `prune`: what a person asked for, and what became of it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::fixture::Fixture;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::{kafka, postgres};

const LIMIT: Duration = Duration::from_secs(60);

/// The exit code of `outboxd dead-letter`, and what it printed to each stream.
async fn dead_letter(settings: &Settings, arguments: &[&str]) -> Result<(i32, String, String)> {
    let arguments = [&["dead-letter"], arguments].concat();
    let output = command(settings, &arguments, LIMIT).await?;
    let code = output.status.code().context("it was killed")?;
    Ok((
        code,
        String::from_utf8(output.stdout)?,
        String::from_utf8(output.stderr)?,
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_waits_tells_what_was_published_what_was_refused_and_what_still_waits()
-> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    for _ in 0..3 {
        fixture.database.insert("a", "no such topic", "{}").await?;
    }
    let filed = |status: &serde_json::Value| status["dead_letters"]["open"] == 3;
    outboxd
        .wait_for_status("three dead letters", LIMIT, filed)
        .await?;
    let session = fixture.database.connect().await?;
    let mend = format!(
        "UPDATE outbox.outbox SET topic = '{}' WHERE id = ",
        fixture.topic
    );
    session.batch_execute(&format!("{mend} 1")).await?;
    let ids = "SELECT array_agg(id::text ORDER BY id) FROM outbox.dead_letter";
    let ids: Vec<String> = session.value(ids).await?;

    let retry = ["retry", &ids[0], &ids[1], "--wait"];
    let retry = dead_letter(&fixture.settings, &retry).await?;
    let (code, out, err) = retry;
    assert_eq!(code, 1, "{out}{err}");
    assert!(
        out.contains("2 dead letters will be retried") && out.contains("1 published"),
        "{out}"
    );
    assert!(
        err.starts_with("error: 1 dead letter refused again: "),
        "{err}"
    );
    assert!(err.contains("hint: "), "{err}");

    session.batch_execute(&format!("{mend} 2")).await?;
    let (code, out, err) =
        dead_letter(&fixture.settings, &["retry", &ids[1], "--wait=30s"]).await?;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("1 dead letter will be retried") && out.ends_with("1 published\n"),
        "{out}"
    );
    let open = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
    session
        .wait_for_value("one unpublished row", open, 1, LIMIT)
        .await?;

    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let third = format!("{},", ids[2]);
    let (code, _, err) = dead_letter(&fixture.settings, &["retry", &third, "--wait=1s"]).await?;
    assert_eq!(code, 3, "{err}");
    let words = "error: 1 dead letter still waiting for the publisher after 1s\nhint: is outboxd";
    assert!(err.starts_with(words), "{err}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_deletes_old_closed_letters_alone_and_a_dry_run_none() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let session = fixture.database.connect().await?;
    let fill = "INSERT INTO outbox.dead_letter
                    (system_id, payload_sha256, error_code, error, state, updated_at)
                SELECT '1', decode(md5(state || i), 'hex'), 'X', 'x', state,
                       now() - make_interval(days => age)
                  FROM unnest(ARRAY['retried', 'discarded', 'dead', 'skipped', 'retried'],
                              ARRAY[31, 31, 31, 31, 29], ARRAY[1500, 1, 1, 1, 1])
                           AS kinds (state, age, many),
                       generate_series(1, many) AS i";
    session.batch_execute(fill).await?;
    let prune = ["prune", "--older-than", "30d"];
    let (code, out, _) =
        dead_letter(&fixture.settings, &[&prune[..], &["--dry-run"]].concat()).await?;
    assert_eq!(
        (code, out.as_str()),
        (0, "1501 closed dead letters would be deleted\n")
    );

    let role = fixture.database.create_role("reader", "").await?;
    let grant = format!(
        "GRANT USAGE ON SCHEMA outbox TO {role};
                         GRANT SELECT ON outbox.dead_letter TO {role}"
    );
    session.batch_execute(&grant).await?;
    let reader = fixture
        .settings
        .clone()
        .set("DATABASE_URL", fixture.database.url_as(&role));
    let (code, _, err) = dead_letter(&reader, &prune).await?;
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("hint: connect as the owner of outbox.dead_letter"),
        "{err}"
    );

    let (code, out, err) = dead_letter(&fixture.settings, &prune).await?;
    assert_eq!(
        (code, out.as_str()),
        (0, "1501 closed dead letters deleted\n"),
        "{err}"
    );
    let left = "SELECT string_agg(state, ' ' ORDER BY state) FROM outbox.dead_letter";
    assert_eq!(session.value::<String>(left).await?, "dead retried skipped");
    let (code, _, err) = dead_letter(&fixture.settings, &["prune", "--older-than", "1m"]).await?;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("out of range"), "{err}");
    Ok(())
}
