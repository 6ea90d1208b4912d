//! Reading the table in the simulation, and creating a slot.

use std::collections::{BTreeSet, VecDeque};

use crate::config::Backlog;
use crate::engine::output::{End, Intake, SessionOutput};
use crate::engine::row_ids::number;
use crate::lsn::Lsn;
use crate::outbox::RowName;
use crate::publisher::instance_lock::LockProof;
use crate::publisher::simulation::attempt::{Over, State};
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Row;
use crate::publisher::simulation::world::World;
use crate::publisher::slot_loss::SlotLoss;
use crate::publisher::source::bootstrap_steps::{BootstrapSteps, Done, Step};
use crate::publisher::source::event_decoder::HandledRows;
use crate::publisher::source::table_scan::RowFilter;

/// Rows of a batch.
const BATCH: usize = 3;

/// One pass through the unpublished rows.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// The next batch begins here; `None` before the first.
    from: Option<i64>,
    /// Rows that were read and not passed on.
    reads: VecDeque<Row>,
    /// The batch that was read is not the last.
    is_full: bool,
    /// Every batch was read and passed on.
    is_over: bool,
    count: usize,
}

impl Pass {
    /// The next batch begins here, unless one is being passed on.
    pub(super) fn begin_at(&mut self, from: i64) {
        if self.reads.is_empty() {
            self.from = Some(from);
        }
    }
}

/// The creation of the temporary slot.
#[derive(Debug)]
struct Creation {
    /// The transactions that Postgres waits for.
    waits_for: BTreeSet<u32>,
    /// The position and the rows of the snapshot, once the slot is consistent.
    snapshot: Option<(u64, VecDeque<Row>)>,
    handled: HandledRows,
    /// The answer has come, and all rows that were sent meanwhile are settled.
    is_answered: bool,
}

/// See `bootstrap`.
#[derive(Debug)]
pub(super) struct Bootstrap {
    steps: BootstrapSteps,
    step: Step,
    loss: Option<SlotLoss>,
    pass: Pass,
    creation: Option<Creation>,
    proof: LockProof,
    /// The slot is released as soon as everything is settled.
    is_out_of_time: bool,
}

impl Bootstrap {
    pub(super) fn new(
        world: &World,
        loss: Option<SlotLoss>,
        has_lost: bool,
        settles: bool,
        proof: LockProof,
    ) -> Self {
        let backlog = world.config.backlog;
        let steps = BootstrapSteps {
            settles,
            halts: loss.as_ref().is_some_and(|loss| loss.halts(&world.config)),
            has_lost,
            publishes_backlog: loss.is_some()
                || matches!(backlog, Backlog::Auto | Backlog::Publish),
        };
        Bootstrap {
            steps,
            step: steps.first(),
            loss,
            pass: Pass::default(),
            creation: None,
            proof,
            is_out_of_time: false,
        }
    }

    /// Whether the driver takes in reports at this step.
    pub(super) fn takes_reports(&self) -> bool {
        match self.step {
            Step::Settle
            | Step::SettleInTime
            | Step::Pass
            | Step::Create
            | Step::PublishSnapshot => true,
            Step::StartOver | Step::Permit | Step::DropLost | Step::Release | Step::Copy => false,
        }
    }
}

impl Process {
    /// Carries out what is due, and keeps the lock. True if everything is settled.
    pub(super) fn turn_scan(
        &mut self,
        world: &mut World,
        proof: &mut LockProof,
    ) -> Result<bool, Over> {
        let moment = self.tick(world);
        if proof.is_stale(moment) {
            self.prove(world, proof)?;
        }
        self.engine.poll(self.now);
        while let Some(output) = self.output(world) {
            if let Some(SessionOutput::End(end)) = output {
                return Err(Over::End(end));
            }
        }
        if proof.is_due(moment) {
            self.prove(world, proof)?;
        }
        if !self.is_connected(world) && world.rng.bool() {
            return Err(Over::Lost);
        }
        Ok(self.engine.is_drained())
    }

    /// The session that holds the lock has to answer.
    fn prove(&mut self, world: &mut World, proof: &mut LockProof) -> Result<(), Over> {
        if !self.is_connected(world) {
            return Err(Over::Lost);
        }
        let pid = self.pid.ok_or(Over::Lost)?;
        if let Some(session) = world.server.sessions.get_mut(&pid) {
            session.heard_at = world.now;
        }
        proof.answered(self.tick(world));
        Ok(())
    }

