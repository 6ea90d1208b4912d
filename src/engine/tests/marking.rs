//! Marks: which wait, which come again, and what the table refuses.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

#[test]
fn a_write_back_that_is_due_survives_the_end_of_the_session() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    delivered(&mut engine, MS, ticket);
    engine.poll(MS);
    engine.session_ended();
    engine.session_started(MS * 2);
    let due = outputs(&mut engine);
    let kept = |output: &Output| match output {
        Output::Sink(SinkOutput::Work {
            work: DatabaseWork::Mark(marks),
            ..
        }) => marks.len() == 1,
        _ => false,
    };
    assert!(due.iter().any(kept), "{due:?}");
}

#[test]
fn a_write_back_of_before_a_reset_says_nothing_about_the_one_that_is_out() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    delivered(&mut engine, MS, ticket);
    let old = write_back(&mut engine, MS);
    engine.session_ended();
    engine.reset(Lsn::new(100));
    engine.session_started(MS);
    let ticket = transaction(&mut engine, 100);
    delivered(&mut engine, MS, ticket);
    let new = write_back(&mut engine, MS);
    written(&mut engine, MS * 2, old, true);
    assert!(!engine.is_drained(), "a batch is still out");
    assert_eq!(engine.stats().confirmed, Lsn::new(100));
    written(&mut engine, MS * 3, new, true);
    assert!(engine.is_drained());
    assert_eq!(engine.stats().confirmed, Lsn::new(110));
}

#[test]
fn rows_that_cannot_be_marked_yet_are_tried_again_however_many_new_ones_follow() {
    let mut engine = engine();
    let first = transaction(&mut engine, 100);
    delivered(&mut engine, MS, first);
    for round in 0..1_000u32 {
        let now = MS * (2 + round * 10);
        let batch = write_back(&mut engine, now);
        let tried_again = round > 0 && batch.marks.iter().any(|mark| mark.ticket == first);
        if tried_again {
            return;
        }
        written(&mut engine, now, batch, false);
        let ticket = transaction(&mut engine, 200 + 100 * u64::from(round));
        delivered(&mut engine, now, ticket);
    }
    panic!("never tried again in ten seconds");
}

#[test]
fn events_are_read_no_faster_than_their_rows_are_marked() {
    let mut engine = engine_with(1, OnPoison::DeadLetter);
    engine.limits.memory_limit = usize::MAX;
    let mut commits = (1..).map(|n| 100 + n * 100);
    let mut publish = |engine: &mut Engine| {
        let ticket = transaction(engine, commits.next().unwrap());
        delivered(engine, MS, ticket);
    };
    let mut count = 0;
    while engine.intake() == Intake::Open {
        publish(&mut engine);
        count += 1;
    }
    assert_eq!(count, 40_000);
    // A batch that is being written no longer counts against the limit.
    let batch = write_back(&mut engine, MS);
    assert_eq!(batch.marks.len(), 5_000);
    assert_eq!(engine.intake(), Intake::Open);
    // Locked rows are deferred, and hold up no reading until they are tried again.
    written(&mut engine, MS, batch, false);
    assert_eq!(engine.intake(), Intake::Open);
}

#[test]
fn deferred_rows_come_back_in_their_order_before_newer_ones() {
    let mut engine = engine();
    for commit in [100, 200, 300] {
        let ticket = transaction(&mut engine, commit);
        delivered(&mut engine, MS, ticket);
    }
    let batch = write_back(&mut engine, MS);
    written(&mut engine, MS, batch, false);
    let ticket = transaction(&mut engine, 400);
    delivered(&mut engine, MS * 51, ticket);
    let rows: Vec<i64> = write_back(&mut engine, MS * 51)
        .marks
        .iter()
        .filter_map(|mark| mark.row.id.number())
        .collect();
    assert_eq!(rows, [100, 200, 300, 400]);
}

#[test]
fn every_number_is_a_row_and_an_event_without_a_row_needs_no_mark() {
    let mut engine = engine();
    let mut commit = 100;
    for row in [0, i64::MIN, -1, i64::MAX] {
        let (ticket, _) = begin_row(&mut engine, commit, Some(row));
        engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
        delivered(&mut engine, MS, ticket);
        let batch = write_back(&mut engine, MS);
        assert_eq!(batch.marks[0].row.id, row);
        written(&mut engine, MS, batch, true);
        commit += 10;
    }
    let (ticket, _) = begin_row(&mut engine, commit, None);
    engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
    delivered(&mut engine, MS, ticket);
    assert!(engine.is_drained());
    assert_eq!(engine.stats().confirmed, Lsn::new(commit + 10));
}

