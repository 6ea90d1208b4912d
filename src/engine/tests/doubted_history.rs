//! A server that was restarted: memory waits for a proof of its history.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

/// An engine whose event of the transaction at 100 waits for its mark, and that has received
/// everything up to 150 from a server that was restarted then.
fn doubted() -> Engine {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.keepalive(MS, Lsn::new(150), false);
    engine.session_ended();
    delivered(&mut engine, MS, ticket);
    engine.doubt();
    assert_eq!(engine.expect_proof(Lsn::new(90)), Some(Lsn::new(100)));
    engine.session_started(MS);
    engine
}

fn is_mark(output: &Output) -> bool {
    let Output::Sink(SinkOutput::Work { work, .. }) = output else {
        return false;
    };
    matches!(work, DatabaseWork::Mark(_))
}

#[test]
fn after_a_restart_no_row_is_marked_and_nothing_confirmed_before_the_history_is_proven() {
    let mut engine = doubted();
    engine.poll(MS);
    let mut flushed = Vec::new();
    for output in outputs(&mut engine) {
        assert!(!is_mark(&output));
        if let Output::Session(SessionOutput::Status { flush, .. }) = output {
            flushed.push(flush);
        }
    }
    assert_eq!(flushed, [Lsn::new(90)], "the slot's own position");
    engine.begin(Lsn::new(100));
    assert_eq!(engine.change(), None, "it was sent before");
    engine.commit(Lsn::new(100), Lsn::new(110));
    engine.poll(MS * 200);
    assert!(!outputs(&mut engine).iter().any(is_mark));
    assert!(
        engine.deadline() > Some(MS * 200),
        "the loop rests meanwhile"
    );
    engine.keepalive(MS * 200, Lsn::new(150), false);
    let batch = write_back(&mut engine, MS * 200);
    assert_eq!(batch.marks[0].row.id, 100);
    written(&mut engine, MS * 200, batch, true);
    assert_eq!(engine.stats().confirmed, Lsn::new(150));
}

#[test]
fn another_history_ends_the_session_before_a_row_is_marked() {
    let mut engine = doubted();
    engine.begin(TransactionName {
        commit_lsn: Lsn::new(100),
        xid: 2,
        committed_micros: 0,
    });
    engine.poll(MS);
    let violated = outputs(&mut engine).into_iter().any(|output| {
        assert!(!is_mark(&output));
        matches!(
            output,
            Output::Session(SessionOutput::End(End::Violated(
                Violation::OtherHistory { .. }
            )))
        )
    });
    assert!(violated);
    engine.session_ended();
    engine.reset(Lsn::new(90));
    assert!(engine.is_proven() && engine.is_drained());
}

#[test]
fn a_stop_waits_for_the_proof_and_then_for_the_marks() {
    let mut engine = doubted();
    engine.stop();
    assert_eq!(engine.intake(), Intake::Open);
    engine.begin(Lsn::new(100));
    engine.commit(Lsn::new(100), Lsn::new(110));
    engine.keepalive(MS, Lsn::new(150), false);
    assert_eq!(engine.intake(), Intake::Discard);
    let batch = write_back(&mut engine, MS);
    written(&mut engine, MS, batch, true);
    engine.slot_position(Some(Lsn::new(150)));
    let stopped =
        |output: &Output| matches!(output, Output::Session(SessionOutput::End(End::Stopped)));
    assert!(outputs(&mut engine).iter().any(stopped));
}

#[test]
fn memory_that_is_full_does_not_keep_the_proof_out() {
    let mut engine = engine();
    engine.limits.memory_limit = 1;
    transaction(&mut engine, 100);
    assert_eq!(engine.intake(), Intake::Paused);
    engine.session_ended();
    engine.doubt();
    assert!(engine.expect_proof(Lsn::new(90)).is_some());
    engine.session_started(MS);
    assert_eq!(engine.intake(), Intake::Open);
    engine.begin(Lsn::new(100));
    engine.commit(Lsn::new(100), Lsn::new(110));
    assert_eq!(engine.intake(), Intake::Paused);
}

#[test]
fn nothing_is_sent_again_before_the_history_is_proven() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.keepalive(MS, Lsn::new(150), false);
    engine.session_ended();
    engine.doubt();
    refused(&mut engine, MS, ticket, 100);
    assert_eq!(engine.expect_proof(Lsn::new(90)), Some(Lsn::new(100)));
    engine.session_started(MS);
    assert!(sends(&mut engine, MS * 1_000).is_empty());
    engine.begin(Lsn::new(100));
    engine.change();
    engine.commit(Lsn::new(100), Lsn::new(110));
    assert!(sends(&mut engine, MS * 1_000).is_empty());
    engine.keepalive(MS * 1_000, Lsn::new(150), false);
    assert_eq!(sends(&mut engine, MS * 1_000), [ticket]);
}
