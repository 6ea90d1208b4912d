//! Runs the publisher's decisions in thousands of seeded worlds, and checks what they promise.
//!
//! A schedule is a seed: it chooses the configuration, one or two processes, a few kinds of faults
//! and the order of steps. At the end every fault is lifted. Within a bounded number of steps every
//! event that is committed in the history that survived must then be in Kafka or have a dead
//! letter, and its row must be marked. No row is ever marked whose event was not sent; each copy
//! has a cause (see [`copies`](super::copies)); the newest event of a key is its last word; nothing
//! is sent when all is done.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::config::{Config, Settings};
use crate::engine::row_ids::RowIds;
use crate::engine::seeds::{self, Seen};
use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::broker::TOPICS;
use crate::publisher::simulation::faults::{FAULTS, Fault, happens, lift, restart_failed};
use crate::publisher::simulation::oracle::{
    check_held_up, check_last_words, check_order, unfinished,
};
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::world::World;

const MS: Duration = Duration::from_millis(1);
/// How much time passes at once when nothing else is to do.
const PASS: Duration = Duration::from_millis(300);
/// So many passes of time are longer than the interval of write-backs.
const BATCH_WAITS: u32 = 11;
/// Far more than any schedule needs once all faults are lifted.
const ROUNDS_TO_HEAL: u32 = 8_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Write,
    WriteOpen,
    Commit,
    Send,
    Keepalive,
    Hear,
    Drive,
    CarryOut,
    Deliver,
    Report,
    Perform,
    PerformFails,
    Written,
    Answered,
    Wait(u64),
    Visible,
    Checkpoint,
    Replicate,
    SyncSlot,
    Fault(Fault),
}

/// Steps of every schedule, by weight.
const EVERYDAY: [(Step, u32); 13] = [
    (Step::Write, 30),
    (Step::Send, 120),
    (Step::Keepalive, 12),
    (Step::Hear, 40),
    (Step::Drive, 240),
    (Step::CarryOut, 120),
    (Step::Deliver, 100),
    (Step::Report, 100),
    (Step::Perform, 40),
    (Step::Written, 40),
    (Step::Answered, 40),
    (Step::Wait(100), 60),
    (Step::Checkpoint, 6),
];

struct Schedule {
    world: World,
    processes: Vec<Option<Process>>,
    steps: Vec<(Step, u32)>,
}

fn config(rng: &mut Rng) -> Arc<Config> {
    let polls = rng.u8(0..3) == 0;
    let modes = ["mark", "delete", "keep"];
    let mode = modes[rng.usize(0..if polls { 2 } else { 3 })];
    let parks = rng.u8(0..3) == 0;
    let reads_back = rng.u8(0..4) > 0;
    let config = Config::from_settings(Settings {
        database_url: Some("postgres://outboxd@db/orders".to_owned()),
        kafka_brokers: Some("kafka:9092".to_owned()),
        source: Some(if polls { "poll" } else { "slot" }.to_owned()),
        after_publish: Some(mode.to_owned()),
        audit_interval: Some("5s".to_owned()),
        read_back: Some(reads_back.to_string()),
        on_poison: Some(if parks { "park-key" } else { "dead-letter" }.to_owned()),
        ..Settings::default()
    });
    Arc::new(config.expect("the settings are valid"))
}

