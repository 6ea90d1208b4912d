//! A process that heals a lost slot, as the driver does: rows of the table first, then a new slot.

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::exactly_once::copies::{Copies, Presence};
use crate::engine::exactly_once::progress::{Phase, Progress};
use crate::engine::exactly_once::start::{SlotFacts, Start, decide};
use crate::engine::output::Intake;
use crate::engine::tracker::InFlight;
use crate::engine::transaction_simulation::broker::{Broker, log_of};
use crate::engine::transaction_simulation::postgres::Postgres;
use crate::engine::transaction_simulation::process::{Process, facts, recorded};
use crate::lsn::Lsn;
use crate::outbox::{RowCopy, RowName};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Healing {
    /// The record that it began with.
    progress: Progress,
    copies: Option<Copies>,
    stage: Stage,
    /// The last row that was read.
    behind: Option<usize>,
    /// Rows that Kafka had already.
    pub(super) found: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The rows that the record names are marked.
    Marking,
    /// Rows of the table are sent.
    Pass,
    /// The rows of the snapshot are sent: so many. The slot is at this position.
    Snapshot(usize, u64),
    /// The slot is recorded.
    Copying(u64),
}

impl Process {
    /// Begins as the driver does without a slot.
    pub(super) fn heal(mut engine: Engine, broker: &mut Broker, postgres: &Postgres) -> Process {
        let epoch = broker.init();
        let progress = recorded(broker);
        let start = decide(&facts(progress.clone(), SlotFacts::Missing, postgres));
        assert_eq!(start, Ok(Start::CreateSlot));
        let mut progress = progress
            .unwrap_or_else(|| Progress::beginning(1, "p".to_owned(), Lsn::INVALID, Phase::Table));
        engine.reset(Lsn::INVALID);
        for row in std::mem::take(&mut progress.rows) {
            let row = InFlight::of_row(row.name(), row.xid, Duration::ZERO);
            engine.accept_unsent(Duration::ZERO, row);
        }
        let mut process = Process::new(engine, epoch);
        process.healing = Some(Healing {
            copies: progress.unmarked_from().map(Copies::new),
            progress,
            stage: Stage::Marking,
            behind: None,
            found: 0,
        });
        process
    }

    /// One step of a healing. True when the slot is made.
    pub(super) fn heal_on(
        &mut self,
        now: Duration,
        broker: &Broker,
        postgres: &mut Postgres,
    ) -> bool {
        let Some(healing) = &mut self.healing else {
            return false;
        };
        let is_drained = self.engine.is_drained();
        let rows = match healing.stage {
            Stage::Marking if is_drained => {
                let position = healing.progress.position;
                let table = healing.followed_by(position, Phase::Table);
                self.engine.transactions_begun(table, position, false);
                healing.stage = Stage::Pass;
                return false;
            }
            Stage::Copying(at) if is_drained => {
                postgres.has_slot = true;
                (postgres.confirmed, postgres.durable) = (at, at);
                return true;
            }
            Stage::Marking | Stage::Copying(_) => return false,
            Stage::Pass => usize::MAX,
            Stage::Snapshot(rows, _) => rows,
        };
        let next = postgres.unpublished(healing.behind);
        if let Some(row) = next.filter(|row| *row < rows) {
            if self.engine.intake() == Intake::Open {
                healing.behind = Some(row);
                self.publish(now, row, broker, postgres);
            }
            return false;
        }
        if is_drained {
            healing.behind = None;
            healing.stage = match healing.stage {
                Stage::Snapshot(_, at) => {
                    let copying = healing.followed_by(Lsn::new(at), Phase::Copying);
                    self.engine.transactions_begun(copying, Lsn::new(at), true);
                    Stage::Copying(at)
                }
                _ => Stage::Snapshot(postgres.rows.len(), postgres.wal_end),
            };
        }
        false
    }

    /// Sends a row, or marks it where Kafka has it.
    fn publish(&mut self, now: Duration, row: usize, broker: &Broker, postgres: &Postgres) {
        let is_there = self.healing.as_mut().is_some_and(|healing| {
            let is_there = healing.has(row, broker, postgres);
            healing.found += u64::from(is_there);
            is_there
        });
        match is_there {
            true => {
                let unsent = InFlight::of_row(RowName::of_id(row as i64), 1, now);
                self.engine.accept_unsent(now, unsent);
            }
            false => self.offer(now, row, "table", postgres),
        }
    }
}

impl Healing {
    fn followed_by(&self, position: Lsn, phase: Phase) -> Progress {
        self.progress
            .followed_by(1, "p".to_owned(), position, phase)
    }

    fn has(&mut self, row: usize, broker: &Broker, postgres: &Postgres) -> bool {
        let Some(copies) = &mut self.copies else {
            return false;
        };
        let log = log_of(0, postgres.rows[row].key);
        let (topic, from) = (format!("t{log}"), copies.from().raw());
        if copies.presence(&topic, copy(row)) == Presence::Unknown {
            let streamed = broker
                .streamed(log)
                .map(|value| value.parse().expect("a number"));
            let is_young = |row: &usize| postgres.commit_of(*row) >= from;
            copies.read(&topic, streamed.take_while(is_young).map(copy));
        }
        copies.presence(&topic, copy(row)) == Presence::There
    }
}

fn copy(row: usize) -> RowCopy {
    RowCopy::of(row.to_string().as_bytes(), None, None)
}
