//! Failures that the simulation found, reduced to a few steps.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::config::{AfterPublish, Mapping, OnPoison};
use crate::engine::Engine;
use crate::engine::dispatch::Admission;
use crate::engine::offer::{Offer, Offered};
use crate::engine::output::{
    DatabaseWork, DeliveryFailure, DeliveryResult, End, FailureKind, Intake, Limits, Output,
    PendingRequests, SessionOutput, SinkOutput, Walsender,
};
use crate::engine::record_checks::RecordFacts;
use crate::engine::required_parts::RequiredParts;
use crate::engine::topics::topic::{MetadataAnswer, TopicAccess, TopicLimits};
use crate::engine::topics::{TopicId, Topics};
use crate::engine::tracker::{Ticket, TransactionName};
use crate::engine::violation::Violation;
use crate::lsn::Lsn;
use crate::outbox::{
    CloseDeadLetter, KeyHash, Mark, NewDeadLetter, Outcome, OwnedRecord, ParkedKey, ParkedKeyList,
    Rejection, Resolution, ResolveRequest, RowName, TopicName,
};

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn engine() -> Engine {
    engine_with(1, OnPoison::DeadLetter)
}

/// An engine that streams from 100 and knows the topic `t`.
fn engine_with(batch_size: usize, on_poison: OnPoison) -> Engine {
    let mut engine = unanswered(batch_size, on_poison);
    engine.topics_answered(MS, Some(vec![("t".to_owned(), known())]));
    engine
}

/// The same before Kafka has answered about the topic.
fn unanswered(batch_size: usize, on_poison: OnPoison) -> Engine {
    let mut engine = Engine::new(Limits {
        after_publish: AfterPublish::Mark,
        batch_size,
        process_interval: MS * 5_000,
        memory_limit: 1 << 20,
        spreads: false,
        required: RequiredParts {
            key: None,
            ..RequiredParts::of(&Mapping::default())
        },
        attempts: 3,
        on_poison,
        dead_letters_per_minute: 5,
        parked_keys_max: 1_000,
        auto_creates_topics: false,
        compresses: false,
        batch_bytes: 1_000_000,
        status_interval: MS * 10_000,
        receive_timeout: MS * 25_000,
    });
    engine.reset(Lsn::new(100));
    engine.topic(TopicName::new("t").ok());
    engine.session_started(MS);
    outputs(&mut engine);
    engine
}

/// The next output; lookups of dead letters, which find none, and counted attempts are carried out.
fn next(engine: &mut Engine) -> Option<Output> {
    loop {
        match engine.output()? {
            Output::Sink(SinkOutput::Work {
                generation,
                work: work @ (DatabaseWork::ReadRequests { .. } | DatabaseWork::CountAttempts(_)),
            }) => {
                let now = engine.now;
                engine.work_finished(
                    now,
                    generation,
                    work,
                    Ok(Some(PendingRequests::default())),
                    None,
                );
                engine.poll(now);
            }
            output => return Some(output),
        }
    }
}

/// All outputs.
fn outputs(engine: &mut Engine) -> Vec<Output> {
    std::iter::from_fn(|| next(engine)).collect()
}

fn record(row: i64) -> OwnedRecord {
    let value = row.to_string();
    OwnedRecord::new("t", Some(b"k"), Some(value.as_bytes()), std::iter::empty())
}

/// Begins a transaction with one event; returns whether the event was sent.
pub(super) fn begin_and(engine: &mut Engine, commit: u64) -> (Ticket, bool) {
    begin_row(engine, commit, Some(commit as i64))
}

/// The same for an event of this row.
fn begin_row(engine: &mut Engine, commit: u64, row: Option<i64>) -> (Ticket, bool) {
    engine.begin(Lsn::new(commit));
    engine.change().unwrap();
    offer(engine, row, record(commit as i64))
}

/// Offers the event of this record; returns whether it was sent.
fn offer(engine: &mut Engine, row: Option<i64>, record: OwnedRecord) -> (Ticket, bool) {
    let offered = engine.offer(Offer {
        row: row.map(RowName::of_id),
        xid: 1,
        bytes: 10,
        since_micros: 0,
        sent_micros: 0,
        from_table: false,
        facts: RecordFacts::of_held(&record),
        rejection: None,
    });
    let Offered {
        ticket, admission, ..
    } = offered.unwrap();
    match admission {
        Admission::Send => (ticket, true),
        Admission::Keep(reason) => {
            engine.keep(engine.now, ticket, Box::new(record), reason);
            (ticket, false)
        }
    }
}

fn begin(engine: &mut Engine, commit: u64) -> Ticket {
    begin_and(engine, commit).0
}

fn transaction(engine: &mut Engine, commit: u64) -> Ticket {
    let ticket = begin(engine, commit);
    engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
    ticket
}

fn delivered(engine: &mut Engine, now: Duration, ticket: Ticket) -> usize {
    report(engine, now, ticket, None, None)
}

/// Delivered by a partition that has rejected an earlier record.
fn delivered_behind(engine: &mut Engine, now: Duration, ticket: Ticket, row: i64) -> usize {
    report(engine, now, ticket, None, Some(row))
}

fn refused(engine: &mut Engine, now: Duration, ticket: Ticket, row: i64) -> usize {
    report(engine, now, ticket, Some(FailureKind::Refused), Some(row))
}

fn report(
    engine: &mut Engine,
    now: Duration,
    ticket: Ticket,
    kind: Option<FailureKind>,
    row: Option<i64>,
) -> usize {
    let suspicion = u64::from(row.is_some());
    report_of(
        engine,
        now,
        ticket,
        kind.map(|kind| (kind, 1)),
        suspicion,
        row,
    )
}

