//! Changes to tables that are in use: no statement waits for a lock longer than two seconds at a
//! time.
//!
//! While an exclusive lock is waited for, every writer queues behind it. So each statement gives up
//! after [`LOCK_TIMEOUT`], lets the others through, and is tried again; a line names who is waited
//! for, and never what a query says. All waits of one command together have a limit. A second
//! session looks, since the first is the one that waits.
//!
//! Commands that change the database run one after another: two that create the same thing at once
//! would both find it absent.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio_postgres::Row;

use crate::config::{Database, TableName};
use crate::error::{Code, Error, Result};
use crate::fnv::fnv1a_64;
use crate::postgres::session::{Columns, Session, connect};
use crate::postgres::sqlstate::ServerError;

/// The longest that a statement waits for a lock.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the others have before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);

/// How often the second session looks whether a statement waits.
const LOOK: Duration = Duration::from_millis(500);

/// How often the turn is tried.
const TURN: Duration = Duration::from_millis(250);

/// The longest that another command is waited for.
const TURN_LIMIT: Duration = Duration::from_secs(120);

/// The limit of what the second session does.
const WATCH_LIMIT: Duration = Duration::from_secs(5);

/// How many sessions a line names.
const NAMED_MAX: usize = 5;

/// A session whose statements wait for locks only briefly. See the module's head.
pub struct LockWait<'a> {
    session: &'a Session,
    database: &'a Database,
    watcher: Option<Session>,
    limit: Duration,
    left: Duration,
    say: &'a mut dyn FnMut(&str),
}

impl<'a> LockWait<'a> {
    /// Limits the waits of this session: `limit` is that of all together. `say` gets a line for
    /// each attempt that was in vain.
    ///
    /// # Errors
    /// Of the session.
    pub async fn begin(
        session: &'a Session,
        database: &'a Database,
        limit: Duration,
        say: &'a mut dyn FnMut(&str),
    ) -> Result<Self> {
        let set = format!("SET lock_timeout = '{}ms'", LOCK_TIMEOUT.as_millis());
        session.run("limiting the wait for locks", &set).await?;
        Ok(LockWait {
            session,
            database,
            watcher: None,
            limit,
            left: limit,
            say,
        })
    }

    /// Waits until no other command of this kind changes the database. The turn is over when the
    /// session ends.
    ///
    /// # Errors
    /// Transient when another one does not end.
    pub async fn take_turn(&mut self) -> Result<()> {
        let key = turn_key();
        let (high, low) = key_halves(key);
        let deadline = Instant::now() + TURN_LIMIT;
        let mut said = String::new();
        loop {
            let what = "waiting for another command that changes the database";
            let row = self.session.row(what, TAKE_TURN, &[&key]).await?;
            if row.column(0)? {
                return Ok(());
            }
            let holder = self.session.rows(what, TURN_HOLDER, &[&high, &low]).await?;
            let pids = holder.iter().map(|row| row.column(0));
            let pids: Vec<i32> = pids.collect::<Result<_>>()?;
            let named = describe(self.session, &pids).await?;
            if Instant::now() > deadline {
                let message = format!("{what}: {named} has not ended within {TURN_LIMIT:?}");
                let hint = "wait for it, or end that session";
                return Err(Error::transient(Code::Write, message).with_hint(hint));
            }
            if pid_of(&named) != said {
                (self.say)(&format!("another command changes the database: {named}"));
                said = pid_of(&named).to_owned();
            }
            tokio::time::sleep(TURN).await;
        }
    }

    /// Does `work` until no lock is in its way, or until the limit.
    ///
    /// # Errors
    /// Of the work; transient when the limit has passed.
    pub async fn run<T>(&mut self, what: &str, work: impl AsyncFn() -> Result<T>) -> Result<T> {
        loop {
            match self.attempt(&work).await {
                (Err(error), named) if is_lock(&error) => self.again(what, &named).await?,
                (result, _) => return result,
            }
        }
    }

