//! A pause: what it lets in, what it waits for, and what goes on.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

/// The read of the pause that is due now.
fn read_due(engine: &mut Engine, now: Duration) -> Option<(u64, bool)> {
    engine.poll(now);
    outputs(engine).into_iter().find_map(|output| match output {
        Output::Sink(SinkOutput::Work {
            generation,
            work: DatabaseWork::ReadPause { stands_still },
        }) => Some((generation, stands_still)),
        _ => None,
    })
}

fn was_read(engine: &mut Engine, now: Duration, generation: u64, paused: Option<bool>) {
    let work = DatabaseWork::ReadPause {
        stands_still: false,
    };
    let result = paused.map(|paused| {
        Some(PendingRequests {
            paused: Some(paused),
            ..PendingRequests::default()
        })
    });
    engine.work_finished(now, generation, work, result.ok_or(()), None);
}

#[test]
fn the_open_transaction_is_taken_in_whole_and_nothing_behind_it() {
    let mut engine = engine();
    begin(&mut engine, 100);
    engine.set_paused(MS, true);
    assert_eq!(engine.intake(), Intake::Open);
    assert!(!engine.takes_rows(), "a row of the table is no part of it");
    engine.commit(Lsn::new(100), Lsn::new(110));
    assert_eq!(engine.intake(), Intake::Paused);
    engine.set_paused(MS, false);
    assert_eq!(engine.intake(), Intake::Open);
    assert!(engine.takes_rows());
}

/// An engine in a pause whose server was restarted. The stream has repeated its last transaction.
fn restarted() -> Engine {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.keepalive(MS, Lsn::new(150), false);
    engine.set_paused(MS, true);
    delivered(&mut engine, MS, ticket);
    engine.session_ended();
    engine.doubt();
    engine.expect_proof(Lsn::new(90)).unwrap();
    engine.set_paused(MS, true);
    engine.session_started(MS);
    engine.begin(Lsn::new(100));
    engine.commit(Lsn::new(100), Lsn::new(110));
    engine
}

#[test]
fn the_transaction_that_proves_the_history_is_taken_in_at_the_end_of_the_pause() {
    let mut engine = restarted();
    assert_eq!(engine.intake(), Intake::Open);
    engine.begin(Lsn::new(200));
    assert_eq!(engine.intake(), Intake::Paused);
    engine.set_paused(MS, false);
    assert_eq!(engine.intake(), Intake::Open);
    assert_eq!(engine.change(), Some(0));
}

#[test]
fn a_stop_discards_the_transaction_that_proved_the_history() {
    let mut engine = restarted();
    engine.begin(Lsn::new(200));
    engine.stop();
    assert_eq!(engine.intake(), Intake::Discard);
    let batch = write_back(&mut engine, MS);
    written(&mut engine, MS, batch, true);
    engine.poll(MS * 2);
    engine.slot_position(Some(Lsn::new(150)));
    let due = outputs(&mut engine);
    let is_end = |it: &Output| matches!(it, Output::Session(SessionOutput::End(End::Stopped)));
    assert!(due.iter().any(is_end), "{due:?}");
}

#[test]
fn a_transaction_that_was_cut_is_taken_in_whole() {
    let mut engine = engine();
    begin(&mut engine, 100);
    engine.session_ended();
    engine.set_paused(MS, true);
    engine.session_started(MS);
    assert_eq!(engine.intake(), Intake::Open);
    engine.begin(Lsn::new(100));
    assert_eq!(engine.intake(), Intake::Open);
    assert_eq!(engine.change(), None);
    assert_eq!(engine.change(), Some(1));
}

#[test]
fn the_request_is_read_each_second_and_a_failed_read_changes_nothing() {
    let mut engine = engine();
    assert_eq!(
        read_due(&mut engine, MS * 5_000),
        None,
        "no session has read it"
    );
    engine.set_paused(MS * 5_000, true);
    assert_eq!(read_due(&mut engine, MS * 5_500), None);
    let (generation, _) = read_due(&mut engine, MS * 6_000).unwrap();
    was_read(&mut engine, MS * 6_000, generation, None);
    assert_eq!(engine.intake(), Intake::Paused);
    let (generation, _) = read_due(&mut engine, MS * 7_000).unwrap();
    was_read(&mut engine, MS * 7_000, generation, Some(false));
    assert_eq!(engine.intake(), Intake::Open);
}

#[test]
fn it_stands_still_once_what_was_sent_is_marked() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.set_paused(MS, true);
    let (generation, stands_still) = read_due(&mut engine, MS * 1_001).unwrap();
    assert!(!stands_still, "a record is in flight");
    was_read(&mut engine, MS * 1_001, generation, Some(true));
    delivered(&mut engine, MS * 1_001, ticket);
    let batch = write_back(&mut engine, MS * 1_002);
    written(&mut engine, MS * 1_002, batch, true);
    let (_, stands_still) = read_due(&mut engine, MS * 2_002).unwrap();
    assert!(stands_still);
}

#[test]
fn requests_about_dead_letters_wait_for_its_end() {
    let mut engine = engine();
    engine.set_paused(MS, true);
    let reads = |engine: &mut Engine, now| {
        engine.poll(now);
        let mut reads = false;
        while let Some(output) = engine.output() {
            if let Output::Sink(SinkOutput::Work { generation, work }) = output {
                reads |= matches!(work, DatabaseWork::ReadRequests { .. });
                engine.work_finished(now, generation, work, Ok(None), None);
            }
        }
        reads
    };
    for second in 2..10 {
        assert!(!reads(&mut engine, MS * 1_000 * second));
    }
    engine.set_paused(MS * 10_000, false);
    assert!(reads(&mut engine, MS * 10_500));
}

#[test]
fn a_stop_needs_no_end_of_it() {
    let mut engine = engine();
    engine.set_paused(MS, true);
    engine.stop();
    assert_eq!(engine.intake(), Intake::Discard);
    engine.slot_position(Some(Lsn::new(100)));
    let due = outputs(&mut engine);
    let is_end = |it: &Output| matches!(it, Output::Session(SessionOutput::End(End::Stopped)));
    assert!(due.iter().any(is_end), "{due:?}");
}
