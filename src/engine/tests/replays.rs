//! A replay exactly once: what its progress records name.
#![allow(clippy::unwrap_used)]

use super::support::*;
use crate::engine::exactly_once::limits::TransactionLimits;
use crate::engine::exactly_once::progress::{Phase, Progress};
use crate::engine::exactly_once::recorded_replay::RecordedReplay;
use crate::engine::exactly_once::state::ExactlyOnce;
use crate::engine::exactly_once::transaction::{CommitOutcome, PROGRESS_TICKET};
use crate::outbox::replay::ReplayFilter;

/// The progress of a replay that has sent nothing.
fn beginning() -> Progress {
    let replay = RecordedReplay {
        table: "t".to_owned(),
        filter: ReplayFilter::default(),
        started: "now".to_owned(),
        run: "1".to_owned(),
        sent: 0,
        complete: false,
    };
    Progress {
        replay: Some(Box::new(replay)),
        ..Progress::beginning(1, "p".to_owned(), Lsn::INVALID, Phase::Replay)
    }
}

/// An engine without a stream, whose producer has begun.
fn replaying() -> Engine {
    let mut engine = engine();
    engine.limits.after_publish = AfterPublish::Keep;
    engine.exactly_once = Some(Box::new(ExactlyOnce::new(TransactionLimits {
        commit_interval: MS * 50,
        idle_interval: MS * 10_000,
        open_max: MS * 5_000,
        events_max: 20_000,
    })));
    engine.session = None;
    engine.reset(Lsn::INVALID);
    engine.transactions_begun(beginning(), Lsn::INVALID, false);
    engine
}

/// Offers this row; returns its ticket.
fn row(engine: &mut Engine, id: i64, rejection: Option<Rejection>) -> Ticket {
    let record = record(id);
    let offered = engine.offer(Offer {
        row: Some(RowName::of_id(id)),
        xid: 1,
        bytes: 10,
        since_micros: 0,
        sent_micros: 0,
        from_table: true,
        facts: RecordFacts::of_held(&record),
        signature: &|| None,
        rejection,
    });
    let Offered {
        ticket, admission, ..
    } = offered.unwrap();
    if let Admission::Keep(reason) = admission {
        engine.keep(engine.now, ticket, Box::new(record), reason);
    }
    ticket
}

fn delivered(engine: &mut Engine, ticket: Ticket) {
    let result = DeliveryResult {
        ticket,
        failure: None,
        suspicion: 0,
        record: None,
    };
    engine.delivery_finished(engine.now, result, &mut Vec::new());
}