/// A report with the numbers of its own failure and of the topic's last one.
fn report_of(
    engine: &mut Engine,
    now: Duration,
    ticket: Ticket,
    failure: Option<(FailureKind, u64)>,
    suspicion: u64,
    row: Option<i64>,
) -> usize {
    let mut done = Vec::new();
    let result = DeliveryResult {
        ticket,
        failure: failure.map(|(kind, number)| DeliveryFailure {
            kind,
            rejection: Rejection {
                code: "REFUSED".to_owned(),
                message: "refused".to_owned(),
            },
            number,
        }),
        suspicion,
        record: row.map(|row| Box::new(record(row))),
    };
    engine.delivery_finished(now, result, &mut done);
    done.len()
}

/// A write-back that is being carried out.
struct Batch {
    generation: u64,
    marks: Vec<Mark>,
}

fn write_back(engine: &mut Engine, now: Duration) -> Batch {
    engine.poll(now);
    let batch = outputs(engine).into_iter().find_map(|output| match output {
        Output::Sink(SinkOutput::Work {
            generation,
            work: DatabaseWork::Mark(marks),
        }) => Some(Batch { generation, marks }),
        _ => None,
    });
    batch.unwrap()
}

fn written(engine: &mut Engine, now: Duration, batch: Batch, settled: bool) {
    let Batch {
        generation,
        mut marks,
    } = batch;
    if settled {
        marks
            .iter_mut()
            .for_each(|mark| mark.outcome = Outcome::Settled);
    }
    engine.work_finished(now, generation, DatabaseWork::Mark(marks), Ok(None), None);
}

/// Files the pending dead letters and returns them; pending marks are written.
pub(super) fn filed(engine: &mut Engine, now: Duration) -> Vec<NewDeadLetter> {
    // Records in topic queues are rejected while outputs are taken, and filed at the next poll.
    for _ in 0..3 {
        engine.poll(now);
        while let Some(output) = next(engine) {
            match output {
                Output::Sink(SinkOutput::Work {
                    generation,
                    work: DatabaseWork::File(dead_letters),
                }) => {
                    engine.work_finished(
                        now,
                        generation,
                        DatabaseWork::File(dead_letters.clone()),
                        Ok(None),
                        None,
                    );
                    return dead_letters;
                }
                Output::Sink(SinkOutput::Work { .. }) => marked(engine, now, output),
                _ => {}
            }
        }
    }
    Vec::new()
}

/// Files all pending dead letters; returns how the engine ends, if it does.
fn end_after_filing(engine: &mut Engine, now: Duration) -> Option<End> {
    for _ in 0..3 {
        engine.poll(now);
        while let Some(output) = next(engine) {
            match output {
                Output::Sink(SinkOutput::Work {
                    generation,
                    work: work @ DatabaseWork::File(_),
                }) => {
                    engine.work_finished(now, generation, work, Ok(None), None);
                }
                Output::Session(SessionOutput::End(end)) => return Some(end),
                _ => {}
            }
        }
    }
    None
}

/// The tickets of the records that are sent now; pending marks are written.
fn sends(engine: &mut Engine, now: Duration) -> Vec<Ticket> {
    engine.poll(now);
    let mut sends = Vec::new();
    while let Some(output) = next(engine) {
        match output {
            Output::Sink(SinkOutput::Send { ticket, .. }) => sends.push(ticket),
            Output::Sink(SinkOutput::Work { .. }) => marked(engine, now, output),
            _ => {}
        }
    }
    sends
}

fn marked(engine: &mut Engine, now: Duration, output: Output) {
    let Output::Sink(SinkOutput::Work {
        generation,
        work: DatabaseWork::Mark(marks),
    }) = output
    else {
        panic!("not a write-back: {output:?}");
    };
    written(engine, now, Batch { generation, marks }, true);
}

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
    engine.poll(MS * 200);
    let due = outputs(&mut engine);
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
    engine.poll(MS * 200);
    let due = outputs(&mut engine);
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

#[test]
fn a_partition_is_rewound_in_order_and_the_last_word_of_a_key_is_its_newest_event() {
    let mut engine = engine();
    let tickets: Vec<Ticket> = [100, 200, 300, 400]
        .map(|commit| transaction(&mut engine, commit))
        .into();
    // The second record is rejected; the partition appends the later ones all the same.
    assert_eq!(delivered(&mut engine, MS, tickets[0]), 1);
    assert_eq!(refused(&mut engine, MS, tickets[1], 200), 0);
    let (held, sent) = begin_and(&mut engine, 500);
    assert!(!sent, "a new record overtook a rejected one");
    engine.commit(Lsn::new(500), Lsn::new(510));
    assert_eq!(delivered_behind(&mut engine, MS, tickets[2], 300), 0);
    assert!(
        sends(&mut engine, MS).is_empty(),
        "sent while another record is in flight"
    );
    assert_eq!(delivered_behind(&mut engine, MS, tickets[3], 400), 0);
    assert!(
        sends(&mut engine, MS).is_empty(),
        "sent again without a delay"
    );
    // Attempts two and three, with no other record in flight.
    assert_eq!(sends(&mut engine, MS * 1_000), [tickets[1]]);
    refused(&mut engine, MS * 1_000, tickets[1], 200);
    assert_eq!(sends(&mut engine, MS * 2_000), [tickets[1]]);
    refused(&mut engine, MS * 2_000, tickets[1], 200);
    let dead_letters = filed(&mut engine, MS * 2_000);
    assert_eq!(dead_letters.len(), 1);
    assert_eq!(
        (dead_letters[0].row.clone(), dead_letters[0].attempts),
        (Some(RowName::of_id(200)), 3)
    );
    // The records that overtook it are sent again, and only then the new one.
    assert_eq!(sends(&mut engine, MS * 2_000), [tickets[2]]);
    assert_eq!(
        delivered_behind(&mut engine, MS * 2_000, tickets[2], 300),
        1
    );
    assert_eq!(sends(&mut engine, MS * 2_001), [tickets[3]]);
    assert_eq!(
        delivered_behind(&mut engine, MS * 2_001, tickets[3], 400),
        1
    );
    assert_eq!(sends(&mut engine, MS * 2_002), [held]);
    assert_eq!(delivered(&mut engine, MS * 2_002, held), 1);
    assert_eq!(engine.stats().rewind_count, 1);
}

