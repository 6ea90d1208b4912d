//! What writers commit is what consumers read: the same set, the same bytes, in commit order for each key.

use std::time::Duration;

use anyhow::Result;

use crate::support::kafka;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, MAJORS};
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn committed_events_arrive_with_the_pollers_topic_key_and_value_and_are_marked() -> Result<()>
{
    for major in MAJORS {
        let database = Database::create(postgres::shared(major)).await?;
        let kafka = kafka::shared();
        let topic = kafka.topic("orders", 3).await?;
        let oracle = Oracle::create(&database).await?;
        let payload = r#"{"b": 1, "a": [true, null, "é"]}"#;
        let session = database.connect().await?;
        session
            .execute(
                "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
             SELECT 'Created' || i % 7, $1, $2::text::jsonb FROM generate_series(1, 100) i",
                &[&topic, &payload],
            )
            .await?;
        let settings = Settings::new(&database, kafka)?;
        init(&settings).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        for _ in 0..100 {
            database.insert("Changed", &topic, payload).await?;
        }
        wait_until("all rows are marked", LIMIT, async || {
            match database.unpublished().await? {
                0 => Ok(Ok(())),
                left => Ok(Err(format!("{left} unpublished"))),
            }
        })
        .await?;
        let consumed = kafka.consume_all(&[&topic]).await?;
        check(&oracle.committed().await?, &consumed).expect_exact()?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    }
    Ok(())
}
