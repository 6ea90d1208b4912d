//! Records that a partition refuses, and those behind them.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

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
        paused: None,
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
