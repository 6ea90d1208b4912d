//! Looks after the partitions of an outbox that is partitioned by time, once an hour, over a
//! connection of its own.
//!
//! Decides nothing about a partition: [`upkeep`] does. Runs while this instance holds the lock, and
//! only with `retain`. A round that is cut off leaves whole partitions behind.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::outbox::{TableLocation, Upkeep, upkeep};
use crate::postgres::{self, Background, table_shape};
use crate::status::{PARTITIONS, Problem, StatusBoard};

const INTERVAL: Duration = Duration::from_secs(3_600);
/// After a round that has failed, or has left a problem.
const AGAIN: Duration = Duration::from_secs(300);

/// See the module's head.
pub(crate) struct PartitionKeeper {
    config: Arc<Config>,
    board: Arc<StatusBoard>,
    place: Option<TableLocation>,
    due: Instant,
    round: Option<Background<Result<Option<Upkeep>>>>,
}

impl PartitionKeeper {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &Arc<Config>, board: Arc<StatusBoard>) -> Self {
        PartitionKeeper {
            config: Arc::clone(config),
            board,
            place: None,
            due: Instant::now(),
            round: None,
        }
    }

    /// Sets the table of the next rounds; none while no session holds the lock.
    pub(crate) fn use_place(&mut self, place: Option<TableLocation>) {
        if self.place != place {
            self.round = None;
            self.due = Instant::now();
        }
        self.place = place;
    }

    /// Waits for the end of a round, which begins when it is due; forever if none will be.
    /// Cancel-safe.
    pub(crate) async fn progressed(&mut self) {
        let Some(place) = self.place.clone().filter(|_| self.config.retain.is_some()) else {
            return std::future::pending().await;
        };
        if self.round.is_none() {
            tokio::time::sleep_until(self.due).await;
        }
        let config = &self.config;
        let round = self
            .round
            .get_or_insert_with(|| Background::begin(round(Arc::clone(config), place)));
        let ended = round.ended().await;
        self.round = None;
        self.ended(ended);
    }

    fn ended(&mut self, round: Result<Option<Upkeep>>) {
        let upkeep = match round {
            Ok(upkeep) => upkeep.unwrap_or_default(),
            Err(error) => {
                let error = error.report();
                tracing::warn!(error, "partitions cannot be looked after, trying again");
                self.due = Instant::now() + AGAIN;
                return;
            }
        };
        let interval = if upkeep.problem.is_some() {
            AGAIN
        } else {
            INTERVAL
        };
        self.due = Instant::now() + interval;
        if !upkeep.made.is_empty() {
            tracing::info!(partitions = upkeep.made.join(", "), "partitions made ahead");
        }
        if !upkeep.taken.is_empty() {
            let partitions = upkeep.taken.join(", ");
            let how = self.config.retain_partitions;
            tracing::info!(partitions, %how, "old partitions taken away");
        }
        let problem = upkeep.problem.map(|(detail, hint)| Problem {
            name: PARTITIONS,
            detail,
            hint,
            loses_events: false,
        });
        let mut is_new = false;
        self.board.update(|status| {
            is_new = status.partition_problem != problem;
            status.partition_problem.clone_from(&problem);
            let others = std::mem::take(&mut status.problems);
            let others = others.into_iter().filter(|it| it.name != PARTITIONS);
            status.set_problems(others.collect());
        });
        if let Some(problem) = problem.filter(|_| is_new) {
            tracing::warn!(
                problem = problem.name,
                detail = %problem.detail,
                hint = problem.hint,
                "problem found"
            );
        }
    }
}

async fn round(config: Arc<Config>, place: TableLocation) -> Result<Option<Upkeep>> {
    let (database, timeout) = (&config.database, config.operation_timeout);
    let session = postgres::connect(database, "outboxd partitions", timeout).await?;
    if !place.is_on(&postgres::server(&session).await?) {
        let message = "the partitions are on another server than the publisher";
        return Err(Error::transient(Code::Connect, message));
    }
    let shape = table_shape::read(&session, &config.table, &config.mapping).await?;
    let Some(shape) = shape.filter(|shape| place.is_table(shape.oid)) else {
        return Ok(None);
    };
    // Event triggers find their names by it.
    session.restore_search_path().await?;
    upkeep(&session, &config, &shape).await
}

impl fmt::Debug for PartitionKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionKeeper")
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}
