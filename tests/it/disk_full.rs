//! A full disk under Postgres or under Kafka: the stream waits, and goes on once there is space.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::support::ephemeral::Stop;
use crate::support::fixture::Fixture;
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};
use crate::support::wait::wait_until;
use crate::support::writers::{Pattern, Writers};
use crate::support::{kafka, not_offered};

const LIMIT: Duration = Duration::from_secs(120);
const PATTERN: Pattern = Pattern::STEADY;

/// A small file system of its own, mounted on a folder.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// `None` where mounting is not permitted; the test is then listed as not offered. The mount
    /// has the folder's owner.
    fn mount(folder: &Path, mebibytes: u32, for_what: &str) -> Result<Option<Disk>> {
        let owner = fs::metadata(folder)?;
        let options = format!(
            "size={mebibytes}m,mode=0700,uid={},gid={}",
            owner.uid(),
            owner.gid()
        );
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            not_offered(&format!(
                "disk_full: mounting a small disk under {for_what} needs root"
            ));
            return Ok(None);
        }
        let folder = folder.to_path_buf();
        Ok(Some(Disk { folder }))
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Fills the disk but for this many bytes.
    fn fill(&self, but: usize) -> Result<()> {
        let mut file = fs::File::create(self.filler())?;
        let block = vec![0_u8; 64 << 10];
        while file.write_all(&block).is_ok() {}
        let size = file.metadata()?.len();
        file.set_len(size.saturating_sub(but as u64))?;
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("the filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.folder).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.folder.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_postgres_costs_nothing_but_time() -> Result<()> {
    for major in postgres::MAJORS {
        let mut server = postgres::private(major, &["max_wal_size = 64MB", "min_wal_size = 32MB"])?;
        server.stop(Stop::Fast)?;
        let log = server.data_dir().join("pg_wal");
        let aside = server.data_dir().join("aside");
        let copy = |from: &Path, to: &Path| -> Result<()> {
            let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
            anyhow::ensure!(copied.success(), "no copy of {}", from.display());
            Ok(())
        };
        copy(&log, &aside)?;
        let Some(disk) = Disk::mount(&log, 400, "Postgres")? else {
            return Ok(());
        };
        copy(&aside.join("."), &log)?;
        fs::remove_dir_all(&aside)?;
        server.resume()?;
        let fixture = Fixture::create(&server, kafka::shared()).await?;
        let oracle = Oracle::create(&fixture.database).await?;
        let mut outboxd = Outboxd::spawn(&fixture.settings)?;
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        let writers = Writers::start(&fixture.database, &fixture.topic, 4, PATTERN);
        outboxd.wait_for_events(200, LIMIT).await?;
        disk.fill(1 << 20)?;
        // The server stops by itself: its recovery needs disk space too.
        wait_until("the server to run out of space", LIMIT, async || {
            let log = server.log();
            let full = log.contains("No space left on device");
            Ok(if full {
                Ok(())
            } else {
                Err("the log reports no full disk".to_owned())
            })
        })
        .await?;
        outboxd
            .wait_for_status("the lost session to be noticed", LIMIT, |status| {
                status["phase"] == "reconnecting"
            })
            .await?;
        assert_eq!(outboxd.get("/livez").await?.0, 200);
        disk.make_room()?;
        if server.pid().is_some() {
            // Restart it, whatever state it is in.
            server.kill()?;
        }
        server.resume()?;
        outboxd.wait_for_events(200, LIMIT).await?;
        writers.stop().await?;
        fixture.all_marked(LIMIT).await?;
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        fixture.verdict(&oracle).await?.expect_exact()?;
        drop(fixture);
        server.stop(Stop::Fast)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_kafka_costs_nothing_but_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let Some(disk) = Disk::mount(folder.path(), 64, "Kafka")? else {
        return Ok(());
    };
    let mut kafka = kafka::private_in(folder.path(), &["log.segment.bytes=4194304"])?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 4).await?;
    let settings = Settings::new(&database, &kafka)?;
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let writers = Writers::start(&database, &topic, 4, PATTERN);
    outboxd.wait_for_events(200, LIMIT).await?;
    disk.fill(512 << 10)?;
    outboxd
        .wait_for_status("Kafka to be named", LIMIT, |status| {
            status["waiting"]["on"] == "kafka"
        })
        .await?;
    assert!(kafka.log().contains("No space left"), "{}", kafka.log());
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    disk.make_room()?;
    kafka.kill()?;
    kafka.resume()?;
    outboxd.wait_for_events(200, LIMIT).await?;
    writers.stop().await?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
    assert_eq!(
        database.connect().await?.value::<i64>(dead_letters).await?,
        0
    );
    let consumed = kafka.consume_all(&[&topic]).await?;
    check(&oracle.committed().await?, &consumed).expect_complete()
}