    /// Does it once. A lock that was in the way cost up to [`LOCK_TIMEOUT`] of the limit; also says
    /// who held it.
    pub(super) async fn attempt<T>(
        &mut self,
        work: &impl AsyncFn() -> Result<T>,
    ) -> (Result<T>, String) {
        let (began, mut named) = (Instant::now(), String::new());
        let result = {
            let pid = self.session.backend_pid();
            let mut attempt = pin!(work());
            let watch = watch(&mut self.watcher, self.database, pid, &mut named);
            tokio::select! {
                biased;
                result = &mut attempt => result,
                () = watch => attempt.await,
            }
        };
        if result.as_ref().is_err_and(is_lock) {
            self.spend(began.elapsed().min(LOCK_TIMEOUT));
        }
        (result, named)
    }

    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Says who is waited for, and lets the others through.
    ///
    /// # Errors
    /// Transient when the limit has passed.
    pub(super) async fn again(&mut self, what: &str, named: &str) -> Result<()> {
        let named = match named {
            "" => "another session",
            named => named,
        };
        if self.left.is_zero() {
            let message = format!(
                "{what}: a lock is held by {named}; the limit for such waits is {:?}",
                self.limit
            );
            let hint = "end that transaction and repeat the command, or raise the limit, \
                        OUTBOX_OPERATION_TIMEOUT";
            return Err(Error::transient(Code::Write, message).with_hint(hint));
        }
        (self.say)(&format!("{what}: waits for {named}"));
        tokio::time::sleep(PAUSE).await;
        self.spend(PAUSE);
        Ok(())
    }

    /// Waits until the transactions that a concurrent build on this table would wait for have
    /// ended. Such a build holds up no session, but one that gives up leaves an invalid index.
    ///
    /// # Errors
    /// Transient when the limit has passed.
    pub(super) async fn until_quiet(&mut self, what: &str, table: &TableName) -> Result<()> {
        let mut before = self.in_the_way(table).await?;
        while !before.is_empty() {
            tokio::time::sleep(PAUSE).await;
            self.spend(PAUSE);
            let now = self.in_the_way(table).await?;
            // One that was not there before may be short, as most are.
            let stayed: BTreeSet<_> = now.intersection(&before).cloned().collect();
            if stayed.is_empty() {
                return Ok(());
            }
            let pids: Vec<i32> = stayed.iter().map(|(_, pid)| pid.unwrap_or(0)).collect();
            let named = describe(self.session, &pids).await?;
            self.again(what, &named).await?;
            before = now;
        }
        Ok(())
    }

    /// Each by its virtual transaction; a prepared one has no process.
    async fn in_the_way(&self, table: &TableName) -> Result<BTreeSet<(String, Option<i32>)>> {
        let what = format!("reading which transactions use {table}");
        let rows = self
            .session
            .rows(&what, IN_THE_WAY, &[&table.schema, &table.name])
            .await?;
        rows.iter()
            .map(|row| Ok((row.column(0)?, row.column(1)?)))
            .collect()
    }
}

impl fmt::Debug for LockWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockWait")
            .field("session", &self.session)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// lock_not_available, or a deadlock in which this session was the victim.
pub(super) fn is_lock(error: &Error) -> bool {
    let states = ["55P03", "40P01"];
    ServerError::of(error).is_some_and(|it| states.contains(&it.code.as_str()))
}

/// The transactions of this database that a concurrent build waits for: those that may have written
/// to the table, and those with a snapshot. Others that change the table, such as vacuum, are
/// waited for by the statement itself, before it has begun.
const IN_THE_WAY: &str = "
    SELECT DISTINCT l.virtualtransaction, l.pid
      FROM pg_catalog.pg_locks AS l
     WHERE l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
       AND (l.locktype = 'relation'
            AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                           'AccessExclusiveLock')
            AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                               WHERE d.datname = pg_catalog.current_database())
            AND l.relation = (SELECT c.oid FROM pg_catalog.pg_class AS c
                                JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                               WHERE n.nspname = $1 AND c.relname = $2)
         OR l.locktype = 'virtualxid'
            AND EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                         WHERE a.pid = l.pid AND a.backend_xmin IS NOT NULL
                           AND a.backend_type IS DISTINCT FROM 'autovacuum worker'
                           AND a.datname = pg_catalog.current_database()))";

