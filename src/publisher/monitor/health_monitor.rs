//! Watchdog and audit at work beside the stream: asks what they want to know, tells them what was seen, shows what they say, and hands
//! the rows that were missed to the forwarder while there is room. Decides nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, OnSlotLoss};
use crate::engine::output::Intake;
use crate::error::{Code, Error, Result};
use crate::outbox::{Batch, Place, Read};
use crate::postgres::slot::Slot;
use crate::postgres::{Fault, Inspection};
use crate::publisher::monitor::audit::{Audit, Question, Verdict};
use crate::publisher::monitor::inspector::{Ask, Auditor, Statements, Told};
use crate::publisher::monitor::troubles::{Change, LOOK_EVERY, Watchdog};
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::sink::table_rows::hand_on;

/// What outlives a session.
#[derive(Debug)]
pub(crate) struct Oversight {
    config: Arc<Config>,
    watchdog: Watchdog,
    audit: Audit,
    counted: u64,
}

impl Oversight {
    /// Nothing seen yet.
    pub(crate) fn new(config: &Arc<Config>) -> Self {
        Oversight {
            watchdog: Watchdog::default(),
            audit: Audit::new(config),
            config: Arc::clone(config),
            counted: 0,
        }
    }

    /// What the catalogs show of table and publication, whoever looked. Whether something has ended that kept events from the slot.
    pub(crate) fn catalogs(&mut self, faults: &[Fault], forwarder: &Forwarder) -> bool {
        let change = self.watchdog.catalogs(faults);
        tell(&change);
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
            status.troubles = self.watchdog.troubles();
            status.missed_events = self.audit.open_count() as u64;
            status.missed_events_total = missed_total;
            status.audits_total = self.audit.audits_total();
        });
    }
}

fn tell(change: &Change) {
    for trouble in &change.come {
        let (name, remedy) = (trouble.name, &trouble.remedy);
        if trouble.loses_events {
            tracing::error!(trouble = name, remedy, "{}", trouble.detail);
        } else {
            tracing::warn!(trouble = name, remedy, "{}", trouble.detail);
        }
    }
    for trouble in &change.gone {
        tracing::info!(trouble = trouble.name, "mended: {}", trouble.detail);
    }
}

/// See the module's head. Lives as long as a session.
pub(crate) struct Overseer<'a> {
    oversight: &'a mut Oversight,
    auditor: Auditor<'a>,
    statements: &'a Statements,
    table: u32,
    /// When the catalogs are to be read next.
    look_at: Duration,
    /// Missed rows that were read and wait for room.
    rows: VecDeque<Read>,
    /// Those that are not read yet.
    unread: Option<Batch>,
}

impl<'a> Overseer<'a> {
    /// At the beginning of a session, `now`: both look at once.
    pub(crate) fn new(
        oversight: &'a mut Oversight,
        config: &'a Config,
        place: &'a Place,
        statements: &'a Statements,
        now: Duration,
    ) -> Self {
        oversight.audit.at_once(now);
        Overseer {
            oversight,
            auditor: Auditor::new(config, place, statements),
            statements,
            table: place.table,
            look_at: now,
            rows: VecDeque::new(),
            unread: None,
        }
    }

    /// What the server says of the slot.
    pub(crate) fn slot(&mut self, slot: Option<&Slot>, forwarder: &Forwarder) {
        tell(&self.oversight.watchdog.slot(slot));
        self.oversight.show(forwarder);
    }

    /// Hands on what waits for room, and asks what is to be looked at next. Never waits.
    pub(crate) fn turn(&mut self, now: Duration, forwarder: &mut Forwarder) -> Result<()> {
        while forwarder.engine.intake() == Intake::Open
            && let Some(read) = self.rows.pop_front()
        {
            hand_on(forwarder, &self.statements.rows, &read)?;
        }
        if !self.auditor.is_idle() || forwarder.engine.intake() == Intake::Discard {
            return Ok(());
        }
        if now >= self.look_at {
            self.look_at = now + LOOK_EVERY;
            self.auditor.begin(Ask::Catalogs);
        } else if self.rows.is_empty()
            && let Some(batch) = self.unread.take()
        {
            self.auditor.begin(Ask::Rows(batch));
        } else if let Some(question) = {
            let confirmed = forwarder.engine.reported();
            self.oversight.audit.question(now, confirmed)
        } {
            self.auditor.begin(match question {
                Question::List => Ask::List,
                Question::Left(ids) => Ask::Left(ids),
            });
        }
        Ok(())
    }

    /// Waits for what was seen. Cancel-safe.
    pub(crate) async fn told(&mut self) -> Result<Told> {
        self.auditor.told().await
    }

    /// Takes in what was seen.
    ///
    /// # Errors
    /// Fatal where the configuration says to halt; transient where the table is another one by now.
    pub(crate) fn hear(
        &mut self,
        now: Duration,
        told: Result<Told>,
        forwarder: &mut Forwarder,
    ) -> Result<()> {
        match told {
            Ok(Told::Catalogs(inspection)) => self.inspected(now, &inspection, forwarder)?,
            Ok(Told::Listed(ids, behind)) => {
                self.oversight.audit.listed(now, ids, behind);
                self.missed(forwarder);
            }
            Ok(Told::Left(batch)) => self.judged(now, batch, forwarder)?,
            Ok(Told::Rows(rows, _)) if rows.is_empty() => self.oversight.audit.mended(now),
            Ok(Told::Rows(rows, batch)) => {
                self.rows.extend(rows);
                self.unread = Some(batch);
            }
            Err(error) => {
                forwarder.metrics.error(error.code());
                tracing::warn!(error = %error.report(), "the audit could not look, trying again");
                self.unread = None;
                self.oversight.audit.failed(now);
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
        let gap_ended = self.oversight.catalogs(&inspection.faults, forwarder);
        if gap_ended && self.unread.is_none() && self.rows.is_empty() {
            self.oversight.audit.at_once(now);
        }
        let config = &self.oversight.config;
        if let Some(gap) = self.oversight.watchdog.gap()
            && config.on_slot_loss == OnSlotLoss::Halt
        {
            let error = Error::fatal(Code::Slot, gap.detail.clone());
            return Err(error.hint(gap.remedy.clone()));
        }
        match &inspection.shape {
            Some(shape) if shape.oid != self.table => {
                let message = format!("table {} was dropped and made anew", config.table);
                Err(Error::transient(Code::Slot, message))
            }
            _ => Ok(()),
        }
    }

    fn judged(&mut self, now: Duration, mut left: Batch, forwarder: &mut Forwarder) -> Result<()> {
        let in_hand = forwarder.engine.rows_in_hand();
        let verdict = self.oversight.audit.left(now, left.ids(), &in_hand);
        self.missed(forwarder);
        match verdict {
            Verdict::Clean => Ok(()),
            Verdict::Halt(missed) => Err(Audit::halt(&self.oversight.config, &missed)),
            Verdict::Mend(missed) => {
                left.retain(|id| missed.binary_search(&id).is_ok());
                self.unread = Some(left);
                Ok(())
            }
        }
    }

    fn missed(&mut self, forwarder: &Forwarder) {
        let count = self.oversight.audit.open_count();
        tell(&self.oversight.watchdog.missed(count));
        self.oversight.show(forwarder);
    }
}