#[test]
fn an_outage_costs_no_attempt() {
    let mut engine = engine();
    let ticket = transaction(&mut engine, 100);
    let mut now = MS;
    report(
        &mut engine,
        now,
        ticket,
        Some(FailureKind::Outage),
        Some(100),
    );
    for _ in 0..20 {
        now += MS * 10_000;
        assert_eq!(sends(&mut engine, now), [ticket]);
        report(
            &mut engine,
            now,
            ticket,
            Some(FailureKind::Outage),
            Some(100),
        );
    }
    now += MS * 10_000;
    assert_eq!(sends(&mut engine, now), [ticket]);
    assert_eq!(delivered_behind(&mut engine, now, ticket, 100), 1);
}

#[test]
fn a_topic_counts_as_missing_when_two_answers_some_seconds_apart_do_not_have_it() {
    let mut engine = engine();
    let (ticket, _) = {
        engine.topics_answered(MS, Some(vec![("t".to_owned(), MetadataAnswer::Missing)]));
        begin_and(&mut engine, 100)
    };
    engine.commit(Lsn::new(100), Lsn::new(110));
    assert!(filed(&mut engine, MS).is_empty());
    engine.poll(MS * 5_001);
    let due = outputs(&mut engine);
    assert!(
        due.iter()
            .any(|due| matches!(due, Output::Sink(SinkOutput::QueryTopics(_)))),
        "{due:?}"
    );
    engine.topics_answered(
        MS * 5_001,
        Some(vec![("t".to_owned(), MetadataAnswer::Missing)]),
    );
    let dead_letters = filed(&mut engine, MS * 5_001);
    assert_eq!(dead_letters[0].ticket, ticket);
    assert_eq!(dead_letters[0].rejection.code, "TOPIC_UNKNOWN");
}

#[test]
fn what_is_wanted_again_is_not_refused_for_what_was_known_before() {
    let mut engine = engine();
    let missing = || Some(vec![("t".to_owned(), MetadataAnswer::Missing)]);
    engine.topics_answered(MS, missing());
    begin_and(&mut engine, 100);
    engine.commit(Lsn::new(100), Lsn::new(110));
    engine.poll(MS * 5_001);
    outputs(&mut engine);
    engine.topics_answered(MS * 5_001, missing());
    assert_eq!(filed(&mut engine, MS * 5_001).len(), 1);
    // Kafka reports the topic as missing once more; in the same moment the topic is created and a
    // retry is requested.
    engine.topics_answered(MS * 6_500, missing());
    let now = MS * 6_501;
    engine.poll(now);
    let (generation, work) = loop {
        if let Output::Sink(SinkOutput::Work { generation, work }) = engine.output().unwrap() {
            break (generation, work);
        }
    };
    let request = ResolveRequest {
        dead_letter: 1,
        row: Some(100.into()),
        resolution: Resolution::Retry,
        place: None,
        parked_key: None,
        record: Some(Box::new(record(100))),
        rejection: None,
    };
    let pending = PendingRequests {
        requests: vec![request],
        parked: None,
    };
    engine.work_finished(now, generation, work, Ok(Some(pending)), None);
    assert!(filed(&mut engine, now).is_empty());
    engine.topics_answered(
        now,
        Some(vec![(
            "t".to_owned(),
            MetadataAnswer::Known(TopicLimits::default()),
        )]),
    );
    assert_eq!(sends(&mut engine, now).len(), 1);
}

#[test]
fn a_parked_key_keeps_its_order_through_a_retry() {
    let mut engine = engine_with(1, OnPoison::ParkKey);
    let first = transaction(&mut engine, 100);
    let mut now = MS;
    for _ in 0..2 {
        refused(&mut engine, now, first, 100);
        now += MS * 10_000;
        assert_eq!(sends(&mut engine, now), [first]);
    }
    refused(&mut engine, now, first, 100);
    assert!(filed(&mut engine, now)[0].parks_key);
    transaction(&mut engine, 200);
    let parked = filed(&mut engine, now);
    assert!(parked[0].parked && parked[0].parks_key);
    // A retry of the first is requested; both are returned.
    let request = |dead_letter, row: i64| ResolveRequest {
        dead_letter,
        row: Some(row.into()),
        resolution: Resolution::Retry,
        place: None,
        parked_key: Some(("t".into(), KeyHash::of("t", b"k"))),
        record: Some(Box::new(record(row))),
        rejection: None,
    };
    now += MS * 10_000;
    engine.poll(now);
    let (generation, work) = loop {
        match engine.output().unwrap() {
            Output::Sink(SinkOutput::Work {
                generation,
                work: work @ DatabaseWork::CountAttempts(_),
            }) => {
                engine.work_finished(now, generation, work, Ok(None), None);
                engine.poll(now);
            }
            Output::Sink(SinkOutput::Work { generation, work }) => break (generation, work),
            _ => {}
        }
    };
    assert!(matches!(
        work,
        DatabaseWork::ReadRequests { with_keys: true }
    ));
    let pending = PendingRequests {
        requests: vec![request(1, 100), request(2, 200)],
        parked: None,
    };
    engine.work_finished(now, generation, work, Ok(Some(pending)), None);
    let retried = sends(&mut engine, now);
    assert_eq!(retried.len(), 2);
    // A new event waits until both are closed: after a crash they would be sent again.
    let (newest, sent) = begin_and(&mut engine, 300);
    assert!(!sent);
    for ticket in retried {
        assert_eq!(delivered(&mut engine, now, ticket), 1);
    }
    let (generation, closings) = closing(&mut engine, now);
    assert_eq!(closings.len(), 2);
    assert!(sends(&mut engine, now).is_empty());
    engine.work_finished(
        now,
        generation,
        DatabaseWork::Close(closings),
        Ok(None),
        None,
    );
    assert_eq!(sends(&mut engine, now), [newest]);
}

