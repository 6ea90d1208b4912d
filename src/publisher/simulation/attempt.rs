//! The states of a process in the simulation: from one attempt to the next, as the supervisor and
//! `resume` go through them.

use std::time::Duration;

use crate::engine::output::End;
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::postgres::ServerError;
use crate::publisher::instance_lock::{LockProof, Standby};
use crate::publisher::session_start::{
    BeforeCreation, Cleared, PositionStep, SessionStart, SlotStep,
};
use crate::publisher::simulation::polling::Polling;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Row;
use crate::publisher::simulation::stream::Streaming;
use crate::publisher::simulation::table::Bootstrap;
use crate::publisher::simulation::world::{Wire, World};

/// Where a process is.
#[derive(Debug)]
pub(super) enum State {
    /// It has no session, and tries again at this time.
    Pausing(Duration),
    /// Another session holds the lock; it looks again at this time.
    Standby(Standby, Duration),
    /// It holds the lock, and reads the slot next.
    Entered,
    Bootstrap(Box<Bootstrap>),
    /// The slot was read, and is at this position.
    SlotRead(Lsn),
    /// The stream begins here next.
    Starting(Lsn),
    Streaming(Box<Streaming>),
    Polling(Box<Polling>),
    /// The process has ended with an error that needs a person.
    Failed,
    /// It was stopped.
    Stopped,
}

/// Why an attempt is over.
#[derive(Debug)]
pub(super) enum Over {
    /// The session is lost.
    Lost,
    End(End),
    Error(Error),
}

impl Process {
    /// One step of what the process is about; false if it waits.
    pub(super) fn drive(&mut self, world: &mut World) -> bool {
        let moment = self.tick(world);
        let can_settle = matches!(
            self.state,
            State::Streaming(_) | State::Polling(_) | State::Bootstrap(_) | State::Failed
        );
        if self.is_stopping && !can_settle {
            let did = !matches!(self.state, State::Stopped);
            self.state = State::Stopped;
            return did;
        }
        let uses_table = matches!(
            self.state,
            State::Streaming(_) | State::Polling(_) | State::Bootstrap(_)
        );
        if uses_table && std::mem::take(&mut self.database_error) {
            world.saw("the table is gone");
            if matches!(self.state, State::Streaming(_)) {
                self.engine.session_ended();
            }
            self.over(world, Over::Lost);
            return true;
        }
        let state = std::mem::replace(&mut self.state, State::Failed);
        let next = match state {
            State::Pausing(until) => {
                let withdraws = self.engine.should_withdraw(self.now);
                self.producer_failed |= withdraws;
                if self.now < until && !withdraws {
                    self.state = State::Pausing(until);
                    return false;
                }
                if self.replace_producer(world) {
                    self.resume.invalidate();
                }
                self.lock_asked = moment;
                self.connect(world)
            }
            State::Standby(standby, at) => return self.stand_by(world, standby, at),
            State::Entered => self.read_slot(world),
            State::Bootstrap(bootstrap) => match self.bootstrap(world, bootstrap) {
                Ok((next, did)) => {
                    self.state = next;
                    return did;
                }
                Err(over) => Err(over),
            },
            State::SlotRead(confirmed) => Ok(self.position(world, confirmed)),
            State::Starting(from) => self.start(world, from),
            State::Streaming(streaming) => match self.stream(world, streaming) {
                Ok((streaming, did)) => {
                    self.state = State::Streaming(streaming);
                    return did;
                }
                Err(over) => {
                    self.engine.session_ended();
                    Err(over)
                }
            },
            State::Polling(polling) => match self.poll(world, polling) {
                Ok((polling, did)) => {
                    self.state = State::Polling(polling);
                    return did;
                }
                Err(over) => Err(over),
            },
            State::Failed | State::Stopped => return false,
        };
        match next {
            Ok(next) => self.state = next,
            Err(over) => self.over(world, over),
        }
        true
    }

    /// Whether the driver takes in reports, and does not wait for an answer of the server instead.
    pub(super) fn takes_reports(&self) -> bool {
        match &self.state {
            State::Entered | State::SlotRead(_) | State::Starting(_) => false,
            State::Bootstrap(bootstrap) => self.is_stopping || bootstrap.takes_reports(),
            _ => true,
        }
    }

    /// Whether the session's server process still exists.
    pub(super) fn is_connected(&self, world: &World) -> bool {
        let exists = |pid| world.server.sessions.contains_key(&pid);
        world.is_up && self.pid.is_some_and(exists)
    }

