//! Writers as services have them: they keep their rate, whatever happens to their events.

use std::time::Duration;

use anyhow::{Result, anyhow};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::load::Load;
use crate::support::postgres::Session;

/// The number of sessions that share the rate.
const WRITERS: u64 = 4;

/// The payload: two numbers, about 300 bytes of text, and the time of the insert by the database's
/// clock.
const INSERT: &str = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
    SELECT 'key' || ($1::bigint + i) % 1000, $2, \
           jsonb_build_object('n', $1, 'i', i, 'note', repeat('x', 290), \
                              'at', extract(epoch FROM clock_timestamp())) \
    FROM generate_series(1, $3::bigint) i";

/// Commits `rate` transactions a second with `rows` events each, for this many seconds. With a
/// `sender`, the writers also send each event to Kafka after the commit, without waiting for its
/// acknowledgement.
pub(crate) async fn write(
    load: &Load,
    rate: u64,
    rows: u64,
    seconds: u64,
    sender: Option<&FutureProducer>,
) -> Result<()> {
    let returning = match sender {
        Some(_) => " RETURNING event_type, event_payload::text",
        None => "",
    };
    let insert = format!("{INSERT}{returning}");
    let began = tokio::time::Instant::now();
    let writer = |number: u64| {
        let (url, topic) = (
            load.database.unix_url().to_owned(),
            load.topics.names[0].clone(),
        );
        let (insert, sender) = (insert.clone(), sender.cloned());
        tokio::spawn(async move {
            let session = Session::open(&url).await?;
            let insert = session.prepare(&insert).await?;
            for n in (number..rate * seconds).step_by(WRITERS as usize) {
                let due = began + Duration::from_secs_f64(n as f64 / rate as f64);
                tokio::time::sleep_until(due).await;
                let inserted = session
                    .query(&insert, &[&(n as i64), &topic, &(rows as i64)])
                    .await?;
                let Some(sender) = &sender else { continue };
                for row in inserted {
                    let (key, value): (&str, &str) = (row.get(0), row.get(1));
                    let record = FutureRecord::to(&topic).key(key).payload(value);
                    sender
                        .send_result(record)
                        .map_err(|(error, _)| anyhow!(error))?;
                }
            }
            anyhow::Ok(())
        })
    };
    let writers: Vec<_> = (0..WRITERS).map(writer).collect();
    for writer in writers {
        writer.await??;
    }
    Ok(())
}