    /// Reads a batch, or passes one row on. `Some`: the batch is over.
    pub(super) fn turn_pass(
        &mut self,
        world: &mut World,
        pass: &mut Pass,
        proof: &mut LockProof,
        filter: &mut impl RowFilter,
    ) -> Result<Option<Option<i64>>, Over> {
        // Rows that are read together are passed on one behind the other.
        if pass.reads.is_empty() || world.rng.bool() {
            self.turn_scan(world, proof)?;
        }
        if let Some(row) = pass.reads.front().cloned() {
            if self.engine.intake() != Intake::Open {
                return Ok(None);
            }
            let moment = self.tick(world);
            if proof.is_stale(moment) {
                self.prove(world, proof)?;
            }
            pass.reads.pop_front();
            let name = row.name.clone();
            self.forward_row(world, row);
            filter.sent(&name);
            let is_over = pass.reads.is_empty();
            return Ok(is_over.then_some(pass.from.filter(|_| pass.is_full)));
        }
        if !self.is_connected(world) {
            return Err(Over::Lost);
        }
        // A batch that waits grows old.
        if self.engine.intake() != Intake::Open {
            return Ok(None);
        }
        let names = world
            .server
            .unpublished(self.table(), pass.from.unwrap_or(i64::MIN), BATCH);
        pass.count += names.len();
        pass.is_full = names.len() == BATCH;
        if let Some(last) = names.last() {
            pass.from = Some(number(&last.id) + 1);
        }
        let wanted = names.into_iter().filter(|name| filter.wants(name));
        let wanted: Vec<RowName> = wanted.collect();
        pass.reads = wanted
            .into_iter()
            .filter_map(|name| world.server.read(self.table(), name))
            .collect();
        let is_over = pass.reads.is_empty();
        Ok(is_over.then_some(pass.from.filter(|_| pass.is_full)))
    }

    /// One step of the creation of the slot; returns whether it did something.
    pub(super) fn bootstrap(
        &mut self,
        world: &mut World,
        mut bootstrap: Box<Bootstrap>,
    ) -> Result<(State, bool), Over> {
        let forwarded = self.forwarded;
        if self.is_stopping && bootstrap.step != Step::StartOver {
            let is_settled = self.turn_scan(world, &mut bootstrap.proof)?;
            let is_over = is_settled.then_some(Over::End(End::Stopped));
            return is_over.map_or(Ok((State::Bootstrap(bootstrap), false)), Err);
        }
        let done = match bootstrap.step {
            Step::Settle => self
                .turn_scan(world, &mut bootstrap.proof)?
                .then_some(Done::Settled),
            Step::SettleInTime => {
                let settled = self.turn_scan(world, &mut bootstrap.proof)?;
                (settled || world.rng.bool()).then_some(Done::Settled)
            }
            Step::StartOver => {
                self.start_over(world, Lsn::INVALID);
                Some(Done::StartedOver)
            }
            Step::Permit => {
                if let Some(loss) = &bootstrap.loss {
                    loss.permit(&world.config).map_err(Over::Error)?;
                }
                Some(Done::Permitted)
            }
            Step::DropLost => {
                world.server.files.slot = None;
                world.slot_misses();
                Some(Done::LostDropped)
            }
            Step::Pass => self.turn_backlog(world, &mut bootstrap)?,
            Step::Create => self.turn_creation(world, &mut bootstrap)?,
            Step::PublishSnapshot => self.turn_snapshot(world, &mut bootstrap)?,
            Step::Release => {
                bootstrap.creation = None;
                Some(Done::Released)
            }
            Step::Copy => return self.copy(world, *bootstrap).map(|next| (next, true)),
        };
        if let Some(done) = done {
            if !self.is_connected(world) {
                return Err(Over::Lost);
            }
            bootstrap.step = bootstrap.steps.next(done);
        }
        let did = done.is_some() || self.forwarded != forwarded;
        Ok((State::Bootstrap(bootstrap), did))
    }

    fn turn_backlog(
        &mut self,
        world: &mut World,
        bootstrap: &mut Bootstrap,
    ) -> Result<Option<Done>, Over> {
        let Bootstrap { pass, proof, .. } = bootstrap;
        let settled = self.turn_whole_pass(world, pass, proof, &mut All(None))?;
        Ok(settled.map(Done::Passed))
    }

    /// One turn of a pass that ends when everything is settled, with the number of its rows.
    fn turn_whole_pass(
        &mut self,
        world: &mut World,
        pass: &mut Pass,
        proof: &mut LockProof,
        filter: &mut impl RowFilter,
    ) -> Result<Option<usize>, Over> {
        if pass.is_over {
            let is_settled = self.turn_scan(world, proof)?;
            return Ok(is_settled.then(|| std::mem::take(pass).count));
        }
        pass.is_over = self.turn_pass(world, pass, proof, filter)? == Some(None);
        Ok(None)
    }