impl Schedule {
    fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut steps = EVERYDAY.to_vec();
        let config = config(&mut rng);
        let ids = RowIds::of(seed);
        let mut world = World::new(rng, ids, config, trace);
        world.saw(ids.seen());
        // Each schedule has a few kinds of faults of its own, so that none hides behind the others;
        // some have none.
        for _ in 0..world.rng.usize(0..5) {
            let (fault, weight, with) = FAULTS[world.rng.usize(0..FAULTS.len())];
            if fault.needs_marks() && !world.marks() {
                continue;
            }
            steps.push((Step::Fault(fault), weight * world.rng.u32(1..4)));
            steps.extend(with.map(|(with, weight)| (Step::Fault(with), weight)));
        }
        if world.rng.u8(0..3) == 0 {
            steps.push((Step::PerformFails, 8));
        }
        if world.rng.u8(0..4) == 0 {
            steps.push((Step::Wait(20_000), 3));
        }
        if world.rng.bool() {
            steps.extend([(Step::WriteOpen, 6), (Step::Commit, 8)]);
        }
        if world.rng.bool() {
            world.hides_rows = true;
            steps.push((Step::Visible, 20));
        }
        if !world.polls() && world.marks() && world.rng.u8(0..4) == 0 {
            world.server.standby = Some(Box::new(world.server.files.clone()));
            steps.extend([(Step::Replicate, 60), (Step::SyncSlot, 20)]);
        }
        let count = world.rng.usize(1..3);
        Schedule {
            world,
            processes: (0..count).map(|_| None).collect(),
            steps,
        }
    }

    fn run(mut self) -> Seen {
        for _ in 0..self.world.rng.u32(200..1_500) {
            let step = seeds::choose(&self.steps, &mut self.world.rng);
            self.step(step);
        }
        if self.world.rng.u8(0..8) == 0 {
            self.watch();
        }
        lift(&mut self.world, &mut self.processes);
        self.until_done();
        let first = self.world.events.len();
        (self.world.hides_rows, self.world.is_up) = (false, true);
        for _ in 0..8 {
            self.world.write(false);
        }
        self.until_done();
        check_order(&self.world);
        check_last_words(&self.world);
        let mut fresh = (first..).zip(&self.world.broker.appended[first..]);
        let again = fresh.find(|(_, times)| **times > 1);
        assert_eq!(again, None, "an event that no fault met is sent twice");
        let appended = self.world.broker.appended.clone();
        self.go_on();
        assert_eq!(
            appended, self.world.broker.appended,
            "an event is sent again when all is done"
        );
        self.world.seen
    }

    /// Takes a step with some process.
    fn step(&mut self, step: Step) {
        let number = self.world.rng.usize(0..self.processes.len());
        self.step_of(number, step);
    }

    /// Takes a step with this process; false if there was nothing to do.
    fn step_of(&mut self, number: usize, step: Step) -> bool {
        let did = self.world_step(number, step) || self.process_step(number, step);
        if self.world.trace && did {
            let slot = self.world.server.files.slot.map(|slot| slot.confirmed);
            eprintln!("{:?} {number} {step:?} slot {slot:?}", self.world.now);
            if let Some(process) = &self.processes[number] {
                let (state, stats) = (format!("{:?}", process.state), process.engine.stats());
                let (in_flight, unmarked) = (stats.in_flight_count, stats.unmarked_count);
                let name: String = state.chars().take(120).collect();
                eprintln!("    {in_flight} in flight, {unmarked} unmarked, {name}");
            }
        }
        did
    }

    fn world_step(&mut self, number: usize, step: Step) -> bool {
        let place = &mut self.processes[number];
        let pid = place.as_ref().and_then(|process| process.pid).unwrap_or(0);
        let world = &mut self.world;
        match step {
            Step::Write => world.write(false),
            Step::WriteOpen => world.write(true),
            Step::Commit => return world.commit(),
            Step::Send => return world.send(pid),
            Step::Keepalive => return world.keepalive(pid, false),
            Step::Hear => return world.hear(pid),
            Step::Checkpoint => world.server.checkpoint(),
            Step::Replicate => return world.replicate(),
            Step::SyncSlot => return world.sync_slot(),
            Step::Visible => {
                world.show_rows();
            }
            Step::Wait(most) => {
                let time = MS * world.rng.u32(1..=most as u32);
                if world.pass(time) {
                    world.saw("a session expired on the server");
                }
            }
            Step::Fault(fault) => return happens(fault, world, place),
            _ => return false,
        }
        true
    }

    fn process_step(&mut self, number: usize, step: Step) -> bool {
        let (world, place) = (&mut self.world, &mut self.processes[number]);
        if step == Step::Drive {
            restart_failed(world, place);
        }
        let Some(process) = place else {
            if step == Step::Drive {
                *place = Some(Process::new(world));
            }
            return step == Step::Drive;
        };
        if matches!(step, Step::Perform | Step::PerformFails) {
            let Some(work) = process.work.as_mut().filter(|it| it.result.is_none()) else {
                return false;
            };
            world.perform(work, step == Step::PerformFails);
            return true;
        }
        if process.is_frozen {
            return false;
        }
        let partition = world.rng.usize(0..TOPICS.len());
        match step {
            Step::Drive => process.drive(world),
            Step::CarryOut if matches!(process.state, State::Streaming(_)) => {
                process.carry_out_session(world)
            }
            Step::Deliver => {
                let mut rng = world.rng.fork();
                process
                    .producer
                    .deliver(&mut world.broker, partition, &mut rng)
            }
            Step::Report if process.takes_reports() => {
                process.tick(world);
                process.report(world, partition)
            }
            Step::Written if process.takes_reports() => process.written(world),
            Step::Answered => process.answered(world),
            _ => false,
        }
    }

    /// Takes each step once that needs no time to pass.
    fn work(&mut self) -> bool {
        let mut did = false;
        for number in 0..self.processes.len() {
            for step in [
                Step::Replicate,
                Step::Send,
                Step::Hear,
                Step::Drive,
                Step::CarryOut,
                Step::Deliver,
                Step::Deliver,
                Step::Report,
                Step::Report,
                Step::Perform,
                Step::Written,
                Step::Answered,
            ] {
                did |= self.step_of(number, step);
            }
        }
        did
    }

    fn until_done(&mut self) {
        let mut idle = 0;
        for _ in 0..ROUNDS_TO_HEAL {
            idle = if self.work() { 0 } else { idle + 1 };
            if idle < 6 {
                continue;
            }
            if unfinished(&self.world, &self.processes).is_none() {
                return;
            }
            self.pass_time();
            idle = 0;
        }
        for process in self.processes.iter().flatten() {
            self.world.note(|| format!("{:#?}", process.engine));
        }
        panic!(
            "never done: {}",
            unfinished(&self.world, &self.processes).unwrap_or_default()
        );
    }

    fn pass_time(&mut self) {
        self.world.pass(PASS);
        for number in 0..self.processes.len() {
            self.step_of(number, Step::Keepalive);
            let awake = self.processes[number].as_mut();
            if let Some(process) = awake.filter(|process| !process.is_frozen) {
                process.tick(&self.world);
                if matches!(process.state, State::Streaming(_)) {
                    process.engine.poll(process.now);
                }
                process.watch(&self.world);
            }
        }
    }

    /// Faults stay as they are, and each step is taken in its turn, until every wait has lasted.
    fn watch(&mut self) {
        self.world.is_standby_away = self.world.rng.bool();
        self.world.is_fair = true;
        for _ in 0..400 {
            for _ in 0..3 {
                self.work();
            }
            self.pass_time();
        }
        self.world.saw("watched");
        // What can still go on goes on, and every batch is written back at its interval: only where
        // nothing moves then is a row held up.
        let mut rests = self.rest();
        for _ in 0..BATCH_WAITS {
            self.pass_time();
            rests = self.rest();
        }
        if rests {
            check_held_up(&self.world, &self.processes);
        }
        self.world.is_fair = false;
    }

    /// Takes steps until no process has one to take; false if that never happens.
    fn rest(&mut self) -> bool {
        let mut idle = 0;
        for _ in 0..2_000 {
            idle = if self.work() { 0 } else { idle + 1 };
            if idle == 6 {
                return true;
            }
        }
        false
    }

    /// A minute more.
    fn go_on(&mut self) {
        for _ in 0..200 {
            for _ in 0..4 {
                self.work();
            }
            self.pass_time();
        }
    }
}

