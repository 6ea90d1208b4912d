//! Runs the whole engine in thousands of seeded worlds with every kind of fault, and checks its
//! invariants after every step.
//!
//! A schedule is a seed: it chooses the limits, the transactions and the order of steps, such as a
//! message, a delivery report, half a write-back, an hour of silence, or a crash of either side. At
//! the end every fault is lifted: everything must then be published, marked as published and
//! confirmed within a bounded number of steps, in order, and without an unexcused duplicate.
//!
//! [`seeds`] chooses the schedules.

use std::time::Duration;

use fastrand::Rng;

use crate::engine::simulation::process::{Fate, Process};
use crate::engine::simulation::row_ids::RowIds;
use crate::engine::simulation::seeds::{self, Seen};
use crate::engine::simulation::steps::{EVERYDAY, FAULTS, Step};
use crate::engine::simulation::world::World;

const MS: Duration = Duration::from_millis(1);
/// Far more than any schedule needs once all faults are lifted.
const STEPS_TO_HEAL: u32 = 50_000;

struct Schedule {
    world: World,
    process: Option<Process>,
    now: Duration,
    trace: bool,
    steps: Vec<(Step, u32)>,
    /// Whether a fault excuses duplicates.
    repeats: bool,
}

impl Schedule {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut steps = EVERYDAY.to_vec();
        // Each schedule has a few kinds of faults of its own, so that none hides behind the others;
        // some have none.
        let kinds = rng.usize(0..6);
        for _ in 0..kinds {
            let (step, weight) = FAULTS[rng.usize(0..FAULTS.len())];
            steps.push((step, weight * rng.u32(1..4)));
        }
        let ids = RowIds::of(seed);
        let mut world = World::new(rng, ids);
        world.saw(ids.seen());
        Schedule {
            world,
            process: None,
            now: Duration::ZERO,
            trace,
            steps,
            repeats: false,
        }
    }

    fn run(mut self) -> Seen {
        for _ in 0..self.world.rng.u32(100..800) {
            let step = seeds::choose(&self.steps, &mut self.world.rng);
            self.step(step);
        }
        self.heal();
        self.stop_and_start();
        self.world.check_order(false);
        // Records behind a rejected one overtake it once, and are sent again behind it.
        let refused = self.world.seen.contains_key("refused by the broker");
        if !refused {
            self.world.check_order(true);
        }
        let replaced = self.world.seen.contains_key("producer replaced");
        if !self.repeats && !refused && !replaced {
            let twice = self.world.rows.iter().position(|row| row.appended > 1);
            assert_eq!(twice, None, "published twice");
        }
        self.world.seen
    }

    /// Takes a step; false if there was nothing to do.
    fn step(&mut self, step: Step) -> bool {
        let did = self.world_step(step) || self.process_step(step) || self.rejection(step);
        if self.trace && did {
            eprintln!("{:?} {step:?} slot {}", self.now, self.world.confirmed);
            if let Some(process) = &self.process {
                eprintln!("    {:?}", process.engine);
            }
        }
        if let Some(process) = &self.process {
            let snapshot = process.engine.stats();
            self.world.check_confirmed(snapshot.confirmed.raw());
            assert!(snapshot.confirmed <= snapshot.received);
            if did && self.world.rng.u8(0..4) > 0 {
                self.poll();
            }
        }
        did
    }

    fn poll(&mut self) {
        if let Some(process) = &mut self.process {
            process.engine.poll(self.now);
        }
    }

    fn world_step(&mut self, step: Step) -> bool {
        let world = &mut self.world;
        match step {
            Step::Write => world.write(),
            Step::Send => return world.send(),
            Step::AskWithoutEnd if world.stopping => {
                world.shut_down();
                self.notice_close();
            }
            Step::Keepalive { reply } => world.keepalive(reply),
            Step::Hear => return world.hear(),
            Step::Append => {
                let number = world.rng.usize(0..world.partitions.len());
                return world.append(number);
            }
            Step::Perform { rejection } => return world.perform(rejection),
            Step::Ask => {
                let mut rng = world.rng.fork();
                return world.dead_letter_table.ask(&mut rng);
            }
            Step::Topic => {
                let number = world.rng.usize(0..world.topics.len());
                world.topics[number] = !world.topics[number];
            }
            Step::Limit => {
                let number = world.rng.usize(0..world.topics.len());
                let limit = world.rng.usize(50..200);
                world.limits[number] = Some(limit).filter(|_| world.rng.bool());
            }
            Step::Replicate => return world.replicate(),
            Step::Checkpoint => world.checkpoint(),
            Step::Visible | Step::Lock if !world.rows.is_empty() => {
                let number = world.rng.usize(0..world.rows.len());
                let lock = step == Step::Lock;
                world.rows[number].locked = lock;
                world.rows[number].visible |= !lock;
            }
            Step::Wait(most) => self.now += MS * world.rng.u32(1..=most as u32),
            _ => return false,
        }
        true
    }

    fn process_step(&mut self, step: Step) -> bool {
        let (now, world) = (self.now, &mut self.world);
        if let Some(process) = &mut self.process {
            process.now = now;
        }
        let Some(process) = &mut self.process else {
            if step == Step::Connect {
                self.repeats |= world.seen.contains_key("rolled back");
                self.process = Some(Process::new(world));
            }
            return step == Step::Connect;
        };
        match step {
            Step::Read => process.read(now, world),
            Step::PublishMissed => process.publish_missed(world),
            Step::DeliveryResult => {
                let number = world.rng.usize(0..world.partitions.len());
                process.report(now, world, number)
            }
            Step::Written => process.written(now, world),
            Step::MetadataAnswer { rejection } => process.answered(now, world, rejection),
            Step::Poll => {
                process.engine.poll(now);
                true
            }
            Step::CarryOut => {
                let fate = process.carry_out(now, world);
                match fate {
                    Some(Fate::Stopped) => {
                        let clean = process.position_known;
                        self.end_process(clean);
                    }
                    Some(Fate::Halted) => {
                        // The operator fixes the cause.
                        self.world.poison.clear();
                        self.world.topics.iter_mut().for_each(|there| *there = true);
                        self.end_process(false);
                    }
                    Some(Fate::Rewound) => self.repeats = true,
                    Some(Fate::Lives) | None => {}
                }
                fate.is_some()
            }
            Step::Connect if process.stopping => {
                let abandoned = world.link.is_none();
                if abandoned {
                    self.end_process(false);
                }
                abandoned
            }
            Step::Connect => process.connect(now, world),
            Step::GiveUp => {
                let given_up = process.give_up(now, world);
                self.repeats |= given_up;
                given_up
            }
            Step::Position if process.stopping => {
                let position = (!world.stopping).then_some(world.confirmed);
                process.position_known = position.is_some() && world.link.is_some();
                process
                    .engine
                    .slot_position(position.map(crate::lsn::Lsn::new));
                true
            }
            _ => false,
        }
    }

    fn rejection(&mut self, step: Step) -> bool {
        let world = &mut self.world;
        match step {
            Step::ShutDown => world.stopping = world.link.is_some(),
            Step::Poison { always } if !world.rows.is_empty() => {
                let row = world
                    .rng
                    .usize(world.rows.len().saturating_sub(20)..world.rows.len());
                let times = if always { u32::MAX } else { 1 };
                world.poison.insert(row, times);
            }
            Step::Busy => {
                let Some(walsender) = world.walsender() else {
                    return false;
                };
                walsender.busy = !walsender.busy;
            }
            Step::CutLink if world.link.is_some() => {
                world.close(false);
                self.notice_close();
            }
            Step::Vanish => {
                let Some(link) = &mut world.link else {
                    return false;
                };
                link.walsender = None;
            }
            Step::CrashServer => {
                world.close(false);
                world.roll_back();
                self.notice_close();
            }
            Step::CrashProcess if self.process.is_some() => self.end_process(false),
            Step::Rewind => {
                let Some(process) = &mut self.process else {
                    return false;
                };
                self.repeats = true;
                process.disconnect(world, false);
                process.rewind(world);
            }
            Step::FailProducer => {
                let Some(process) = &mut self.process else {
                    return false;
                };
                process.engine.replace_producer(self.now, "it failed");
            }
            Step::Pause => {
                let world = &mut self.world;
                world.is_paused = !world.is_paused;
            }
            Step::Stop => {
                let Some(process) = &mut self.process else {
                    return false;
                };
                process.stopping = true;
                process.engine.stop();
            }
            _ => return false,
        }
        self.world.saw(match step {
            Step::ShutDown => "shutdown",
            Step::Poison { .. } => "poison",
            Step::Busy => "busy walsender",
            Step::CutLink => "cut",
            Step::Vanish => "vanished walsender",
            Step::CrashServer => "server crash",
            Step::CrashProcess => "process crash",
            Step::Rewind => "rewind",
            Step::FailProducer => "producer failure",
            Step::Pause => "pause requested or ended",
            _ => "stop",
        });
        true
    }

    /// Reports to the engine that the server closed the connection.
    fn notice_close(&mut self) {
        if let Some(process) = &mut self.process
            && self.world.link.is_none()
        {
            process.engine.session_ended();
        }
    }

    /// Ends the process: its memory is lost. After a `clean` end the slot has received every
    /// confirmation.
    fn end_process(&mut self, clean: bool) {
        self.repeats |= !clean;
        self.process = None;
        self.world.close(false);
        self.world.lose_producer();
    }

    /// Takes each step once that needs no time to pass.
    fn work(&mut self) -> bool {
        let mut did = false;
        let steps = [
            Step::GiveUp,
            Step::Connect,
            Step::CarryOut,
            Step::Replicate,
            Step::Hear,
            Step::Send,
            Step::Read,
            Step::PublishMissed,
            Step::Append,
            Step::DeliveryResult,
            Step::Perform { rejection: false },
            Step::Written,
            Step::MetadataAnswer { rejection: false },
        ];
        for step in steps {
            let tries = if matches!(step, Step::Append | Step::DeliveryResult) {
                6
            } else {
                1
            };
            did |= (0..tries).any(|_| self.step(step));
            self.poll();
        }
        did
    }

    /// Works until nothing is left to do, then advances time to the engine's deadlines, until
    /// `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Schedule) -> bool) {
        let mut idle = 0;
        for _ in 0..STEPS_TO_HEAL {
            // Reports and appends choose a partition at random, so only several idle rounds mean
            // that there is no work.
            idle = if self.work() { 0 } else { idle + 1 };
            if done(self) {
                return;
            }
            if idle < 10 {
                continue;
            }
            idle = 0;
            // Retries are requested for events rejected before the faults were lifted.
            self.world.dead_letter_table.retry_all();
            self.step(Step::Position);
            self.step(Step::AskWithoutEnd);
            if let Some(process) = &mut self.process
                && self.world.link.is_some()
            {
                // The steps above are inputs, and a poll follows inputs.
                process.engine.poll(self.now);
                let deadline = process.engine.deadline();
                let stuck = "no work and no deadline";
                let deadline = deadline.unwrap_or_else(|| panic!("{what}: {stuck}"));
                assert!(deadline >= self.now, "{what}: a deadline in the past");
                self.now = deadline.max(self.now + MS / 10);
                process.engine.poll(self.now);
            }
        }
        panic!(
            "{what} never came: {:?}",
            self.process.as_ref().map(|process| process.engine.stats())
        );
    }

    fn heal(&mut self) {
        self.world.heal();
        self.until("the end of the WAL", |schedule| {
            let drained = |process: &Process| process.engine.is_drained() && !process.stopping;
            let left_alone = schedule.world.is_published() && !schedule.world.stopping;
            left_alone && schedule.process.as_ref().is_some_and(drained)
        });
    }

    fn stop_and_start(&mut self) {
        // A stop works while a pause lasts, and so does the next start.
        self.world.is_paused = self.world.rng.bool();
        self.step(Step::Wait(2_000));
        while self.work() {}
        self.step(Step::Stop);
        self.until("a graceful stop", |schedule| schedule.process.is_none());
        self.process = Some(Process::new(&mut self.world));
        self.step(Step::Connect);
        while self.work() {}
        let repeated = self.process.as_ref().is_some_and(Process::has_handed_over);
        assert!(
            !repeated,
            "a start after a complete stop sent an event again"
        );
    }
}

/// Every kind of event that the schedules have to see.
const EXPECTED: [&str; 32] = [
    "busy walsender",
    "producer replaced",
    "change skipped",
    "cut",
    "acknowledged by a rewind",
    "trust from before a failure",
    "attempt counted",
    "closed",
    "filed",
    "halted",
    "lapsed",
    "ids that are long texts",
    "ids that are numbers",
    "ids that are texts",
    "kept",
    "let the server stop",
    "pause requested or ended",
    "paused",
    "poison",
    "process crash",
    "report of before a reset",
    "rewind",
    "row from the table",
    "server crash",
    "server left",
    "shutdown",
    "silent",
    "stop",
    "stopped",
    "vanished walsender",
    "withdrawn",
    "write-back of before a reset",
];

#[test]
fn whatever_happens_nothing_is_lost_reordered_or_needlessly_repeated() {
    seeds::run("engine::simulation", &EXPECTED, |seed, trace| {
        Schedule::new(seed, trace).run()
    });
}
