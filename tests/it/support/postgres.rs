//! Real Postgres servers: one of each major version that all tests of a process share, and private
//! ones for tests that stop or break theirs. Every test has a database of its own, because slots,
//! publications and the outbox belong to a database.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut, Index};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result};
use outboxd::postgres::drive;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio_postgres::{Client, NoTls};

use super::docker::Container;
use super::ephemeral::{self, Binaries, Options, Stop};
use super::wait::{wait_for, wait_until};

/// Every major version that outboxd supports and that can be had.
const KNOWN: [u32; 5] = [14, 15, 16, 17, 18];

/// The major versions that the tests run on: 15 and 17, or the one that
/// `OUTBOXD_TEST_POSTGRES_VERSION` names in the place of both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Majors;

/// See [`Majors`].
pub(crate) const MAJORS: Majors = Majors;

impl IntoIterator for Majors {
    type Item = u32;
    type IntoIter = std::vec::IntoIter<u32>;

    fn into_iter(self) -> Self::IntoIter {
        match only() {
            Some(major) => vec![major].into_iter(),
            None => vec![15, 17].into_iter(),
        }
    }
}

/// The older version and the newer one.
impl Index<usize> for Majors {
    type Output = u32;

    fn index(&self, place: usize) -> &u32 {
        let major = only().unwrap_or([15, 17][place]);
        let known = KNOWN.iter().find(|known| **known == major);
        known.expect("a known version")
    }
}

/// The one version of this run, if there is one.
fn only() -> Option<u32> {
    let named = env::var("OUTBOXD_TEST_POSTGRES_VERSION").ok()?;
    let known = named.parse().ok().filter(|it| KNOWN.contains(it));
    Some(known.unwrap_or_else(|| panic!("OUTBOXD_TEST_POSTGRES_VERSION is none of {KNOWN:?}")))
}

/// The version of a test that runs on one only: this one, or the other where `OUTBOXD_TEST_SWAP`
/// is set. The tests are divided between the versions.
pub(crate) fn turn(major: u32) -> u32 {
    let swap = env::var_os("OUTBOXD_TEST_SWAP").is_some();
    let wanted = |known: &u32| (*known == major) != swap;
    only().unwrap_or_else(|| MAJORS.into_iter().find(wanted).expect("there are two"))
}

/// The version of a test that needs this one or a later one.
pub(crate) fn since(major: u32) -> u32 {
    only().filter(|only| *only >= major).unwrap_or(major)
}

/// A server: a process on this machine, or a container where `OUTBOXD_TEST_POSTGRES` is `docker`.
/// Its other functions are those of a process: a test that needs them, for the server's files or
/// its Unix socket, does not run on a container.
pub(crate) enum Server {
    Process(ephemeral::Server),
    Container(Container),
}

impl Server {
    /// Starts it again after a stop or a crash, on the same port; returns when it accepts
    /// connections.
    pub(crate) fn resume(&mut self) -> Result<()> {
        match self {
            Server::Process(server) => server.resume(),
            Server::Container(container) => container.resume(),
        }
    }

    /// Stops it; its files stay, for [`resume`](Server::resume).
    pub(crate) fn stop(&mut self, how: Stop) -> Result<()> {
        match self {
            Server::Process(server) => server.stop(how),
            Server::Container(container) => container.stop(how),
        }
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match self {
            Server::Process(server) => server.kill(),
            Server::Container(container) => container.kill(),
        }
    }

    /// Sends it a signal, such as `STOP` or `CONT`.
    pub(crate) fn signal(&mut self, name: &str) -> Result<()> {
        match self {
            Server::Process(server) => server.signal(name),
            Server::Container(container) => container.signal(name),
        }
    }

    /// Its first process, if it is one of this machine and runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Server::Process(server) => server.pid(),
            Server::Container(_) => None,
        }
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        match self {
            Server::Process(server) => server.port(),
            Server::Container(container) => container.port(),
        }
    }

    /// Its log.
    pub(crate) fn log(&self) -> String {
        match self {
            Server::Process(server) => server.log(),
            Server::Container(container) => container.log(),
        }
    }

    /// A connection string over TCP.
    pub(crate) fn url(&self, database: &str, user: &str) -> String {
        match self {
            Server::Process(server) => server.url(database, user),
            Server::Container(container) => container.url(database, user),
        }
    }

    /// A connection string over the Unix socket; a container's cannot be reached, and TCP takes
    /// its place.
    pub(crate) fn unix_url(&self, database: &str, user: &str) -> String {
        match self {
            Server::Process(server) => server.unix_url(database, user),
            Server::Container(container) => container.url(database, user),
        }
    }
}

