//! The first start publishes the rows that the table holds while writers go on, also through kills
//! and open transactions.

use std::time::Duration;

use anyhow::Result;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::{Outboxd, command};
use crate::support::postgres::{self, MAJORS};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const BACKLOG: i64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_publishes_ten_thousand_rows_beside_writers_though_killed_twice_on_the_way()
-> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        fixture.database.fill(&fixture.topic, BACKLOG).await?;
        let pattern = Pattern {
            rows: 3,
            rest: Duration::from_millis(10),
        };
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, pattern);
        let settings = fixture.settings.clone().set("OUTBOX_BACKLOG", "publish");
        let mut outboxd = Outboxd::spawn(&settings)?;
        for part in [BACKLOG / 4, BACKLOG * 3 / 4] {
            wait_until("a part of the backlog to arrive", LIMIT, async || {
                let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
                Ok(if count > part {
                    Ok(())
                } else {
                    Err(format!("{count} records"))
                })
            })
            .await?;
            outboxd.kill()?;
            outboxd.respawn()?;
        }
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let report = fixture.verdict(&oracle).await?;
        // Rows from the table come in id order and those from the stream in commit order: across
        // the two, only the set is guaranteed.
        assert!(
            report.missing.is_empty() && report.phantom.is_empty(),
            "{report}"
        );
        assert!(report.altered.is_empty(), "{report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_nothing_disturbs_publishes_each_row_once() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        fixture.database.fill(&fixture.topic, BACKLOG).await?;
        let pattern = Pattern {
            rows: 3,
            rest: Duration::from_millis(10),
        };
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, pattern);
        // The slot's creation waits for this transaction; the table is published meanwhile.
        let session = fixture.database.connect().await?;
        session
            .batch_execute("BEGIN; SELECT pg_current_xact_id()")
            .await?;
        let settings = fixture.settings.clone().set("OUTBOX_BACKLOG", "publish");
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd
            .wait_for_status("the open transaction to be named", LIMIT, |status| {
                status["waiting"]["on"] == "snapshot"
            })
            .await?;
        let before = fixture.kafka.record_count(&[&fixture.topic]).await?;
        wait_until("events to be published meanwhile", LIMIT, async || {
            let count = fixture.kafka.record_count(&[&fixture.topic]).await?;
            Ok(if count > before {
                Ok(())
            } else {
                Err(format!("{count} records"))
            })
        })
        .await?;
        session.batch_execute("COMMIT").await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        let report = fixture.verdict(&oracle).await?;
        assert!(
            report.missing.is_empty() && report.phantom.is_empty(),
            "{report}"
        );
        assert!(
            report.duplicates.is_empty() && report.altered.is_empty(),
            "{report}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_table_of_which_no_row_was_ever_marked_is_not_sent_without_being_asked_to() -> Result<()>
{
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    fixture.database.fill(&fixture.topic, 1_001).await?;
    let output = command(&fixture.settings, &["run"], LIMIT).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("over 1000 unpublished rows") && stderr.contains("--backlog skip"),
        "{stderr}"
    );
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);

    let mut outboxd = Outboxd::spawn(&fixture.settings.clone().set("OUTBOX_BACKLOG", "skip"))?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_that_holds_up_the_slot_is_named_and_the_table_goes_out_meanwhile()
-> Result<()> {
    for major in MAJORS {
        // A private server: the prepared transaction holds up every new slot on its server.
        let server = postgres::private(major, &[])?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let session = fixture.database.connect().await?;
        let insert = |key: &str| {
            format!(
                "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 VALUES ('{key}', '{}', '{{}}')",
                fixture.topic
            )
        };
        let prepare = format!(
            "BEGIN; {}; PREPARE TRANSACTION 'for hours'",
            insert("undone")
        );
        session.batch_execute(&prepare).await?;
        fixture.database.fill(&fixture.topic, 20).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        let named = |status: &serde_json::Value| {
            let waiting = &status["waiting"];
            let detail = waiting["detail"].as_str().unwrap_or_default();
            waiting["on"] == "snapshot" && detail.contains("prepared transaction 'for hours'")
        };
        outboxd
            .wait_for_status("the transaction's name", LIMIT, named)
            .await?;
        fixture.all_marked(LIMIT).await?;
        session.batch_execute(&insert("meanwhile")).await?;
        fixture.all_marked(LIMIT).await?;
        session
            .batch_execute("ROLLBACK PREPARED 'for hours'")
            .await?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        session.batch_execute(&insert("streamed")).await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        assert_eq!(fixture.kafka.record_count(&[&fixture.topic]).await?, 22);
    }
    Ok(())
}
