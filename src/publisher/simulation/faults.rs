//! The faults of the simulation, and how each is lifted at the end.

use std::time::Duration;

use crate::engine::row_ids::number as row_number;
use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Refusal;
use crate::publisher::simulation::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process is killed.
    Crash,
    /// The connection ends, and both sides know.
    Cut,
    /// The server has ended the connection, and the process does not know.
    Vanish,
    /// The process has lost the connection, and the server does not know.
    HalfOpen,
    /// The process stands still, and its clock goes on.
    Freeze,
    Thaw,
    /// The process stands still together with its steady clock.
    Pause,
    RestartServer,
    StopServer,
    StartServer,
    Backup,
    /// The server starts on an older copy of its files, on the same timeline.
    Restore,
    /// A lagging standby is promoted.
    Failover,
    DropSlot,
    LoseSlot,
    AdvanceSlot,
    /// The table leaves the publication, or comes back.
    Publication,
    Truncate,
    /// The sequence of ids is set back.
    SetBack,
    Lock,
    Trigger,
    /// A person removes marks.
    Unmark,
    /// Another program marks a row whose event outboxd has sent.
    ForeignMark,
    Refuse,
    BrokerAway,
    BrokerBack,
    /// The producer's queue is full, or has room again.
    Full,
    FailProducer,
    /// The producer neither delivers nor gives back.
    StickProducer,
    /// A person resolves the dead letters.
    Resolve,
    /// The table is dropped and created again.
    Recreate,
    /// The publication is dropped, or created again.
    NoPublication,
    /// A change cannot be decoded, once.
    Undecodable,
    /// A topic disappears, or is made.
    Topic,
    /// The process is asked to stop, and another one starts.
    Stop,
    /// The standby that the failover slot waits for is promoted.
    Promote,
    /// A person requests a pause, or its end.
    RequestPause,
}

type Weighted = (Fault, u32);

/// The faults that a schedule may choose, each with its weight and what has to come with it.
pub(super) const FAULTS: [(Fault, u32, Option<Weighted>); 33] = [
    (Fault::Crash, 3, None),
    (Fault::Cut, 6, None),
    (Fault::Vanish, 4, None),
    (Fault::HalfOpen, 4, None),
    (Fault::Freeze, 3, Some((Fault::Thaw, 6))),
    (Fault::Pause, 2, None),
    (Fault::RestartServer, 3, None),
    (Fault::StopServer, 2, Some((Fault::StartServer, 12))),
    (Fault::Restore, 3, Some((Fault::Backup, 4))),
    (Fault::Failover, 3, Some((Fault::Backup, 4))),
    (Fault::DropSlot, 4, None),
    (Fault::LoseSlot, 3, None),
    (Fault::AdvanceSlot, 4, None),
    (Fault::Publication, 2, None),
    (Fault::Truncate, 2, Some((Fault::Lock, 6))),
    (Fault::SetBack, 2, None),
    (Fault::Lock, 10, None),
    (Fault::Trigger, 3, None),
    (Fault::Unmark, 3, None),
    (Fault::ForeignMark, 12, None),
    (Fault::Refuse, 3, Some((Fault::Resolve, 3))),
    (Fault::BrokerAway, 2, Some((Fault::BrokerBack, 12))),
    (Fault::Full, 6, None),
    (Fault::FailProducer, 3, None),
    (Fault::StickProducer, 2, None),
    (Fault::Resolve, 2, None),
    (Fault::Recreate, 2, None),
    (Fault::NoPublication, 2, None),
    (Fault::Undecodable, 3, None),
    (Fault::Topic, 3, Some((Fault::Resolve, 3))),
    (Fault::Stop, 3, None),
    (Fault::Promote, 3, None),
    (Fault::RequestPause, 6, None),
];

impl Fault {
    /// Whether nothing is promised where no row is marked.
    pub(super) fn needs_marks(self) -> bool {
        matches!(
            self,
            Fault::Restore
                | Fault::Failover
                | Fault::DropSlot
                | Fault::LoseSlot
                | Fault::AdvanceSlot
                | Fault::Publication
                | Fault::Unmark
                | Fault::ForeignMark
                | Fault::Recreate
                | Fault::NoPublication
                | Fault::Promote
        )
    }
}

/// Commits the fault to the world and this process; false if it is not possible now.
pub(super) fn happens(fault: Fault, world: &mut World, place: &mut Option<Process>) -> bool {
    server_fault(fault, world)
        || row_fault(fault, world)
        || kafka_fault(fault, world, place)
        || process_fault(fault, world, place)
}

