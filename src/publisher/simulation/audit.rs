//! The audit of a session in the simulation, as `health_monitor` carries it out.

use std::collections::VecDeque;

use crate::engine::output::Intake;
use crate::lsn::Lsn;
use crate::outbox::RowName;
use crate::postgres::TableShape;
use crate::publisher::monitor::audit::{Audit, AuditQuery, AuditResult, CANDIDATES};
use crate::publisher::simulation::attempt::Over;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Row;
use crate::publisher::simulation::world::World;

#[derive(Debug)]
enum Answer {
    Listed(Vec<RowName>, Lsn),
    Left(Vec<RowName>),
    Rows(Vec<Row>),
    Failed,
}

/// The audit's queries of one session.
#[derive(Debug, Default)]
pub(super) struct AuditRun {
    answer: Option<Answer>,
    /// Missed rows that were read and wait for room.
    rows: VecDeque<Row>,
    /// Missed rows that are not read yet.
    unread: Option<VecDeque<RowName>>,
}

impl Process {
    /// Passes on a missed row, or starts a query, or takes in an answer.
    pub(super) fn turn_audit(
        &mut self,
        world: &mut World,
        run: &mut AuditRun,
    ) -> Result<bool, Over> {
        if self.engine.intake() == Intake::Open
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
        if run.answer.is_some() || self.engine.intake() == Intake::Discard {
            return Ok(false);
        }
        let connected = self.is_connected(world);
        if let Some(unread) = run.unread.as_mut().filter(|_| run.rows.is_empty()) {
            let part: Vec<RowName> = unread.drain(..unread.len().min(2)).collect();
            let rows = part.into_iter().filter_map(|name| world.server.read(name));
            let rows: Vec<Row> = rows.collect();
            let is_over = unread.is_empty() && rows.is_empty();
            if rows.is_empty() && !is_over {
                return Ok(true);
            }
            run.answer = Some(Answer::Rows(rows));
        } else if let Some(query) = self.audit.query(self.now, self.engine.reported()) {
            run.answer = Some(match query {
                _ if !connected => Answer::Failed,
                AuditQuery::List => {
                    let rows = world.server.unpublished(i64::MIN, CANDIDATES);
                    let behind = world.server.files.wal;
                    if !rows.is_empty() {
                        // The query takes a transaction id, so that the WAL moves on.
                        world.server.files.wal += 4;
                    }
                    Answer::Listed(rows, Lsn::new(behind))
                }
                AuditQuery::StillUnpublished(rows) => {
                    let is_left = |row: &RowName| world.server.read(*row).is_some();
                    Answer::Left(rows.into_iter().filter(is_left).collect())
                }
            });
        } else {
            return Ok(false);
        }
        Ok(true)
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
        if !self.returning_rows.may_send(self.now, row.name) {
            self.file_unreadable(world, row.name, row.xid);
            return;
        }
        self.forward(world, row.event, Some(row.name), row.xid, None);
    }
}
