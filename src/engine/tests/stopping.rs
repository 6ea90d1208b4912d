//! A stop: what it waits for, and what it leaves.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

#[test]
fn a_stop_within_a_transaction_reads_it_to_its_commit() {
    let mut engine = engine();
    let ticket = begin(&mut engine, 100);
    engine.stop();
    delivered(&mut engine, MS, ticket);
    let batch = write_back(&mut engine, MS);
    written(&mut engine, MS, batch, true);
    engine.slot_position(Some(Lsn::new(100)));
    assert!(
        outputs(&mut engine).is_empty(),
        "stopped inside a transaction"
    );
    assert_eq!(engine.intake(), Intake::Open);
    engine.commit(Lsn::new(100), Lsn::new(110));
    assert_eq!(engine.intake(), Intake::Discard);
    engine.slot_position(Some(Lsn::new(110)));
    let due = outputs(&mut engine);
    assert!(
        matches!(due[..], [Output::Session(SessionOutput::End(End::Stopped))]),
        "{due:?}"
    );
}

#[test]
fn a_stop_does_not_wait_for_a_transaction_that_the_lost_session_cut() {
    let mut engine = engine();
    begin(&mut engine, 100);
    engine.session_ended();
    engine.stop();
    assert_eq!(engine.intake(), Intake::Discard);
}

/// All that is due then is a status that asks for a reply.
fn expect_a_question(engine: &mut Engine, now: Duration) {
    engine.poll(now);
    let due = outputs(engine);
    assert!(
        matches!(
            due[..],
            [Output::Session(SessionOutput::Status {
                ask_reply: true,
                ..
            })]
        ),
        "{due:?}"
    );
}

#[test]
fn keepalives_from_before_the_last_report_do_not_prove_that_it_arrived() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.stop();
    delivered(&mut engine, MS, ticket);
    let batch = write_back(&mut engine, MS);
    written(&mut engine, MS * 2, batch, true);
    for _ in 0..5 {
        engine.keepalive(MS * 2, Lsn::new(110), false);
    }
    engine.slot_position(None);
    assert!(outputs(&mut engine).is_empty(), "no status was sent yet");
    expect_a_question(&mut engine, MS * 200);
    for _ in 0..2 {
        engine.keepalive(MS * 201, Lsn::new(110), false);
    }
    engine.slot_position(None);
    assert!(matches!(
        engine.output(),
        Some(Output::Session(SessionOutput::End(End::Stopped)))
    ));
}

#[test]
fn an_idle_publisher_that_stops_asks_for_a_reply_at_once() {
    let mut engine = engine();
    engine.stop();
    expect_a_question(&mut engine, MS * 200);
}

#[test]
fn a_stop_and_a_lost_session_wait_for_no_batch_to_gather() {
    let interrupts: [fn(&mut Engine); 2] = [Engine::stop, Engine::session_ended];
    for interrupt in interrupts {
        let mut engine = engine_with(10, OnPoison::DeadLetter);
        let ticket = transaction(&mut engine, 100);
        delivered(&mut engine, MS, ticket);
        engine.poll(MS);
        assert!(outputs(&mut engine).is_empty(), "nothing is due yet");
        interrupt(&mut engine);
        assert_eq!(write_back(&mut engine, MS).marks.len(), 1);
    }
}

/// The limit is of a minute; what stops the publisher lasts longer.
#[test]
fn a_publisher_that_stops_files_nothing_more_however_long_that_takes() {
    let mut engine = engine();
    engine.filed_recently(MS, 5);
    let refusal = || Rejection {
        code: "REFUSED".to_owned(),
        message: "refused".to_owned(),
    };
    let reject = |engine: &mut Engine, now, ticket| {
        engine
            .dispatch
            .reject(now, ticket, None, None, refusal(), 3);
        engine.dispatch.dead_letters.is_unfiled(ticket)
    };
    assert!(!reject(&mut engine, MS, 1));
    assert!(!reject(&mut engine, MS * 200_000, 2));
}
