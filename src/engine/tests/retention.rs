//! Retention: old rows are deleted beside the events, and nothing waits for it.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;
use crate::outbox::RetentionStep;

const HOUR: Duration = Duration::from_secs(3_600);

/// An engine that deletes old rows, and whose first step is under way.
fn deleting() -> (Engine, u64) {
    let mut engine = engine();
    engine.retention = crate::engine::retention::Retention::new(Some(HOUR), None);
    engine.poll(MS);
    let step = step(&mut engine);
    (engine, step.unwrap())
}

/// The generation of the step that is to be done, if one is due; other outputs are dropped.
fn step(engine: &mut Engine) -> Option<u64> {
    let mut all = outputs(engine).into_iter();
    all.find_map(|output| match output {
        Output::Sink(SinkOutput::Work {
            generation,
            work: DatabaseWork::Retain(_),
        }) => Some(generation),
        _ => None,
    })
}

fn ended(engine: &mut Engine, now: Duration, generation: u64) {
    let step = RetentionStep {
        rows: 500,
        took: MS * 10,
        ..RetentionStep::default()
    };
    let work = DatabaseWork::Retain(Some(step));
    engine.work_finished(now, generation, work, Ok(None), None);
    engine.poll(now);
}

#[test]
fn a_stop_waits_for_no_step_and_begins_none() {
    let (mut engine, step_out) = deleting();
    engine.stop();
    engine.poll(MS * 2);
    assert!(engine.is_drained(), "a step holds up no stop");
    ended(&mut engine, MS * 3, step_out);
    engine.poll(HOUR);
    assert_eq!(step(&mut engine), None);
}

#[test]
fn under_load_steps_wait_for_their_share_and_then_go_before_marks() {
    let (mut engine, step_out) = deleting();
    let ticket = transaction(&mut engine, 100);
    // The step has taken 10 ms, so its share is due after 2,990 more.
    ended(&mut engine, MS * 11, step_out);
    engine.poll(MS * 3_000);
    assert_eq!(step(&mut engine), None);
    delivered(&mut engine, MS * 3_000, ticket);
    engine.poll(MS * 3_001);
    let due = step(&mut engine).expect("the share of the steps");
    let confirmed = engine.stats().confirmed;
    ended(&mut engine, MS * 3_003, due);
    assert_eq!(
        engine.stats().confirmed,
        confirmed,
        "a step confirms nothing"
    );
    let batch = write_back(&mut engine, MS * 3_003);
    assert_eq!(batch.marks.len(), 1);
    written(&mut engine, MS * 3_004, batch, true);
    assert_eq!(engine.stats().confirmed, Lsn::new(110));
}

#[test]
fn with_nothing_else_to_do_a_step_follows_after_two_thirds_of_that_pause() {
    let (mut engine, step_out) = deleting();
    ended(&mut engine, MS * 11, step_out);
    engine.poll(MS * 2_000);
    assert_eq!(step(&mut engine), None);
    assert!(engine.deadline() <= Some(MS * 2_001));
    engine.poll(MS * 2_001);
    assert!(step(&mut engine).is_some());
}

#[test]
fn no_step_begins_while_another_instance_may_have_the_lock() {
    let (mut engine, step_out) = deleting();
    engine.session_ended();
    ended(&mut engine, MS * 2, step_out);
    engine.poll(HOUR);
    assert_eq!(step(&mut engine), None);
}
