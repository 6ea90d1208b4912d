//! Long-lived sessions: terminated again and again, beside open transactions, idle, and writing no
//! file.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::oracle::Oracle;
use crate::support::outboxd::Outboxd;
use crate::support::postgres::{self, MAJORS};
use crate::support::writers::{Pattern, Writers};

const LIMIT: Duration = Duration::from_secs(60);
const PATTERN: Pattern = Pattern::STEADY;

#[tokio::test(flavor = "multi_thread")]
async fn a_walsender_that_is_terminated_again_and_again_costs_a_second_each_and_repeats_nothing()
-> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        let session = fixture.database.connect().await?;
        for round in 1..=6_u64 {
            outboxd.wait_for_events(100, LIMIT).await?;
            // A session that lasts for less than two seconds would increase the back-off.
            tokio::time::sleep(Duration::from_millis(2_100)).await;
            let kill = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                        WHERE slot_name = $1 AND active";
            assert_eq!(session.query(kill, &[&fixture.slot()]).await?.len(), 1);
            let killed = Instant::now();
            outboxd
                .wait_for_status("another session", LIMIT, |status| {
                    status["phase"] == "streaming" && status["reconnects"] == round
                })
                .await?;
            let took = killed.elapsed();
            assert!(took < Duration::from_secs(3), "{took:?}");
        }
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_holds_up_no_other_event() -> Result<()> {
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let open = fixture.database.connect().await?;
        let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                      VALUES ('late', $1, '{}')";
        open.batch_execute("BEGIN").await?;
        open.execute(insert, &[&fixture.topic]).await?;
        let before = fixture.window().await?;
        for round in 1..=5_u64 {
            let inserted = Instant::now();
            fixture
                .database
                .insert("prompt", &fixture.topic, "{}")
                .await?;
            outboxd
                .wait_for_status("the event", LIMIT, |status| {
                    status["published_total"] == round
                })
                .await?;
            let took = inserted.elapsed();
            assert!(took < Duration::from_secs(2), "{took:?}");
        }
        // Other sessions do not see the open transaction's row.
        fixture.all_marked(LIMIT).await?;
        let moved =
            async || Ok((fixture.window().await?.confirmed >= before.written).then_some(()));
        crate::support::wait::wait_for("the slot to advance", LIMIT, moved).await?;
        open.batch_execute("COMMIT").await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
    }
    Ok(())
}

/// Idles for longer than any time-out for a silent server.
#[tokio::test]
async fn an_idle_session_lives_on_pings_and_costs_next_to_nothing() -> Result<()> {
    let mut idle = Vec::new();
    for major in MAJORS {
        let fixture = Fixture::create(postgres::shared(major), kafka::shared()).await?;
        let outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        idle.push((fixture, outboxd));
    }
    let mut before = Vec::new();
    for (_, outboxd) in &idle {
        before.push((outboxd.cpu_ticks()?, outboxd.resident_bytes()?));
    }
    let time = Duration::from_secs(45);
    tokio::time::sleep(time).await;
    for ((fixture, outboxd), (ticks, bytes)) in idle.iter().zip(before) {
        assert_eq!(outboxd.status().await?["reconnects"], 0);
        // A tick is a hundredth of a second, so this is 3 % of one CPU, in a debug build.
        let used = outboxd.cpu_ticks()? - ticks;
        assert!(used < 3 * time.as_secs(), "{used} ticks in {time:?}");
        let grown = outboxd.resident_bytes()?.saturating_sub(bytes);
        assert!(grown < 4 << 20, "{grown} bytes more");
        fixture.database.insert("a", &fixture.topic, "{}").await?;
        fixture.all_marked(LIMIT).await?;
    }
    Ok(())
}

/// The open files of a process, by number.
fn open_files(pid: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // A file may be closed meanwhile.
        if let Ok(target) = std::fs::read_link(entry.path()) {
            files.push((entry.file_name().to_string_lossy().into_owned(), target));
        }
    }
    Ok(files)
}

/// A full or read-only disk on its own machine cannot stop outboxd.
#[tokio::test(flavor = "multi_thread")]
async fn it_writes_no_file() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(postgres::turn(15)), kafka::shared()).await?;
    let outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&fixture.database, &fixture.topic, 2, PATTERN);
    let pid = outboxd.pid().context("it runs")?;
    let (inherited, mut seen) = (open_files("self")?, 0);
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        for (number, target) in open_files(&pid.to_string())? {
            seen += 1;
            let is_inherited = inherited.iter().any(|(_, other)| *other == target);
            if !target.is_absolute() || target.starts_with("/dev") || is_inherited {
                continue;
            }
            let info = format!("/proc/{pid}/fdinfo/{number}");
            let info = std::fs::read_to_string(info).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = u32::from_str_radix(flags.unwrap_or("0").trim(), 8)?;
            let is_log = target.file_name() == Some(Path::new("log").as_os_str());
            // The lowest two bits are the access mode; zero is read-only.
            assert!(flags & 3 == 0 || is_log, "writes {}", target.display());
        }
    }
    assert!(seen > 500, "saw only {seen} open files");
    writers.stop().await?;
    Ok(())
}