const BLOCKING: &str = "SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids($1))";

/// The first word of a query says what kind it is; the rest may hold a row's values.
const DESCRIBE: &str = "
    SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename::text, ''), a.state,
           extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::int8,
           pg_catalog.upper(pg_catalog.substring(a.query, '^\\s*([A-Za-z]{1,20})\\M'))
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.pid = ANY ($1)
     ORDER BY a.xact_start, a.pid";

const TAKE_TURN: &str = "SELECT pg_catalog.pg_try_advisory_lock($1)";

/// A lock with one key of eight bytes has it in two halves, and is of kind 1.
const TURN_HOLDER: &str = "
    SELECT l.pid FROM pg_catalog.pg_locks AS l
     WHERE l.locktype = 'advisory' AND l.granted AND l.pid IS NOT NULL
       AND l.classid::int8 = $1 AND l.objid::int8 = $2 AND l.objsubid = 1
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                          WHERE d.datname = pg_catalog.current_database())";

fn turn_key() -> i64 {
    fnv1a_64(&[b"outboxd changes the database"]).cast_signed()
}

/// As `pg_locks` shows it.
fn key_halves(key: i64) -> (i64, i64) {
    let key = key.cast_unsigned();
    (i64::from((key >> 32) as u32), i64::from(key as u32))
}

/// Looks again and again who holds up the session `pid`, and keeps the last answer. Returns only
/// when it cannot look.
async fn watch(watcher: &mut Option<Session>, database: &Database, pid: i32, named: &mut String) {
    loop {
        tokio::time::sleep(LOOK).await;
        if watcher.is_none() {
            let Ok(session) = connect(database, "outboxd lock watch", WATCH_LIMIT).await else {
                return;
            };
            *watcher = Some(session);
        }
        let Some(session) = watcher.as_ref() else {
            return;
        };
        let looked = async {
            let what = "looking who holds a lock";
            let rows = session.rows(what, BLOCKING, &[&pid]).await?;
            let pids = rows.iter().map(|row| row.column(0));
            let pids: Vec<i32> = pids.collect::<Result<_>>()?;
            describe(session, &pids).await
        };
        match looked.await {
            Ok(found) if found.is_empty() => {}
            Ok(found) => *named = found,
            Err(_) => {
                *watcher = None;
                return;
            }
        }
    }
}

/// These sessions in words, the oldest transaction first. Process 0 is a prepared transaction.
async fn describe(session: &Session, pids: &[i32]) -> Result<String> {
    if pids.is_empty() {
        return Ok(String::new());
    }
    let rows = session
        .rows("reading who holds a lock", DESCRIBE, &[&pids])
        .await?;
    let named = rows.iter().take(NAMED_MAX).map(in_words);
    let mut named: Vec<String> = named.collect::<Result<_>>()?;
    if pids.contains(&0) {
        named.push("a prepared transaction (see pg_prepared_xacts)".to_owned());
    }
    if rows.len() > NAMED_MAX {
        named.push(format!("{} others", rows.len() - NAMED_MAX));
    }
    if named.is_empty() {
        named = pids.iter().map(|pid| format!("pid {pid}")).collect();
    }
    Ok(named.join(", "))
}

fn in_words(row: &Row) -> Result<String> {
    let (pid, application, role): (i32, &str, &str) =
        (row.column(0)?, row.column(1)?, row.column(2)?);
    let state: Option<&str> = row.column(3)?;
    let (seconds, kind): (Option<i64>, Option<&str>) = (row.column(4)?, row.column(5)?);
    let mut facts = Vec::new();
    if !application.is_empty() {
        facts.push(format!("application {}", application.escape_debug()));
    }
    if !role.is_empty() {
        facts.push(format!("role {role}"));
    }
    facts.extend(seconds.map(|it| format!("transaction open for {it} s")));
    facts.extend(state.map(str::to_owned));
    facts.extend(kind.map(|it| format!("last statement {it}")));
    Ok(format!("pid {pid} ({})", facts.join(", ")))
}

/// The beginning of a description, which stays the same while its times go on.
fn pid_of(named: &str) -> &str {
    named.split(" (").next().unwrap_or(named)
}