fn process_fault(fault: Fault, world: &mut World, place: &mut Option<Process>) -> bool {
    let Some(process) = place else { return false };
    match fault {
        Fault::Crash => {
            process.kill(world);
            if let Some(pid) = process.pid {
                world.end_session(pid, false);
            }
            *place = None;
            world.saw("process crash");
        }
        Fault::Cut | Fault::Vanish => {
            let Some(pid) = process.pid else { return false };
            world.end_session(pid, fault == Fault::Cut);
            world.saw("connection lost");
        }
        Fault::HalfOpen => {
            if process.is_frozen || !process.lose_session(world) {
                return false;
            }
            world.saw("half-open connection");
        }
        Fault::Freeze => {
            process.is_frozen = true;
            world.is_ordered = false;
            world.keeps_last_words = false;
            world.saw("frozen");
        }
        Fault::Thaw => process.is_frozen = false,
        Fault::Undecodable => process.fails_to_decode = true,
        Fault::Stop => process.is_stopping = true,
        Fault::Pause => {
            let time = Duration::from_secs(world.rng.u64(11..90));
            world.pass(time);
            process.lost_time += time;
            process.clock_jumped = true;
            world.is_ordered = false;
            world.keeps_last_words = false;
            world.saw("paused");
        }
        _ => return false,
    }
    true
}

fn server_fault(fault: Fault, world: &mut World) -> bool {
    match fault {
        Fault::RestartServer => {
            world.restart(None);
            world.saw("server restarted");
        }
        Fault::StopServer => {
            world.restart(None);
            world.is_up = false;
            world.saw("server stopped");
        }
        Fault::StartServer if !world.is_up => world.restart(None),
        Fault::RequestPause => {
            world.is_paused = !world.is_paused;
            world.saw("pause requested or ended");
        }
        Fault::Backup => {
            world.backup = Some(world.server.files.clone());
            world.backup_tenure = world.tenure;
        }
        Fault::Restore | Fault::Failover => {
            let Some(mut files) = world.backup.clone() else {
                return false;
            };
            if fault == Fault::Restore {
                world.forgot_holder |= world.tenure > world.backup_tenure;
            } else {
                files.timeline = world.server.files.timeline + 1;
                if world.rng.bool() {
                    files.slot = None;
                }
                world.has_old_primary = world.rng.bool();
            }
            world.restart(Some(files));
            world.slot_misses();
            // The copy lacks the last marks, also of transactions that it has.
            world.unmarks = true;
            // The WAL may pass every position that a process has seen.
            for _ in 0..world.rng.usize(0..20) {
                world.write(false);
            }
            let what = match fault {
                Fault::Restore => "older copy restored",
                _ => "failed over",
            };
            world.may_repeat(0, what, |_, _| false);
            world.saw(what);
        }
        Fault::DropSlot => {
            if world.server.is_slot_active() || world.server.files.slot.take().is_none() {
                return false;
            }
            world.slot_misses();
            world.saw("slot dropped");
        }
        Fault::LoseSlot => {
            let Some(slot) = &mut world.server.files.slot else {
                return false;
            };
            slot.is_lost = true;
            let sessions = world.server.sessions.iter();
            let streams = sessions.filter(|(_, session)| session.walsender.is_some());
            let pids: Vec<i32> = streams.map(|(pid, _)| *pid).collect();
            pids.into_iter()
                .for_each(|pid| world.end_session(pid, true));
            world.slot_misses();
            world.saw("slot lost");
        }
        Fault::AdvanceSlot => {
            if !world.server.advance_slot() {
                return false;
            }
            world.slot_misses();
            world.saw("slot moved");
        }
        Fault::Promote => {
            let Some(standby) = world.server.standby.clone() else {
                return false;
            };
            let mut files = *standby;
            files.timeline = world.server.files.timeline + 1;
            if files.slot.is_none() {
                world.slot_misses();
            }
            world.has_old_primary = world.rng.bool();
            world.restart(Some(files));
            world.is_ordered = false;
            world.saw("standby promoted");
        }
        Fault::NoPublication => {
            let files = &mut world.server.files;
            files.has_publication ^= true;
            files.wal += 5;
            world.slot_misses();
            world.saw("publication dropped or created");
        }
        Fault::Publication => {
            world.server.files.is_published ^= true;
            world.unorder();
            world.saw("publication changed");
        }
        _ => return false,
    }
    true
}