/// Every kind of event that the schedules have to see.
const EXPECTED: [&str; 52] = [
    "a full producer",
    "a mark that the table refused",
    "a pass while the slot waits",
    "a session expired on the server",
    "another history",
    "bootstrapped",
    "broker away",
    "change skipped",
    "connection lost",
    "decoded without a publication",
    "expired",
    "failed over",
    "found in Kafka",
    "frozen",
    "half-open connection",
    "handled before",
    "healed",
    "held and found in Kafka",
    "ids set back",
    "ids that are long texts",
    "ids that are numbers",
    "ids that are texts",
    "mark removed",
    "marked by another program",
    "memory cleared",
    "missed row sent",
    "older copy restored",
    "passed by without a publication",
    "pause known",
    "pause requested or ended",
    "paused",
    "process crash",
    "producer given up",
    "producer replaced",
    "publication changed",
    "publication dropped or created",
    "refused",
    "resumed",
    "server restarted",
    "slot dropped",
    "slot lost",
    "slot moved",
    "somebody else publishes",
    "standby promoted",
    "stopped",
    "table recreated",
    "taken over",
    "the table is gone",
    "topic deleted or created",
    "topics read back",
    "truncated",
    "watched",
];

#[test]
fn whatever_happens_around_the_engine_every_event_arrives_and_no_other_row_is_marked() {
    seeds::run("publisher::simulation", &EXPECTED, |seed, trace| {
        Schedule::new(seed, trace).run()
    });
}
