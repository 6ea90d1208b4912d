//! The servers under the other tests: they start, stop and leave nothing behind.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::support::ephemeral::{self, Stop};
use crate::support::oracle::{Oracle, check};
use crate::support::postgres::{self, Database, MAJORS, Session};
use crate::support::wait::{wait_for, wait_until};
use crate::support::{kafka, oracle};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_database_of_each_version_has_the_outbox_and_decodes_it() -> Result<()> {
    for major in MAJORS {
        let server = postgres::shared(major);
        let database = Database::create(server).await?;
        for url in [database.url(), database.unix_url()] {
            let version: i32 = Session::open(url)
                .await?
                .value("SELECT current_setting('server_version_num')::int")
                .await?;
            assert_eq!(version / 10_000, major as i32, "{}", server.version());
        }
        let session = database.connect().await?;
        for plugin in ["pgoutput", "test_decoding"] {
            let slot = format!("{}_{plugin}", database.name);
            let sql = "SELECT pg_create_logical_replication_slot($1, $2)";
            session.execute(sql, &[&slot, &plugin]).await?;
            let row = database.slot(&slot).await?.context("the slot is there")?;
            assert_eq!(row.plugin.as_deref(), Some(plugin));
            assert!(row.confirmed_flush.is_some() && row.active_pid.is_none());
        }
        database.insert("created", "orders", "{}").await?;
        assert_eq!(database.unpublished().await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_database_takes_its_slots_along_even_one_in_use() -> Result<()> {
    let server = postgres::shared(15);
    let database = Database::create(server).await?;
    let name = database.name.clone();
    let _oracle = Oracle::create(&database).await?;
    drop(database);
    let admin = Session::open(&server.unix_url("postgres", "postgres")).await?;
    let sql = format!(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = '{name}') \
              + (SELECT count(*) FROM pg_database WHERE datname = '{name}')"
    );
    wait_until("slots and database to be gone", LIMIT, async || {
        let left: i64 = admin.value(&sql).await?;
        Ok((left == 0).then_some(()).ok_or(format!("{left} of them")))
    })
    .await
}

#[tokio::test]
async fn a_server_comes_back_with_its_data_after_every_kind_of_end() -> Result<()> {
    for major in MAJORS {
        let mut server = postgres::private(major, &["work_mem = '7MB'"])?;
        let url = server.url("postgres", "postgres");
        let session = Session::open(&url).await?;
        assert_eq!(session.value::<String>("SHOW work_mem").await?, "7MB");
        session.batch_execute("CREATE TABLE kept (n int)").await?;
        session.close().await;
        for stop in [
            Some(Stop::Smart),
            Some(Stop::Fast),
            Some(Stop::Immediate),
            None,
        ] {
            let before = server.pid();
            match stop {
                Some(stop) => server.stop(stop)?,
                None => server.kill()?,
            }
            assert_eq!(server.pid(), None);
            assert!(Session::open(&url).await.is_err());
            server.resume()?;
            assert_ne!(server.pid(), before);
            Session::open(&url)
                .await?
                .batch_execute("INSERT INTO kept VALUES (1)")
                .await?;
        }
        let session = Session::open(&url).await?;
        assert_eq!(session.value::<i64>("SELECT count(*) FROM kept").await?, 4);
        let folder = server.socket_dir().to_path_buf();
        drop(server);
        assert!(!folder.exists());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_with_a_password_asks_for_it() -> Result<()> {
    let server = postgres::private_with_password(17, "it's secret")?;
    let url = server.url("postgres", "postgres");
    assert!(Session::open(&url).await.is_err());
    let with = url.replace("postgres@", "postgres:it%27s%20secret@");
    let sql = "SELECT count(*) FROM pg_authid WHERE rolpassword LIKE 'SCRAM-SHA-256$%'";
    assert_eq!(Session::open(&with).await?.value::<i64>(sql).await?, 1);
    Ok(())
}

/// `cargo test` runs this test, which runs itself in a second process; that one starts a server and
/// is killed.
#[tokio::test]
async fn nothing_is_left_of_a_server_when_its_owner_is_killed() -> Result<()> {
    const PART: &str = "OUTBOXD_TEST_OWNER";
    if std::env::var_os(PART).is_some() {
        let server = postgres::private(15, &[])?;
        let pid = server.pid().context("it runs")?;
        println!("\nserver {pid} {}", server.socket_dir().display());
        return std::future::pending().await;
    }
    let name = "test_servers::nothing_is_left_of_a_server_when_its_owner_is_killed";
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(PART, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(owner.stdout.take().context("stdout")?).lines();
    let line = lines.find_map(|line| line.ok()?.strip_prefix("server ").map(str::to_owned));
    let line = line.context("the owner ended without a server")?;
    let (pid, folder) = line.split_once(' ').context("pid and folder")?;
    let (process, folder) = (Path::new("/proc").join(pid), PathBuf::from(folder));
    assert!(process.exists() && folder.join("data").exists());
    owner.kill()?;
    owner.wait()?;
    wait_until("the server to be gone", LIMIT, async || {
        let left = [process.exists(), folder.exists()];
        Ok(if left == [false, false] {
            Ok(())
        } else {
            Err(format!("process, folder: {left:?}"))
        })
    })
    .await
}

#[tokio::test]
async fn kafka_gives_back_what_was_sent() -> Result<()> {
    let kafka = kafka::shared();
    let (first, second) = (
        kafka.topic("round-trip", 3).await?,
        kafka.topic("empty", 1).await?,
    );
    let producer: FutureProducer = kafka.client().create()?;
    for n in 0..100 {
        let (key, value) = (format!("k{}", n % 7), format!("v{n}"));
        let headers = OwnedHeaders::new().insert(Header {
            key: "n",
            value: Some(&n.to_string()),
        });
        let record = FutureRecord::to(&first)
            .key(&key)
            .payload(&value)
            .headers(headers);
        producer
            .send(record, LIMIT)
            .await
            .map_err(|(error, _)| error)?;
    }
    assert_eq!(kafka.record_count(&[&first, &second]).await?, 100);
    let records = kafka.consume_all(&[&first, &second]).await?;
    assert_eq!(records.len(), 100);
    for key in 0..7 {
        let key = format!("k{key}");
        let of_key: Vec<_> = records
            .iter()
            .filter(|it| it.key.as_deref() == Some(key.as_bytes()))
            .collect();
        assert!(of_key.iter().all(|it| it.partition == of_key[0].partition));
        let sent: Vec<usize> = of_key
            .iter()
            .map(|it| it.header("n").unwrap().parse().unwrap())
            .collect();
        assert!(sent.is_sorted() && sent.len() >= 14);
        assert!(
            of_key
                .iter()
                .zip(&sent)
                .all(|(it, n)| it.value == Some(format!("v{n}").into()))
        );
    }
    let refused = kafka.consume_all(&["no-such-topic"]).await;
    assert!(refused.is_err(), "reading a missing topic created it");
    Ok(())
}

#[tokio::test]
async fn kafka_comes_back_with_its_records_after_every_kind_of_end() -> Result<()> {
    let mut kafka = kafka::private(&[])?;
    kafka
        .create_topic("kept", 1, &[("max.message.bytes", "20000000")])
        .await?;
    let producer: FutureProducer = kafka
        .client()
        .set("message.max.bytes", "30000000")
        .create()?;
    let value = vec![b'x'; 11_000_000];
    let record = FutureRecord::<(), _>::to("kept").payload(&value);
    producer
        .send(record, LIMIT)
        .await
        .map_err(|(error, _)| error)?;
    kafka.stop()?;
    kafka.resume()?;
    kafka.kill()?;
    kafka.resume()?;
    kafka.freeze()?;
    let small = FutureRecord::<(), str>::to("kept").payload("small");
    let delivery = producer.send_result(small).map_err(|(error, _)| error)?;
    kafka.thaw()?;
    tokio::time::timeout(LIMIT, delivery)
        .await??
        .map_err(|(error, _)| error)?;
    let records = kafka.consume_all(&["kept"]).await?;
    let sizes: Vec<usize> = records
        .iter()
        .map(|it| it.value.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [11_000_000, 5]);
    Ok(())
}

#[tokio::test]
async fn the_witness_knows_the_committed_inserts_in_commit_order() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(postgres::shared(major)).await?;
        let oracle = Oracle::create(&database).await?;
        let insert = |kind: &str| {
            format!(
                "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                 VALUES ('{kind}', 't', '{{\"a\": [1.50, \"ü''\"]}}');"
            )
        };
        let (first, second) = (database.connect().await?, database.connect().await?);
        first
            .batch_execute(&format!("BEGIN; {}", insert("late")))
            .await?;
        second.batch_execute(&insert("early")).await?;
        first
            .batch_execute(&format!(
                "SAVEPOINT s; {} ROLLBACK TO s; COMMIT",
                insert("undone")
            ))
            .await?;
        second
            .batch_execute(&format!("BEGIN; {} ROLLBACK", insert("undone")))
            .await?;
        second
            .batch_execute(&format!(
                "BEGIN; {} PREPARE TRANSACTION '{}'",
                insert("prepared"),
                database.name
            ))
            .await?;
        first.batch_execute(&insert("between")).await?;
        first
            .batch_execute(&format!("COMMIT PREPARED '{}'", database.name))
            .await?;
        first
            .batch_execute(
                "UPDATE outbox.outbox SET published_at = now() WHERE event_type = 'early'",
            )
            .await?;
        first
            .batch_execute("DELETE FROM outbox.outbox WHERE event_type = 'between'")
            .await?;
        let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload, published_at) \
                   VALUES ('seen', 't', '1', now())";
        first.batch_execute(sql).await?;
        let events = oracle.committed().await?;
        let kinds: Vec<&str> = events
            .iter()
            .map(|event| event.event_type.as_str())
            .collect();
        assert_eq!(kinds, ["early", "late", "between", "prepared"]);
        let payload: String = first
            .value("SELECT event_payload::text FROM outbox.outbox WHERE event_type = 'late'")
            .await?;
        assert_eq!(events[1].payload, payload);
        let report = check(&events, &[]);
        assert_eq!(
            report.missing,
            events.iter().map(|event| event.id).collect::<Vec<_>>()
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_witness_keeps_up_with_a_hundred_thousand_events() -> Result<()> {
    let database = Database::create(postgres::shared(17)).await?;
    let oracle = Oracle::create(&database).await?;
    let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload)
               SELECT 'k' || n % 100, 't', jsonb_build_object('n', n)
                 FROM generate_series(1, 100000) n";
    database.connect().await?.batch_execute(sql).await?;
    let events = wait_for("the oracle", LIMIT, async || {
        Ok(Some(oracle.committed().await?))
    })
    .await?;
    assert_eq!(events.len(), 100_000);
    let deliver = |(offset, event): (usize, &oracle::Event)| kafka::ConsumedRecord {
        topic: event.topic.clone(),
        partition: 0,
        offset: offset as i64,
        key: Some(event.event_type.clone().into()),
        value: Some(event.payload.clone().into()),
        headers: vec![("outbox_id".to_owned(), event.id.to_string().into_bytes())],
        timestamp: None,
        is_create_time: true,
    };
    let records: Vec<_> = events.iter().enumerate().map(deliver).collect();
    check(&events, &records).expect_exact()
}

#[test]
fn only_a_folder_with_the_wanted_server_is_taken() -> Result<()> {
    let (older, newer) = (postgres::binaries(15)?, postgres::binaries(17)?);
    assert_eq!(
        ephemeral::find(Some(15), Some(&older.dir))?.as_ref(),
        Some(&older)
    );
    assert_eq!(
        ephemeral::find(None, Some(&newer.dir))?.as_ref(),
        Some(&newer)
    );
    let other = ephemeral::find(Some(15), Some(&newer.dir)).unwrap_err();
    assert!(
        other.to_string().contains("contains Postgres 17"),
        "{other}"
    );
    let empty = tempfile::tempdir()?;
    let nothing = ephemeral::find(None, Some(empty.path())).unwrap_err();
    assert!(
        nothing.to_string().contains("no postgres and initdb"),
        "{nothing}"
    );
    Ok(())
}

/// The folder of root's server belongs to another user, who could put a link into it.
#[tokio::test]
async fn root_follows_no_link_in_the_folder_of_a_server() -> Result<()> {
    if !ephemeral::is_root() {
        crate::support::not_offered("a folder of another user, which only root has");
        return Ok(());
    }
    let server = postgres::private(postgres::turn(17), &[])?;
    let kept = tempfile::tempdir()?;
    let victim = kept.path().join("victim");
    std::fs::write(&victim, "s3cr3t")?;
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600))?;
    for name in ["data/pg_hba.conf", "data/postgresql.conf", "log"] {
        let path = server.socket_dir().join(name);
        std::fs::rename(&path, path.with_extension("kept"))?;
        std::os::unix::fs::symlink(&victim, &path)?;
    }
    assert!(
        server
            .write("data/pg_hba.conf", "local all all trust\n")
            .is_err()
    );
    assert!(server.configure(&["fsync = off"]).is_err());
    assert!(!server.log().contains("s3cr3t"));
    let found = std::fs::metadata(&victim)?;
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600));
    assert_eq!(std::fs::read_to_string(&victim)?, "s3cr3t");
    Ok(())
}
