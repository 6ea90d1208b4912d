//! A streaming session in the simulation, as `wal_stream` and `event_decoder` carry it out.

use std::time::Duration;

use crate::engine::output::{Intake, SessionOutput, Walsender};
use crate::engine::tracker::TransactionName;
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::publisher::monitor::slot_reader::SlotReader;
use crate::publisher::simulation::attempt::{Over, server_error};
use crate::publisher::simulation::audit::AuditRun;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Insert;
use crate::publisher::simulation::world::{Message, World};

/// How often the slot is read over SQL.
const SLOT_INTERVAL: Duration = Duration::from_secs(2);

/// What belongs to one session.
#[derive(Debug)]
pub(super) struct Streaming {
    /// The object id of the table.
    table: u32,
    /// The transaction that is being received.
    begun: Option<TransactionName>,
    /// When the slot was read.
    slot_read_at: Duration,
    slot_reader: SlotReader,
    pub(super) audit: AuditRun,
}

impl Streaming {
    pub(super) fn new(table: u32, now: Duration, pid: i32) -> Self {
        let mut slot_reader = SlotReader::default();
        slot_reader.has_ended(Some(pid));
        Streaming {
            table,
            begun: None,
            slot_read_at: now,
            slot_reader,
            audit: AuditRun::new(now),
        }
    }
}

impl Process {
    /// One turn: a message, then what is due.
    pub(super) fn stream(
        &mut self,
        world: &mut World,
        mut streaming: Box<Streaming>,
    ) -> Result<(Box<Streaming>, bool), Over> {
        self.engine.check_session(self.now);
        if self.is_stopping {
            self.engine.stop();
            let slot = world.server.files.slot.filter(|_| self.is_connected(world));
            if let Some(slot) = slot.filter(|_| world.rng.u8(0..4) == 0) {
                self.engine.slot_position(Some(Lsn::new(slot.confirmed)));
            }
        }
        if self.now >= streaming.slot_read_at + SLOT_INTERVAL && world.is_up {
            streaming.slot_read_at = self.now;
            let active_pid = self.pid.filter(|_| self.is_connected(world));
            if streaming.slot_reader.has_ended(active_pid) {
                return Err(Over::Lost);
            }
            if active_pid.is_some() {
                self.engine.lock_proven();
            }
        }
        self.check_foreign_marks(world);
        if world.is_fair || world.rng.u8(0..8) == 0 {
            let session = self.pid.and_then(|pid| world.server.sessions.get(&pid));
            let walsender = session.and_then(|session| session.walsender.as_ref());
            let waits = walsender.is_some_and(|walsender| walsender.waits);
            self.engine.set_waits_for_standby(waits);
        }
        let mut did = self.read(world, &mut streaming)?;
        if world.rng.u8(0..4) > 0 {
            self.engine.poll(self.now);
        }
        did |= self.turn_audit(world, &mut streaming.audit)?;
        Ok((streaming, did))
    }

    /// Carries out one output.
    pub(super) fn carry_out_session(&mut self, world: &mut World) -> bool {
        self.tick(world);
        self.engine.check_session(self.now);
        let Some(output) = self.output(world) else {
            return false;
        };
        let over = match output {
            None => None,
            Some(SessionOutput::Status {
                write,
                flush,
                ask_reply,
            }) => {
                assert!(flush <= write, "confirmed {flush}, received {write}");
                self.reported = self.reported.max(flush.raw());
                let wire = self.pid.and_then(|pid| world.wires.get_mut(&pid));
                if let Some(wire) = wire {
                    wire.to_server.push_back((flush.raw(), ask_reply));
                }
                None
            }
            Some(SessionOutput::InspectWalsender) if !self.is_connected(world) => {
                let walsender = Walsender::Gone;
                self.engine.walsender(self.now, walsender);
                None
            }
            Some(SessionOutput::InspectWalsender) => {
                self.engine.walsender(self.now, Walsender::Idle);
                None
            }
            Some(SessionOutput::End(end)) => Some(Over::End(end)),
        };
        if let Some(over) = over {
            self.engine.session_ended();
            self.over(world, over);
        }
        true
    }

    fn read(&mut self, world: &mut World, streaming: &mut Streaming) -> Result<bool, Over> {
        let wire = self.pid.and_then(|pid| world.wires.get_mut(&pid));
        let wire = wire.ok_or(Over::Lost)?;
        if wire.is_closed && (wire.to_client.is_empty() || world.rng.bool()) {
            return Err(Over::Lost);
        }
        let intake = self.engine.intake();
        if intake == Intake::Paused {
            return Ok(false);
        }
        let Some(message) = wire.to_client.pop_front() else {
            return Ok(false);
        };
        self.engine.received(self.now);
        match message {
            Message::Keepalive { wal_end, reply } => {
                self.engine.keepalive(self.now, Lsn::new(wal_end), reply);
            }
            _ if intake != Intake::Open => {}
            Message::Begin {
                commit,
                xid,
                micros,
            } => {
                let name = TransactionName {
                    commit_lsn: Lsn::new(commit),
                    xid,
                    committed_micros: micros,
                };
                self.resume.handled_rows().begin(name.commit_lsn);
                if commit > self.handled_until {
                    self.forget_handled();
                }
                self.opens(name.commit_lsn);
                self.engine.begin(name);
                streaming.begun = Some(name);
            }
            Message::Failed(code, routine) => {
                let error = server_error(code, routine);
                return Err(Over::Error(self.resume.recheck_slot(error)));
            }
            Message::Change(insert) => self.change(world, streaming, insert)?,
            Message::Commit { commit, end } => {
                self.engine.commit(Lsn::new(commit), Lsn::new(end));
                self.open = None;
                streaming.begun = None;
            }
        }
        Ok(true)
    }

    fn change(
        &mut self,
        world: &mut World,
        streaming: &Streaming,
        insert: Option<Insert>,
    ) -> Result<(), Over> {
        let index = self.engine.change();
        let (Some(index), Some(insert), Some(begun)) = (index, insert, streaming.begun) else {
            return Ok(());
        };
        if std::mem::take(&mut self.fails_to_decode) {
            self.skipped = true;
            world.saw("change skipped");
            return Err(Over::Error(Error::transient(
                Code::Replication,
                "no memory",
            )));
        }
        let row = (insert.table == streaming.table).then(|| insert.row.clone());
        let commit = begun.commit_lsn;
        let handled = self.resume.handled_rows();
        if handled.contains(row.as_ref(), &insert.row.id.to_string(), commit) {
            world.saw("handled before");
            return Ok(());
        }
        let is_dropped = row.is_none();
        self.forward(world, insert.event, row, begun.xid, Some((commit, index)));
        if is_dropped && insert.table == world.server.files.table {
            world.unknown_rows.insert(insert.event);
            let copies = &mut world.broker.copies;
            copies.may_repeat(insert.event, "its session knows only the dropped table");
        }
        Ok(())
    }
}
