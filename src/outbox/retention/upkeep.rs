//! Makes the partitions of an outbox ahead, and takes away those whose rows are all published and
//! old.
//!
//! For a table that is partitioned by ranges of one timestamp. Every lock that a writer could wait
//! for is asked for and held for some tens of milliseconds; one that is not free is asked for again
//! later. A partition is made as a table of its own and attached, which holds up no writer. One
//! that has ended is read first, without a lock, and taken away only if each of its rows may be
//! deleted; under the lock an index says again that none is unpublished. The default partition
//! stays, and so does every partition of a table whose other rows are not events. Where the role
//! may not act as the table's owner, nothing is changed, and the statements for a DBA are shown.

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::outbox::marking::Marking;
use crate::outbox::retention::bounds::{Irregular, Partition, ended, missing};
use crate::outbox::retention::by_time::ByTime;
use crate::outbox::retention::changes::{Changes, kept, unpublished};
use crate::postgres::{ServerError, Session, TableShape, sql_error};

/// How often a lock is asked for in one round.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

/// The pages that one statement reads.
const PAGES: i64 = 8_192;

/// What a round has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// The partitions that were made.
    pub(crate) made: Vec<String>,
    /// Those that were dropped or detached.
    pub(crate) taken: Vec<String>,
    /// What a person has to know, and to do.
    pub(crate) problem: Option<(String, String)>,
}

/// One round over the partitions of this table; `None` if it is not partitioned by time.
///
/// # Errors
/// Of the server, or of the connection.
pub(crate) async fn upkeep(
    session: &Session,
    config: &Config,
    shape: &TableShape,
) -> Result<Option<Upkeep>> {
    let Some(retain) = config.retain else {
        return Ok(None);
    };
    let Some(table) = ByTime::read(session, shape).await? else {
        return Ok(None);
    };
    let changes = Changes {
        shape,
        column: &table.column_type,
        owner: &table.owner,
    };
    let mut done = Upkeep::default();
    make_ahead(session, &table, &changes, &mut done).await?;
    if table.may_take(shape) {
        let cutoff = table.now - retain.as_secs() as i64;
        for partition in ended(&table.partitions, cutoff) {
            if is_old(session, config, shape, partition, retain).await? {
                take(session, config, &changes, partition, &mut done).await?;
            }
        }
    }
    Ok(Some(done))
}

