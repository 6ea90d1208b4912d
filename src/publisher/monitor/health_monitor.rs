//! Runs problem checks and audit beside the stream: starts their queries, passes them the answers,
//! shows their results, and passes missed rows to the forwarder while there is room. `Problems`,
//! `Audit` and `QuerySchedule` decide.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, OnSlotLoss};
use crate::error::{Code, Error, Result};
use crate::outbox::{Batch, Read, TableLocation};
use crate::postgres::slot::Slot;
use crate::postgres::{Inspection, ServerError, ServerProblem};
use crate::publisher::monitor::audit::{Audit, AuditQuery, AuditResult};
use crate::publisher::monitor::inspector::{Answer, Inspector, Query, Statements};
use crate::publisher::monitor::problems::{Change, Problems};
use crate::publisher::monitor::query_schedule::{
    Beside, Due, QuerySchedule, audits_at_once, is_recreated,
};
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::sink::table_rows::forward_row;

/// The state that outlives a session.
#[derive(Debug)]
pub(crate) struct HealthState {
    config: Arc<Config>,
    problems: Problems,
    audit: Audit,
    counted: u64,
}

impl HealthState {
    /// Nothing is read yet.
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        HealthState {
            problems: Problems::default(),
            audit: Audit::new(config),
            config: Arc::clone(config),
            counted: 0,
        }
    }

    /// Takes in the problems that the catalogs show. Returns whether one has ended that kept events
    /// from the slot.
    pub(crate) fn catalogs(&mut self, problems: &[ServerProblem], forwarder: &Forwarder) -> bool {
        let change = self.problems.catalogs(problems);
        log_change(&change);
        self.show(forwarder);
        change.ends_gap()
    }

    fn show(&mut self, forwarder: &Forwarder) {
        let missed_total = self.audit.missed_total();
        let audit = &forwarder.metrics.audit;
        audit
            .missed_total
            .inc_by(missed_total - std::mem::replace(&mut self.counted, missed_total));
        forwarder.board.update(|status| {
            let mut problems = self.problems.problems();
            problems.extend(forwarder.marking_alarm.problem());
            status.set_problems(problems);
            status.missed_events = self.audit.open_count() as u64;
            status.missed_events_total = missed_total;
            status.audits_total = self.audit.audits_total();
        });
    }
}

fn log_change(change: &Change) {
    for problem in &change.begun {
        let (name, hint) = (problem.name, &problem.hint);
        if problem.loses_events {
            tracing::error!(
                problem = name,
                detail = %problem.detail,
                hint,
                "problem found"
            );
        } else {
            tracing::warn!(
                problem = name,
                detail = %problem.detail,
                hint,
                "problem found"
            );
        }
    }
    for problem in &change.ended {
        tracing::info!(
            problem = problem.name,
            detail = %problem.detail,
            "problem ended"
        );
    }
}

/// See the module's head. Lives as long as a session.
pub(crate) struct HealthMonitor<'a> {
    health: &'a mut HealthState,
    inspector: Inspector<'a>,
    /// Made for the table's columns as they were read last.
    statements: Rc<Statements>,
    table: u32,
    schedule: QuerySchedule,
    /// Missed rows that were read and wait for room.
    rows: VecDeque<Read>,
    /// Missed rows that are not read yet.
    unread: Option<Batch>,
}

impl<'a> HealthMonitor<'a> {
    /// At the beginning of a session, `now`: catalogs and audit are due at once.
    pub(crate) fn new(
        health: &'a mut HealthState,
        config: &'a Config,
        place: &'a TableLocation,
        statements: Statements,
        now: Duration,
    ) -> Self {
        health.audit.at_once(now);
        HealthMonitor {
            health,
            inspector: Inspector::new(config, place),
            statements: Rc::new(statements),
            table: place.table,
            schedule: QuerySchedule::new(now),
            rows: VecDeque::new(),
            unread: None,
        }
    }

    /// Takes in the slot as the server shows it.
    pub(crate) fn slot(&mut self, slot: Option<&Slot>, forwarder: &Forwarder) {
        log_change(&self.health.problems.slot(slot));
        self.health.show(forwarder);
    }

