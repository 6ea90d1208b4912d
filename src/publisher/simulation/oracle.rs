//! What the simulation demands when every fault is lifted.

use std::collections::{BTreeSet, HashMap};

use crate::publisher::simulation::attempt::State;
use crate::publisher::simulation::letters::Letter;
use crate::publisher::simulation::process::Process;
use crate::publisher::simulation::server::Row;
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
    let is_left = |row: &&Row| !row.is_marked && !files.letters.hides(row.name);
    if let Some(row) = files.rows.values().find(is_left)
        && world.marks()
    {
        return Some(format!("{row:?} is not marked"));
    }
    if files.letters.all().any(Letter::is_requested) {
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
    let works = all().any(|it| match it.state {
        State::Streaming(_) | State::Polling(_) => it.engine.is_drained(),
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
        let first = log.iter().filter(|event| seen.insert(**event));
        let mut last = [None; 3];
        for event in first {
            let at = position.get(event);
            let key = usize::from(world.events[*event].key);
            assert!(at >= last[key], "event {event} overtook another of its key");
            last[key] = at;
        }
    }
}
