//! What is said of the topic of the progress records.

use super::*;
use crate::doctor::report::Verdict;

fn facts() -> TopicFacts {
    TopicFacts {
        compacted: true,
        partition_count: 1,
        replicas: 3,
        min_in_sync: Some(2),
        ..TopicFacts::default()
    }
}

#[test]
fn a_topic_that_cannot_keep_the_progress_is_named_with_what_fixes_it() {
    let of = |found: Found, may_write| {
        let check = judge("progress", &found, may_write, "b:9092");
        (check.verdict, check.fix.unwrap_or_default())
    };
    let known = |facts| of(Found::Known(facts), Some(true));
    assert_eq!(known(facts()).0, Verdict::Ok);
    let cases = [
        (
            known(TopicFacts {
                partition_count: 6,
                ..facts()
            }),
            Verdict::Fails,
            "OUTBOX_PROGRESS",
        ),
        (
            known(TopicFacts {
                compacted: false,
                ..facts()
            }),
            Verdict::Fails,
            "policy=compact",
        ),
        (
            known(TopicFacts {
                leaderless: vec![0],
                ..facts()
            }),
            Verdict::Fails,
            "start the brokers",
        ),
        (
            known(TopicFacts {
                replicas: 1,
                ..facts()
            }),
            Verdict::Warning,
            "three replicas",
        ),
        (
            of(Found::Known(facts()), Some(false)),
            Verdict::Fails,
            "--operation Write",
        ),
        (
            of(Found::Missing, None),
            Verdict::Warning,
            "--create --topic progress",
        ),
        (
            of(Found::Forbidden, None),
            Verdict::Fails,
            "--operation Describe",
        ),
        (
            of(Found::Unclear("slow".to_owned()), None),
            Verdict::CannotSay,
            "again",
        ),
    ];
    for ((verdict, fix), expected, words) in cases {
        assert_eq!(verdict, expected, "{fix}");
        assert!(fix.contains(words), "{fix}");
    }
    assert_eq!(
        of(Found::Known(facts()), None).0,
        Verdict::Ok,
        "no broker lists rights"
    );
}
