//! Topics that are missing or denied, and outages that look like it.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

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

/// An event for a topic of this name; its ticket, if it was sent.
fn event_for(engine: &mut Engine, commit: u64, topic: &str) -> Option<Ticket> {
    engine.begin(Lsn::new(commit));
    engine.change().unwrap();
    let record = OwnedRecord::new(topic, Some(b"k"), Some(b"{}"), std::iter::empty());
    let (ticket, sent) = offer(engine, Some(commit as i64), record);
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
