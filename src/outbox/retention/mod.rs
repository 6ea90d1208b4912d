//! Deletes rows that are published and older than `retain`, and closed dead letters of that age, in
//! short steps.
//!
//! Owns the place of the pass, in memory alone: a pass that a restart cuts off begins again. Never
//! deletes a row that is unpublished, has an open dead letter, or is locked. A step is one short
//! transaction with time limits at the server, which waits neither for a lock of a row nor for its
//! own WAL: a deletion that a crash loses is repeated by a later pass. The publication has inserts
//! alone, so no deletion is an event. A row that the table refuses to delete (a foreign key, a
//! trigger) holds up no other page. The engine decides when a step begins.

mod bounds;
mod by_time;
mod changes;
mod pages;
mod rule;
mod statements;
mod upkeep;

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::config::{Config, TableName};
use crate::error::Result;
use crate::outbox::refusal::is_refusal;
use crate::outbox::retention::by_time::WholeLeaves;
use crate::outbox::retention::pages::{Leaf, PageCursor, ROWS_MAX, Range, Swept};
use crate::outbox::retention::statements::{Deletion, LEAVES, dead_letter_oid};
use crate::postgres::{Session, TableShape, is_lock_conflict, row_error, sql_error};

pub(crate) use rule::pass_interval;
pub(crate) use upkeep::{Upkeep, upkeep};

/// The longest statement of a step, in milliseconds: no lock is held for 100.
const STATEMENT: u32 = 80;
/// That of a step over a single page, which cannot be made smaller: a machine that is overloaded
/// does not leave its rows for the next pass.
const STATEMENT_OF_A_PAGE: u32 = 1_000;

/// Begins a transaction of a step.
fn begin(range: Range) -> String {
    let limit = match range.to - range.from {
        0..=1 => STATEMENT_OF_A_PAGE,
        _ => STATEMENT,
    };
    format!(
        "BEGIN; SET LOCAL statement_timeout = {limit}; SET LOCAL lock_timeout = 40; \
         SET LOCAL synchronous_commit = off"
    )
}

/// What a step has done.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RetentionStep {
    /// The rows of the outbox that it has deleted.
    pub(crate) rows: u64,
    /// The closed dead letters that it has deleted.
    pub(crate) dead_letters: u64,
    /// How long its statements took.
    pub(crate) took: Duration,
    /// It is the last one of its pass.
    pub(crate) ends_pass: bool,
    /// In this pass or the last one, a row was older by two passes than it may be.
    pub(crate) is_overdue: bool,
    /// What the pass has done that has ended.
    pub(crate) pass: Option<Pass>,
}

/// What a pass has done.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pass {
    pub(crate) rows: u64,
    pub(crate) dead_letters: u64,
    pub(crate) steps: u64,
    /// The longest transaction.
    pub(crate) longest: Duration,
    /// The age of the oldest published row that is left.
    pub(crate) oldest_seconds: Option<f64>,
    /// Pages that were passed over, and the last reason.
    pub(crate) passed_over: u64,
    pub(crate) reason: Option<String>,
    is_overdue: bool,
}

/// The statements for one table.
#[derive(Debug)]
pub(crate) struct RetentionStatements {
    table: TableName,
    shape: TableShape,
    dead_letter_oid: String,
    rows: Deletion,
    dead_letters: Deletion,
}

impl RetentionStatements {
    /// The statements for a table of this shape; `None` if nothing shows how old a row is.
    pub(crate) fn new(config: &Config, shape: &TableShape) -> Option<Self> {
        Some(RetentionStatements {
            table: config.table.clone(),
            shape: shape.clone(),
            dead_letter_oid: dead_letter_oid(&config.table),
            rows: Deletion::of_rows(config, shape)?,
            dead_letters: Deletion::of_dead_letters(&config.table),
        })
    }

    /// Every statement that changes or reads rows.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.rows.all().into_iter().chain(self.dead_letters.all())
    }

    fn of(&self, leaf: Leaf) -> &Deletion {
        match leaf.has_dead_letters {
            true => &self.dead_letters,
            false => &self.rows,
        }
    }

    /// What a pass goes through.
    async fn leaves(&self, session: &Session) -> Result<Vec<Leaf>> {
        let what = format!("reading the size of {}", self.table);
        let letters = session.row(&what, &self.dead_letter_oid, &[]).await?;
        let read = |error| sql_error(&what, error);
        let letters: Option<u32> = letters.try_get(0).map_err(read)?;
        let rows = session
            .rows(&what, LEAVES, &[&self.shape.oid, &letters.unwrap_or(0)])
            .await?;
        let leaf = |row: &Row| {
            Ok(Leaf {
                oid: row.try_get(0)?,
                has_dead_letters: row.try_get(1)?,
                pages: row.try_get(2)?,
            })
        };
        let leaves: Result<_, tokio_postgres::Error> = rows.iter().map(leaf).collect();
        leaves.map_err(read)
    }
}

/// Passes over one table. See the module's head.
#[derive(Debug)]
pub(crate) struct Retention {
    retain: Duration,
    table: u32,
    cursor: Option<PageCursor>,
    /// How many pages the last step has covered.
    count: Option<i64>,
    pass: Pass,
    was_overdue: bool,
    /// The leaves whose partition could be taken away when the pass began.
    ended: Vec<u32>,
}

impl Retention {
    /// Deletes what is older than this.
    pub(crate) fn new(retain: Duration) -> Self {
        Retention {
            retain,
            table: 0,
            cursor: None,
            count: None,
            pass: Pass::default(),
            was_overdue: false,
            ended: Vec::new(),
        }
    }