/// The closing of dead letters that is due.
fn closing(engine: &mut Engine, now: Duration) -> (u64, Vec<CloseDeadLetter>) {
    engine.poll(now);
    let close = outputs(engine).into_iter().find_map(|output| match output {
        Output::Sink(SinkOutput::Work {
            generation,
            work: DatabaseWork::Close(closings),
        }) => Some((generation, closings)),
        _ => None,
    });
    close.unwrap()
}

/// The lookup of requests that is due; other work in the database is carried out.
fn lookup(engine: &mut Engine, now: Duration) -> (u64, DatabaseWork) {
    for _ in 0..10 {
        engine.poll(now);
        while let Some(output) = engine.output() {
            let Output::Sink(SinkOutput::Work { generation, work }) = output else {
                continue;
            };
            if matches!(work, DatabaseWork::ReadRequests { .. }) {
                return (generation, work);
            }
            engine.work_finished(now, generation, work, Ok(None), None);
        }
    }
    panic!("no lookup is due");
}

#[test]
fn a_retried_dead_letter_waits_until_the_stream_has_passed_its_event() {
    let mut engine = engine();
    let retry = || PendingRequests {
        requests: vec![ResolveRequest {
            dead_letter: 1,
            row: Some(150.into()),
            resolution: Resolution::Retry,
            place: Some((Lsn::new(150), 0)),
            parked_key: None,
            record: Some(Box::new(record(150))),
            rejection: None,
        }],
        parked: None,
    };
    let known = || MetadataAnswer::Known(TopicLimits::default());
    let retried = |engine: &mut Engine, seconds: u32| {
        let now = MS * 1_000 * seconds;
        let (generation, work) = lookup(engine, now);
        engine.work_finished(now, generation, work, Ok(Some(retry())), None);
        // A retry asks for the topic's metadata first.
        engine.topics_answered(now, Some(vec![("t".to_owned(), known())]));
        sends(engine, now).len()
    };
    assert_eq!(retried(&mut engine, 2), 0, "overtakes the stream");
    // The stream sends its transaction again: its row has a dead letter, and is left out.
    engine.begin(Lsn::new(150));
    engine.change();
    assert_eq!(retried(&mut engine, 4), 0, "overtakes its transaction");
    engine.commit(Lsn::new(150), Lsn::new(160));
    assert_eq!(retried(&mut engine, 6), 1);
}

#[test]
fn a_held_event_goes_before_the_retries_of_its_key_that_are_newer() {
    let mut engine = unanswered(1, OnPoison::ParkKey);
    let mut list = ParkedKeyList::new(10);
    list.push(ParkedKey {
        hash: KeyHash::of("t", b"k"),
        rows: 2,
        blocked: true,
    });
    engine.begin(Lsn::new(100));
    engine.change().unwrap();
    let lsn = Lsn::new(100).to_string();
    let place = [("outbox_lsn", lsn.as_bytes()), ("outbox_index", b"0")];
    let record = OwnedRecord::new("t", Some(b"k"), Some(b"v"), place.into_iter());
    let (held, is_sent) = offer(&mut engine, Some(100), record);
    assert!(!is_sent);
    engine.commit(Lsn::new(100), Lsn::new(110));
    engine.load_parked(list);
    let now = MS * 2_000;
    let (generation, work) = lookup(&mut engine, now);
    let request = |dead_letter, place| ResolveRequest {
        parked_key: Some(("t".into(), KeyHash::of("t", b"k"))),
        ..retry_of(dead_letter, dead_letter, Some((Lsn::new(place), 0)))
    };
    let pending = PendingRequests {
        requests: vec![request(1, 90), request(2, 105)],
        parked: None,
    };
    engine.work_finished(now, generation, work, Ok(Some(pending)), None);
    engine.topics_answered(now, Some(vec![("t".to_owned(), known())]));
    // The older dead letter alone: the event waits until it is closed.
    let older = sends(&mut engine, now);
    assert_eq!(older, [held + 1]);
    assert_eq!(delivered(&mut engine, now, older[0]), 1);
    let (generation, closings) = closing(&mut engine, now);
    let close = DatabaseWork::Close(closings);
    engine.work_finished(now, generation, close, Ok(None), None);
    let rest = sends(&mut engine, now);
    assert_eq!(rest, [held, held + 2]);
}

#[test]
fn a_lookup_that_began_before_a_key_was_parked_leaves_it_parked() {
    let mut engine = engine_with(1, OnPoison::ParkKey);
    let another = || {
        let mut list = ParkedKeyList::new(10);
        list.push(ParkedKey {
            hash: KeyHash::of("t", b"another"),
            rows: 1,
            blocked: true,
        });
        list
    };
    engine.load_parked(another());
    let mut now = MS * 2_000;
    let ticket = transaction(&mut engine, 100);
    let (generation, work) = lookup(&mut engine, now);
    assert!(matches!(
        work,
        DatabaseWork::ReadRequests { with_keys: true }
    ));
    // Meanwhile an event is refused for good, and its key is parked.
    for attempt in 1..=3 {
        refused(&mut engine, now, ticket, 100);
        now += MS * 10_000;
        let again = sends(&mut engine, now);
        assert_eq!(again.len(), usize::from(attempt < 3));
    }
    let pending = PendingRequests {
        requests: Vec::new(),
        parked: Some(another()),
    };
    engine.work_finished(now, generation, work, Ok(Some(pending)), None);
    let (behind, sent) = begin_and(&mut engine, 200);
    assert!(!sent, "overtakes the dead letter of its key");
    let filed = filed(&mut engine, now);
    let filed: Vec<(Ticket, bool)> = filed.iter().map(|one| (one.ticket, one.parked)).collect();
    assert_eq!(filed, [(ticket, false), (behind, true)]);
}