    fn turn_creation(
        &mut self,
        world: &mut World,
        bootstrap: &mut Bootstrap,
    ) -> Result<Option<Done>, Over> {
        let Bootstrap {
            pass,
            proof,
            creation,
            steps,
            ..
        } = bootstrap;
        if creation.is_none() {
            self.forget_handled();
        }
        let creation = creation.get_or_insert_with(|| Creation {
            waits_for: world.server.running(),
            snapshot: None,
            handled: HandledRows::default(),
            is_answered: false,
        });
        let table = self.place.as_ref().map_or(0, |place| place.table);
        let pid = self.pid.filter(|_| self.is_connected(world));
        let pid = pid.ok_or(Over::Lost)?;
        if creation.is_answered {
            let is_settled = self.turn_scan(world, proof)?;
            if is_settled {
                creation.handled.until = Lsn::new(world.server.files.wal);
                self.handled_until = world.server.files.wal;
                *pass = Pass::default();
            }
            return Ok(is_settled.then_some(Done::Created));
        }
        // Its own command keeps the session alive.
        if let Some(session) = world.server.sessions.get_mut(&pid) {
            session.heard_at = world.now;
        }
        proof.answered(self.tick(world));
        let running = world.server.running();
        let waits = !creation.waits_for.is_disjoint(&running);
        if creation.snapshot.is_none() && !waits {
            let files = &world.server.files;
            let is_here = files.table == table;
            let rows = files.rows.values().filter(|_| is_here);
            let rows = rows.filter(|row| !row.is_marked && !files.letters.hides(&row.name));
            creation.snapshot = Some((files.wal, rows.cloned().collect()));
            return Ok(None);
        }
        if creation.snapshot.is_some() && world.rng.u8(0..4) == 0 {
            // A pass is cancelled between two rows.
            creation.is_answered = true;
            return Ok(None);
        }
        if steps.publishes_backlog {
            world.saw("a pass while the slot waits");
            let mut filter = All(Some(&mut creation.handled));
            self.creates = true;
            let turned = self.turn_whole_pass(world, pass, proof, &mut filter);
            self.creates = false;
            turned?;
        }
        Ok(None)
    }

    fn turn_snapshot(
        &mut self,
        world: &mut World,
        bootstrap: &mut Bootstrap,
    ) -> Result<Option<Done>, Over> {
        let is_settled = self.turn_scan(world, &mut bootstrap.proof)?;
        let creation = bootstrap.creation.as_mut();
        let Some((_, rows)) = creation.and_then(|it| it.snapshot.as_mut()) else {
            return Ok(Some(Done::OutOfTime));
        };
        if bootstrap.is_out_of_time {
            bootstrap.is_out_of_time = !is_settled;
            return Ok(is_settled.then_some(Done::OutOfTime));
        }
        let Some(row) = rows.pop_front() else {
            return Ok(is_settled.then_some(Done::SnapshotPublished));
        };
        if self.engine.intake() != Intake::Open {
            rows.push_front(row);
            // Neither slot nor snapshot waits for the end of a pause.
            bootstrap.is_out_of_time |= self.engine.is_paused();
            return Ok(None);
        }
        if world.rng.u8(0..100) == 0 {
            bootstrap.is_out_of_time = true;
            return Ok(None);
        }
        let present = world.server.files.rows.get(&number(&row.name.id));
        let is_published = present.is_some_and(|it| it.name == row.name && it.is_marked);
        let handled = bootstrap.creation.as_ref().map(|it| &it.handled);
        let is_handled = handled.is_some_and(|handled| handled.rows.contains(&row.name));
        if is_published || is_handled {
            return Ok(None);
        }
        if bootstrap.steps.publishes_backlog {
            let moment = self.tick(world);
            if bootstrap.proof.is_stale(moment) {
                self.prove(world, &mut bootstrap.proof)?;
            }
            self.forward_row(world, row);
        }
        Ok(None)
    }

    fn copy(&mut self, world: &mut World, bootstrap: Bootstrap) -> Result<State, Over> {
        if !self.is_connected(world) {
            return Err(Over::Lost);
        }
        let Some(creation) = bootstrap.creation else {
            return Err(Over::Lost);
        };
        let (confirmed, _) = creation.snapshot.ok_or(Over::Lost)?;
        if !world.marks() {
            world.excuse_committed();
        }
        // The rows of a new table are found by the audit of the next session.
        match self.table() == world.server.files.table {
            true => world.check_settled(&world.server.files, 0..confirmed),
            false => world.only_rows_bring(confirmed),
        }
        world.server.copy_slot(confirmed);
        self.resume.healed(creation.handled);
        Ok(State::SlotRead(Lsn::new(confirmed)))
    }
}

/// Wants every row, and remembers those that were sent if asked to.
struct All<'a>(Option<&'a mut HandledRows>);

impl RowFilter for All<'_> {
    fn wants(&mut self, _row: &RowName) -> bool {
        true
    }

    fn sent(&mut self, row: &RowName) {
        if let Some(handled) = &mut self.0 {
            handled.rows.insert(row.clone());
        }
    }
}
