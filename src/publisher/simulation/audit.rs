//! The audit of a session in the simulation, as `health_monitor` carries it out.

use std::collections::VecDeque;
use std::time::Duration;

use crate::lsn::Lsn;
use crate::outbox::RowName;
use crate::postgres::{ServerProblem, TableShape};
use crate::publisher::monitor::audit::{Audit, AuditQuery, AuditResult, CANDIDATES};
use crate::publisher::monitor::query_schedule::{
    Beside, Due, QuerySchedule, audits_at_once, is_recreated,
};
use crate::publisher::simulation::attempt::Over;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Row;
use crate::publisher::simulation::world::World;

#[derive(Debug)]
enum Answer {
    /// The object id of the table, and whether the slot misses its events.
    Catalogs(u32, bool),
    Listed(Vec<RowName>, Lsn),
    Left(Vec<RowName>),
    Rows(Vec<Row>),
    Failed,
}

/// The audit's queries of one session.
#[derive(Debug)]
pub(super) struct AuditRun {
    schedule: QuerySchedule,
    answer: Option<Answer>,
    /// Missed rows that were read and wait for room.
    rows: VecDeque<Row>,
    /// Missed rows that are not read yet.
    unread: Option<VecDeque<RowName>>,
}

impl AuditRun {
    pub(super) fn new(now: Duration) -> Self {
        AuditRun {
            schedule: QuerySchedule::new(now),
            answer: None,
            rows: VecDeque::new(),
            unread: None,
        }
    }
}

impl Process {
    /// Passes on a missed row, or starts a query, or takes in an answer.
    pub(super) fn turn_audit(
        &mut self,
        world: &mut World,
        run: &mut AuditRun,
    ) -> Result<bool, Over> {
        if self.engine.takes_rows()
            && let Some(row) = run.rows.pop_front()
        {
            world.saw("missed row sent");
            world.is_ordered = false;
            self.forward_row(world, row);
            return Ok(true);
        }
        if let Some(answer) = run.answer.take_if(|_| world.rng.bool()) {
            self.take_answer(world, run, answer)?;
            return Ok(true);
        }
        let beside = Beside {
            is_idle: run.answer.is_none(),
            intake: self.engine.intake(),
            has_rows: !run.rows.is_empty(),
            has_unread: run.unread.is_some(),
        };
        let confirmed = self.engine.reported();
        let Some(due) = run
            .schedule
            .next(self.now, beside, &mut self.audit, confirmed)
        else {
            return Ok(false);
        };
        run.answer = Some(match due {
            _ if !self.is_connected(world) => Answer::Failed,
            Due::Catalogs => {
                let files = &world.server.files;
                Answer::Catalogs(files.table, !files.is_published)
            }
            Due::Rows => {
                let mut rows = Vec::new();
                while rows.len() < 2
                    && let Some(name) = run.unread.as_mut().and_then(VecDeque::pop_front)
                {
                    rows.extend(world.server.read(self.table(), name));
                }
                Answer::Rows(rows)
            }
            Due::Audit(AuditQuery::List) => self.list(world),
            Due::Audit(AuditQuery::StillUnpublished(rows)) => {
                let is_left =
                    |row: &RowName| world.server.read(self.table(), row.clone()).is_some();
                Answer::Left(rows.into_iter().filter(is_left).collect())
            }
        });
        Ok(true)
    }

    fn list(&self, world: &mut World) -> Answer {
        let rows = world.server.unpublished(self.table(), i64::MIN, CANDIDATES);
        let behind = world.server.files.wal;
        if !rows.is_empty() {
            // The query takes a transaction id, so that the WAL moves on.
            world.server.files.wal += 4;
        }
        Answer::Listed(rows, Lsn::new(behind))
    }

    fn take_answer(
        &mut self,
        world: &mut World,
        run: &mut AuditRun,
        answer: Answer,
    ) -> Result<(), Over> {
        match answer {
            Answer::Failed => {
                run.unread = None;
                self.audit.failed(self.now);
            }
            Answer::Catalogs(table, is_gap) => {
                let gap = ServerProblem::slot("the table is not published", "add it");
                let gap = is_gap.then(|| gap.gap("not-published"));
                let change = self.problems.catalogs(gap.as_slice());
                let (has_rows, has_unread) = (!run.rows.is_empty(), run.unread.is_some());
                if audits_at_once(change.ends_gap(), has_rows, has_unread) {
                    self.audit.at_once(self.now);
                }
                if is_recreated(Some(table), self.table()) {
                    return Err(Over::Lost);
                }
            }
            Answer::Listed(rows, behind) => self.audit.listed(self.now, rows, behind),
            Answer::Left(left) => {
                let unsettled = self.engine.unsettled_rows();
                match self.audit.left(self.now, left.into_iter(), &unsettled) {
                    AuditResult::Clean => {}
                    AuditResult::Halt(missed) => {
                        let shape = TableShape::of_columns(1, &[]);
                        let error = Audit::halt(&world.config, &shape, &missed);
                        return Err(Over::Error(error));
                    }
                    AuditResult::Publish(missed) => {
                        world.saw("missed rows found");
                        run.unread = Some(missed.into());
                    }
                }
            }
            Answer::Rows(rows) if rows.is_empty() => {
                run.unread = None;
                self.audit.sent(self.now);
            }
            Answer::Rows(rows) => run.rows.extend(rows),
        }
        Ok(())
    }

    /// Passes a row of the table on; see `forward_row`.
    pub(super) fn forward_row(&mut self, world: &mut World, row: Row) {
        if !self.returning_rows.may_send(self.now, &row.name) {
            self.file_unreadable(world, row.name, row.xid);
            return;
        }
        self.forward(world, row.event, Some(row.name), row.xid, None);
    }
}