const NO_FILES: &str = "the files and the process of a container are out of reach: \
                        run this test without OUTBOXD_TEST_POSTGRES";

impl Deref for Server {
    type Target = ephemeral::Server;

    fn deref(&self) -> &ephemeral::Server {
        match self {
            Server::Process(server) => server,
            Server::Container(_) => panic!("{NO_FILES}"),
        }
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut ephemeral::Server {
        match self {
            Server::Process(server) => server,
            Server::Container(_) => panic!("{NO_FILES}"),
        }
    }
}

/// Room for many tests at once; `fsync` is off because a temporary server does not outlive its
/// machine.
const CONFIG: [&str; 12] = [
    "max_connections = 200",
    "max_wal_senders = 40",
    "max_replication_slots = 40",
    "max_prepared_transactions = 10",
    "shared_buffers = 64MB",
    "max_wal_size = 4GB",
    "fsync = off",
    "synchronous_commit = on",
    "log_replication_commands = on",
    "log_line_prefix = '%m [%p] %q%u@%d %a '",
    "timezone = 'UTC'",
    "log_timezone = 'UTC'",
];

/// The programs of a major version: named by `OUTBOXD_TEST_POSTGRES_BIN_<major>`, installed, or
/// downloaded.
pub(crate) fn binaries(major: u32) -> Result<Binaries> {
    static KNOWN: Mutex<Option<HashMap<u32, Binaries>>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(found) = known.get(&major) {
        return Ok(found.clone());
    }
    let named = env::var_os(format!("OUTBOXD_TEST_POSTGRES_BIN_{major}")).map(PathBuf::from);
    let found = match ephemeral::find(Some(major), named.as_deref())? {
        Some(found) => found,
        None => ephemeral::fetch(Some(major))?,
    };
    known.insert(major, found.clone());
    Ok(found)
}

/// A server that all tests of this process share: never stop, reload or fill it.
pub(crate) fn shared(major: u32) -> &'static Server {
    static SERVERS: [OnceLock<Server>; KNOWN.len()] = [const { OnceLock::new() }; KNOWN.len()];
    let place = KNOWN
        .iter()
        .position(|known| *known == major)
        .expect("a known version");
    SERVERS[place].get_or_init(|| start(major, Options::default()).expect("Postgres starts"))
}

/// A server of one's own, with further lines of configuration.
pub(crate) fn private(major: u32, config: &[&str]) -> Result<Server> {
    start(
        major,
        Options {
            config,
            ..Options::default()
        },
    )
}

/// A server of one's own, by these programs.
pub(crate) fn private_by(binaries: &Binaries) -> Result<Server> {
    let options = Options {
        config: &CONFIG,
        ..Options::default()
    };
    Ok(Server::Process(ephemeral::Server::start(
        binaries, options,
    )?))
}

/// A server of one's own that asks the user `postgres` for a password, by SCRAM.
pub(crate) fn private_with_password(major: u32, password: &str) -> Result<Server> {
    private_with(major, Some(password), &[])
}

/// A private server with a password, where one is given, and further lines of configuration.
pub(crate) fn private_with(major: u32, password: Option<&str>, config: &[&str]) -> Result<Server> {
    let options = Options {
        config,
        password,
        ..Options::default()
    };
    start(major, options)
}

fn start(major: u32, options: Options<'_>) -> Result<Server> {
    let config: Vec<&str> = CONFIG.iter().chain(options.config).copied().collect();
    let options = Options {
        config: &config,
        ..options
    };
    if env::var_os("OUTBOXD_TEST_POSTGRES").is_some_and(|it| it == "docker") {
        return Ok(Server::Container(Container::start(major, options)?));
    }
    let server = ephemeral::Server::start(&binaries(major)?, options)?;
    Ok(Server::Process(server))
}

/// A standby on a copy of the files of this server, which must be stopped. The standby follows once
/// the server runs again.
pub(crate) fn standby(primary: &Server, config: &[&str]) -> Result<Server> {
    let follows = format!(
        "primary_conninfo = 'host=127.0.0.1 port={} user=postgres dbname=postgres'",
        primary.port()
    );
    let lines: Vec<&str> = [follows.as_str()].iter().chain(config).copied().collect();
    let mut standby = primary.copy(&lines)?;
    standby.write("data/standby.signal", "")?;
    standby.resume()?;
    Ok(Server::Process(standby))
}