    /// Passes on rows that wait for room, and starts the next query. Never waits.
    pub(crate) fn turn(&mut self, now: Duration, forwarder: &mut Forwarder) -> Result<()> {
        while forwarder.engine.takes_rows()
            && let Some(read) = self.rows.pop_front()
        {
            forward_row(forwarder, &self.statements.rows, &read)?;
        }
        let change = self.health.problems.parked(forwarder.engine.whole_topics());
        if change != Change::default() {
            log_change(&change);
            self.health.show(forwarder);
        }
        let beside = Beside {
            is_idle: self.inspector.is_idle(),
            intake: forwarder.engine.intake(),
            has_rows: !self.rows.is_empty(),
            has_unread: self.unread.is_some(),
        };
        let (audit, confirmed) = (&mut self.health.audit, forwarder.engine.reported());
        let query = match self.schedule.next(now, beside, audit, confirmed) {
            None => return Ok(()),
            Some(Due::Catalogs) => Query::Catalogs,
            Some(Due::Rows) => match self.unread.take() {
                Some(batch) => Query::Rows(batch),
                None => return Ok(()),
            },
            Some(Due::Audit(AuditQuery::List)) => Query::List,
            Some(Due::Audit(AuditQuery::StillUnpublished(ids))) => Query::StillUnpublished(ids),
        };
        self.inspector.begin(query, &self.statements);
        Ok(())
    }

    /// Waits for the answer. Cancel-safe.
    pub(crate) async fn answer(&mut self) -> Result<Answer> {
        self.inspector.answer().await
    }

    /// Takes in the answer.
    ///
    /// # Errors
    /// Fatal if the configuration says to halt; transient if the table was recreated.
    pub(crate) fn handle(
        &mut self,
        now: Duration,
        answer: Result<Answer>,
        forwarder: &mut Forwarder,
    ) -> Result<()> {
        match answer {
            Ok(Answer::Catalogs(inspection)) => self.inspected(now, &inspection, forwarder)?,
            Ok(Answer::Listed(ids, behind)) => {
                self.health.audit.listed(now, ids, behind);
                self.missed(forwarder);
            }
            Ok(Answer::StillUnpublished(batch)) => self.judged(now, batch, forwarder)?,
            Ok(Answer::Rows(rows, _)) if rows.is_empty() => self.health.audit.sent(now),
            Ok(Answer::Rows(rows, batch)) => {
                self.rows.extend(rows);
                self.unread = Some(batch);
            }
            Err(error) => {
                forwarder.metrics.error(error.code());
                forwarder.log_error(&error, "audit query failed, retrying");
                if ServerError::of(&error).is_some_and(ServerError::may_be_of_altered_table) {
                    self.schedule.read_soon(now);
                }
                self.unread = None;
                self.health.audit.failed(now);
            }
        }
        Ok(())
    }

    fn inspected(
        &mut self,
        now: Duration,
        inspection: &Inspection,
        forwarder: &Forwarder,
    ) -> Result<()> {
        let gap_ended = self.health.catalogs(&inspection.problems, forwarder);
        if audits_at_once(gap_ended, !self.rows.is_empty(), self.unread.is_some()) {
            self.health.audit.at_once(now);
        }
        let config = &self.health.config;
        if let Some(gap) = self.health.problems.gap()
            && config.on_slot_loss == OnSlotLoss::Halt
        {
            let error = Error::fatal(Code::Slot, gap.detail.clone());
            return Err(error.with_hint(gap.hint.clone()));
        }
        let found = inspection.shape.as_ref();
        if is_recreated(found.map(|shape| shape.oid), self.table) {
            let message = format!("table {} was dropped and recreated", config.table);
            return Err(Error::transient(Code::Slot, message));
        }
        match found {
            // Rows that were read by the old columns are forwarded first.
            Some(shape) if self.rows.is_empty() && self.statements.rows.shape() != shape => {
                if let Ok(statements) = Statements::new(config, shape) {
                    self.statements = Rc::new(statements);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn judged(&mut self, now: Duration, mut left: Batch, forwarder: &mut Forwarder) -> Result<()> {
        let in_hand = forwarder.engine.unsettled_rows();
        let verdict = self.health.audit.left(now, left.names().cloned(), &in_hand);
        self.missed(forwarder);
        match verdict {
            AuditResult::Clean => Ok(()),
            AuditResult::Halt(missed) => {
                let shape = self.statements.rows.shape();
                Err(Audit::halt(&self.health.config, shape, &missed))
            }
            AuditResult::Publish(missed) => {
                left.retain(|row| missed.binary_search(row).is_ok());
                self.unread = Some(left);
                Ok(())
            }
        }
    }

    fn missed(&mut self, forwarder: &Forwarder) {
        let count = self.health.audit.open_count();
        log_change(&self.health.problems.missed(count));
        self.health.show(forwarder);
    }
}