fn row_fault(fault: Fault, world: &mut World) -> bool {
    match fault {
        Fault::Truncate => {
            world.truncate();
            // Ids come again at once, and a service locks one of the new rows.
            if world.rng.bool() {
                (0..5).for_each(|_| world.write(false));
                let first = world.server.files.rows.first_entry();
                first
                    .into_iter()
                    .for_each(|mut row| row.get_mut().is_locked = true);
            }
            world.unorder();
            world.saw("truncated");
            return true;
        }
        Fault::Recreate => {
            let is_published = world.rng.bool();
            if !world.recreate(is_published) {
                return false;
            }
            world.unorder();
            world.saw("table recreated");
            return true;
        }
        Fault::SetBack => {
            let files = &mut world.server.files;
            files.next_id = (files.next_id - world.rng.i64(1..20)).max(1);
            world.unorder();
            world.saw("ids set back");
            return true;
        }
        _ => {}
    }
    let count = world.server.files.rows.len();
    if count == 0 {
        return false;
    }
    let number = world.rng.usize(0..count);
    let refusal = if world.rng.bool() {
        Refusal::Fails
    } else {
        Refusal::Silent
    };
    let Some(row) = world.server.files.rows.values_mut().nth(number) else {
        return false;
    };
    match fault {
        Fault::ForeignMark => {
            let id = row_number(&row.name.id);
            let is_sent = world.broker.has(row.event) && row.is_visible;
            if row.is_marked || row.is_locked || !is_sent {
                return false;
            }
            row.is_marked = true;
            world.foreign_marks.insert(id);
            world.saw("marked by another program");
        }
        Fault::Lock => row.is_locked ^= true,
        Fault::Trigger => row.refuses = Some(refusal),
        Fault::Unmark if row.is_marked => {
            row.is_marked = false;
            let event = row.event;
            world
                .broker
                .copies
                .may_repeat(event, "its mark was removed");
            world.unorder();
            world.unmarks = true;
            world.saw("mark removed");
        }
        _ => return false,
    }
    true
}

fn kafka_fault(fault: Fault, world: &mut World, place: &mut Option<Process>) -> bool {
    match fault {
        Fault::Refuse if !world.events.is_empty() => {
            let count = world.events.len();
            let event = world.rng.usize(count.saturating_sub(20)..count);
            let times = if world.rng.bool() { u32::MAX } else { 1 };
            world.broker.refuses.insert(event, times);
            world.is_ordered = false;
            world.saw("refused");
            return true;
        }
        Fault::BrokerAway => {
            world.broker.is_away = true;
            // Records behind one that failed may be appended, and are sent again behind it.
            world.is_ordered = false;
            world.saw("broker away");
            return true;
        }
        Fault::BrokerBack if world.broker.is_away => {
            world.broker.is_away = false;
            return true;
        }
        Fault::Topic => {
            let topic = world.rng.usize(0..world.broker.missing.len());
            world.broker.missing[topic] ^= true;
            world.is_ordered = false;
            world.saw("topic deleted or created");
            return true;
        }
        Fault::Resolve => {
            let discard = world.rng.u8(0..4) == 0;
            return world.server.files.letters.resolve_all(discard);
        }
        _ => {}
    }
    let Some(process) = place else { return false };
    match fault {
        Fault::Full => process.is_full ^= true,
        Fault::FailProducer | Fault::StickProducer => {
            process.producer.is_stuck |= fault == Fault::StickProducer;
            process.tick(world);
            process.engine.replace_producer(process.now, "it failed");
            world.saw("producer failed");
        }
        _ => return false,
    }
    true
}

/// Ends every fault. What was lost stays lost.
pub(super) fn lift(world: &mut World, processes: &mut [Option<Process>]) {
    if !world.is_up {
        world.restart(None);
    }
    while world.commit() {}
    world.is_paused = false;
    (
        world.server.files.is_published,
        world.server.files.has_publication,
    ) = (true, true);
    world.broker.missing = [false; 2];
    for row in world.server.files.rows.values_mut() {
        (row.is_locked, row.is_visible) = (false, true);
    }
    (world.broker.is_away, world.is_standby_away) = (false, false);
    world.broker.refuses.clear();
    for process in processes.iter_mut().flatten() {
        process.is_frozen = false;
        process.is_full = false;
        process.fails_to_decode = false;
    }
}

/// A process that has ended with an error is started again by its operator.
pub(super) fn restart_failed(world: &mut World, place: &mut Option<Process>) {
    if let Some(process) = place
        && matches!(process.state, State::Failed | State::Stopped)
    {
        if let Some(pid) = process.pid {
            world.end_session(pid, false);
        }
        process.kill(world);
        *place = None;
        world.saw("ended for a person");
    }
}
