//! A Postgres that is not reached, or does not let outboxd in.

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;

use super::examine;
use crate::support::ephemeral::free_port;
use crate::support::kafka;
use crate::support::outboxd::{Settings, command};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{self, Database, turn};

fn settings(url: &str) -> Result<Settings> {
    Ok(Settings::nowhere()?
        .set("DATABASE_URL", url)
        .set("KAFKA_BROKERS", kafka::shared().brokers()))
}

/// The check fails, those that need it are not reached, and Kafka is examined all the same.
async fn expect(url: &str, check: &str, words: &[&str]) -> Result<()> {
    let examined = examine(&settings(url)?).await?;
    examined
        .expect(check, "fails", words)
        .context(url.to_owned())?;
    examined.expect("slot", "cannot say", &["not reached", check])?;
    examined.expect("topics", "cannot say", &["not reached"])?;
    examined.expect("kafka-answer", "ok", &[])?;
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_reached_fails_the_check_of_its_address() -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let brokers = kafka::shared().brokers();
    let (closed, silent) = (free_port()?, silent.local_addr()?);
    let of = |place: &str| format!("postgresql://postgres@{place}/postgres");
    expect(&of("no-such-host.invalid"), "server", &["DNS"]).await?;
    let closed = format!("127.0.0.1:{closed}");
    expect(&of(&closed), "server", &["refused", "is the server up"]).await?;
    expect(&of(&silent.to_string()), "server", &["firewall"]).await?;
    expect(&of(&brokers), "server", &["does Postgres listen there"]).await
}

#[tokio::test]
async fn a_login_that_cannot_work_fails_the_check_of_the_login() -> Result<()> {
    let server = postgres::private_with_password(turn(17), "right")?;
    let port = server.port();
    let of = |login: &str, database: &str| {
        format!("postgresql://{login}@127.0.0.1:{port}/{database}?sslmode=disable")
    };
    expect(&of("postgres:wr0ng", "postgres"), "login", &["28P01"]).await?;
    expect(&of("postgres", "postgres"), "login", &["password missing"]).await?;
    expect(&of("postgres:right", "missing"), "login", &["3D000"]).await?;
    expect(&of("nobody:right", "postgres"), "login", &["nobody"]).await?;
    let url = of("postgres:right", "postgres").replace("disable", "require");
    expect(&url, "tls", &["does not offer TLS", "sslmode=disable"]).await?;
    let url = of("postgres:right", "postgres").replace("disable", "verify-ca");
    let no_certificate = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let url = format!("{url}&sslrootcert={no_certificate}");
    expect(&url, "tls", &["cannot use sslrootcert"]).await?;
    for arguments in [&["doctor"][..], &["doctor", "--json"]] {
        let url = of("postgres:s3cr3t", "postgres");
        let output = command(&settings(&url)?, arguments, super::LIMIT).await?;
        let text = [output.stdout, output.stderr].concat();
        ensure!(!String::from_utf8(text)?.contains("s3cr3t"));
    }
    Ok(())
}

#[tokio::test]
async fn a_pooler_a_standby_and_another_encoding_are_named() -> Result<()> {
    let server = postgres::shared(turn(15));
    let database = Database::create(server).await?;
    let name = &database.name;
    let lines = ["pool_mode = transaction"];
    if let Some(pooler) = PgBouncer::before(server, &lines).await? {
        let url = pooler.url(name, "postgres");
        expect(&url, "session", &["connection pooler", "Postgres itself"]).await?;
    }

    let admin = database.connect().await?;
    let latin = format!("{name}_latin1");
    admin
        .batch_execute(&format!(
            "CREATE DATABASE {latin} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'"
        ))
        .await?;
    let url = database.url().replace(name, &latin);
    let examined = examine(&settings(&url)?).await?;
    examined.expect("encoding", "fails", &["LATIN1", "UTF8"])?;
    admin
        .batch_execute(&format!("DROP DATABASE {latin}"))
        .await?;

    let mut primary = postgres::private(turn(17), &[])?;
    primary.stop(crate::support::ephemeral::Stop::Fast)?;
    let standby = postgres::standby(&primary, &[])?;
    let url = standby.url("postgres", "postgres");
    expect(&url, "session", &["read-only"]).await
}

#[tokio::test]
async fn a_setting_that_is_wrong_is_reported_as_everywhere_and_ends_with_2() -> Result<()> {
    let wrong = settings("postgresql://db/orders")?.set("OUTBOX_BATCH_SIZE", "0");
    let output = command(&wrong, &["doctor", "--json"], super::LIMIT).await?;
    assert_eq!(output.status.code(), Some(2));
    ensure!(output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(stderr.contains("OUTBOX_BATCH_SIZE"), "{stderr}");
    Ok(())
}
