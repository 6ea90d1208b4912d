//! The engine on its own: helpers that feed it and carry out what it outputs.
#![allow(clippy::unwrap_used)]

pub(super) use std::time::Duration;

pub(super) use crate::config::{AfterPublish, Mapping, OnPoison};
pub(super) use crate::engine::Engine;
pub(super) use crate::engine::dispatch::Admission;
pub(super) use crate::engine::offer::{Offer, Offered};
pub(super) use crate::engine::output::{
    DatabaseWork, DeliveryFailure, DeliveryResult, End, FailureKind, Intake, Limits, Output,
    PendingRequests, SessionOutput, SinkOutput, Walsender,
};
pub(super) use crate::engine::record_checks::RecordFacts;
pub(super) use crate::engine::required_parts::RequiredParts;
pub(super) use crate::engine::topics::topic::{MetadataAnswer, TopicAccess, TopicLimits};
pub(super) use crate::engine::topics::{TopicId, Topics};
pub(super) use crate::engine::tracker::violation::Violation;
pub(super) use crate::engine::tracker::{Ticket, TransactionName};
pub(super) use crate::lsn::Lsn;
pub(super) use crate::outbox::{
    CloseDeadLetter, KeyHash, Mark, NewDeadLetter, Outcome, OwnedRecord, ParkedKey, ParkedKeyList,
    Rejection, Resolution, ResolveRequest, RowName, TopicName,
};

pub(super) const MS: Duration = Duration::from_millis(1);

pub(super) fn engine() -> Engine {
    engine_with(1, OnPoison::DeadLetter)
}

/// An engine that streams from 100 and knows the topic `t`.
pub(super) fn engine_with(batch_size: usize, on_poison: OnPoison) -> Engine {
    let mut engine = unanswered(batch_size, on_poison);
    engine.topics_answered(MS, Some(vec![("t".to_owned(), known())]));
    engine
}

/// The same before Kafka has answered about the topic.
pub(super) fn unanswered(batch_size: usize, on_poison: OnPoison) -> Engine {
    let mut engine = Engine::new(Limits {
        after_publish: AfterPublish::Mark,
        retain: None,
        retain_share: None,
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
        resolves: true,
        dead_letters_per_minute: 5,
        parked_keys_max: 1_000,
        auto_creates_topics: false,
        compresses: false,
        batch_bytes: 1_000_000,
        status_interval: MS * 10_000,
        receive_timeout: MS * 25_000,
        transactions: None,
    });
    engine.reset(Lsn::new(100));
    engine.topic(TopicName::new("t").ok());
    engine.session_started(MS);
    outputs(&mut engine);
    engine
}

/// The next output; lookups of dead letters, which find none, and counted attempts are carried out.
pub(super) fn next(engine: &mut Engine) -> Option<Output> {
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
pub(super) fn outputs(engine: &mut Engine) -> Vec<Output> {
    std::iter::from_fn(|| next(engine)).collect()
}

pub(super) fn record(row: i64) -> OwnedRecord {
    let value = row.to_string();
    OwnedRecord::new("t", Some(b"k"), Some(value.as_bytes()), std::iter::empty())
}

/// Begins a transaction with one event; returns whether the event was sent.
pub(super) fn begin_and(engine: &mut Engine, commit: u64) -> (Ticket, bool) {
    begin_row(engine, commit, Some(commit as i64))
}

/// The same for an event of this row.
pub(super) fn begin_row(engine: &mut Engine, commit: u64, row: Option<i64>) -> (Ticket, bool) {
    engine.begin(Lsn::new(commit));
    engine.change().unwrap();
    offer(engine, row, record(commit as i64))
}

/// Offers the event of this record; returns whether it was sent.
pub(super) fn offer(engine: &mut Engine, row: Option<i64>, record: OwnedRecord) -> (Ticket, bool) {
    let offered = engine.offer(Offer {
        row: row.map(RowName::of_id),
        xid: 1,
        bytes: 10,
        since_micros: 0,
        sent_micros: 0,
        from_table: false,
        facts: RecordFacts::of_held(&record),
        signature: &|| None,
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

pub(super) fn begin(engine: &mut Engine, commit: u64) -> Ticket {
    begin_and(engine, commit).0
}

pub(super) fn transaction(engine: &mut Engine, commit: u64) -> Ticket {
    let ticket = begin(engine, commit);
    engine.commit(Lsn::new(commit), Lsn::new(commit + 10));
    ticket
}

pub(super) fn delivered(engine: &mut Engine, now: Duration, ticket: Ticket) -> usize {
    report(engine, now, ticket, None, None)
}

/// Delivered by a partition that has rejected an earlier record.
pub(super) fn delivered_behind(
    engine: &mut Engine,
    now: Duration,
    ticket: Ticket,
    row: i64,
) -> usize {
    report(engine, now, ticket, None, Some(row))
}

pub(super) fn refused(engine: &mut Engine, now: Duration, ticket: Ticket, row: i64) -> usize {
    report(engine, now, ticket, Some(FailureKind::Refused), Some(row))
}

pub(super) fn report(
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
pub(super) fn report_of(
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
pub(super) struct Batch {
    pub(super) generation: u64,
    pub(super) marks: Vec<Mark>,
}

pub(super) fn write_back(engine: &mut Engine, now: Duration) -> Batch {
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

pub(super) fn written(engine: &mut Engine, now: Duration, batch: Batch, settled: bool) {
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
pub(super) fn end_after_filing(engine: &mut Engine, now: Duration) -> Option<End> {
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
pub(super) fn sends(engine: &mut Engine, now: Duration) -> Vec<Ticket> {
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

pub(super) fn marked(engine: &mut Engine, now: Duration, output: Output) {
    let Output::Sink(SinkOutput::Work {
        generation,
        work: DatabaseWork::Mark(marks),
    }) = output
    else {
        panic!("not a write-back: {output:?}");
    };
    written(engine, now, Batch { generation, marks }, true);
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

pub(super) fn known() -> MetadataAnswer {
    MetadataAnswer::Known(TopicLimits::default())
}

pub(super) fn retry_of(dead_letter: i64, row: i64, place: Option<(Lsn, u32)>) -> ResolveRequest {
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
