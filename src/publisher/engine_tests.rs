//! What the simulation found, in as few steps as it takes.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::config::AfterPublish;
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::publisher::decision::{End, Intake, Limits, Output};
use crate::publisher::engine::Engine;
use crate::publisher::tracker::{Accepted, Ticket};

const MS: Duration = Duration::from_millis(1);

fn engine() -> Engine {
    engine_with(1)
}

fn engine_with(batch_size: usize) -> Engine {
    let mut engine = Engine::new(Limits {
        after_publish: AfterPublish::Mark,
        batch_size,
        process_interval: MS * 5_000,
        memory_limit: 1 << 20,
        attempts: 3,
        status_interval: MS * 10_000,
        silence: MS * 25_000,
    });
    engine.reset(Lsn::new(100));
    engine.session_started(MS);
    outputs(&mut engine);
    engine
}

fn outputs(engine: &mut Engine) -> Vec<Output> {
    std::iter::from_fn(|| engine.output()).collect()
}

fn event(row: i64) -> Accepted {
    Accepted {
        row,
        xid: 1,
        bytes: 10,
        topic: 0,
        since_micros: 0,
        sent_micros: 0,
    }
}

/// Begin and one event of a transaction.
fn begin(engine: &mut Engine, commit: u64) -> Ticket {
    engine.begin(Lsn::new(commit));
    engine.change().unwrap();
    engine.accept(event(commit as i64)).unwrap()
}

fn transaction(engine: &mut Engine, commit: u64) -> Ticket {
    let ticket = begin(engine, commit);
    engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
    ticket
}

fn refusal() -> Error {
    Error::fatal(Code::Publish, "refused")
}

fn write_back(engine: &mut Engine, now: Duration) -> Vec<crate::outbox::Mark> {
    engine.poll(now);
    let batch = outputs(engine).into_iter().find_map(|output| match output {
        Output::WriteBack(marks) => Some(marks),
        _ => None,
    });
    batch.unwrap()
}

#[test]
fn a_write_back_that_is_due_survives_the_end_of_the_session() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.delivered(MS, ticket, Ok(()));
    engine.poll(MS);
    engine.session_ended();
    engine.session_started(MS * 2);
    let due = outputs(&mut engine);
    let kept = |output: &Output| matches!(output, Output::WriteBack(marks) if marks.len() == 1);
    assert!(due.iter().any(kept), "{due:?}");
}

#[test]
fn a_refusal_is_told_though_the_session_ends_before_anyone_listens() {
    for reconnects in [false, true] {
        let mut engine = engine();
        let ticket = transaction(&mut engine, 100);
        engine.delivered(MS, ticket, Err(refusal()));
        engine.poll(MS);
        engine.session_ended();
        if reconnects {
            engine.session_started(MS * 2);
        }
        let due = outputs(&mut engine);
        let told = |output: &Output| matches!(output, Output::End(End::Refused(_)));
        assert!(due.iter().any(told), "{due:?}");
    }
}

#[test]
fn a_write_back_of_before_a_reset_says_nothing_about_the_one_that_is_out() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.delivered(MS, ticket, Ok(()));
    let mut old = write_back(&mut engine, MS);
    engine.session_ended();
    engine.reset(Lsn::new(100));
    engine.session_started(MS);
    let ticket = transaction(&mut engine, 100);
    engine.delivered(MS, ticket, Ok(()));
    let mut new = write_back(&mut engine, MS);
    old.iter_mut().for_each(|mark| mark.settled = true);
    engine.written_back(MS * 2, &old);
    assert!(!engine.is_drained(), "a batch is still out");
    assert_eq!(engine.snapshot().confirmed, Lsn::new(100));
    new.iter_mut().for_each(|mark| mark.settled = true);
    engine.written_back(MS * 3, &new);
    assert!(engine.is_drained());
    assert_eq!(engine.snapshot().confirmed, Lsn::new(110));
}

#[test]
fn a_refusal_does_not_take_back_a_stop() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.stop();
    engine.delivered(MS, ticket, Err(refusal()));
    assert_eq!(engine.intake(), Intake::Discard);
    engine.poll(MS);
    engine.slot_position(Some(Lsn::new(100)));
    let due = outputs(&mut engine);
    let ends: Vec<&Output> = due
        .iter()
        .filter(|due| matches!(due, Output::End(_)))
        .collect();
    assert!(matches!(ends[..], [Output::End(End::Stopped)]), "{ends:?}");
}

#[test]
fn a_stop_within_a_transaction_reads_it_to_its_commit() {
    let mut engine = engine();
    let ticket = begin(&mut engine, 100);
    engine.stop();
    engine.delivered(MS, ticket, Ok(()));
    let mut marks = write_back(&mut engine, MS);
    marks.iter_mut().for_each(|mark| mark.settled = true);
    engine.written_back(MS, &marks);
    engine.slot_position(Some(Lsn::new(100)));
    assert!(
        outputs(&mut engine).is_empty(),
        "stopped in mid-transaction"
    );
    assert_eq!(engine.intake(), Intake::Open);
    engine.commit(Lsn::new(100), Lsn::new(110));
    assert_eq!(engine.intake(), Intake::Discard);
    engine.slot_position(Some(Lsn::new(110)));
    let due = outputs(&mut engine);
    assert!(matches!(due[..], [Output::End(End::Stopped)]), "{due:?}");
}

#[test]
fn a_stop_does_not_wait_for_a_transaction_that_the_lost_session_cut() {
    let mut engine = engine();
    begin(&mut engine, 100);
    engine.session_ended();
    engine.stop();
    assert_eq!(engine.intake(), Intake::Discard);
}

