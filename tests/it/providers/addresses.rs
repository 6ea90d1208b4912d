//! libpq's ways to name a server, on the built program; and generated columns, which Postgres 18
//! can publish.

use std::fs;

use anyhow::{Result, ensure};

use super::{LIMIT, publishes_across_a_restart};
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, shared, turn};

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_libpq_leads_to_the_server() -> Result<()> {
    let server = shared(turn(17));
    let kafka = kafka::shared();
    let fixture = Fixture::create(server, kafka).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("services");
    let port = server.port();
    let name = &fixture.database.name;
    fs::write(
        &file,
        format!("[outbox]\nhost=127.0.0.1\nport={port}\nuser=postgres\ndbname={name}\n"),
    )?;
    let with_file = fixture
        .settings
        .clone()
        .set("PGSERVICEFILE", file.display().to_string());
    let session = fixture.database.connect().await?;
    for settings in [
        with_file.clone().set("DATABASE_URL", "service=outbox"),
        with_file
            .set("DATABASE_URL", "postgresql://")
            .set("PGSERVICE", "outbox"),
        // The name is only for TLS and for messages.
        fixture
            .settings
            .clone()
            .set(
                "DATABASE_URL",
                format!("postgresql://postgres@not.a.host:{port}/{name}"),
            )
            .set("PGHOSTADDR", "127.0.0.1"),
    ] {
        publishes_across_a_restart(&session, kafka, &fixture.topic, &settings).await?;
    }
    let missing = fixture
        .settings
        .clone()
        .set("DATABASE_URL", "service=elsewhere");
    let output = command(&missing, &["run"], LIMIT).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{said}");
    ensure!(
        said.contains("names a service that no service file has"),
        "{said}"
    );
    Ok(())
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn an_abstract_socket_is_reached() -> Result<()> {
    let socket = format!("@outboxd-{:016x}", fastrand::u64(..));
    let kafka = kafka::shared();
    let server = postgres::private(turn(17), &[])?;
    let folder = server.socket_dir().display().to_string();
    let mut server = server;
    server.configure(&[format!("unix_socket_directories = '{folder}, {socket}'")])?;
    server.stop(crate::support::ephemeral::Stop::Fast)?;
    server.resume()?;
    let fixture = Fixture::create(&server, kafka).await?;
    let name = &fixture.database.name;
    let url = format!(
        "host={socket} port={} user=postgres dbname={name}",
        server.port()
    );
    let settings = fixture.settings.clone().set("DATABASE_URL", url);
    let session = fixture.database.connect().await?;
    publishes_across_a_restart(&session, kafka, &fixture.topic, &settings).await?;
    let nowhere = "host=@outboxd-nowhere user=postgres dbname=x";
    let settings = settings.set("DATABASE_URL", nowhere);
    let mut outboxd = Outboxd::spawn(&settings)?;
    let line = outboxd
        .wait_for_log(&["@outboxd-nowhere:5432", "Connection refused"], LIMIT)
        .await?;
    ensure!(!line.contains("DNS"), "{line}");
    outboxd.kill()
}

/// A table whose event type is computed from the payload.
async fn generated(database: &Database, kind: &str) -> Result<()> {
    let sql = format!(
        "DROP TABLE outbox.outbox;
         CREATE TABLE outbox.outbox (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             event_type text GENERATED ALWAYS AS (event_payload ->> 'type') {kind},
             topic text NOT NULL, event_payload jsonb NOT NULL,
             created_at timestamp DEFAULT CURRENT_TIMESTAMP NOT NULL,
             times_attempted integer DEFAULT 0, published_at timestamp)"
    );
    Ok(database.connect().await?.batch_execute(&sql).await?)
}

const SEND_STORED: &str = "ALTER PUBLICATION outboxd SET (publish_generated_columns = stored)";

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_column_is_streamed_where_the_publication_sends_it() -> Result<()> {
    let server = postgres::private(18, &[])?;
    let kafka = kafka::shared();
    let database = Database::create(&server).await?;
    generated(&database, "STORED").await?;
    let topic = kafka.topic("generated", 2).await?;
    let settings = Settings::new(&database, kafka)?;
    // The publication does not send it yet, and `init` names that as well.
    let _reported = init(&settings).await;
    let output = command(&settings, &["run"], LIMIT).await?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{said}");
    ensure!(
        said.contains("event_type is a generated column, which"),
        "{said}"
    );
    ensure!(
        said.contains("publish_generated_columns = stored"),
        "{said}"
    );

    let session = database.connect().await?;
    session.batch_execute(SEND_STORED).await?;
    let insert = "INSERT INTO outbox.outbox (topic, event_payload) \
                  VALUES ($1, '{\"type\": \"OrderCreated\"}')";
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    session.execute(insert, &[&topic]).await?;
    database.all_marked(LIMIT).await?;
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    let records = kafka.consume_all(&[&topic]).await?;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_deref(), Some(&b"OrderCreated"[..]));
    ensure!(
        records[0].header("outbox_lsn").is_some(),
        "it came by the stream"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generated_column_that_no_stream_carries_is_named_and_polled() -> Result<()> {
    let kafka = kafka::shared();
    for (major, kind) in [(18, "VIRTUAL"), (17, "STORED")] {
        let server = postgres::private(major, &[])?;
        let database = Database::create(&server).await?;
        generated(&database, kind).await?;
        let session = database.connect().await?;
        let settings = Settings::new(&database, kafka)?;
        let _reported = init(&settings).await;
        if major == 18 {
            session.batch_execute(SEND_STORED).await?;
        }
        let output = command(&settings, &["run"], LIMIT).await?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2), "{major}: {said}");
        ensure!(
            said.contains("event_type is a generated column, which"),
            "{said}"
        );

        let topic = kafka.topic("generated", 2).await?;
        let insert = "INSERT INTO outbox.outbox (topic, event_payload) \
                      VALUES ($1, '{\"type\": \"OrderCreated\"}')";
        session.execute(insert, &[&topic]).await?;
        let mut outboxd = Outboxd::spawn(&settings.polling())?;
        database.all_marked(LIMIT).await?;
        ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
        let records = kafka.consume_all(&[&topic]).await?;
        assert_eq!(
            records[0].key.as_deref(),
            Some(&b"OrderCreated"[..]),
            "{major}"
        );
    }
    Ok(())
}