    fn connect(&mut self, world: &mut World) -> Result<State, Over> {
        if !world.is_up {
            return Err(Over::Lost);
        }
        if !world.polls() && !world.server.files.has_publication {
            let error = Error::fatal(Code::Config, "there is no publication");
            return Err(Over::Error(self.resume.opening_failed(error, true)));
        }
        let (pid, takes) = world.server.connect(world.now);
        if !takes {
            world.server.end(pid);
            world.saw("stood by");
            let own = self.resume.holder();
            let standby = Standby::new(own, &world.server.location().server);
            return Ok(State::Standby(standby, self.now));
        }
        self.takes_over(world);
        world.wires.insert(pid, Wire::default());
        self.pid = Some(pid);
        let place = world.server.location();
        let end = match world.polls() {
            true => Lsn::INVALID,
            false => Lsn::new(world.server.files.wal),
        };
        let tenure = world.server.draw(pid);
        world.note(|| format!("{tenure:?}"));
        if self.session_start().entered(&place, end, &tenure).is_some() {
            world.saw("another history");
            self.clear(world, "the history is another");
        }
        if self.tenure != world.tenure {
            self.dropped = Some("another process had the lock");
        } else if !self.resume.is_alone() {
            self.dropped = Some("no number proves that no other process had the lock");
        } else if !self.resume.is_valid() && self.dropped.is_none() {
            self.dropped = Some("the proof of a restarted server does not cover the number");
        }
        self.place = Some(place);
        self.engine.set_paused(self.now, world.is_paused);
        self.pause_is_known(world);
        Ok(match world.polls() {
            true => State::Polling(Box::new(self.begin_polling(world))),
            false => State::Entered,
        })
    }

