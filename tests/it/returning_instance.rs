//! An instance that was cut off returns, and meanwhile another one has published and ended, which
//! it never saw.
//!
//! The slot has not moved and no row is marked: the number that each holder of the lock draws is
//! all that shows the other one. That one has sent an old event again, behind the newer one of its
//! key. So what the first one remembers as sent has to be sent again too.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::support::fixture::Fixture;
use crate::support::kafka::{self, ConsumedRecord};
use crate::support::outboxd::{Outboxd, Settings};
use crate::support::postgres::{self, Server};
use crate::support::proxy::{Flow, Proxy};
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes a second: a small event arrives seconds before a large one.
const SLOWLY: Flow = Flow::Throttle(64 << 10);
const LARGE: usize = 900_000;
const HELD: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
                    (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Waits until Kafka has this many records; returns how many it has.
async fn records(fixture: &Fixture<'_>, count: i64) -> Result<i64> {
    wait_for("the records", LIMIT, async || {
        let found = fixture.kafka.record_count(&[&fixture.topic]).await?;
        Ok((found >= count).then_some(found))
    })
    .await
}

async fn newest_is_sent_last(server: &Server, polls: bool) -> Result<()> {
    let fixture = Fixture::create(server, kafka::shared()).await?;
    let to_first = Proxy::before(server.port()).await?;
    let to_second = Proxy::before(server.port()).await?;
    to_second.set(SLOWLY);
    let through = |proxy: &Proxy| -> Result<Settings> {
        let settings = Settings::new(&fixture.database, fixture.kafka)?
            .set("DATABASE_URL", proxy.url(fixture.database.url())?);
        Ok(match polls {
            true => settings.polling().set("OUTBOX_BATCH_SIZE", "1"),
            // No row is marked before the stop.
            false => settings
                .set("OUTBOX_READ_BACK", "false")
                .set("OUTBOX_PROCESS_INTERVAL", "1h")
                .set("OUTBOX_BATCH_SIZE", "1000"),
        })
    };
    let phase = if polls { "polling" } else { "streaming" };
    let insert = async |key: &str, size: usize| {
        let payload = json!({ "x": "x".repeat(size) }).to_string();
        fixture.database.insert(key, &fixture.topic, &payload).await
    };
    let locker = fixture.database.connect().await?;
    let mut first = Outboxd::spawn(&through(&to_first)?)?;
    first.wait_for_phase(phase, LIMIT).await?;
    if polls {
        // The rows are locked before it finds them.
        first.kill()?;
    }
    insert("a", 1).await?;
    let newest = insert("a", LARGE).await?;
    if polls {
        let lock = "BEGIN; SELECT FROM outbox.outbox FOR UPDATE";
        locker.batch_execute(lock).await?;
        first.respawn()?;
    }
    records(&fixture, 2).await?;

    to_first.set(Flow::Swallow);
    to_first.reset();
    let mut second = Outboxd::spawn(&through(&to_second)?)?;
    records(&fixture, 3).await?;
    second.kill()?;
    let nobody = "the second one's lock to end";
    locker.wait_for_value(nobody, HELD, 0, LIMIT).await?;
    assert_eq!(records(&fixture, 3).await?, 3, "the large one was sent too");

    to_first.set(Flow::Pass);
    let later = insert("b", 1).await?;
    let is_later = |it: &ConsumedRecord| it.outbox_id() == Some(later);
    wait_for("a later event", LIMIT, async || {
        let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
        Ok(consumed.iter().any(is_later).then_some(()))
    })
    .await?;
    if polls {
        locker.batch_execute("COMMIT").await?;
        fixture.all_marked(LIMIT).await?;
    }
    assert_eq!(first.stop(LIMIT).await?, 0, "{}", first.log());
    assert_eq!(fixture.database.unpublished().await?, 0);
    let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
    let of_key = consumed.iter().filter(|it| it.key.as_deref() == Some(b"a"));
    let sent: Vec<_> = of_key.map(ConsumedRecord::outbox_id).collect();
    assert_eq!(sent.last(), Some(&Some(newest)), "{sent:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_repeats_what_another_has_sent_in_part_unseen() -> Result<()> {
    newest_is_sent_last(postgres::shared(postgres::turn(17)), false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poller_repeats_what_another_has_sent_in_part_unseen() -> Result<()> {
    newest_is_sent_last(postgres::shared(postgres::turn(15)), true).await
}

/// Triggers of the dead-letter table run when numbers are drawn from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_gives_no_number_costs_a_warning_and_no_event() -> Result<()> {
    let server = postgres::shared(postgres::turn(15));
    for (body, warns) in [
        ("INSERT INTO seen VALUES (1); RETURN NEW", false),
        ("RAISE 'no'", true),
    ] {
        let fixture = Fixture::create(server, kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let trigger = format!(
            "CREATE TABLE outbox.seen (i integer);
             ALTER DATABASE {name} SET search_path = outbox;
             CREATE FUNCTION outbox.look() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN {body}; END $$;
             CREATE TRIGGER look BEFORE INSERT ON outbox.dead_letter
                 FOR EACH ROW EXECUTE FUNCTION outbox.look()",
            name = fixture.database.name
        );
        session.batch_execute(&trigger).await?;
        for settings in [fixture.settings.clone(), fixture.settings.polling()] {
            let mut outboxd = Outboxd::spawn(&settings)?;
            fixture.database.insert("a", &fixture.topic, "{}").await?;
            fixture.all_marked(LIMIT).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
            let log = outboxd.log();
            assert_eq!(log.contains("no number for the holder"), warns, "{log}");
        }
        let left = "SELECT (SELECT count(*) FROM outbox.dead_letter) \
                         + (SELECT count(*) FROM outbox.seen)";
        assert_eq!(session.value::<i64>(left).await?, 0);
    }
    Ok(())
}
