//! Polling in the simulation.

use std::time::Duration;

use crate::engine::output::End;
use crate::engine::row_ids::number;
use crate::lsn::Lsn;
use crate::outbox::ReadPosition;
use crate::publisher::instance_lock::LockProof;
use crate::publisher::monitor::query_schedule::is_recreated;
use crate::publisher::simulation::attempt::Over;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::table::Pass;
use crate::publisher::simulation::world::World;
use crate::publisher::source::poll_pass::{AfterBatch, PollPass, SentRows, starts_over};

/// See `poll`.
#[derive(Debug)]
pub(super) struct Polling {
    pass: Option<(PollPass, Pass)>,
    rests_until: Duration,
    proof: LockProof,
}

impl Process {
    /// See `Poll::begin`.
    pub(super) fn begin_polling(&mut self, world: &mut World) -> Polling {
        if starts_over(!self.resume.is_valid(), self.engine.is_drained()) {
            self.start_over(world, Lsn::INVALID);
            self.sent_rows = SentRows::default();
        } else {
            self.uses_memory(world);
        }
        self.resume.resumed([]);
        self.resume.streaming();
        Polling {
            pass: None,
            rests_until: self.now,
            proof: LockProof::new(self.lock_asked),
        }
    }

    /// One step of polling.
    pub(super) fn poll(
        &mut self,
        world: &mut World,
        mut polling: Box<Polling>,
    ) -> Result<(Box<Polling>, bool), Over> {
        let forwarded = self.forwarded;
        let is_drained = self.turn_scan(world, &mut polling.proof)?;
        if self.is_stopping {
            let is_over = is_drained.then_some(Over::End(End::Stopped));
            return is_over.map_or(Ok((polling, false)), Err);
        }
        let interval = world.config.process_interval;
        let Some((poll_pass, pass)) = &mut polling.pass else {
            if self.now < polling.rests_until {
                return Ok((polling, false));
            }
            if is_recreated(Some(world.server.files.table), self.table()) {
                return Err(Over::Lost);
            }
            let sent_rows = &mut self.sent_rows;
            let poll_pass = PollPass::begin(self.now, interval, is_drained, sent_rows);
            polling.pass = Some((poll_pass, Pass::default()));
            return Ok((polling, true));
        };
        let from = poll_pass.behind().map_or(i64::MIN, |at| number(&at.id) + 1);
        pass.begin_at(from);
        let mut sent_rows = std::mem::take(&mut self.sent_rows);
        let turned = self.turn_pass(world, pass, &mut polling.proof, &mut sent_rows);
        self.sent_rows = sent_rows;
        let Some(next) = turned? else {
            let did = self.forwarded != forwarded;
            return Ok((polling, did));
        };
        self.engine.lock_proven();
        self.check_foreign_marks(world);
        let next = next.map(|next| ReadPosition {
            id: world.server.ids.id(next - 1),
            order: None,
        });
        let engine = &self.engine;
        match poll_pass.published(self.now, next, &mut self.sent_rows, || {
            engine.unsettled_rows()
        }) {
            AfterBatch::Next => {}
            AfterBatch::StartOver => polling.pass = None,
            AfterBatch::Rest => {
                self.engine.table_was_read();
                polling.pass = None;
                polling.rests_until = self.now + interval;
            }
        }
        Ok((polling, true))
    }
}
