//! Cloud SQL, AlloyDB, Azure, Supabase and Neon: administrators that are no superusers, and that
//! may give REPLICATION or not.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};

use super::{LIMIT, doctor, init, insert, publishes_across_a_restart, settings, status};
use crate::support::ephemeral::Stop;
use crate::support::kafka;
use crate::support::outboxd::Outboxd;
use crate::support::provider::{ADMIN, Provider, Simulated, State};
use crate::support::session_proxy::{Kind, SessionProxy};

const GIVES: State = State {
    decodes: true,
    gives_replication: true,
};
const GIVES_NOT: State = State {
    decodes: true,
    gives_replication: false,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_that_may_give_replication_prepares_everything() -> Result<()> {
    use Provider::{AlloyDb, Azure, CloudSql, Neon, Supabase};
    let kafka = kafka::shared();
    for provider in [CloudSql, AlloyDb, Azure, Supabase, Neon] {
        let simulated = Simulated::start(provider, 17, GIVES).await?;
        let (code, said) = init(&simulated).await?;
        ensure!(code == Some(0), "{provider:?}: {said}");
        let settings = settings(&simulated, kafka)?;
        let session = simulated.database.connect().await?;
        let topic = kafka.topic("managed", 2).await?;
        publishes_across_a_restart(&session, kafka, &topic, &settings).await?;
        let examined = doctor(&settings).await?;
        assert_eq!(
            examined.with("fails"),
            [""; 0],
            "{provider:?}: {}",
            examined.text
        );
        let found = status(&settings).await?;
        ensure!(found["slot_exists"] == true, "{found}");
        if provider == Supabase {
            let seen = "SELECT count(*) > 0 FROM graphql.seen WHERE object = 'outbox.outbox'";
            ensure!(
                session.value::<bool>(seen).await?,
                "the event trigger has run"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_that_may_not_is_left_with_one_statement_to_run_by_another() -> Result<()>
{
    let kafka = kafka::shared();
    for (provider, major, names) in [
        // Before Postgres 16 only a superuser gives REPLICATION.
        (Provider::CloudSql, 15, "REPLICATION of role outboxd"),
        (Provider::CloudSql, 17, "REPLICATION of role outboxd"),
        (Provider::Azure, 17, "REPLICATION of role outboxd"),
        (Provider::Supabase, 15, "REPLICATION of role outboxd"),
    ] {
        let simulated = Simulated::start(provider, major, GIVES_NOT).await?;
        let (code, said) = init(&simulated).await?;
        ensure!(code == Some(2), "{provider:?} {major}: {code:?} {said}");
        ensure!(said.contains(names), "{said}");
        let statement = "ALTER ROLE \"outboxd\" REPLICATION";
        ensure!(said.contains(statement), "{said}");
        let settings = settings(&simulated, kafka)?;
        let topic = kafka.topic("managed", 2).await?;
        let session = simulated.database.connect().await?;
        // Polling needs nothing more.
        publishes_across_a_restart(&session, kafka, &topic, &settings.polling()).await?;
        let examined = doctor(&settings).await?;
        assert_eq!(
            examined.with("fails"),
            ["replication-right"],
            "{}",
            examined.text
        );
        // The provider's own tool, or its support, runs the statement.
        session.batch_execute(statement).await?;
        publishes_across_a_restart(&session, kafka, &topic, &settings).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_azure_the_administrator_gets_replication_first_and_passes_it_on() -> Result<()> {
    let simulated = Simulated::start(Provider::Azure, 17, GIVES_NOT).await?;
    let (code, _) = init(&simulated).await?;
    assert_eq!(code, Some(2));
    // Azure's own server allows this to the administrator.
    let session = simulated.database.connect().await?;
    let give = format!("ALTER ROLE {ADMIN} WITH REPLICATION");
    session.batch_execute(&give).await?;
    let (code, said) = init(&simulated).await?;
    ensure!(code == Some(0), "{said}");
    let kafka = kafka::shared();
    let (settings, topic) = (settings(&simulated, kafka)?, kafka.topic("azure", 2).await?);
    publishes_across_a_restart(&session, kafka, &topic, &settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_neons_proxy_events_are_streamed_and_polled() -> Result<()> {
    let kafka = kafka::shared();
    let simulated = Simulated::start(Provider::Neon, 17, GIVES).await?;
    init(&simulated).await?;
    let proxy = SessionProxy::before(simulated.server.port(), Kind::OwnKey).await?;
    let url = proxy.url(&simulated.database.name, "outboxd");
    let settings = settings(&simulated, kafka)?.set("DATABASE_URL", url);
    let session = simulated.database.connect().await?;
    let topic = kafka.topic("neon", 2).await?;
    publishes_across_a_restart(&session, kafka, &topic, &settings).await?;
    publishes_across_a_restart(&session, kafka, &topic, &settings.polling()).await?;
    let examined = doctor(&settings).await?;
    assert_eq!(examined.with("fails"), [""; 0], "{}", examined.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compute_that_was_suspended_starts_with_the_next_connection_and_loses_nothing()
-> Result<()> {
    let kafka = kafka::shared();
    let simulated = Simulated::start(Provider::Neon, 17, GIVES).await?;
    init(&simulated).await?;
    let (settings, topic) = (settings(&simulated, kafka)?, kafka.topic("neon", 2).await?);
    let Simulated { server, database } = simulated;
    let server = Arc::new(Mutex::new(server));
    let proxy = SessionProxy::before_a_sleeper(&server).await?;
    let settings = settings.set("DATABASE_URL", proxy.url(&database.name, "outboxd"));
    for settings in [settings.clone(), settings.polling()] {
        let before = proxy.starts();
        insert(&database.connect().await?, &topic, 10).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        database.all_marked(LIMIT).await?;
        server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stop(Stop::Fast)?;
        // The connections of outboxd wake it.
        outboxd.wait_until_ready(LIMIT).await?;
        ensure!(proxy.starts() > before, "it was started by a connection");
        insert(&database.connect().await?, &topic, 10).await?;
        database.all_marked(LIMIT).await?;
        ensure!(outboxd.stop(LIMIT).await? == 0, "{}", outboxd.log());
    }
    assert_eq!(kafka.consume_all(&[&topic]).await?.len(), 40);
    Ok(())
}
