//! What may stand between outboxd and the server: a pooler is known by what it does to a session,
//! and by nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::SimpleQueryMessage;

use super::{LIMIT, doctor, insert, publishes_across_a_restart};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::{Session, shared, turn};
use crate::support::session_proxy::{Kind, SessionProxy};
use crate::support::wait::wait_until;

/// The start-up options of outboxd's sessions, which PgBouncer 1.18 refuses unless this
/// setting names them.
const LENIENT: &str = "ignore_startup_parameters = options,extra_float_digits";

/// The fixture's settings over another address.
fn over(settings: &Settings, url: &str) -> Settings {
    settings.clone().set("DATABASE_URL", url)
}

async fn refusal(settings: &Settings) -> Result<(Option<i32>, String)> {
    let output = command(settings, &["run"], LIMIT).await?;
    Ok((output.status.code(), String::from_utf8(output.stderr)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_server_sessions_is_refused_in_either_mode() -> Result<()> {
    let server = shared(turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    for lines in [
        &["pool_mode = transaction"][..],
        &["pool_mode = transaction", LENIENT],
        &["pool_mode = transaction", "default_pool_size = 1", LENIENT],
        &[
            "pool_mode = transaction",
            "server_round_robin = 1",
            "min_pool_size = 4",
        ],
        // The server session loses its settings after each transaction.
        &["pool_mode = transaction", "server_reset_query_always = 1"],
        &["pool_mode = statement"],
    ] {
        let Some(pgbouncer) = PgBouncer::before(server, lines).await? else {
            return Ok(());
        };
        let url = pgbouncer.url(&fixture.database.name, "postgres");
        let settings = over(&fixture.settings, &url);
        for settings in [settings.clone(), settings.polling()] {
            let (code, said) = refusal(&settings).await?;
            ensure!(
                code == Some(1),
                "{lines:?}: {code:?} {said}\n{}",
                pgbouncer.log()
            );
            ensure!(
                said.contains("is a connection pooler: "),
                "{lines:?}: {said}"
            );
            ensure!(said.contains("hint: connect to Postgres itself"), "{said}");
        }
        // Other clients of the pooler get no setting of outboxd.
        let other = Session::open(&url).await?;
        let messages = other.simple_query("SHOW search_path").await?;
        let path = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        assert_eq!(path.as_deref(), Some("\"$user\", public"), "{lines:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_pooler_is_refused_as_well() -> Result<()> {
    let server = shared(turn(15));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let lines = [
        "pool_mode = transaction",
        "default_pool_size = 6",
        "server_round_robin = 1",
    ];
    let Some(pgbouncer) = PgBouncer::before(server, &lines).await? else {
        return Ok(());
    };
    let url = pgbouncer.url(&fixture.database.name, "postgres");
    let mut others = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let session = Session::open(&url).await?;
        others.spawn(async move {
            loop {
                session.simple_query("SELECT pg_sleep(0.002)").await?;
            }
            #[expect(unreachable_code, reason = "names the type of the error")]
            anyhow::Ok(())
        });
    }
    let settings = over(&fixture.settings, &url).polling();
    for _ in 0..10 {
        let (code, said) = refusal(&settings).await?;
        ensure!(
            code == Some(1) && said.contains("is a connection pooler"),
            "{code:?} {said}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_gives_each_client_a_session_can_be_polled_through() -> Result<()> {
    let server = shared(turn(17));
    let kafka = kafka::shared();
    for lines in [
        &["pool_mode = session"][..],
        &["pool_mode = session", LENIENT],
    ] {
        let fixture = Fixture::create(server, kafka).await?;
        let Some(pgbouncer) = PgBouncer::before(server, lines).await? else {
            return Ok(());
        };
        let url = pgbouncer.url(&fixture.database.name, "postgres");
        let settings = over(&fixture.settings, &url);
        let session = fixture.database.connect().await?;
        let polling = settings.polling();
        publishes_across_a_restart(&session, kafka, &fixture.topic, &polling).await?;
        let examined = doctor(&polling).await?;
        assert_eq!(examined.with("fails"), [""; 0], "{}", examined.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_without_replication_is_named_by_a_stream() -> Result<()> {
    let server = shared(turn(17));
    let fixture = Fixture::create(server, kafka::shared()).await?;
    for ignored in ["options", "options,replication"] {
        let ignored = format!(
            "ignore_startup_parameters = {ignored},wal_sender_timeout,idle_session_timeout,\
             search_path,IntervalStyle,bytea_output,extra_float_digits,quote_all_identifiers,\
             default_transaction_isolation,default_transaction_read_only,statement_timeout,\
             lock_timeout,idle_in_transaction_session_timeout,tcp_user_timeout"
        );
        let lines = ["pool_mode = session", &ignored];
        let Some(pgbouncer) = PgBouncer::before(server, &lines).await? else {
            return Ok(());
        };
        let url = pgbouncer.url(&fixture.database.name, "postgres");
        let settings = over(&fixture.settings, &url);
        let (code, said) = refusal(&settings).await?;
        ensure!(code == Some(1), "{code:?} {said}");
        ensure!(said.contains("connection pooler"), "{said}");
        let examined = doctor(&settings).await?;
        assert_eq!(
            examined.with("fails"),
            ["replication-connection"],
            "{}",
            examined.text
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_ones_own_is_accepted_whatever_key_is_announced() -> Result<()> {
    let server = shared(turn(15));
    let kafka = kafka::shared();
    for kind in [Kind::OwnKey, Kind::NoKey] {
        let fixture = Fixture::create(server, kafka).await?;
        let proxy = SessionProxy::before(server.port(), kind).await?;
        let url = proxy.url(&fixture.database.name, "postgres");
        let settings = over(&fixture.settings, &url);
        let session = fixture.database.connect().await?;
        let topic = &fixture.topic;
        publishes_across_a_restart(&session, kafka, topic, &settings.polling()).await?;
        if kind == Kind::OwnKey {
            publishes_across_a_restart(&session, kafka, topic, &settings).await?;
            continue;
        }
        // RDS Proxy does not pass replication on.
        let (code, said) = refusal(&settings).await?;
        ensure!(
            code == Some(1) && said.contains("Feature not supported"),
            "{code:?} {said}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_cancels_nothing_costs_a_session_and_no_event() -> Result<()> {
    let server = shared(turn(17));
    let kafka = kafka::shared();
    let fixture = Fixture::create(server, kafka).await?;
    let proxy = SessionProxy::before(server.port(), Kind::OwnKey).await?;
    let url = proxy.url(&fixture.database.name, "postgres");
    let settings = over(&fixture.settings, &url).set("OUTBOX_OPERATION_TIMEOUT", "2s");
    let mut outboxd = Outboxd::spawn(&settings.polling())?;
    outboxd.wait_for_phase("polling", LIMIT).await?;
    let locker = fixture.database.connect().await?;
    locker
        .batch_execute("BEGIN; LOCK TABLE outbox.outbox IN ACCESS EXCLUSIVE MODE")
        .await?;
    let began = Instant::now();
    wait_until("a request to cancel", LIMIT, async || {
        Ok(match proxy.cancels() {
            0 => Err(outboxd.log()),
            _ => Ok(()),
        })
    })
    .await?;
    ensure!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
    locker.batch_execute("COMMIT").await?;
    insert(&locker, &fixture.topic, 20).await?;
    fixture.all_marked(LIMIT).await?;
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    let consumed = kafka.consume_all(&[&fixture.topic]).await?;
    let first = consumed.first().context("a record")?;
    ensure!(
        consumed.len() == 20,
        "{} records, {first:?}",
        consumed.len()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_behind_a_proxy_knows_its_own_lock() -> Result<()> {
    let server = shared(turn(17));
    let kafka = kafka::shared();
    let fixture = Fixture::create(server, kafka).await?;
    let proxy = SessionProxy::before(server.port(), Kind::OwnKey).await?;
    let url = proxy.url(&fixture.database.name, "postgres");
    let mut outboxd = Outboxd::spawn(&over(&fixture.settings, &url))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    insert(&session, &fixture.topic, 10).await?;
    fixture.all_marked(LIMIT).await?;
    let end = format!(
        "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots \
          WHERE slot_name = '{}' AND active",
        fixture.slot()
    );
    ensure!(
        session.value::<i64>(&end).await? == 1,
        "the walsender was ended"
    );
    insert(&session, &fixture.topic, 10).await?;
    fixture.all_marked(LIMIT).await?;
    ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    let log = outboxd.log();
    ensure!(!log.contains("dropping in-flight events"), "{log}");
    assert_eq!(kafka.consume_all(&[&fixture.topic]).await?.len(), 20);
    Ok(())
}