#[test]
fn a_batch_that_is_refused_shrinks_until_its_cause_is_alone_and_the_others_are_published() {
    let mut engine = engine();
    let tickets: Vec<Ticket> = (1..=16)
        .map(|n| transaction(&mut engine, 100 * n))
        .collect();
    let row = |ticket: Ticket| 100 * (ticket - tickets[0] + 1) as i64;
    let (cause, mut now) = (tickets[11], MS);
    let (mut batch, mut rounds, mut published) = (tickets.clone(), 0, 0);
    let mut dead_letters = Vec::new();
    while !batch.is_empty() {
        rounds += 1;
        assert!(rounds < 40, "refused without end: {batch:?}");
        let is_refused = batch.contains(&cause);
        for ticket in batch.drain(..) {
            published += match is_refused {
                true => refused(&mut engine, now, ticket, row(ticket)),
                false => delivered_behind(&mut engine, now, ticket, row(ticket)),
            };
        }
        now += MS * 10_000;
        engine.poll(now);
        while let Some(output) = next(&mut engine) {
            match output {
                Output::Sink(SinkOutput::Send { ticket, .. }) => batch.push(ticket),
                Output::Sink(SinkOutput::Work { generation, work }) => {
                    if let DatabaseWork::File(filed) = &work {
                        dead_letters.extend(filed.iter().map(|one| (one.ticket, one.attempts)));
                    }
                    engine.work_finished(now, generation, work, Ok(None), None);
                }
                _ => {}
            }
        }
    }
    assert_eq!(published, 15);
    assert_eq!(dead_letters, [(cause, 3)]);
}

#[test]
fn a_report_that_was_made_before_its_topic_was_trusted_again_repeats_no_record() {
    let mut engine = engine();
    let first = transaction(&mut engine, 100);
    refused(&mut engine, MS, first, 100);
    let mut now = MS * 10_000;
    assert_eq!(sends(&mut engine, now), [first]);
    assert_eq!(delivered_behind(&mut engine, now, first, 100), 1);
    // The queue is empty: the producer is to trust the topic. Two partitions take a record each
    // before it does, and two after it. Then a third refuses one.
    let early = transaction(&mut engine, 200);
    let late = transaction(&mut engine, 300);
    engine.poll(now);
    let trusts = outputs(&mut engine);
    let trusts = trusts
        .iter()
        .filter(|output| matches!(output, Output::Sink(SinkOutput::Trust { failure: 1, .. })));
    assert_eq!(trusts.count(), 1);
    let third = transaction(&mut engine, 400);
    report_of(
        &mut engine,
        now,
        third,
        Some((FailureKind::Refused, 2)),
        2,
        Some(400),
    );
    let done = report_of(&mut engine, now, early, None, 1, Some(200));
    assert_eq!(done, 1, "is sent again, behind a record that is not");
    assert_eq!(delivered(&mut engine, now, late), 1);
    now += MS * 10_000;
    assert_eq!(sends(&mut engine, now), [third]);
}

#[test]
fn a_flood_of_dead_letters_stops_the_publisher_and_halt_stops_it_at_the_first() {
    for (on_poison, expected) in [(OnPoison::DeadLetter, 6), (OnPoison::Halt, 1)] {
        let mut engine = engine_with(1, on_poison);
        engine.topics_answered(MS, Some(vec![("t".to_owned(), MetadataAnswer::Missing)]));
        engine.poll(MS * 6_000);
        outputs(&mut engine);
        engine.topics_answered(
            MS * 6_000,
            Some(vec![("t".to_owned(), MetadataAnswer::Missing)]),
        );
        let ended = (1..=10).find_map(|count| {
            transaction(&mut engine, 100 * count);
            end_after_filing(&mut engine, MS * 6_000).map(|end| (count, end))
        });
        let (count, end) = ended.unwrap();
        assert!(matches!(end, End::Halted(_)), "{end:?}");
        assert_eq!(count, expected);
        assert_eq!(engine.intake(), Intake::Paused);
    }
}

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

/// A lookup writes nothing that a standby would need, and while the server catches up one is always
/// running.
#[test]
fn a_look_at_the_dead_letters_holds_no_position_back() {
    let mut engine = engine();
    engine.set_failover_slot(true);
    let confirmed_after = |engine: &mut Engine, work, commit| {
        let (generation, far) = (engine.generation, Some(Lsn::new(1_000)));
        engine.work_finished(
            MS,
            generation,
            work,
            Ok(Some(PendingRequests::default())),
            far,
        );
        engine.begin(Lsn::new(commit));
        engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
        engine.stats().confirmed
    };
    let look = DatabaseWork::ReadRequests { with_keys: true };
    assert_eq!(confirmed_after(&mut engine, look, 200), Lsn::new(210));
    let count = DatabaseWork::CountAttempts(vec![1.into()]);
    assert_eq!(confirmed_after(&mut engine, count, 300), Lsn::new(310));
    let marks = DatabaseWork::Mark(Vec::new());
    assert_eq!(confirmed_after(&mut engine, marks, 400), Lsn::new(310));
}

