//! The join against a naive comparison, on random multisets.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::verify::store::entry::{Position, RowFacts};

fn id(number: u8) -> IdDigest {
    [number; 16]
}

fn row(number: u8, value: u64, created: u64) -> RowEntry {
    RowEntry {
        id: id(number),
        created,
        place: 1,
        value,
        time: None,
        topic: 0,
        facts: RowFacts {
            marked: true,
            ..RowFacts::default()
        },
        name: number.to_string().into(),
    }
}

fn record(number: u8, value: u64, created: u64, offset: i64) -> RecordEntry {
    RecordEntry {
        id: id(number),
        created,
        created_at: None,
        place: 1,
        value,
        at: Position {
            topic: 0,
            partition: 0,
            offset,
        },
        is_replayed: false,
        is_ours: true,
        name: number.to_string().into(),
    }
}

/// The numbers of each verdict.
fn counted(bucket: &mut Bucket, exclusive: bool) -> BTreeMap<&'static str, usize> {
    let rules = Rules {
        exclusive,
        is_deleted: false,
    };
    let mut counts = BTreeMap::new();
    bucket.sort();
    for verdict in join(bucket, rules) {
        let name = match verdict {
            Verdict::Matched(_) => "matched",
            Verdict::Absent(_) => "absent",
            Verdict::DeadLettered(_) => "dead-lettered",
            Verdict::Duplicate(_) => "duplicate",
            Verdict::Altered(..) => "altered",
            Verdict::Unclear(_) => "unclear",
            Verdict::Stray(_) => "stray",
            Verdict::OfAnotherRow(_) => "of another row",
            Verdict::Replayed(_) => "replayed",
            Verdict::OutOfOrder(_) => "out of order",
            Verdict::OrderUnknown(_) => "order unknown",
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

proptest! {
    /// Each row once; records of any number, some with another value, some of ids without a row.
    #[test]
    fn the_join_counts_as_a_naive_comparison_does(
        rows in prop::collection::btree_set(0_u8..12, 0..10),
        sent in prop::collection::vec((0_u8..15, any::<bool>(), any::<bool>()), 0..30),
    ) {
        let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
        let mut add = |name, count: usize| {
            if count > 0 {
                *expected.entry(name).or_default() += count;
            }
        };
        for number in 0..15 {
            let of_id: Vec<_> = sent.iter().filter(|it| it.0 == number).collect();
            let good = of_id.iter().filter(|it| it.1 && !it.2).count();
            let bad = of_id.iter().filter(|it| !it.1 && !it.2).count();
            let replayed = of_id.iter().filter(|it| it.2).count();
            let good_replay = of_id.iter().any(|it| it.1 && it.2);
            let bad_replays = of_id.iter().filter(|it| !it.1 && it.2).count();
            add("replayed", replayed);
            if !rows.contains(&number) {
                add("stray", good.min(1) + bad.min(1));
                add("duplicate", good.saturating_sub(1) + bad.saturating_sub(1));
            } else if of_id.is_empty() {
                add("absent", 1);
            } else {
                let arrived = good > 0 || (bad == 0 && good_replay);
                add("matched", usize::from(arrived));
                add("duplicate", good.saturating_sub(1));
                add("altered", bad);
                if good == 0 && !good_replay {
                    add("altered", bad_replays);
                }
            }
        }
        let records = sent.iter().zip(0..).map(|((number, good, replayed), offset)| RecordEntry {
            is_replayed: *replayed,
            ..record(*number, if *good { 7 } else { 8 }, 0, offset)
        });
        let mut bucket = Bucket {
            rows: rows.iter().map(|number| row(*number, 7, 0)).collect(),
            records: records.collect(),
            ..Bucket::default()
        };
        prop_assert_eq!(counted(&mut bucket, false), expected);
    }
}

#[test]
fn an_id_that_began_again_is_another_event() {
    let mut bucket = Bucket {
        rows: vec![row(1, 7, 20)],
        records: vec![record(1, 8, 10, 0), record(1, 7, 20, 1)],
        ..Bucket::default()
    };
    let expected = BTreeMap::from([("matched", 1), ("of another row", 1)]);
    assert_eq!(counted(&mut bucket, false), expected);
}

#[test]
fn a_record_without_a_source_is_altered_only_where_no_other_record_is_the_rows() {
    let foreign = || RecordEntry {
        is_ours: false,
        ..record(1, 8, 0, 1)
    };
    let bucket = |records| Bucket {
        rows: vec![row(1, 7, 0)],
        records,
        ..Bucket::default()
    };
    let both = || bucket(vec![record(1, 7, 0, 0), foreign()]);
    let unclear = BTreeMap::from([("matched", 1), ("unclear", 1)]);
    assert_eq!(counted(&mut both(), false), unclear);
    let altered = BTreeMap::from([("matched", 1), ("altered", 1)]);
    assert_eq!(counted(&mut both(), true), altered);
    let alone = counted(&mut bucket(vec![foreign()]), false);
    assert_eq!(alone, BTreeMap::from([("altered", 1)]));
}

#[test]
fn a_dead_letter_excuses_its_row_unless_the_event_was_sent() {
    let letter = |is_sent, is_retried, created| LetterEntry {
        id: id(1),
        created,
        is_sent,
        is_retried,
    };
    let of = |letter, records: &[RecordEntry]| {
        let mut bucket = Bucket {
            rows: vec![row(1, 7, 20)],
            records: records.to_vec(),
            letters: vec![letter],
            ..Bucket::default()
        };
        let counts = counted(&mut bucket, false);
        counts.into_keys().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(letter(false, false, 20), &[]), "dead-lettered");
    assert_eq!(of(letter(false, false, 0), &[]), "dead-lettered");
    assert_eq!(of(letter(false, false, 10), &[]), "absent");
    assert_eq!(of(letter(true, false, 20), &[]), "absent");
    assert_eq!(of(letter(false, true, 20), &[]), "absent");
    assert_eq!(
        of(letter(false, true, 20), &[record(1, 7, 20, 0)]),
        "matched"
    );
}

#[test]
fn a_suspect_is_out_of_order_unless_it_is_a_copy_or_was_a_dead_letter() {
    let suspect = |offset, is_doubtful| SuspectEntry {
        id: id(1),
        at: record(1, 7, 0, offset).at,
        is_doubtful,
    };
    let of = |suspect: SuspectEntry, letters: Vec<LetterEntry>| {
        let mut bucket = Bucket {
            rows: vec![row(1, 7, 0)],
            records: vec![record(1, 7, 0, 3), record(1, 7, 0, 5)],
            letters,
            suspects: vec![suspect],
        };
        let counts = counted(&mut bucket, false);
        let orders = counts.into_keys().filter(|name| name.contains("order"));
        orders.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of(suspect(3, false), Vec::new()), "out of order");
    assert_eq!(of(suspect(3, true), Vec::new()), "order unknown");
    assert_eq!(of(suspect(5, false), Vec::new()), "");
    let retried = LetterEntry {
        id: id(1),
        created: 0,
        is_sent: false,
        is_retried: true,
    };
    assert_eq!(of(suspect(3, false), vec![retried]), "");
}

#[test]
fn the_order_of_records_without_a_row_is_judged_where_rows_are_deleted() {
    for (is_deleted, expected) in [(false, 0), (true, 1)] {
        let mut bucket = Bucket {
            records: vec![record(1, 7, 0, 3)],
            suspects: vec![SuspectEntry {
                id: id(1),
                at: record(1, 7, 0, 3).at,
                is_doubtful: false,
            }],
            ..Bucket::default()
        };
        let rules = Rules {
            exclusive: false,
            is_deleted,
        };
        bucket.sort();
        let verdicts = join(&bucket, rules);
        let orders = verdicts
            .iter()
            .filter(|it| matches!(it, Verdict::OutOfOrder(_)));
        assert_eq!(orders.count(), expected);
    }
}
