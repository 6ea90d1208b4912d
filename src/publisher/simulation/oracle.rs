//! What the simulation demands when every fault is lifted.

use std::collections::{BTreeSet, HashMap};

use crate::config::OnPoison;
use crate::engine::output::Intake;
use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::letters::State as LetterState;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::{Insert, Row};
use crate::publisher::simulation::world::World;

/// What is not as it should be at the end.
pub(super) fn unfinished(world: &World, processes: &[Option<Process>]) -> Option<String> {
    let files = &world.server.files;
    let inserts = files.log.iter().flat_map(|it| it.changes.iter().flatten());
    for insert in inserts {
        let is_there = world.broker.has(insert.event) || files.letters.has(insert.event);
        if !is_there && !world.lost.contains(&insert.event) {
            return Some(format!("event {} is nowhere: {insert:?}", insert.event));
        }
    }
    let is_left = |row: &&Row| !row.is_marked && !files.letters.hides(&row.name);
    if let Some(row) = files.rows.values().find(is_left)
        && world.marks()
    {
        return Some(format!("{row:?} is not marked"));
    }
    if files.letters.has_due() {
        return Some("a request about a dead letter is pending".to_owned());
    }
    let all = || processes.iter().flatten();
    if all().any(|process| process.producer.may_append()) {
        return Some("a record is in flight".to_owned());
    }
    let is_gone = |pid: &i32| !world.server.sessions.contains_key(pid);
    if all().any(|process| process.pid.as_ref().is_some_and(is_gone)) {
        return Some("a session has ended, and its process does not know".to_owned());
    }
    if all().any(|process| process.is_stopping) {
        return Some("a process is being stopped".to_owned());
    }
    let works = all().any(|it| match it.state {
        State::Streaming(_) | State::Polling(_) => {
            it.engine.is_drained() && it.table() == files.table
        }
        _ => false,
    });
    (!works).then(|| {
        let states = all().map(|it| format!("{:?} {:?}", it.state, it.engine.stats()));
        states.collect::<Vec<_>>().join("\n")
    })
}

/// The first deliveries of each key are in commit order.
pub(super) fn check_order(world: &World) {
    if !world.is_ordered {
        return;
    }
    let log = &world.server.files.log;
    let inserts = log.iter().flat_map(|it| it.changes.iter().flatten());
    let position: HashMap<usize, usize> = inserts
        .enumerate()
        .map(|(position, insert)| (insert.event, position))
        .collect();
    for log in &world.broker.logs {
        let mut seen = BTreeSet::new();
        let log = log.iter().map(|record| record.event);
        let first = log.filter(|event| seen.insert(*event));
        let mut last = [None; 3];
        for event in first {
            let at = position.get(&event);
            let key = usize::from(world.events[event].key);
            assert!(at >= last[key], "event {event} overtook another of its key");
            last[key] = at;
        }
    }
}

/// The last record of each event lies behind those of all earlier events of its key, of those that
/// are in Kafka.
pub(super) fn check_last_words(world: &World) {
    if !world.keeps_last_words {
        return;
    }
    let log = &world.server.files.log;
    let inserts = log.iter().flat_map(|it| it.changes.iter().flatten());
    let place = |event: &usize| (world.events[*event].partition, world.events[*event].key);
    // What a person resolves, and what a process without the lock still had in flight, comes when
    // it comes. The events of a parked key come again, in order, once its dead letter is resolved.
    let parks = world.config.on_poison == OnPoison::ParkKey;
    let letters = world.server.files.letters.all();
    let unsent = letters.filter(|it| it.is_open() || it.state == LetterState::Discarded);
    let unsent = unsent.filter_map(|it| it.event.as_ref());
    let filed = world.filed.iter().filter(|_| !parks);
    let late = world.broker.late.iter();
    let exempt: BTreeSet<_> = filed.chain(late).chain(unsent).map(place).collect();
    let mut expected: HashMap<_, Vec<usize>> = HashMap::new();
    for Insert { event, .. } in inserts.filter(|it| world.broker.has(it.event)) {
        expected.entry(place(event)).or_default().push(*event);
    }
    for ((partition, key), expected) in &expected {
        let mut seen = BTreeSet::new();
        let log = world.broker.logs[*partition].iter().rev();
        let log = log.map(|record| record.event);
        let log = log.filter(|event| world.events[*event].key == *key);
        let mut last: Vec<usize> = log.filter(|event| seen.insert(*event)).collect();
        last.reverse();
        assert!(
            last == *expected || exempt.contains(&(*partition, *key)),
            "the last records of key {key} in partition {partition} are those of the events \
             {last:?}, not {expected:?}"
        );
    }
}

/// Rows that are locked or not visible hold up no others, if nothing else is wrong.
pub(super) fn check_held_up(world: &World, processes: &[Option<Process>]) {
    let files = &world.server.files;
    let broker = &world.broker;
    // A row whose mark was removed while others wait comes when those are settled.
    let is_well = world.is_up
        && !world.unmarks
        && !broker.is_away
        && broker.missing == [false; 2]
        && broker.refuses.is_empty()
        && !world.is_standby_away
        && files.is_published
        && files.has_publication
        && world.server.open.is_empty();
    let works = |process: &Process| {
        let has_session = matches!(process.state, State::Streaming(_) | State::Polling(_));
        // What waits for its mark takes memory, of which the processes here have very little.
        let has_room = process.engine.intake() == Intake::Open;
        let is_well = !process.is_frozen && !process.is_full && !process.producer.is_stuck;
        let is_well = is_well && !process.is_stopping;
        has_session && has_room && is_well
    };
    if !is_well || !processes.iter().flatten().any(works) {
        return;
    }
    // The audit alone brings the others, once the slot has passed every locked row.
    let comes = |row: &Row| world.polls() || world.comes_by_stream(row.event);
    let is_free = |row: &&Row| row.is_visible && !row.is_locked && comes(row);
    for row in files.rows.values().filter(is_free) {
        let is_lost = world.lost.contains(&row.event);
        assert!(is_lost || world.is_settled(row.event), "{row:?} is held up");
    }
}