#[test]
fn a_new_producer_is_not_replaced_for_a_failure_of_the_one_before() {
    let mut engine = engine();
    engine.replace_producer(MS, "it failed");
    engine.producer_replaced();
    let is_due = |output: &Output| matches!(output, Output::Sink(SinkOutput::ReplaceProducer(_)));
    assert!(!outputs(&mut engine).iter().any(is_due));
}

#[test]
fn a_producer_that_is_replaced_gets_its_records_again_in_order_and_nothing_in_between() {
    let mut engine = engine();
    let tickets: Vec<Ticket> = (0..3)
        .map(|at| transaction(&mut engine, 110 + at * 10))
        .collect();
    assert_eq!(delivered(&mut engine, MS * 2, tickets[0]), 1);
    engine.replace_producer(MS * 3, "it failed");
    engine.replace_producer(MS * 3, "it failed twice");
    let replaced = outputs(&mut engine).into_iter().filter(|output| {
        matches!(output, Output::Sink(SinkOutput::ReplaceProducer(reason)) if reason == "it failed")
    });
    assert_eq!(replaced.count(), 1);
    let (late, sent) = begin_and(&mut engine, 140);
    engine.commit(Lsn::new(140), Lsn::new(150));
    assert!(!sent, "sent with a producer that is being replaced");
    for (ticket, row) in [(tickets[1], 120), (tickets[2], 130)] {
        let withdrawn = Some(FailureKind::Producer);
        assert_eq!(report(&mut engine, MS * 4, ticket, withdrawn, Some(row)), 0);
    }
    assert!(sends(&mut engine, MS * 5_000).is_empty());
    engine.producer_replaced();
    let mut again = Vec::new();
    for second in 6..20 {
        for ticket in sends(&mut engine, MS * second * 1_000) {
            again.push(ticket);
            delivered(&mut engine, MS * second * 1_000, ticket);
        }
    }
    assert_eq!(again, [tickets[1], tickets[2], late]);
    assert!(engine.is_drained());
}

/// Answers the query that is due, if any.
pub(super) fn answer(engine: &mut Engine, now: Duration, answer: MetadataAnswer) {
    engine.poll(now);
    for output in outputs(engine) {
        match output {
            Output::Sink(SinkOutput::QueryTopics(names)) => {
                let answers = names.into_iter().map(|name| (name, answer.clone()));
                engine.topics_answered(now, Some(answers.collect()));
            }
            Output::Sink(SinkOutput::Work { .. }) => marked(engine, now, output),
            _ => {}
        }
    }
}

#[test]
fn a_topic_that_stalls_though_kafka_shows_it_healthy_gets_a_new_producer_and_not_in_an_outage() {
    let healthy = MetadataAnswer::Known(TopicLimits::default());
    let sick = MetadataAnswer::Known(TopicLimits {
        problem: Some("no leader for partition 1".to_owned()),
        ..TopicLimits::default()
    });
    for (answered, expected) in [(healthy, Some(40)), (sick, None)] {
        let mut engine = engine();
        transaction(&mut engine, 110);
        let replaced = (1..120u32).find(|second| {
            let now = MS * *second * 1_000;
            engine.received(now);
            answer(&mut engine, now, answered.clone());
            engine.replacement_reason().is_some()
        });
        assert_eq!(replaced.is_some(), expected.is_some(), "{answered:?}");
        assert!(replaced <= expected, "{replaced:?}");
        assert!(replaced.is_none_or(|second| second >= 30), "{replaced:?}");
    }
}

/// An event for a topic of this name; its ticket, if it was sent.
fn event_for(engine: &mut Engine, commit: u64, topic: &str) -> Option<Ticket> {
    engine.begin(Lsn::new(commit));
    engine.change().unwrap();
    let record = OwnedRecord::new(topic, Some(b"k"), Some(b"{}"), std::iter::empty());
    let offered = engine.offer(Offer {
        row: Some(RowName::of_id(commit as i64)),
        xid: 1,
        bytes: 10,
        since_micros: 0,
        sent_micros: 0,
        from_table: false,
        facts: RecordFacts::of_held(&record),
        rejection: None,
    });
    let Offered {
        ticket, admission, ..
    } = offered.unwrap();
    let sent = admission == Admission::Send;
    if let Admission::Keep(reason) = admission {
        engine.keep(engine.now, ticket, Box::new(record), reason);
    }
    engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
    sent.then_some(ticket)
}

/// Whether a dead letter is filed while these topics refuse every record for ten minutes.
fn is_filed_when_refused(topics: &[&str], delivers_to: Option<&str>) -> bool {
    let mut engine = engine();
    let known = || MetadataAnswer::Known(TopicLimits::default());
    for topic in topics.iter().chain(&delivers_to) {
        engine.topic(TopicName::new(topic).ok());
    }
    answer(&mut engine, MS * 2, known());
    let mut commit = 1_000;
    let mut in_flight = Vec::new();
    for topic in topics {
        commit += 20;
        in_flight.extend(event_for(&mut engine, commit, topic).map(|ticket| (ticket, *topic)));
    }
    for tenth in 1..6_000u32 {
        let now = MS * tenth * 100;
        engine.received(now);
        if let Some(topic) = delivers_to.filter(|_| tenth % 10 == 0) {
            commit += 20;
            let ticket = event_for(&mut engine, commit, topic).unwrap();
            delivered(&mut engine, now, ticket);
        }
        for (ticket, topic) in std::mem::take(&mut in_flight) {
            let record = OwnedRecord::new(topic, Some(b"k"), Some(b"{}"), std::iter::empty());
            let result = DeliveryResult {
                ticket,
                failure: Some(DeliveryFailure {
                    kind: FailureKind::Denied,
                    rejection: Rejection {
                        code: "TOPIC_AUTHORIZATION_FAILED".to_owned(),
                        message: "denied".to_owned(),
                    },
                    number: 1,
                }),
                suspicion: 1,
                record: Some(Box::new(record)),
            };
            engine.delivery_finished(now, result, &mut Vec::new());
        }
        engine.poll(now);
        while let Some(output) = next(&mut engine) {
            match output {
                Output::Sink(SinkOutput::Send { ticket, record }) => {
                    let topic = topics.iter().find(|topic| **topic == record.topic());
                    in_flight.push((ticket, topic.unwrap()));
                }
                Output::Sink(SinkOutput::QueryTopics(names)) => {
                    let answers = names.into_iter().map(|name| (name, known()));
                    engine.topics_answered(now, Some(answers.collect()));
                }
                Output::Sink(SinkOutput::Work {
                    work: DatabaseWork::File(_),
                    ..
                }) => return true,
                Output::Sink(SinkOutput::Work { .. }) => marked(&mut engine, now, output),
                _ => {}
            }
        }
    }
    false
}