/// Polls at `now`; returns the progress that is to be recorded, and files what is to be filed.
fn recorded(engine: &mut Engine, now: Duration) -> Option<Progress> {
    let mut recorded = None;
    engine.poll(now);
    while let Some(output) = next(engine) {
        match output {
            Output::Sink(SinkOutput::RecordProgress(progress)) => recorded = Some(*progress),
            Output::Sink(SinkOutput::Work { generation, work }) => {
                engine.work_finished(now, generation, work, Ok(None), None);
            }
            Output::Sink(SinkOutput::QueryTopics(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    recorded
}

/// The rest of a transaction whose progress was sent; returns how many events are done.
fn committed(engine: &mut Engine, now: Duration) -> usize {
    delivered(engine, PROGRESS_TICKET);
    engine.poll(now);
    let output = next(engine);
    let Some(Output::Sink(SinkOutput::CommitTransaction { generation })) = output else {
        panic!("a commit is due, and not {output:?}");
    };
    let mut done = Vec::new();
    engine.commit_finished(now, generation, CommitOutcome::Committed, &mut done);
    done.len()
}

/// The ids of the rows that a record names, the figure of events, and whether it is the last.
fn named(progress: &Progress) -> (Vec<String>, u64, bool) {
    let replay = progress.replay.as_ref().unwrap();
    let ids = progress.rows.iter().map(|row| row.name().id.to_string());
    (ids.collect(), replay.sent, replay.complete)
}

#[test]
fn a_record_names_the_last_row_that_was_sent_and_none_that_waits() {
    let mut engine = replaying();
    for id in [1, 2] {
        let ticket = row(&mut engine, id, None);
        delivered(&mut engine, ticket);
    }
    let rejection = Rejection {
        code: "X".to_owned(),
        message: String::new(),
    };
    row(&mut engine, 3, Some(rejection));
    assert_eq!(engine.intake(), Intake::Paused, "nothing passes row 3");
    let progress = recorded(&mut engine, MS).unwrap();
    assert_eq!(named(&progress), (vec!["2".to_owned()], 2, false));
    assert_eq!(committed(&mut engine, MS * 2), 2);
    let known = engine.committed_progress().unwrap();
    assert_eq!(known, &progress);
    assert_eq!(engine.intake(), Intake::Open, "row 3 is filed");
    let ticket = row(&mut engine, 4, None);
    delivered(&mut engine, ticket);
    let progress = recorded(&mut engine, MS * 100).unwrap();
    assert_eq!(named(&progress), (vec!["4".to_owned()], 3, false));
    assert_eq!(committed(&mut engine, MS * 101), 1);
    assert!(engine.is_drained());
}

#[test]
fn a_record_without_events_repeats_the_row_and_completes_the_replay() {
    let mut engine = replaying();
    let ticket = row(&mut engine, 7, None);
    delivered(&mut engine, ticket);
    recorded(&mut engine, MS).unwrap();
    committed(&mut engine, MS * 2);
    assert_eq!(recorded(&mut engine, MS * 60_000), None, "no idle records");
    engine.replay_complete();
    assert!(!engine.is_drained());
    let progress = recorded(&mut engine, MS * 60_001).unwrap();
    assert_eq!(named(&progress), (vec!["7".to_owned()], 1, true));
    assert_eq!(committed(&mut engine, MS * 60_002), 0);
    assert!(engine.is_drained());
}

#[test]
fn many_rows_share_a_transaction_and_none_waits_for_a_mark() {
    let mut engine = replaying();
    for id in 0..1_000 {
        assert_eq!(engine.intake(), Intake::Open, "{id}");
        let ticket = row(&mut engine, id, None);
        delivered(&mut engine, ticket);
    }
    let progress = recorded(&mut engine, MS).unwrap();
    assert_eq!(named(&progress), (vec!["999".to_owned()], 1_000, false));
    assert_eq!(committed(&mut engine, MS * 2), 1_000);
    assert_eq!(engine.intake(), Intake::Open);
}

#[test]
fn a_refused_row_is_sent_alone_by_the_next_producer() {
    let mut engine = replaying();
    let tickets = [1, 2].map(|id| row(&mut engine, id, None));
    for ticket in tickets {
        let failure = DeliveryFailure {
            kind: FailureKind::Refused,
            rejection: Rejection {
                code: "TOO_LARGE".to_owned(),
                message: String::new(),
            },
            number: 1,
        };
        let result = DeliveryResult {
            ticket,
            failure: Some(failure),
            suspicion: 0,
            record: Some(Box::new(record(1))),
        };
        engine.delivery_finished(engine.now, result, &mut Vec::new());
    }
    let end = next(&mut engine);
    let is_failed = |end| {
        matches!(
            end,
            Some(Output::Session(SessionOutput::End(End::ProducerFailed(_))))
        )
    };
    assert!(is_failed(end));
    engine.reset(Lsn::INVALID);
    engine.transactions_begun(beginning(), Lsn::INVALID, false);
    let ticket = row(&mut engine, 1, None);
    engine.poll(MS);
    let sent = next(&mut engine);
    assert!(
        matches!(sent, Some(Output::Sink(SinkOutput::Send { .. }))),
        "{sent:?}"
    );
    assert_eq!(engine.intake(), Intake::Paused);
    delivered(&mut engine, ticket);
    let progress = recorded(&mut engine, MS * 2).unwrap();
    assert_eq!(named(&progress), (vec!["1".to_owned()], 1, false));
}
