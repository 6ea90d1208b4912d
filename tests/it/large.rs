//! Size costs time and not memory: a transaction of a million rows, an event of 10 MiB.

use std::time::Duration;

use anyhow::Result;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::Outboxd;
use crate::support::postgres;
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(300);
const ROWS: i64 = 1_000_000;
const MIB: u64 = 1 << 20;
/// Events in flight, two copies of the largest event (as read and as sent), and the program itself.
const RESIDENT_MAX: u64 = 100 * MIB;

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_in_one_transaction_and_an_event_of_ten_mebibytes_arrive_in_flat_memory()
-> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(17)), kafka::shared()).await?;
    let large = "events_of_ten_mebibytes";
    fixture
        .kafka
        .create_topic(large, 1, &[("max.message.bytes", "12582912")])
        .await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BATCH_SIZE", "5000"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let session = fixture.database.connect().await?;
    let rows = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                SELECT 'key' || i % 1000, $1, jsonb_build_object('i', i) \
                FROM generate_series(1, $2::bigint) i";
    session.execute(rows, &[&fixture.topic, &ROWS]).await?;
    let event = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 SELECT 'large', $1, to_jsonb(repeat('x', 10 * 1024 * 1024 - 2))";
    session.execute(event, &[&large]).await?;
    wait_until("all to arrive", LIMIT, async || {
        let count = fixture.kafka.record_count(&[&fixture.topic, large]).await?;
        Ok(if count > ROWS {
            Ok(())
        } else {
            Err(format!("{count} records"))
        })
    })
    .await?;
    let peak = outboxd.peak_resident_bytes()?;
    assert!(peak < RESIDENT_MAX, "{} MiB", peak / MIB);
    fixture.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());

    let arrived = fixture.kafka.consume_all(&[large]).await?;
    assert_eq!(arrived.len(), 1);
    let printed = arrived[0].value.as_ref().map(Vec::len);
    assert_eq!(printed, Some(10 * MIB as usize));
    let mut seen = vec![false; ROWS as usize + 1];
    for record in fixture.kafka.consume_all(&[&fixture.topic]).await? {
        let id = record.outbox_id().unwrap_or(0) as usize;
        assert!(
            !std::mem::replace(&mut seen[id], true),
            "event {id} was published twice"
        );
    }
    assert_eq!(seen.iter().filter(|seen| **seen).count() as i64, ROWS);
    Ok(())
}
