//! The replication client on real servers: authentication, streaming, and what its end leaves
//! behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use outboxd::config::{Config, Database as Address, RequireAuth, Settings, SslMode, TlsSettings};
use outboxd::error::Error;
use outboxd::lsn::Lsn;
use outboxd::replication::{
    Frame, ReplicationClient, SessionOptions, StandbyStatusUpdate, Transport,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::support::ephemeral::Stop;
use crate::support::postgres::{self, Database, MAJORS, Server, Session};
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "open sesame";

fn options() -> SessionOptions {
    SessionOptions {
        wal_sender_timeout: Duration::from_secs(30),
        idle_session_timeout: Duration::from_secs(60),
        command_timeout: Duration::from_secs(25),
        application_name: "outboxd test".into(),
    }
}

fn plain(url: &str) -> Address {
    with_tls(url, tls(SslMode::Disable))
}

fn with_tls(url: &str, tls: TlsSettings) -> Address {
    let pg = url
        .parse()
        .expect("the tests' connection strings are well-formed");
    Address::new(pg, tls)
}

/// As `require_auth` of a connection string says it.
fn demanded(methods: &str) -> Result<RequireAuth> {
    let settings = Settings {
        database_url: Some(format!("host=h user=u require_auth={methods}")),
        ..Settings::default()
    };
    Ok(Config::without_kafka(settings)?.database.require_auth)
}

fn tls(mode: SslMode) -> TlsSettings {
    TlsSettings {
        mode,
        root_cert: None,
        cert: None,
        key: None,
    }
}

async fn connect(address: &Address) -> Result<ReplicationClient, Error> {
    ReplicationClient::connect(address, &options()).await
}

async fn value(client: &mut ReplicationClient, sql: &str) -> Result<String> {
    let rows = client.query(sql).await?;
    rows.concat()
        .into_iter()
        .next()
        .flatten()
        .with_context(|| format!("a value from {sql}"))
}

/// Reads the stream until `count` transactions have arrived; returns the type bytes of all messages
/// and the end of the last commit.
async fn read_commits(client: &mut ReplicationClient, count: usize) -> Result<(String, Lsn)> {
    let (mut types, mut commits, mut end) = (String::new(), 0, Lsn::INVALID);
    while commits < count {
        timeout(LIMIT, client.readable())
            .await
            .context("the stream is silent")??;
        while let Some(frame) = client.next()? {
            let Frame::XLogData { payload, .. } = frame else {
                continue;
            };
            types.push(char::from(payload[0]));
            if payload[0] == b'C' {
                commits += 1;
                // Type, flags, LSN of the commit, then the end of the transaction.
                end = Lsn::new(u64::from_be_bytes(payload[10..18].try_into()?));
            }
        }
    }
    Ok((types, end))
}

fn status(position: Lsn) -> StandbyStatusUpdate {
    StandbyStatusUpdate {
        write: position,
        flush: position,
        apply: position,
        reply_requested: false,
    }
}

/// Streams three transactions over `address`, confirms them and ends the copy; the server must have
/// recorded the confirmation.
async fn stream_and_finish(database: &Database, address: &Address, slot: &str) -> Result<()> {
    let session = database.connect().await?;
    let publication = format!("pub \"{slot}\"");
    let quoted = publication.replace('"', "\"\"");
    let sql = format!(
        "CREATE PUBLICATION \"{quoted}\" FOR TABLE outbox.outbox WITH (publish = 'insert')"
    );
    session.batch_execute(&sql).await?;
    let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    session.execute(sql, &[&slot]).await?;
    let mut client = connect(address).await?;
    client.start(slot, Lsn::INVALID, &publication).await?;
    for payload in ["{}", "[1, 2]", r#"{"text": "ä"}"#] {
        database.insert("created", "orders", payload).await?;
    }
    let (types, end) = read_commits(&mut client, 3).await?;
    assert_eq!(types, "BRICBICBIC");
    client.queue_status(status(end));
    assert!(client.finish_copy(Instant::now() + LIMIT).await?);
    let row = database.slot(slot).await?.context("the slot is there")?;
    assert_eq!(row.confirmed_flush, Some(end.to_string()));
    Ok(())
}

#[tokio::test]
async fn what_is_confirmed_before_the_end_of_the_copy_is_confirmed_on_the_server() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(postgres::shared(major)).await?;
        for (kind, url) in [("tcp", database.url()), ("unix", database.unix_url())] {
            let slot = format!("{}_{kind}", database.name);
            stream_and_finish(&database, &plain(url), &slot).await?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_session_knows_its_server_and_prints_text_one_way_whatever_the_database_says()
-> Result<()> {
    for major in MAJORS {
        let database = Database::create(postgres::shared(major)).await?;
        let name = &database.name;
        let mut sql = String::new();
        for setting in [
            "datestyle = 'German'",
            "timezone = 'Asia/Tokyo'",
            "intervalstyle = 'iso_8601'",
            "bytea_output = 'escape'",
            "extra_float_digits = 0",
            "statement_timeout = '1h'",
            "lock_timeout = '1h'",
            "idle_in_transaction_session_timeout = '1h'",
        ] {
            sql.push_str(&format!("ALTER DATABASE {name} SET {setting};"));
        }
        if major >= 17 {
            sql.push_str(&format!(
                "ALTER DATABASE {name} SET transaction_timeout = '1h';"
            ));
        }
        database.connect().await?.batch_execute(&sql).await?;

        let mut client = connect(&plain(database.url())).await?;
        assert_eq!(client.server_version() / 10_000, major);
        assert_eq!(client.transport(), Transport::Tcp);
        let pid = client.backend_pid().to_string();
        assert_eq!(value(&mut client, "SELECT pg_backend_pid()").await?, pid);
        let printed = client
            .query(
                "SELECT timestamptz '2020-01-02 03:04:05Z', interval '1 day 2 hours',
                        bytea '\\x00ff', 0.1::float4 + 0.2::float8, NULL",
            )
            .await?;
        let expected = [
            "2020-01-02 03:04:05+00",
            "1 day 02:00:00",
            "\\x00ff",
            "0.30000000149011613",
        ];
        let mut expected: Vec<_> = expected.map(|text| Some(text.to_owned())).into();
        expected.push(None);
        assert_eq!(printed, [expected]);

        let mut timeouts = vec!["statement_timeout", "lock_timeout"];
        timeouts.extend(["idle_in_transaction_session_timeout", "tcp_user_timeout"]);
        timeouts.extend((major >= 17).then_some("transaction_timeout"));
        for timeout in timeouts {
            assert_eq!(
                value(&mut client, &format!("SHOW {timeout}")).await?,
                "0",
                "{timeout}"
            );
        }
        assert_eq!(value(&mut client, "SHOW wal_sender_timeout").await?, "30s");
        assert_eq!(
            value(&mut client, "SHOW idle_session_timeout").await?,
            "1min"
        );
        assert_eq!(
            value(&mut client, "SHOW application_name").await?,
            "outboxd test"
        );

        let system = client.identify_system().await?;
        assert_eq!((system.timeline, &system.database), (1, name));
        let sql = "SELECT system_identifier FROM pg_control_system()";
        assert_eq!(value(&mut client, sql).await?, system.system_id.to_string());
        assert!(system.flush > Lsn::INVALID);
        client.close().await;

        let unix = connect(&plain(database.unix_url())).await?;
        assert_eq!(unix.transport(), Transport::Unix);
    }
    Ok(())
}

#[tokio::test]
async fn a_temporary_slot_streams_what_its_snapshot_does_not_show() -> Result<()> {
    for major in MAJORS {
        let database = Database::create(postgres::shared(major)).await?;
        let mut reader = database.connect().await?;
        reader
            .batch_execute("CREATE PUBLICATION p FOR TABLE outbox.outbox")
            .await?;
        database.insert("before", "orders", "{}").await?;

        let mut client = connect(&plain(database.url())).await?;
        let slot = format!("{}_temporary", database.name);
        let created = client.create_temporary_slot(&slot).await?;
        database.insert("after", "orders", "{}").await?;

        let transaction = reader
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .start()
            .await?;
        let sql = format!("SET TRANSACTION SNAPSHOT '{}'", created.snapshot);
        transaction.batch_execute(&sql).await?;
        let rows = transaction
            .query("SELECT event_type FROM outbox.outbox", &[])
            .await?;
        let seen: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(seen, ["before"]);
        drop(transaction);

        client.start(&slot, created.consistent_point, "p").await?;
        let (types, end) = read_commits(&mut client, 1).await?;
        assert_eq!(types, "BRIC");
        assert!(end > created.consistent_point);
        client.close().await;
        wait_for("the temporary slot to be gone", LIMIT, async || {
            Ok(database.slot(&slot).await?.is_none().then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn making_a_slot_waits_for_open_transactions_and_giving_up_spends_the_client() -> Result<()> {
    // A private server: the open transaction would hold up the slots of other tests.
    let server = postgres::private(postgres::turn(15), &[])?;
    let database = Database::create(&server).await?;
    let mut blocker = database.connect().await?;
    let transaction = blocker.transaction().await?;
    transaction
        .query_one("SELECT pg_current_xact_id()::text", &[])
        .await?;

    let mut client = connect(&plain(database.url())).await?;
    let pid = client.backend_pid();
    let waits = wait_for(
        "the walsender to wait for the transaction",
        LIMIT,
        async || {
            let sql = format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted");
            let count: i64 = database.connect().await?.value(&sql).await?;
            Ok((count > 0).then_some(()))
        },
    );
    tokio::select! {
        created = client.create_temporary_slot("t") => panic!("it did not wait: {created:?}"),
        waits = waits => waits?,
    }
    let error = client
        .query("SELECT 1")
        .await
        .expect_err("the client is in mid-command");
    assert!(error.is_transient(), "{}", error.report());
    Ok(())
}

#[tokio::test]
async fn a_refused_command_leaves_the_client_usable() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let session = database.connect().await?;
    session
        .batch_execute("CREATE PUBLICATION p FOR TABLE outbox.outbox")
        .await?;
    let slot = format!("{}_busy", database.name);
    let sql = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    session.execute(sql, &[&slot]).await?;

    let mut first = connect(&plain(database.url())).await?;
    first.start(&slot, Lsn::INVALID, "p").await?;
    let mut second = connect(&plain(database.url())).await?;
    for (slot, state) in [("no_such_slot", "42704"), (slot.as_str(), "55006")] {
        let error = second
            .start(slot, Lsn::INVALID, "p")
            .await
            .expect_err("it cannot start");
        assert!(error.report().contains(state), "{}", error.report());
    }
    assert!(first.finish_copy(Instant::now() + LIMIT).await?);
    // Until the server has released the slot it is still in use.
    let started = async || match second.start(&slot, Lsn::INVALID, "p").await {
        Ok(()) => Ok(Some(())),
        Err(error) if error.report().contains("55006") => Ok(None),
        Err(error) => Err(error.into()),
    };
    wait_for("the slot to be free", LIMIT, started).await
}

#[tokio::test]
async fn a_session_that_is_terminated_says_why() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let session = database.connect().await?;
    session
        .batch_execute("CREATE PUBLICATION p FOR TABLE outbox.outbox")
        .await?;
    let mut client = connect(&plain(database.url())).await?;
    let slot = format!("{}_killed", database.name);
    let created = client.create_temporary_slot(&slot).await?;
    client.start(&slot, created.consistent_point, "p").await?;
    session
        .execute("SELECT pg_terminate_backend($1)", &[&client.backend_pid()])
        .await?;
    let error = read_commits(&mut client, 1)
        .await
        .expect_err("the stream is over");
    let error = error.downcast::<Error>()?;
    assert!(
        error.is_transient() && error.report().contains("57P01"),
        "{}",
        error.report()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_shuts_down_ends_the_copy_once_all_is_confirmed() -> Result<()> {
    let mut server = postgres::private(postgres::turn(15), &[])?;
    let database = Database::create(&server).await?;
    let session = database.connect().await?;
    session
        .batch_execute("CREATE PUBLICATION p FOR TABLE outbox.outbox")
        .await?;
    session
        .execute(
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            &[],
        )
        .await?;
    let mut client = connect(&plain(database.url())).await?;
    client.start("s", Lsn::INVALID, "p").await?;
    database.insert("created", "orders", "{}").await?;
    let (_, mut confirmed) = read_commits(&mut client, 1).await?;
    session.close().await;

    server.begin_stop(Stop::Fast)?;
    let over = async {
        loop {
            client.queue_status(status(confirmed));
            client.readable().await?;
            while let Some(frame) = client.next()? {
                match frame {
                    Frame::CopyDone => return Ok::<_, Error>(()),
                    Frame::Keepalive { wal_end, .. } => confirmed = confirmed.max(wal_end),
                    Frame::XLogData { .. } => {}
                }
            }
        }
    };
    timeout(LIMIT, over).await??;
    assert!(server.wait_stopped(LIMIT));
    Ok(())
}

#[tokio::test]
async fn hosts_are_tried_in_turn_until_one_takes_writes() -> Result<()> {
    let server = postgres::shared(postgres::turn(15));
    let database = Database::create(server).await?;
    let name = &database.name;
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let closed = taken.local_addr()?.port();
    drop(taken);
    let url = format!(
        "postgres://postgres@127.0.0.1:{closed},127.0.0.1:{}/{name}\
         ?target_session_attrs=read-write",
        server.port()
    );
    let client = connect(&plain(&url)).await?;
    assert_eq!(client.describe(), format!("127.0.0.1:{}", server.port()));

    let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    database.connect().await?.batch_execute(&sql).await?;
    let client = connect(&plain(&url)).await?;
    assert_eq!(client.describe(), format!("127.0.0.1:{}", server.port()));
    let url = url.replace("read-write", "read-only");
    let error = connect(&plain(&url))
        .await
        .expect_err("no host is read-only");
    assert!(error.is_transient(), "{}", error.report());
    for part in [format!("127.0.0.1:{closed}"), "read-only".into()] {
        assert!(error.report().contains(&part), "{}", error.report());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_after_the_connect_timeout() -> Result<()> {
    // The kernel accepts the connection, and no process reads from it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    for mode in [SslMode::Disable, SslMode::Prefer] {
        let url = format!("postgres://u@{}/d?connect_timeout=1", silent.local_addr()?);
        let error = timeout(LIMIT, connect(&with_tls(&url, tls(mode)))).await?;
        let error = error.expect_err("the server is silent");
        assert!(
            error.is_transient() && error.message().contains("1s"),
            "{}",
            error.report()
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_a_person_must_mend_is_fatal_and_holds_no_password() -> Result<()> {
    let server = postgres::private_with_password(postgres::turn(15), PASSWORD)?;
    let url = |user: &str, password: &str, database: &str| {
        format!(
            "postgres://{user}{password}@127.0.0.1:{}/{database}",
            server.port()
        )
    };
    let given = format!(":{}", PASSWORD.replace(' ', "%20"));
    let mut admin = connect(&plain(&url("postgres", &given, "postgres"))).await?;
    admin
        .query(&format!("CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'"))
        .await?;
    for (address, state) in [
        (url("postgres", ":open%20wrong", "postgres"), "28P01"),
        (url("postgres", "", "postgres"), "28P01"),
        (url("nobody", &given, "postgres"), "28P01"),
        (url("postgres", &given, "nowhere"), "3D000"),
        (url("reader", &given, "postgres"), "42501"),
    ] {
        let error = connect(&plain(&address))
            .await
            .expect_err("it must be refused");
        assert!(!error.is_transient(), "{}", error.report());
        assert!(error.report().contains(state), "{}", error.report());
        assert!(!format!("{error:?}").contains("open"), "{error:?}");
    }
    Ok(())
}

/// A certificate authority, and a server with one of its certificates.
struct Secure {
    server: Server,
    files: TempDir,
}

/// The name in the server's certificate.
const HOST: &str = "db.example";

impl Secure {
    fn start() -> Result<Secure> {
        let files = tempfile::tempdir()?;
        let ca = Authority::create("the tests' CA")?;
        let stranger = Authority::create("another CA")?;
        let (server_cert, server_key) = ca.issue("server", Some(HOST))?;
        let (client_cert, client_key) = ca.issue("certified", None)?;
        let write = |name: &str, contents: &[u8]| std::fs::write(files.path().join(name), contents);
        write("ca.crt", &ca.certificate.to_pem()?)?;
        write("stranger.crt", &stranger.certificate.to_pem()?)?;
        write("client.crt", &client_cert)?;
        write("client.key", &client_key)?;

        let mut server = postgres::private(postgres::turn(15), &[])?;
        server.write("data/server.crt", std::str::from_utf8(&server_cert)?)?;
        server.write("data/server.key", std::str::from_utf8(&server_key)?)?;
        server.write(
            "data/ca.crt",
            std::str::from_utf8(&ca.certificate.to_pem()?)?,
        )?;
        server.write(
            "data/pg_hba.conf",
            "local   all postgres                trust
             hostssl all certified  127.0.0.1/32 cert
             host    all in_clear   127.0.0.1/32 password
             host    all by_md5     127.0.0.1/32 md5
             host    all by_scram   127.0.0.1/32 scram-sha-256
             hostssl all only_tls   127.0.0.1/32 scram-sha-256\n",
        )?;
        server.configure(&["ssl = on", "ssl_ca_file = 'ca.crt'"])?;
        server.stop(Stop::Fast)?;
        server.resume()?;
        Ok(Secure { server, files })
    }

    async fn create_roles(&self) -> Result<()> {
        let mut sql = String::from("CREATE ROLE certified LOGIN REPLICATION;");
        for (role, encryption) in [
            ("in_clear", "scram-sha-256"),
            ("by_md5", "md5"),
            ("by_scram", "scram-sha-256"),
            ("only_tls", "scram-sha-256"),
        ] {
            sql.push_str(&format!(
                "SET password_encryption = '{encryption}';
                 CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}';"
            ));
        }
        let admin = Session::open(&self.server.unix_url("postgres", "postgres")).await?;
        Ok(admin.batch_execute(&sql).await?)
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(self.files.path()).join(name)
    }

    fn tls(&self, mode: SslMode, root: Option<&str>) -> TlsSettings {
        TlsSettings {
            root_cert: root.map(|name| self.file(name)),
            ..tls(mode)
        }
    }

    /// `more` is appended to the connection string.
    fn address(&self, user: &str, tls: TlsSettings, more: &str) -> Address {
        let port = self.server.port();
        let text = format!("user={user} password='{PASSWORD}' dbname=postgres port={port} {more}");
        with_tls(&text, tls)
    }
}

const BY_ADDRESS: &str = "host=127.0.0.1";
const BY_NAME: &str = "host=db.example hostaddr=127.0.0.1";

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_prove_who_we_are_works_with_and_without_tls() -> Result<()> {
    let secure = Secure::start()?;
    secure.create_roles().await?;
    for mode in [SslMode::Disable, SslMode::Require] {
        for user in ["in_clear", "by_md5", "by_scram"] {
            let mut address = secure.address(user, tls(mode), BY_ADDRESS);
            if user == "in_clear" && mode == SslMode::Disable {
                let error = connect(&address).await.expect_err("it is not encrypted");
                assert!(error.report().contains("clear text"), "{}", error.report());
                address.require_auth = demanded("password")?;
            }
            let mut client = connect(&address)
                .await
                .with_context(|| format!("{user} {mode:?}"))?;
            let sql = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            let encrypted = if mode == SslMode::Disable {
                "false"
            } else {
                "true"
            };
            assert_eq!(value(&mut client, sql).await?, encrypted, "{user}");
        }
    }

    let require = format!("{BY_ADDRESS} channel_binding=require");
    for user in ["by_scram", "only_tls"] {
        connect(&secure.address(user, tls(SslMode::Prefer), &require)).await?;
    }
    for (user, mode) in [("by_scram", SslMode::Disable), ("by_md5", SslMode::Require)] {
        let error = connect(&secure.address(user, tls(mode), &require)).await;
        let error = error.expect_err("the login cannot bind the channel");
        assert!(
            error.report().contains("channel binding"),
            "{}",
            error.report()
        );
    }
    for (user, methods, refused) in [
        ("by_scram", "scram-sha-256", false),
        ("by_scram", "md5,password", true),
        ("by_md5", "!md5", true),
        ("by_md5", "!none", false),
    ] {
        let mut address = secure.address(user, tls(SslMode::Require), BY_ADDRESS);
        address.require_auth = demanded(methods)?;
        let outcome = connect(&address).await;
        assert_eq!(outcome.is_err(), refused, "{user} {methods}");
        if let Err(error) = outcome {
            assert!(
                error.report().contains("require_auth"),
                "{}",
                error.report()
            );
        }
    }
    let disable = format!("{BY_ADDRESS} channel_binding=disable");
    connect(&secure.address("by_scram", tls(SslMode::Require), &disable)).await?;

    let refused = connect(&secure.address("only_tls", tls(SslMode::Disable), BY_ADDRESS)).await;
    assert!(
        !refused
            .expect_err("pg_hba.conf requires TLS")
            .is_transient()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_checked_as_far_as_sslmode_says() -> Result<()> {
    use SslMode::{Prefer, Require, VerifyCa, VerifyFull};
    let secure = Secure::start()?;
    secure.create_roles().await?;
    let (ours, theirs) = (Some("ca.crt"), Some("stranger.crt"));
    for (mode, root, host, passes) in [
        (Prefer, None, BY_ADDRESS, true),
        (Require, None, BY_ADDRESS, true),
        (Require, ours, BY_ADDRESS, true),
        (Require, theirs, BY_ADDRESS, false),
        (VerifyCa, ours, BY_ADDRESS, true),
        (VerifyCa, theirs, BY_ADDRESS, false),
        (VerifyCa, None, BY_ADDRESS, false),
        (VerifyFull, ours, BY_NAME, true),
        (VerifyFull, ours, BY_ADDRESS, false),
        (VerifyFull, theirs, BY_NAME, false),
    ] {
        let address = secure.address("only_tls", secure.tls(mode, root), host);
        match connect(&address).await {
            Ok(_) => assert!(passes, "{mode:?} {root:?} {host}"),
            Err(error) => {
                assert!(!passes, "{mode:?} {root:?} {host}: {}", error.report());
                assert!(!error.is_transient(), "{}", error.report());
            }
        }
    }

    let database = Database::create(&secure.server).await?;
    let sql = "ALTER ROLE only_tls SUPERUSER";
    database.connect().await?.batch_execute(sql).await?;
    let mut address = secure.address("only_tls", secure.tls(VerifyFull, ours), BY_NAME);
    address.pg.dbname(&database.name);
    stream_and_finish(&database, &address, "over_tls").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_and_its_files_are_checked() -> Result<()> {
    let secure = Secure::start()?;
    secure.create_roles().await?;
    let shown = |cert: &str, key: &str| TlsSettings {
        cert: Some(secure.file(cert)),
        key: Some(secure.file(key)),
        ..secure.tls(SslMode::VerifyCa, Some("ca.crt"))
    };
    let certified = |tls| secure.address("certified", tls, BY_ADDRESS);
    connect(&certified(shown("client.crt", "client.key"))).await?;
    for (tls, part) in [
        (secure.tls(SslMode::VerifyCa, Some("ca.crt")), "28000"),
        (shown("missing.crt", "client.key"), "missing.crt"),
        (shown("client.crt", "missing.key"), "missing.key"),
        (shown("client.crt", "ca.crt"), "sslkey"),
        (
            secure.tls(SslMode::VerifyCa, Some("client.key")),
            "sslrootcert",
        ),
    ] {
        let error = connect(&certified(tls))
            .await
            .expect_err("it must be refused");
        assert!(!error.is_transient(), "{}", error.report());
        assert!(error.report().contains(part), "{}", error.report());
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_refused_unless_tls_is_only_preferred() -> Result<()> {
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    connect(&with_tls(database.url(), tls(SslMode::Prefer))).await?;
    let error = connect(&with_tls(database.url(), tls(SslMode::Require))).await;
    let error = error.expect_err("the server offers no TLS");
    assert!(
        !error.is_transient() && error.report().contains("does not offer TLS"),
        "{}",
        error.report()
    );
    // A Unix socket is local: sslmode does not apply to it.
    connect(&with_tls(database.unix_url(), tls(SslMode::Require))).await?;
    Ok(())
}

struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

impl Authority {
    fn create(name: &str) -> Result<Authority> {
        let key = new_key()?;
        let mut builder = new_certificate(name, &key)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        let mut issuer = X509NameBuilder::new()?;
        issuer.append_entry_by_text("CN", name)?;
        builder.set_issuer_name(&issuer.build())?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Authority {
            key,
            certificate: builder.build(),
        })
    }

    /// A certificate and its key, both PEM. Signed with SHA-384, so that channel binding is tested
    /// with more than the usual hash.
    fn issue(&self, name: &str, host: Option<&str>) -> Result<(Vec<u8>, Vec<u8>)> {
        let key = new_key()?;
        let mut builder = new_certificate(name, &key)?;
        builder.set_issuer_name(self.certificate.subject_name())?;
        if let Some(host) = host {
            let context = builder.x509v3_context(Some(&self.certificate), None);
            let names = SubjectAlternativeName::new().dns(host).build(&context)?;
            builder.append_extension(names)?;
        }
        builder.sign(&self.key, MessageDigest::sha384())?;
        Ok((builder.build().to_pem()?, key.private_key_to_pem_pkcs8()?))
    }
}

fn new_key() -> Result<PKey<Private>> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(PKey::from_ec_key(EcKey::generate(&group)?)?)
}

fn new_certificate(name: &str, key: &PKey<Private>) -> Result<X509Builder> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_text("CN", name)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = BigNum::from_u32(fastrand::u32(1..))?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&subject.build())?;
    builder.set_pubkey(key)?;
    let (from, until) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(2)?);
    builder.set_not_before(&from)?;
    builder.set_not_after(&until)?;
    Ok(builder)
}