async fn make_ahead(
    session: &Session,
    table: &ByTime,
    changes: &Changes<'_>,
    done: &mut Upkeep,
) -> Result<()> {
    let name = &changes.shape.name;
    let wanted = match missing(&table.partitions, table.now, &table.column_type) {
        Ok(wanted) => wanted,
        Err(irregular) => {
            let why = match irregular {
                Irregular::Empty => "it has none yet",
                Irregular::Lengths => {
                    "the last two are not of one length, or are longer than four weeks"
                }
            };
            let has_default = table.partitions.iter().any(|it| it.is_default);
            let covers = table.partitions.iter().filter_map(|it| it.to).max();
            let is_near = covers.is_none_or(|to| to < table.now + 2 * 86_400);
            if is_near && !has_default {
                let problem = format!("no partition of {name} is made ahead: {why}");
                let hint = format!(
                    "make the next partition of {} by \"{}\" before writers need it",
                    name.quoted(),
                    table.column
                );
                done.problem = Some((problem, hint));
            }
            return Ok(());
        }
    };
    for next in &wanted {
        let partition = next.name(&name.name);
        if !table.may_change {
            let problem = format!(
                "partition {partition} of {name} is missing, and the role is not the owner {}",
                table.owner
            );
            let all = wanted.iter().take(3).map(|it| changes.by_hand(*it));
            let all = all.collect::<Vec<_>>().join("; ");
            done.problem = Some((problem, format!("as {}: {all}", table.owner)));
            return Ok(());
        }
        let what = format!("making partition {partition}");
        let mut patience = Patience::new();
        let result = loop {
            let attempt = session.run(&what, &changes.make(*next)).await;
            if let Some(result) = patience.judge(session, attempt).await? {
                break result;
            }
        };
        match result {
            Ok(()) => done.made.push(partition),
            Err(error) => {
                let problem = format!(
                    "partition {partition} of {name} cannot be made: {}",
                    error.report()
                );
                done.problem = Some((problem, changes.by_hand(*next)));
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Attempts of a transaction that a lock may be in the way of.
struct Patience {
    left: u32,
}

impl Patience {
    fn new() -> Self {
        Patience { left: ATTEMPTS }
    }

    /// What becomes of an attempt: its result, or another attempt after a pause. The inner error is
    /// the server's.
    async fn judge<T>(
        &mut self,
        session: &Session,
        attempt: Result<T>,
    ) -> Result<Option<Result<T, Error>>> {
        self.left -= 1;
        let error = match attempt {
            Ok(done) => return Ok(Some(Ok(done))),
            Err(error) => error,
        };
        let Some(server) = ServerError::of(&error) else {
            return Err(error);
        };
        let is_in_the_way = server.is_of_a_lock() || server.is_cancelled();
        session.run("after an error", "ROLLBACK").await?;
        if !is_in_the_way || self.left == 0 {
            return Ok(Some(Err(error)));
        }
        tokio::time::sleep(PAUSE).await;
        Ok(None)
    }
}

/// Whether each row of a partition may be deleted. Reads it, without a lock that is in any way.
async fn is_old(
    session: &Session,
    config: &Config,
    shape: &TableShape,
    partition: &Partition,
    retain: Duration,
) -> Result<bool> {
    const SIZE: &str = "SELECT pg_catalog.pg_relation_size($1::oid) \
                             / pg_catalog.current_setting('block_size')::bigint";
    let Some(kept) = kept(config, shape) else {
        return Ok(false);
    };
    let what = format!("reading partition {}", partition.name);
    let read = |error| sql_error(&what, error);
    for leaf in &partition.leaves {
        let size = session.row(&what, SIZE, &[leaf]).await?;
        let size: Option<i64> = size.try_get(0).map_err(read)?;
        let mut page = 0;
        while page < size.unwrap_or(0) {
            let [from, to] = [page, page + PAGES].map(|page| format!("({page},0)"));
            let row = session
                .row(&what, &kept, &[leaf, &from, &to, &retain.as_secs_f64()])
                .await?;
            if row.try_get(0).map_err(read)? {
                return Ok(false);
            }
            page += PAGES;
        }
    }
    Ok(true)
}

async fn take(
    session: &Session,
    config: &Config,
    changes: &Changes<'_>,
    partition: &Partition,
    done: &mut Upkeep,
) -> Result<()> {
    let marking = Marking::new(config.after_publish, changes.shape);
    let unpublished = unpublished(&marking.unpublished("t"), partition);
    let mut patience = Patience::new();
    let result = loop {
        let attempt = take_once(session, config, changes, partition, &unpublished).await;
        if let Some(result) = patience.judge(session, attempt).await? {
            break result;
        }
    };
    match result {
        Ok(true) => done.taken.push(partition.name.clone()),
        Ok(false) => {}
        Err(error) => {
            let (report, name) = (error.report(), &partition.name);
            let problem = format!("old partition {name} cannot be taken away: {report}");
            let hint = "its rows are deleted one by one in the next pass".to_owned();
            done.problem.get_or_insert((problem, hint));
        }
    }
    Ok(())
}

/// Takes the partition away unless a row of it is unpublished now. True if it is taken.
async fn take_once(
    session: &Session,
    config: &Config,
    changes: &Changes<'_>,
    partition: &Partition,
    unpublished: &str,
) -> Result<bool> {
    let what = format!("taking partition {} away", partition.name);
    session.run(&what, &changes.lock(partition)).await?;
    let row = session.row(&what, unpublished, &[]).await?;
    let has_unpublished: bool = row.try_get(0).map_err(|error| sql_error(&what, error))?;
    if has_unpublished {
        session.run(&what, "ROLLBACK").await?;
        return Ok(false);
    }
    let take = changes.take(partition, config.retain_partitions);
    session.run(&what, &take).await?;
    Ok(true)
}
