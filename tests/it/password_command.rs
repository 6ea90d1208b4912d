//! A password that a command prints: it may change while outboxd runs, and appears nowhere.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, turn};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_changes_costs_a_running_outboxd_nothing() -> Result<()> {
    let (first, second) = ("first-s3cr3t", "second,s3cr3t=x");
    let mut server = postgres::private(turn(15), &[])?;
    let database = Database::create(&server).await?;
    let session = database.connect().await?;
    let role = format!("CREATE ROLE relay SUPERUSER LOGIN PASSWORD '{first}'");
    session.batch_execute(&role).await?;
    let hba = "local all all trust\nhost all relay 127.0.0.1/32 scram-sha-256\n\
               host replication relay 127.0.0.1/32 scram-sha-256\n";
    server.write("data/pg_hba.conf", hba)?;
    server.reload()?;
    let kafka = kafka::shared();
    let topic = kafka.topic("events", 1).await?;
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    std::fs::write(&token, format!("{first}\n"))?;
    let settings = Settings::new(&database, kafka)?
        .set("DATABASE_URL", database.url_as("relay"))
        .set(
            "DATABASE_PASSWORD_COMMAND",
            format!("cat {}", token.display()),
        )
        .set("OUTBOX_LOG", "debug");
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let event = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 VALUES ('a', $1, '{}')";
    session.execute(event, &[&topic]).await?;
    let published = async |count: u64| {
        let what = format!("{count} events");
        let status = outboxd.wait_for_status(&what, LIMIT, |status| {
            status["published_total"].as_u64() == Some(count)
        });
        status.await
    };
    published(1).await?;
    // Another token is valid from now on, and every session of outboxd has to log in with it.
    let change = format!("ALTER ROLE relay PASSWORD '{second}'");
    session.batch_execute(&change).await?;
    std::fs::write(&token, second)?;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE application_name LIKE 'outboxd%'";
    let ended: i64 = session.query_one(end, &[]).await?.try_get(0)?;
    ensure!(ended > 1, "{ended} sessions");
    session.execute(event, &[&topic]).await?;
    published(2).await?;
    // A command that fails is waited for like a server that is away.
    std::fs::rename(&token, folder.path().join("away"))?;
    session.query_one(end, &[]).await?;
    let failing = outboxd.wait_for_status("the failure to be named", LIMIT, |status| {
        let error = status["last_error"].to_string();
        error.contains("the command of DATABASE_PASSWORD_COMMAND ended with exit status: 1")
    });
    failing.await?;
    std::fs::rename(folder.path().join("away"), &token)?;
    session.execute(event, &[&topic]).await?;
    let status = published(3).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let log = outboxd.log();
    log.find("DATABASE_PASSWORD_COMMAND")
        .context("the failure is logged")?;
    for secret in [first, second, "s3cr3t"] {
        ensure!(!log.contains(secret), "{log}");
        ensure!(!status.to_string().contains(secret), "{status}");
    }
    Ok(())
}
