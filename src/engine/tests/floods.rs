//! The limit of dead letters that stops the publisher.
#![allow(clippy::unwrap_used)]

use crate::engine::tests::support::*;

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
                signature: &|| None,
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