#[test]
fn what_was_settled_before_the_stream_holds_a_failover_slot_until_standbys_have_it() {
    for (is_failover, before) in [(true, 100), (false, 160)] {
        let mut engine = engine();
        engine.set_failover_slot(is_failover);
        engine.reset(Lsn::new(100));
        engine.hold_for_standbys(Lsn::new(500));
        engine.begin(Lsn::new(150));
        engine.commit(Lsn::new(150), Lsn::new(160));
        assert_eq!(engine.flushed(), Lsn::new(before));
        engine.keepalive(MS, Lsn::new(500), false);
        assert!(engine.flushed() >= Lsn::new(160));
    }
}

/// Marks that are committed at a position that is not known count for nothing yet.
#[test]
fn on_a_failover_slot_marks_without_their_position_are_written_again() {
    let mut engine = engine();
    engine.set_failover_slot(true);
    let ticket = transaction(&mut engine, 100);
    delivered(&mut engine, MS * 2, ticket);
    for position in [None, Some(Lsn::new(200))] {
        let now = engine.now + MS * 5_000;
        let Batch {
            generation,
            mut marks,
        } = write_back(&mut engine, now);
        assert_eq!(marks.len(), 1);
        marks[0].outcome = Outcome::Settled;
        let result = position.map(|_| None).ok_or(());
        let work = DatabaseWork::Mark(marks);
        engine.work_finished(now, generation, work, result, position);
        assert_eq!(engine.stats().confirmed, Lsn::new(100), "{position:?}");
    }
    engine.keepalive(engine.now, Lsn::new(200), false);
    assert!(engine.stats().confirmed > Lsn::new(100));
}

/// A standby that is promoted must have them too, or their events are lost with the primary.
#[test]
fn on_a_failover_slot_dead_letters_are_held_back_as_marks_are() {
    let mut engine = engine();
    let (file, close) = (
        DatabaseWork::File(Vec::new()),
        DatabaseWork::Close(Vec::new()),
    );
    assert!(!engine.needs_position(&file));
    engine.set_failover_slot(true);
    assert!(engine.needs_position(&file) && engine.needs_position(&close));
}

/// Kafka has their events, so all that the table refuses is filed, and the publisher then stops.
#[test]
fn a_table_that_refuses_one_mark_after_another_stops_the_publisher_at_the_limit() {
    for (earlier, expected) in [(0, 6), (5, 1)] {
        let mut engine = engine();
        engine.filed_recently(MS, earlier);
        let mut refused = 0;
        let end = loop {
            let ticket = transaction(&mut engine, 110 + refused * 20);
            delivered(&mut engine, MS * 2, ticket);
            let Batch {
                generation,
                mut marks,
            } = write_back(&mut engine, MS * 5_000);
            // While its dead letter is not filed, the row is open.
            marks[0].outcome = Outcome::Refused;
            let work = DatabaseWork::Mark(marks.clone());
            engine.work_finished(MS * 5_000, generation, work, Err(()), None);
            assert_eq!(engine.unsettled_rows().len(), 1);
            let Batch { generation, .. } = write_back(&mut engine, MS * 20_000);
            marks[0].outcome = Outcome::Filed;
            let work = DatabaseWork::Mark(marks);
            engine.work_finished(MS * 20_000, generation, work, Ok(None), None);
            assert_eq!(engine.unsettled_rows().len(), 0);
            refused += 1;
            engine.poll(MS * 20_000);
            let ends = |output| match output {
                Output::Session(SessionOutput::End(end)) => Some(end),
                _ => None,
            };
            let mut outputs = outputs(&mut engine);
            if let Some(end) = outputs.pop().and_then(ends) {
                // The position of all that is settled comes first.
                let Some(Output::Session(SessionOutput::Status { flush, .. })) = outputs.pop()
                else {
                    panic!("no status update before {end:?}");
                };
                assert_eq!(flush, Lsn::new(100 + refused * 20));
                break end;
            }
        };
        assert_eq!(refused, expected);
        let End::Halted(rejection) = end else {
            panic!("{end:?}");
        };
        assert_eq!(rejection.code, "MARKS_REFUSED");
        assert_ne!(engine.intake(), Intake::Open);
        let hint = End::Halted(rejection).into_error().report();
        assert!(hint.contains("discard"), "{hint}");
    }
}