/// A session; its connection ends when this is dropped.
pub(crate) struct Session {
    client: Client,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Session {
    /// Opens one by connection string.
    pub(crate) async fn open(url: &str) -> Result<Session> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // The client learns of a lost connection from its next call.
        let connection = tokio::spawn(drive(connection));
        Ok(Session { client, connection })
    }

    /// Ends the session; returns when its connection is closed.
    pub(crate) async fn close(mut self) {
        self.connection.abort();
        let _ = (&mut self.connection).await;
    }

    /// Terminates the slot's walsender, and drops the slot before outboxd reconnects.
    pub(crate) async fn drop_slot(&self, slot: &str, limit: Duration) -> Result<()> {
        wait_until("the slot to be dropped", limit, async || {
            let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                       WHERE slot_name = $1";
            self.client.execute(end, &[&slot]).await?;
            let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                        WHERE slot_name = $1 AND NOT active";
            Ok(match self.client.execute(drop, &[&slot]).await {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            })
        })
        .await
    }

    /// Waits until a statement returns this value.
    pub(crate) async fn wait_for_value(
        &self,
        what: &str,
        sql: &str,
        expected: i64,
        limit: Duration,
    ) -> Result<()> {
        wait_until(what, limit, async || {
            let found = self.value::<i64>(sql).await?;
            Ok((found == expected)
                .then_some(())
                .ok_or_else(|| format!("{found} instead of {expected}")))
        })
        .await
    }

    /// The first column of the first row.
    pub(crate) async fn value<T>(&self, sql: &str) -> Result<T>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        Ok(self
            .client
            .query_one(sql, &[])
            .await
            .with_context(|| sql.to_owned())?
            .try_get(0)?)
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// One row of `pg_replication_slots`, positions as Postgres prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotRow {
    pub(crate) plugin: Option<String>,
    pub(crate) active_pid: Option<i32>,
    pub(crate) restart: Option<String>,
    pub(crate) confirmed_flush: Option<String>,
    pub(crate) wal_status: Option<String>,
    /// Bytes from the confirmed position to the end of the WAL.
    pub(crate) lag_bytes: Option<i64>,
}

/// A database of one test, with the writers' outbox in it. Dropping it drops its slots and itself.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    url: String,
    unix_url: String,
    admin_url: String,
}

impl Database {
    /// Makes a database with an empty `outbox.outbox`.
    pub(crate) async fn create(server: &Server) -> Result<Database> {
        let database = Database::create_empty(server).await?;
        database
            .connect()
            .await?
            .batch_execute(&schema())
            .await
            .context("the outbox's schema")?;
        Ok(database)
    }

    /// Makes `outbox.outbox` again, after it was dropped.
    pub(crate) async fn create_table(&self) -> Result<()> {
        self.connect().await?.batch_execute(&schema()).await?;
        Ok(())
    }

    /// Makes a database with nothing in it.
    pub(crate) async fn create_empty(server: &Server) -> Result<Database> {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let admin_url = server.unix_url("postgres", "postgres");
        // A copy of template0, since a copy of template1 fails while another test makes one.
        let sql = format!("CREATE DATABASE {name} TEMPLATE template0");
        Session::open(&admin_url).await?.batch_execute(&sql).await?;
        Ok(Database {
            url: server.url(&name, "postgres"),
            unix_url: server.unix_url(&name, "postgres"),
            name,
            admin_url,
        })
    }

    /// The superuser's connection string over TCP.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The superuser's connection string over the Unix socket.
    pub(crate) fn unix_url(&self) -> &str {
        &self.unix_url
    }

    /// The connection string over TCP of another role.
    pub(crate) fn url_as(&self, role: &str) -> String {
        self.url.replace("://postgres@", &format!("://{role}@"))
    }

    /// A session of the superuser.
    pub(crate) async fn connect(&self) -> Result<Session> {
        Session::open(&self.unix_url).await
    }

    /// Creates a role that may log in, named after this database so that no other test has it.
    /// `attributes` such as `REPLICATION`.
    pub(crate) async fn create_role(&self, name: &str, attributes: &str) -> Result<String> {
        let role = format!("{}_{name}", self.name);
        let sql = format!("CREATE ROLE {role} LOGIN {attributes}");
        self.connect().await?.batch_execute(&sql).await?;
        Ok(role)
    }

