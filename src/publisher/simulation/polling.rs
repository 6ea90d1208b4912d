//! Polling in the simulation.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::publisher::instance_lock::LockProof;
use crate::publisher::simulation::attempt::Over;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::table::Pass;
use crate::publisher::simulation::world::World;
use crate::publisher::source::poll::SentRows;

/// See `poll`.
#[derive(Debug)]
pub(super) struct Polling {
    pass: Option<Pass>,
    began: Duration,
    rests_until: Duration,
    proof: LockProof,
}

impl Process {
    /// See `Poll::begin`.
    pub(super) fn begin_polling(&mut self, world: &mut World) -> Polling {
        if !self.resume.is_valid() || self.engine.is_drained() {
            self.start_over(world, Lsn::INVALID);
            self.sent_rows = SentRows::default();
        } else {
            self.uses_memory();
        }
        self.resume.resumed([]);
        self.resume.streaming();
        Polling {
            pass: None,
            began: self.now,
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
        let Some(pass) = &mut polling.pass else {
            if self.now < polling.rests_until {
                return Ok((polling, false));
            }
            self.sent_rows.begin(is_drained);
            (polling.pass, polling.began) = (Some(Pass::default()), self.now);
            return Ok((polling, true));
        };
        let mut sent_rows = std::mem::take(&mut self.sent_rows);
        let turned = self.turn_pass(world, pass, &mut polling.proof, &mut sent_rows);
        self.sent_rows = sent_rows;
        let Some(next) = turned? else {
            let did = self.forwarded != forwarded;
            return Ok((polling, did));
        };
        let is_long = self.now > polling.began + Duration::from_secs(5);
        match next {
            None => {
                self.sent_rows.end(i64::MAX);
                polling.pass = None;
                polling.rests_until = self.now + world.config.process_interval;
            }
            Some(from) if is_long => {
                self.sent_rows.end(from - 1);
                polling.pass = None;
            }
            Some(_) => {}
        }
        Ok((polling, true))
    }
}
