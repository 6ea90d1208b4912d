//! Sessions that fall silent or end, and clocks that jump meanwhile.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

#[test]
fn a_session_that_did_not_report_in_time_is_read_no_more_and_what_was_sent_is_withdrawn_once() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.check_session(MS * 20_000);
    assert_eq!(engine.intake(), Intake::Open);
    engine.check_session(MS * 20_001);
    assert_eq!(
        engine.intake(),
        Intake::Paused,
        "reads although another session may have the slot"
    );
    assert!(matches!(
        next(&mut engine),
        Some(Output::Session(SessionOutput::End(End::Expired)))
    ));
    assert!(
        !engine.should_withdraw(MS * 20_001),
        "withdrew with a session"
    );
    engine.session_ended();
    assert!(engine.should_withdraw(MS * 20_001));
    assert!(!engine.should_withdraw(MS * 20_002), "withdrew twice");
    engine.reset(Lsn::new(100));
    engine.session_started(MS * 20_003);
    assert_eq!(engine.intake(), Intake::Open);
    assert_eq!(delivered(&mut engine, MS * 20_004, ticket), 0);
}

#[test]
fn a_clock_that_jumps_ends_the_session_before_anything_more_is_read() {
    let mut engine = engine();
    transaction(&mut engine, 100);
    engine.clock_jumped();
    engine.check_session(MS * 2);
    assert_eq!(engine.intake(), Intake::Paused);
    assert!(matches!(
        next(&mut engine),
        Some(Output::Session(SessionOutput::End(End::Expired)))
    ));
    engine.session_ended();
    assert!(engine.should_withdraw(MS * 2), "another may publish");
    engine.reset(Lsn::new(100));
    engine.session_started(MS * 3);
    engine.check_session(MS * 3);
    assert_eq!(engine.intake(), Intake::Open);
}

#[test]
fn a_clock_that_jumps_while_a_session_ends_or_after_it_withdraws_what_is_in_flight() {
    for jumps_first in [true, false] {
        let mut engine = engine();
        transaction(&mut engine, 100);
        if jumps_first {
            engine.clock_jumped();
        }
        engine.session_ended();
        if !jumps_first {
            assert!(!engine.should_withdraw(MS * 2));
            engine.clock_jumped();
        }
        assert!(engine.should_withdraw(MS * 2), "{jumps_first}");
    }
}

/// A clock that stands still while the machine is suspended would hide that time; one that goes on
/// shows it.
#[test]
fn a_gap_between_two_readings_of_the_clock_ends_the_session() {
    let mut engine = engine();
    transaction(&mut engine, 100);
    engine.check_session(MS * 1);
    assert_eq!(engine.intake(), Intake::Open);
    engine.check_session(MS * 600_000);
    assert_eq!(engine.intake(), Intake::Paused);
}

#[test]
fn without_a_session_what_is_in_flight_may_stay_until_another_may_publish() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.received(MS * 1_000);
    engine.session_ended();
    engine.lock_lost(MS * 9_000);
    assert!(!engine.should_withdraw(MS * 25_999));
    assert!(
        engine.should_withdraw(MS * 26_000),
        "counts from the last message received"
    );

    let mut engine = self::engine();
    let same = transaction(&mut engine, 100);
    engine.session_ended();
    engine.lock_taken();
    assert!(
        engine.should_withdraw(MS),
        "kept records although another has the lock"
    );
    assert_eq!(ticket, same);

    let mut engine = self::engine();
    let ticket = transaction(&mut engine, 100);
    delivered(&mut engine, MS, ticket);
    engine.session_ended();
    assert!(
        !engine.should_withdraw(MS * 99_000),
        "withdrew without a record in flight"
    );
}

#[test]
fn a_look_that_comes_after_the_server_has_spoken_says_nothing() {
    let mut engine = engine();
    engine.poll(MS * 26_000);
    let looks = outputs(&mut engine);
    assert!(
        looks
            .iter()
            .any(|output| matches!(output, Output::Session(SessionOutput::InspectWalsender)))
    );
    engine.received(MS * 26_100);
    engine.walsender(MS * 26_200, Walsender::Idle);
    assert!(outputs(&mut engine).is_empty());
    engine.poll(MS * 52_000);
    outputs(&mut engine);
    engine.walsender(MS * 52_100, Walsender::Idle);
    assert!(matches!(
        next(&mut engine),
        Some(Output::Session(SessionOutput::End(End::ReceiveTimeout)))
    ));
}