    fn session_start(&mut self) -> SessionStart<'_> {
        SessionStart {
            engine: &mut self.engine,
            resume: &mut self.resume,
        }
    }

    fn stand_by(&mut self, world: &mut World, mut standby: Standby, at: Duration) -> bool {
        if standby.is_taken() {
            self.engine.lock_taken();
        }
        let withdraws = self.engine.should_withdraw(self.now);
        self.producer_failed |= withdraws;
        let looks = self.now >= at;
        if looks && !world.is_up {
            self.over(world, Over::Lost);
            return true;
        }
        let is_free = looks && standby.looked(world.server.lock);
        if is_free || withdraws {
            self.state = State::Pausing(self.now);
            return true;
        }
        let at = if looks {
            self.now + Duration::from_millis(250)
        } else {
            at
        };
        self.state = State::Standby(standby, at);
        looks
    }

    fn read_slot(&mut self, world: &mut World) -> Result<State, Over> {
        if !self.is_connected(world) {
            return Err(Over::Lost);
        }
        let found = world.server.slot();
        match self.session_start().slot_read(found.as_ref()) {
            SlotStep::Stream => {
                let confirmed = found.and_then(|slot| slot.confirmed_flush);
                Ok(State::SlotRead(confirmed.unwrap_or(Lsn::INVALID)))
            }
            SlotStep::Create { loss, memory } => {
                if let BeforeCreation::Cleared(_) = memory {
                    self.clear(world, "the server was restarted and lost its slot");
                }
                self.dropped = Some("a slot is created");
                world.saw(match loss {
                    Some(_) => "healed",
                    None => "bootstrapped",
                });
                let settles = memory == BeforeCreation::Settled;
                let proof = LockProof::new(self.lock_asked);
                let bootstrap = Bootstrap::new(world, loss, found.is_some(), settles, proof);
                Ok(State::Bootstrap(Box::new(bootstrap)))
            }
        }
    }

    fn position(&mut self, world: &mut World, confirmed: Lsn) -> State {
        let is_kept = world.server.standby.is_some();
        self.engine.set_failover_slot(is_kept);
        let next = self.begin_at(world, confirmed);
        if is_kept {
            world.server.files.wal += 3;
            let written = Lsn::new(world.server.files.wal);
            self.engine.hold_for_standbys(written);
        }
        next
    }

    fn begin_at(&mut self, world: &mut World, confirmed: Lsn) -> State {
        match self.session_start().position(confirmed) {
            PositionStep::Resume(from) => {
                world.saw("resumed");
                assert!(
                    confirmed.raw() <= self.reported,
                    "memory is used, and the slot was moved from {} to {confirmed}",
                    self.reported
                );
                // Without its session it cannot start.
                if self.is_connected(world) {
                    self.uses_memory(world);
                }
                State::Starting(from)
            }
            PositionStep::StartOver { cleared } => {
                match cleared {
                    None => {}
                    Some(Cleared::History(_)) => self.clear(world, "the server was restarted"),
                    Some(Cleared::Moved { .. }) => {
                        assert!(confirmed.raw() > self.reported, "the slot was not moved");
                        self.clear(world, "the slot was moved");
                    }
                }
                let filed = self.start_over(world, confirmed);
                self.resume.resumed(filed);
                if world.config.read_back {
                    let now = Lsn::new(world.server.files.wal);
                    let end = self.engine.lock_held_at().unwrap_or(now);
                    self.engine.read_back(confirmed, end);
                }
                State::Starting(confirmed)
            }
        }
    }

    fn start(&mut self, world: &mut World, from: Lsn) -> Result<State, Over> {
        let pid = self.pid.filter(|_| self.is_connected(world));
        let pid = pid.ok_or(Over::Lost)?;
        let fails = match world.server.files.slot {
            None => Some("42704"),
            Some(slot) if slot.is_lost => Some("55000"),
            Some(_) => None,
        };
        if let Some(code) = fails {
            let error = server_error(code, None);
            return Err(Over::Error(self.resume.recheck_slot(error)));
        }
        assert!(world.server.stream(pid, from.raw()), "seen above");
        self.resume.streaming();
        self.engine.session_started(self.now);
        self.audit.at_once(self.now);
        let streaming = Streaming::new(self.table(), self.now, pid);
        Ok(State::Streaming(Box::new(streaming)))
    }

    /// The connection breaks, and the server does not notice.
    pub(super) fn lose_session(&mut self, world: &mut World) -> bool {
        let Some(pid) = self.pid.take() else {
            return false;
        };
        world.wires.remove(&pid);
        if matches!(self.state, State::Streaming(_)) {
            self.engine.session_ended();
        }
        self.over(world, Over::Lost);
        true
    }

    /// An attempt is over; see `Supervisor::sessions`.
    pub(super) fn over(&mut self, world: &mut World, over: Over) {
        let (mut is_fatal, mut is_stopped) = (false, false);
        match over {
            Over::Lost => {}
            Over::End(End::Violated(violation)) => {
                if self.session_start().contradicted(&violation) {
                    self.clear(world, "the stream has another history");
                }
                world.saw("the stream contradicted memory");
                self.dropped = Some("the stream contradicted memory");
            }
            Over::End(End::Stopped) => {
                self.check_stopped(world);
                world.saw("stopped");
                is_stopped = true;
            }
            Over::End(end) => {
                world.saw(match &end {
                    End::Expired => "expired",
                    End::ReceiveTimeout => "silent",
                    End::ProducerFailed(_) => "records did not come back",
                    End::Halted(_) => "halted",
                    _ => "ended",
                });
                is_fatal = !self.resume.retries(&end.into_error());
            }
            Over::Error(error) => is_fatal = !self.resume.retries(&error),
        }
        self.place = None;
        self.reported = self.reported.max(self.engine.reported().raw());
        self.engine.lock_lost(self.now);
        if let Some(pid) = self.pid.take() {
            world.end_session(pid, false);
            world.wires.remove(&pid);
        }
        let skipped = std::mem::take(&mut self.skipped);
        let replaced = self.replace_producer(world);
        if skipped {
            self.dropped = Some("a change was skipped");
        }
        self.resume.session_over(replaced, skipped);
        self.state = match is_fatal {
            _ if is_stopped => State::Stopped,
            true => State::Failed,
            false => {
                self.retry = (self.retry + 1).min(5);
                State::Pausing(self.now + Duration::from_millis(100 << self.retry))
            }
        };
    }

    /// After a graceful stop the next start passes on nothing that this process has passed on.
    fn check_stopped(&self, world: &World) {
        // A server that stopped meanwhile, or was replaced, may have forgotten the last position.
        if !self.is_connected(world) {
            return;
        }
        let files = &world.server.files;
        let is_own = |event| world.broker.copies.is_of(event, self.id, self.memory);
        let confirmed = files.slot.map_or(u64::MAX, |slot| slot.confirmed);
        let log = files.log.iter().rev();
        let has_streamed = matches!(self.state, State::Streaming(_));
        let open = log.take_while(|it| has_streamed && it.commit >= confirmed);
        for insert in open.flat_map(|it| it.changes.iter().flatten()) {
            let is_filed = files.letters.hides(&insert.row);
            assert!(
                !is_own(insert.event) || is_filed || self.handled.contains(&insert.event),
                "event {} is sent again after a graceful stop",
                insert.event
            );
        }
        let left = |row: &&Row| !row.is_marked && !files.letters.hides(&row.name);
        let mut left = files
            .rows
            .values()
            .filter(left)
            .filter(|row| is_own(row.event));
        let is_exempt = world.unmarks || !world.marks() || !world.unknown_rows.is_empty();
        assert!(
            is_exempt || left.next().is_none(),
            "a row is not marked after a graceful stop"
        );
    }
}

/// The server's error of this state, reported by this function of its source.
pub(super) fn server_error(code: &str, routine: Option<&str>) -> Error {
    let server = ServerError {
        code: code.to_owned(),
        routine: routine.map(str::to_owned),
        ..ServerError::default()
    };
    Error::fatal(Code::Slot, "streaming").with_source(server)
}