    /// The next step of the pass, or the first one of another.
    ///
    /// # Errors
    /// Of the table or the server.
    pub(crate) async fn step(
        &mut self,
        session: &Session,
        statements: &RetentionStatements,
    ) -> Result<RetentionStep> {
        if self.table != statements.shape.oid {
            (self.table, self.cursor) = (statements.shape.oid, None);
            self.ended.clear();
        }
        let cursor = match &mut self.cursor {
            Some(cursor) => cursor,
            none => {
                self.pass = Pass::default();
                let whole = WholeLeaves::read(session, &statements.shape, self.retain).await?;
                let mut leaves = statements.leaves(session).await?;
                leaves.retain(|leaf| !whole.leaves_out(leaf.oid, &self.ended));
                self.ended = whole.ended;
                none.insert(PageCursor::new(leaves, self.count))
            }
        };
        let mut step = RetentionStep::default();
        if let Some(range) = cursor.range() {
            let began = Instant::now();
            let swept = sweep(session, statements, range, self.retain).await?;
            let took = began.elapsed();
            step.took = took;
            let pass = &mut self.pass;
            pass.steps += 1;
            match swept {
                Ok(Sweep {
                    swept,
                    found,
                    left,
                    deleting,
                }) => {
                    pass.longest = pass.longest.max(deleting);
                    let deleted = swept.deleted.unsigned_abs();
                    match range.leaf.has_dead_letters {
                        true => step.dead_letters = deleted,
                        false => step.rows = deleted,
                    }
                    pass.rows += step.rows;
                    pass.dead_letters += step.dead_letters;
                    if !range.leaf.has_dead_letters {
                        pass.oldest_seconds = later(pass.oldest_seconds, left);
                        let late = self.retain + pass_interval(self.retain) * 2;
                        pass.is_overdue |= found.is_some_and(|age| age > late.as_secs_f64());
                    }
                    cursor.swept(swept, took);
                }
                Err(reason) => {
                    // Its locks were held until the server gave up.
                    pass.longest = pass.longest.max(took);
                    if cursor.held_up() {
                        pass.passed_over += 1;
                        pass.reason = Some(reason);
                    }
                }
            }
        }
        self.count = Some(cursor.count());
        step.is_overdue = self.pass.is_overdue || self.was_overdue;
        if cursor.range().is_none() {
            self.cursor = None;
            self.was_overdue = self.pass.is_overdue;
            (step.ends_pass, step.is_overdue) = (true, self.was_overdue);
            step.pass = Some(std::mem::take(&mut self.pass));
        }
        Ok(step)
    }
}

fn later(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

struct Sweep {
    swept: Swept,
    /// The age of the oldest row that was found.
    found: Option<f64>,
    /// The age of the oldest row that is left, once nothing more is to be deleted.
    left: Option<f64>,
    /// How long the transaction took that deletes.
    deleting: Duration,
}

/// Deletes the old rows of these pages. The inner error is what was in the way.
async fn sweep(
    session: &Session,
    statements: &RetentionStatements,
    range: Range,
    retain: Duration,
) -> Result<Result<Sweep, String>> {
    let what = format!("deleting old rows of {}", statements.table);
    let deletion = statements.of(range.leaf);
    let work = async { Ok(transaction(session, deletion, range, retain).await) };
    let error = match session.bounded(&what, work).await? {
        Ok(sweep) => return Ok(Ok(sweep)),
        Err(error) => error,
    };
    if error.is_closed() {
        return Err(session.end_error(&what));
    }
    if is_lock_conflict(&error) || error.code() == Some(&SqlState::QUERY_CANCELED) {
        return Ok(Err("a lock or the time limit".to_owned()));
    }
    if is_refusal(session, &what, &error, &deletion.all()).await? {
        return Ok(Err(row_error(&error).logged));
    }
    Err(sql_error(what, error))
}

async fn transaction(
    session: &Session,
    deletion: &Deletion,
    range: Range,
    retain: Duration,
) -> Result<Sweep, tokio_postgres::Error> {
    let [from, to] = [range.from, range.to].map(|page| format!("({page},0)"));
    let delete = session.prepared(&deletion.delete).await?;
    let oldest = session.prepared(&deletion.oldest).await?;
    let (oid, seconds) = (range.leaf.oid, retain.as_secs_f64());
    let began = Instant::now();
    let limits: [&(dyn ToSql + Sync); 5] = [&oid, &from, &to, &seconds, &ROWS_MAX];
    let row = in_transaction(session, range, &delete, &limits).await?;
    let deleting = began.elapsed();
    let swept = Swept {
        found: row.try_get(0)?,
        deleted: row.try_get(1)?,
    };
    let left = match swept.is_cut() {
        true => None,
        false => {
            let row = in_transaction(session, range, &oldest, &limits[..3]).await?;
            row.try_get(0)?
        }
    };
    Ok(Sweep {
        swept,
        found: row.try_get(2)?,
        left,
        deleting,
    })
}

/// Sends the beginning, the statement and the commit together: the server waits for no answer of
/// outboxd while it holds locks. The commit of a statement that fails rolls back.
async fn in_transaction(
    session: &Session,
    range: Range,
    statement: &Statement,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Row, tokio_postgres::Error> {
    let begin = begin(range);
    let (begun, row, committed) = tokio::join!(
        biased;
        session.batch_execute(&begin),
        session.query_one(statement, parameters),
        session.batch_execute("COMMIT"),
    );
    begun?;
    let row = row?;
    committed.map(|()| row)
}
