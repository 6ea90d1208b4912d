//! Requests about dead letters, and the order within a key that they keep.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

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
        paused: None,
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
        paused: None,
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
        paused: None,
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
        paused: None,
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
            paused: None,
            requests: vec![retry_of(1, 7, Some((Lsn::new(commit), 0)))],
            parked: None,
        };
        engine.work_finished(now, generation, work, Ok(Some(pending)), None);
        engine.topics_answered(now, Some(vec![("t".to_owned(), known())]));
        assert_eq!(sends(&mut engine, now).len(), sent, "{commit}");
    }
}

#[test]
fn without_the_lock_no_request_is_read_or_carried_out() {
    let mut engine = engine();
    let (generation, work) = lookup(&mut engine, MS * 2_000);
    engine.session_ended();
    engine.lock_lost(MS * 2_000);
    let pending = PendingRequests {
        paused: None,
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
    engine.lock_held(None);
    lookup(&mut engine, MS * 20_000);
}

#[test]
fn no_request_is_read_while_one_is_carried_out() {
    let mut engine = engine();
    let now = MS * 2_000;
    let (generation, work) = lookup(&mut engine, now);
    let pending = PendingRequests {
        paused: None,
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