    /// Inserts one event in a transaction of its own; gives its id.
    pub(crate) async fn insert(&self, event_type: &str, topic: &str, payload: &str) -> Result<i64> {
        let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload)
                   VALUES ($1, $2, $3::text::jsonb) RETURNING id";
        let row = self
            .connect()
            .await?
            .query_one(sql, &[&event_type, &topic, &payload])
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Inserts this many events with 23 kinds, in one statement.
    pub(crate) async fn fill(&self, topic: &str, rows: i64) -> Result<()> {
        let sql = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                   SELECT 'key' || i % 23, $1, jsonb_build_object('i', i) \
                   FROM generate_series(1, $2::bigint) i";
        self.connect().await?.execute(sql, &[&topic, &rows]).await?;
        Ok(())
    }

    /// How many rows are not marked as published.
    pub(crate) async fn unpublished(&self) -> Result<i64> {
        let sql = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
        self.connect().await?.value(sql).await
    }

    /// Waits until every row is marked as published. Connects for each query, so that the server
    /// may restart meanwhile.
    pub(crate) async fn all_marked(&self, limit: Duration) -> Result<()> {
        wait_until("every row to be marked", limit, async || {
            match self.unpublished().await? {
                0 => Ok(Ok(())),
                left => Ok(Err(format!("{left} rows are not"))),
            }
        })
        .await
    }

    /// The slot of this name, `None` where there is none.
    pub(crate) async fn slot(&self, name: &str) -> Result<Option<SlotRow>> {
        let sql = "SELECT plugin::text, active_pid, restart_lsn::text, confirmed_flush_lsn::text,
                          wal_status,
                          (pg_current_wal_lsn() - confirmed_flush_lsn)::bigint
                   FROM pg_replication_slots WHERE slot_name = $1";
        let row = self.connect().await?.query_opt(sql, &[&name]).await?;
        let read = |row: tokio_postgres::Row| -> Result<SlotRow, tokio_postgres::Error> {
            Ok(SlotRow {
                plugin: row.try_get(0)?,
                active_pid: row.try_get(1)?,
                restart: row.try_get(2)?,
                confirmed_flush: row.try_get(3)?,
                wal_status: row.try_get(4)?,
                lag_bytes: row.try_get(5)?,
            })
        };
        Ok(row.map(read).transpose()?)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        static CLEANER: OnceLock<UnboundedSender<(String, String)>> = OnceLock::new();
        let (name, url) = (self.name.clone(), self.admin_url.clone());
        // At the end of the process the cleaner has ended; the databases end with their server.
        let _at_the_end = CLEANER.get_or_init(cleaner).send((name, url));
    }
}

/// Drops the databases that are sent to it, each with its slots.
///
/// No test waits for it: DROP DATABASE waits until every backend of its server has processed a
/// signal, and a walsender processes it when its bytes are read, perhaps by the very thread that
/// drops the database. The drops run one after another: each is an open transaction, for which new
/// slots wait and which makes a decoding server track all catalog changes.
fn cleaner() -> UnboundedSender<(String, String)> {
    let (sender, mut databases) = unbounded_channel::<(String, String)>();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        LocalSet::new().block_on(&runtime, async {
            while let Some((name, url)) = databases.recv().await {
                // A server that is gone already needs no cleaning.
                spawn_local(drop_database(name, url));
            }
        });
        anyhow::Ok(())
    });
    sender
}

async fn drop_database(name: String, url: String) -> Result<()> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let session = Session::open(&url).await?;
    let terminate = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots \
                     WHERE database = $1 AND active";
    session.execute(terminate, &[&name]).await?;
    let a_moment = Duration::from_secs(1);
    let gone = wait_for("its slots to go", a_moment, async || {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
                   WHERE database = $1 AND NOT active";
        session.execute(sql, &[&name]).await?;
        let left = "SELECT count(*) FROM pg_replication_slots WHERE database = $1";
        let left: i64 = session.query_one(left, &[&name]).await?.try_get(0)?;
        Ok((left == 0).then_some(()))
    });
    // A walsender takes a moment to go; what is left then goes with the server.
    let _left = gone.await;
    let _turn = TURN.lock().await;
    let drop = format!("DROP DATABASE {name} WITH (FORCE)");
    Ok(session.batch_execute(&drop).await?)
}

/// The writers' table as the poller had it, without the headers of one that `outboxd init` creates.
fn schema() -> String {
    let sql = include_str!("../../../sql/schema.sql");
    sql.replace(",\n    headers         jsonb\n", "\n")
        .replace("{{schema}}", "outbox")
        .replace("{{table}}", "outbox.outbox")
}