#[test]
fn a_stop_does_not_read_on_in_a_transaction_of_which_an_event_was_refused() {
    for stop_first in [false, true] {
        let mut engine = engine();
        let ticket = begin(&mut engine, 100);
        if stop_first {
            engine.stop();
        }
        engine.delivered(MS, ticket, Err(refusal()));
        engine.stop();
        assert_eq!(engine.intake(), Intake::Discard);
        engine.slot_position(Some(Lsn::new(100)));
        let due = outputs(&mut engine);
        assert!(matches!(due[..], [Output::End(End::Stopped)]), "{due:?}");
    }
}

#[test]
fn keepalives_from_before_the_last_report_do_not_prove_that_it_arrived() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    engine.stop();
    engine.delivered(MS, ticket, Ok(()));
    let mut marks = write_back(&mut engine, MS);
    marks.iter_mut().for_each(|mark| mark.settled = true);
    engine.written_back(MS * 2, &marks);
    for _ in 0..5 {
        engine.keepalive(MS * 2, Lsn::new(110), false);
    }
    engine.slot_position(None);
    assert!(outputs(&mut engine).is_empty(), "nothing was reported yet");
    engine.poll(MS * 200);
    let due = outputs(&mut engine);
    assert!(
        matches!(
            due[..],
            [Output::Status {
                ask_reply: true,
                ..
            }]
        ),
        "{due:?}"
    );
    for _ in 0..2 {
        engine.keepalive(MS * 201, Lsn::new(110), false);
    }
    engine.slot_position(None);
    assert!(matches!(engine.output(), Some(Output::End(End::Stopped))));
}

#[test]
fn an_idle_publisher_that_stops_asks_for_a_reply_at_once() {
    let mut engine = engine();
    engine.stop();
    engine.poll(MS * 200);
    let due = outputs(&mut engine);
    assert!(
        matches!(
            due[..],
            [Output::Status {
                ask_reply: true,
                ..
            }]
        ),
        "{due:?}"
    );
}

#[test]
fn rows_that_cannot_be_marked_yet_are_tried_again_however_many_new_ones_follow() {
    let mut engine = engine();
    let first = transaction(&mut engine, 100);
    engine.delivered(MS, first, Ok(()));
    for round in 0..1_000u32 {
        let now = MS * (2 + round * 10);
        let mut marks = write_back(&mut engine, now);
        let tried_again = round > 0 && marks.iter().any(|mark| mark.ticket == first);
        if tried_again {
            return;
        }
        marks.iter_mut().for_each(|mark| mark.settled = false);
        engine.written_back(now, &marks);
        let ticket = transaction(&mut engine, 200 + 100 * u64::from(round));
        engine.delivered(now, ticket, Ok(()));
    }
    panic!("never tried again in ten seconds");
}

#[test]
fn an_event_gets_the_attempts_it_is_allowed_and_no_more() {
    let mut engine = engine();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let ticket = transaction(&mut engine, 100);
        engine.delivered(MS, ticket, Err(refusal()));
        engine.poll(MS);
        let due = outputs(&mut engine);
        if due
            .iter()
            .any(|due| matches!(due, Output::End(End::GaveUp(_))))
        {
            break;
        }
        let rewinds = |due: &Output| matches!(due, Output::End(End::Refused(_)));
        assert!(due.iter().any(rewinds), "{due:?}");
        engine.session_ended();
        engine.reset(Lsn::new(100));
        engine.session_started(MS);
    }
    assert_eq!(attempts, 3);
}

#[test]
fn a_refusal_waits_until_what_is_in_flight_was_reported_and_written_back() {
    let mut engine = engine();
    let refused = transaction(&mut engine, 100);
    let other = transaction(&mut engine, 200);
    engine.delivered(MS, refused, Err(refusal()));
    engine.poll(MS);
    assert!(outputs(&mut engine).is_empty());
    assert_eq!(engine.intake(), Intake::Paused);
    engine.delivered(MS, other, Ok(()));
    let mut marks = write_back(&mut engine, MS);
    assert!(outputs(&mut engine).is_empty());
    marks.iter_mut().for_each(|mark| mark.settled = true);
    engine.written_back(MS, &marks);
    engine.poll(MS);
    let due = outputs(&mut engine);
    assert!(matches!(due[..], [Output::End(End::Refused(_))]), "{due:?}");
    assert_eq!(engine.snapshot().confirmed, Lsn::new(100));
}

#[test]
fn whoever_stops_is_refused_or_has_no_session_does_not_wait_for_a_batch_to_gather() {
    let interrupts: [fn(&mut Engine); 3] = [Engine::stop, Engine::session_ended, |engine| {
        let ticket = transaction(engine, 200);
        engine.delivered(MS, ticket, Err(refusal()));
    }];
    for interrupt in interrupts {
        let mut engine = engine_with(10);
        let ticket = transaction(&mut engine, 100);
        engine.delivered(MS, ticket, Ok(()));
        engine.poll(MS);
        assert!(outputs(&mut engine).is_empty(), "nothing is due yet");
        interrupt(&mut engine);
        assert_eq!(write_back(&mut engine, MS).len(), 1);
    }
}

#[test]
fn deferred_rows_come_back_in_their_order_before_newer_ones() {
    let mut engine = engine();
    for commit in [100, 200, 300] {
        let ticket = transaction(&mut engine, commit);
        engine.delivered(MS, ticket, Ok(()));
    }
    let marks = write_back(&mut engine, MS);
    engine.written_back(MS, &marks);
    let ticket = transaction(&mut engine, 400);
    engine.delivered(MS * 51, ticket, Ok(()));
    let rows: Vec<i64> = write_back(&mut engine, MS * 51)
        .iter()
        .map(|mark| mark.row)
        .collect();
    assert_eq!(rows, [100, 200, 300, 400]);
}