#[test]
fn topics_that_are_all_denied_are_an_outage_and_one_beside_others_is_at_fault() {
    assert!(is_filed_when_refused(&["a"], None));
    assert!(!is_filed_when_refused(&["a", "b", "c"], None));
    assert!(is_filed_when_refused(&["a", "b", "c"], Some("d")));
}

#[test]
fn topics_that_vanish_together_are_not_missing_and_one_that_vanishes_alone_is() {
    for (topics, vanished, missing) in [
        (&["a", "b"][..], &["a", "b"][..], 0),
        (&["a", "b", "c"], &["a", "b"], 2),
        (&["a"], &["a"], 1),
    ] {
        let mut topics_state = Topics::new(false);
        let ids: Vec<_> = topics
            .iter()
            .map(|name| topics_state.id(TopicName::new(name).unwrap()))
            .collect();
        for second in 0..300u32 {
            let now = MS * second * 1_000;
            for id in &ids {
                topics_state.access(*id);
            }
            let Some(names) = topics_state.query(now) else {
                continue;
            };
            let answers = names.into_iter().map(|name| {
                let gone = second > 20 && vanished.contains(&name.as_str());
                let known = MetadataAnswer::Known(TopicLimits::default());
                let answer = if gone { MetadataAnswer::Missing } else { known };
                (name, answer)
            });
            topics_state.answered(now, Some(answers.collect()));
        }
        let is_missing = |id: &&TopicId| topics_state.access(**id) == TopicAccess::Missing;
        let found = ids.iter().filter(is_missing).count();
        assert_eq!(found, missing, "{vanished:?} of {topics:?}");
    }
}

#[test]
fn a_topic_that_one_broker_alone_does_not_list_is_never_missing() {
    let mut topics = Topics::new(false);
    let id = topics.id(TopicName::new("late").unwrap());
    let answers = [
        (MetadataAnswer::Unconfirmed, 3_600, false),
        (MetadataAnswer::NoneListed, 50, false),
        (MetadataAnswer::NoneListed, 70, true),
        (MetadataAnswer::Missing, 4, false),
        (MetadataAnswer::Missing, 12, true),
    ];
    let mut begin = MS;
    for (answer, seconds, missing) in answers {
        topics.answered(begin, Some(vec![("late".to_owned(), known())]));
        topics.verify(begin, id);
        for second in 0..=seconds {
            let now = begin + MS * second * 1_000;
            if topics.query(now).is_some() {
                topics.answered(now, Some(vec![("late".to_owned(), answer.clone())]));
            }
        }
        let is_missing = topics.access(id) == TopicAccess::Missing;
        assert_eq!(is_missing, missing, "{answer:?} for {seconds} s");
        begin += MS * 10_000_000;
    }
}

fn known() -> MetadataAnswer {
    MetadataAnswer::Known(TopicLimits::default())
}

#[test]
fn a_topic_that_no_broker_creates_is_missing_after_a_record_was_sent_and_refused() {
    let mut topics = Topics::new(true);
    let id = topics.id(TopicName::new("new").unwrap());
    let run = |topics: &mut Topics, seconds: std::ops::Range<u32>| {
        for second in seconds {
            let now = MS * second * 1_000;
            if topics.query(now).is_some() {
                let missing = ("new".to_owned(), MetadataAnswer::Missing);
                topics.answered(now, Some(vec![missing]));
            }
        }
    };
    run(&mut topics, 0..30);
    assert!(matches!(topics.access(id), TopicAccess::Open(_)));
    topics.verify(MS * 30_000, id);
    run(&mut topics, 30..40);
    assert_eq!(topics.access(id), TopicAccess::Missing);
    // A retry lets the brokers try again.
    topics.refresh(MS * 40_000, id);
    run(&mut topics, 40..45);
    assert!(matches!(topics.access(id), TopicAccess::Open(_)));
}

#[test]
fn a_flood_stops_at_the_limit_and_what_the_table_has_counts() {
    for (earlier, expected) in [(0, 5), (4, 1), (9, 0)] {
        let mut engine = engine();
        engine.filed_recently(MS, earlier);
        let mut filed = 0;
        for at in 0..8 {
            let (row, commit) = (110 + at * 20, 110 + at as u64 * 20);
            engine.begin(Lsn::new(commit));
            engine.change().unwrap();
            let record = record(row);
            let offered = engine.offer(Offer {
                row: Some(RowName::of_id(row)),
                xid: 1,
                bytes: 10,
                since_micros: 0,
                sent_micros: 0,
                from_table: false,
                facts: RecordFacts::of_held(&record),
                rejection: Some(Rejection {
                    code: "TOPIC_INVALID".to_owned(),
                    message: "invalid".to_owned(),
                }),
            });
            let Offered {
                ticket, admission, ..
            } = offered.unwrap();
            let Admission::Keep(reason) = admission else {
                panic!("an invalid topic was accepted");
            };
            engine.keep(MS, ticket, Box::new(record), reason);
            engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
        }
        let mut end = None;
        for _ in 0..3 {
            engine.poll(MS * 10);
            while let Some(output) = next(&mut engine) {
                match output {
                    Output::Sink(SinkOutput::Work {
                        generation,
                        work: DatabaseWork::File(letters),
                    }) => {
                        filed += letters.len();
                        let work = DatabaseWork::File(letters);
                        engine.work_finished(MS * 10, generation, work, Ok(None), None);
                    }
                    Output::Session(SessionOutput::End(ended)) => end = Some(ended),
                    _ => {}
                }
            }
        }
        assert_eq!(filed, expected);
        let Some(End::Halted(rejection)) = end else {
            panic!("{end:?}");
        };
        assert_eq!(rejection.code, "DEAD_LETTER_FLOOD");
        let hint = End::Halted(rejection).into_error();
        assert!(!hint.report().contains("OUTBOX_ON_POISON"), "{hint:?}");
        assert_eq!(engine.unsettled_rows().len(), 8 - expected);
    }
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
fn the_dead_letter_of_row_zero_names_it() {
    let mut engine = engine();
    let (ticket, _) = begin_row(&mut engine, 100, Some(0));
    let mut now = MS;
    for _ in 0..2 {
        refused(&mut engine, now, ticket, 100);
        now += MS * 10_000;
        assert_eq!(sends(&mut engine, now), [ticket]);
    }
    refused(&mut engine, now, ticket, 100);
    assert_eq!(filed(&mut engine, now)[0].row, Some(RowName::of_id(0)));
}

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

fn retry_of(dead_letter: i64, row: i64, place: Option<(Lsn, u32)>) -> ResolveRequest {
    ResolveRequest {
        dead_letter,
        row: Some(row.into()),
        resolution: Resolution::Retry,
        place,
        parked_key: None,
        record: Some(Box::new(record(row))),
        rejection: None,
    }
}

/// The end of the last whole transaction may be the start of the next one's commit record.
#[test]
fn a_retried_dead_letter_waits_at_the_end_of_the_transaction_before_its_own() {
    let mut engine = engine();
    engine.begin(Lsn::new(150));
    engine.commit(Lsn::new(150), Lsn::new(160));
    for (commit, sent) in [(160, 0), (159, 1)] {
        let now = MS * 10_000 * (200 - commit) as u32;
        let (generation, work) = lookup(&mut engine, now);
        let pending = PendingRequests {
            requests: vec![retry_of(1, 7, Some((Lsn::new(commit), 0)))],
            parked: None,
        };
        engine.work_finished(now, generation, work, Ok(Some(pending)), None);
        engine.topics_answered(now, Some(vec![("t".to_owned(), known())]));
        assert_eq!(sends(&mut engine, now).len(), sent, "{commit}");
    }
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

#[test]
fn without_the_lock_no_request_is_read_or_carried_out() {
    let mut engine = engine();
    let (generation, work) = lookup(&mut engine, MS * 2_000);
    engine.session_ended();
    engine.lock_lost(MS * 2_000);
    let pending = PendingRequests {
        requests: vec![retry_of(1, 7, None)],
        parked: None,
    };
    engine.work_finished(MS * 3_000, generation, work, Ok(Some(pending)), None);
    engine.topics_answered(MS * 3_000, Some(vec![("t".to_owned(), known())]));
    for second in 3..10 {
        engine.poll(MS * 1_000 * second);
        let output = engine.output();
        assert!(output.is_none(), "{output:?}");
        assert!(engine.deadline().is_none_or(|at| at > MS * 1_000 * second));
    }
    engine.lock_held();
    lookup(&mut engine, MS * 20_000);
}

#[test]
fn no_request_is_read_while_one_is_carried_out() {
    let mut engine = engine();
    let now = MS * 2_000;
    let (generation, work) = lookup(&mut engine, now);
    let pending = PendingRequests {
        requests: vec![retry_of(1, 7, None)],
        parked: None,
    };
    engine.work_finished(now, generation, work, Ok(Some(pending)), None);
    engine.topics_answered(now, Some(vec![("t".to_owned(), known())]));
    let sent = sends(&mut engine, now);
    assert_eq!(sent.len(), 1);
    let mut looks = 0;
    for second in 3..60 {
        engine.poll(MS * 1_000 * second);
        while let Some(output) = engine.output() {
            let is_look = |work: &DatabaseWork| matches!(work, DatabaseWork::ReadRequests { .. });
            looks += usize::from(
                matches!(&output, Output::Sink(SinkOutput::Work { work, .. }) if is_look(work)),
            );
        }
    }
    assert_eq!(looks, 0, "the retry would be sent twice");
    assert_eq!(delivered(&mut engine, MS * 60_000, sent[0]), 1);
    let closed = lookup(&mut engine, MS * 61_000);
    assert!(matches!(closed.1, DatabaseWork::ReadRequests { .. }));
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

#[test]
fn neither_a_reset_nor_a_retry_moves_the_limit_of_dead_letters() {
    let mut engine = engine();
    engine.filed_recently(MS, 5);
    engine.reset(Lsn::new(100));
    let limit = &mut engine.dispatch.dead_letters.filing_limit;
    assert!(!limit.admits(MS), "a reset forgets what was filed");
    let refusal = || Rejection {
        code: "REFUSED".to_owned(),
        message: "refused".to_owned(),
    };
    let dead_letters = &mut engine.dispatch.dead_letters;
    dead_letters.start_resolving(&retry_of(1, 7, None), 70);
    let filed = dead_letters.reject(MS, 70, None, None, refusal(), 3);
    assert_eq!(filed, Ok(()), "it is filed already");
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
