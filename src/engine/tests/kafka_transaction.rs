//! What is in each Kafka transaction, and when it is committed.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::engine::exactly_once::progress::Partial;

const MS: Duration = Duration::from_millis(1);
/// No transaction takes long to end.
const NOW: Duration = Duration::ZERO;
const LIMITS: TransactionLimits = TransactionLimits {
    commit_interval: Duration::from_millis(50),
    idle_interval: Duration::from_secs(10),
    open_max: Duration::from_secs(5),
    events_max: 4,
};

fn name(commit: u64) -> TransactionName {
    TransactionName::from(Lsn::new(commit))
}

fn event(ticket: Ticket, commit: u64, index: u32) -> Sent {
    Sent {
        ticket,
        commit_lsn: Lsn::new(commit),
        index,
        is_row: commit == 0,
    }
}

fn progress(position: u64) -> Progress {
    Progress::beginning(1, "outboxd".to_owned(), Lsn::new(position), Phase::Stream)
}

/// A producer has begun, and all up to 100 is in Kafka.
fn transactions() -> Transactions {
    let mut transactions = Transactions::new(LIMITS);
    transactions.begin(progress(100), false);
    transactions
}

/// All up to `complete` was received, and so many events are not acknowledged.
fn facts(complete: u64, in_flight: u64) -> Facts {
    Facts {
        in_flight,
        unreported: 0,
        complete: Lsn::new(complete),
        last: Some(name(complete - 10)),
        settled: Lsn::new(complete - 20),
        open: None,
        is_marked: true,
        is_full: false,
        is_stopping: false,
    }
}

fn recorded(step: Option<Step>) -> Progress {
    match step {
        Some(Step::Record(progress)) => progress,
        other => panic!("a progress record is due, and not {other:?}"),
    }
}

/// Sends an event of a whole transaction at `now`, and commits it.
fn commit_one(transactions: &mut Transactions, now: Duration, ticket: Ticket, complete: u64) {
    transactions.sent(now, event(ticket, complete - 10, 0), Content::Events);
    let facts = facts(complete, 1);
    assert_eq!(
        recorded(transactions.step(now, &facts)).position,
        facts.complete
    );
    assert_eq!(transactions.step(now, &facts), None);
    transactions.progress_acknowledged();
    assert_eq!(transactions.step(now, &facts), Some(Step::Commit));
    assert_eq!(transactions.step(now, &facts), None);
    let (sent, failure) = transactions.committed_as(now, CommitOutcome::Committed);
    assert_eq!((sent.len(), failure), (1, None));
    assert_eq!(transactions.committed().unwrap().position, facts.complete);
}

#[test]
fn an_event_after_a_rest_is_committed_at_once_and_the_next_ones_share_a_commit() {
    let mut transactions = transactions();
    commit_one(&mut transactions, MS * 10, 1, 210);
    transactions.sent(MS * 12, event(2, 300, 0), Content::Events);
    assert_eq!(transactions.step(MS * 12, &facts(310, 1)), None);
    assert_eq!(transactions.deadline(&facts(310, 1)), Some(MS * 60));
    transactions.sent(MS * 30, event(3, 320, 0), Content::Events);
    assert_eq!(transactions.step(MS * 59, &facts(330, 2)), None);
    let progress = recorded(transactions.step(MS * 60, &facts(330, 2)));
    assert_eq!(progress.position, Lsn::new(330));
    assert_eq!(progress.last, Some(name(320)));
}

#[test]
fn nothing_is_sent_between_the_last_event_and_the_outcome() {
    let mut transactions = transactions();
    let states = |transactions: &Transactions| transactions.takes_events();
    assert!(states(&transactions));
    transactions.sent(MS, event(1, 200, 0), Content::Events);
    assert!(states(&transactions));
    let mut unreported = facts(210, 1);
    unreported.unreported = 1;
    recorded(transactions.step(MS, &unreported));
    assert!(!states(&transactions));
    transactions.progress_acknowledged();
    // The report of the event is still to come.
    assert_eq!(transactions.step(MS, &unreported), None);
    assert_eq!(transactions.step(MS, &facts(210, 1)), Some(Step::Commit));
    assert!(!states(&transactions));
    transactions.committed_as(NOW, CommitOutcome::Committed);
    assert!(states(&transactions));
}

#[test]
fn a_transaction_of_postgres_is_divided_only_by_the_limits_and_by_an_event_that_waits() {
    let open = |counted| Facts {
        open: Some((name(200), counted)),
        ..facts(150, 1)
    };
    let full = |counted| Facts {
        is_full: true,
        ..open(counted)
    };
    for (facts, events, now, expected) in [
        (open(3), 1, MS * 4_000, None),
        (open(3), 1, MS * 5_001, Some(3)),
        (open(9), 4, MS * 2, Some(9)),
        (full(7), 2, MS * 2, Some(7)),
    ] {
        let mut transactions = transactions();
        for ticket in 0..events {
            transactions.sent(MS, event(ticket, 200, ticket as u32), Content::Events);
        }
        let in_flight = events;
        let facts = Facts { in_flight, ..facts };
        let step = transactions.step(now, &facts);
        let Some(changes) = expected else {
            assert_eq!(step, None);
            continue;
        };
        let progress = recorded(step);
        let transaction = name(200);
        let part = Partial {
            transaction,
            changes,
        };
        assert_eq!(progress.position, Lsn::new(150));
        assert_eq!(progress.partial, Some(part));
    }
}

#[test]
fn what_comes_before_an_event_that_waits_is_committed_and_nothing_behind_it_is_taken_in() {
    let mut transactions = transactions();
    transactions.sent(MS, event(1, 200, 0), Content::Events);
    transactions.hold(event(2, 200, 3));
    assert!(transactions.is_held());
    let waiting = Facts {
        open: Some((name(200), 4)),
        ..facts(150, 2)
    };
    let progress = recorded(transactions.step(MS, &waiting));
    assert_eq!(progress.partial.unwrap().changes, 3);
    transactions.progress_acknowledged();
    assert_eq!(transactions.step(MS, &waiting), Some(Step::Commit));
    transactions.committed_as(NOW, CommitOutcome::Committed);
    // It waits for as long as it takes, and no transaction is open meanwhile.
    let alone = Facts {
        in_flight: 1,
        ..waiting
    };
    assert_eq!(transactions.step(MS * 3_600_000, &alone), None);
    assert!(transactions.is_empty() && transactions.is_held());
    let now = MS * 3_600_001;
    transactions.sent(now, event(2, 200, 3), Content::Events);
    assert!(!transactions.is_held());
    let whole = facts(260, 1);
    let progress = recorded(transactions.step(now, &whole));
    assert_eq!((progress.position, progress.partial), (Lsn::new(260), None));
}

#[test]
fn a_suspect_is_alone_in_its_transaction() {
    let mut transactions = transactions();
    transactions.hold(event(1, 200, 0));
    transactions.sent(MS, event(1, 200, 0), Content::Single);
    assert!(!transactions.takes_events());
    let open = Facts {
        open: Some((name(200), 1)),
        ..facts(150, 1)
    };
    assert_eq!(
        recorded(transactions.step(MS, &open))
            .partial
            .unwrap()
            .changes,
        1
    );
    transactions.progress_acknowledged();
    transactions.step(MS, &open);
    transactions.committed_as(NOW, CommitOutcome::Committed);
    assert!(transactions.takes_events());
}

#[test]
fn progress_without_events_is_recorded_now_and_then() {
    let mut transactions = transactions();
    commit_one(&mut transactions, MS, 1, 210);
    assert_eq!(transactions.step(MS * 60_000, &facts(210, 0)), None);
    assert_eq!(transactions.step(MS * 10_000, &facts(220, 0)), None);
    assert_eq!(transactions.deadline(&facts(220, 0)), Some(MS * 10_001));
    let progress = recorded(transactions.step(MS * 10_001, &facts(220, 0)));
    assert_eq!(progress.position, Lsn::new(220));
}

#[test]
fn the_first_record_of_a_slot_comes_before_its_events() {
    let mut transactions = Transactions::new(LIMITS);
    transactions.begin(progress(100), true);
    let facts = |complete, in_flight| Facts {
        last: None,
        ..facts(complete, in_flight)
    };
    assert!(!transactions.takes_events() && !transactions.is_empty());
    assert_eq!(
        recorded(transactions.step(MS, &facts(100, 0))),
        progress(100)
    );
    transactions.progress_acknowledged();
    assert_eq!(transactions.step(MS, &facts(100, 0)), Some(Step::Commit));
    transactions.committed_as(NOW, CommitOutcome::Committed);
    assert!(transactions.takes_events() && transactions.is_empty());
}

/// After a start the stream repeats what is in Kafka.
#[test]
fn progress_never_goes_back() {
    let mut transactions = Transactions::new(LIMITS);
    let part = |changes| Partial {
        transaction: name(500),
        changes,
    };
    let before = Progress {
        last: Some(name(480)),
        partial: Some(part(7)),
        ..progress(490)
    };
    transactions.begin(before.clone(), false);
    let repeating = Facts {
        open: Some((name(300), 2)),
        ..facts(210, 0)
    };
    assert_eq!(transactions.step(MS * 60_000, &repeating), None);
    // The keepalive that had moved the position has not come again.
    transactions.sent(MS * 60_000, event(1, 500, 9), Content::Events);
    let beyond = Facts {
        open: Some((name(500), 10)),
        is_full: true,
        ..facts(450, 1)
    };
    let expected = Progress {
        partial: Some(part(10)),
        ..before
    };
    assert_eq!(recorded(transactions.step(MS * 60_000, &beyond)), expected);
}

#[test]
fn every_outcome_but_a_clear_one_gives_the_producer_up() {
    let lost = Rejection {
        code: "_TIMED_OUT".to_owned(),
        message: "no answer".to_owned(),
    };
    for (outcome, committed, position) in [
        (CommitOutcome::Committed, 1, 210),
        (CommitOutcome::CommittedInDoubt, 1, 210),
        (CommitOutcome::Failed(lost.clone()), 0, 100),
    ] {
        let is_clear = outcome == CommitOutcome::Committed;
        let mut transactions = transactions();
        transactions.sent(MS, event(1, 200, 0), Content::Events);
        transactions.step(MS, &facts(210, 1));
        transactions.progress_acknowledged();
        transactions.step(MS, &facts(210, 1));
        let (sent, failure) = transactions.committed_as(NOW, outcome);
        assert_eq!((sent.len(), failure.is_none()), (committed, is_clear));
        assert_eq!(transactions.is_closed(), !is_clear);
        // Nothing behind it may be confirmed, whatever comes.
        assert_eq!(
            transactions.committed().unwrap().position,
            Lsn::new(position)
        );
        let (late, _) = transactions.committed_as(NOW, CommitOutcome::Committed);
        assert!(late.is_empty());
    }
}

#[test]
fn a_transaction_that_takes_too_long_is_given_up_wherever_it_stands() {
    let waits_for_reports = |transactions: &mut Transactions, facts: &Facts| {
        recorded(transactions.step(MS, facts));
    };
    let waits_for_an_event = |transactions: &mut Transactions, facts: &Facts| {
        let filed = Facts {
            in_flight: 2,
            is_stopping: true,
            ..*facts
        };
        assert_eq!(transactions.step(MS, &filed), None);
    };
    let waits_for_the_commit = |transactions: &mut Transactions, facts: &Facts| {
        recorded(transactions.step(MS, facts));
        transactions.progress_acknowledged();
        assert_eq!(transactions.step(MS, facts), Some(Step::Commit));
    };
    let cases: [fn(&mut Transactions, &Facts); 3] =
        [waits_for_reports, waits_for_an_event, waits_for_the_commit];
    for wait in cases {
        let mut transactions = transactions();
        transactions.sent(MS, event(1, 200, 0), Content::Events);
        let mut facts = facts(210, 1);
        wait(&mut transactions, &facts);
        facts.in_flight = 2;
        assert_eq!(transactions.step(MS * 15_000, &facts), None);
        let step = transactions.step(MS * 15_001, &facts);
        assert!(matches!(step, Some(Step::GiveUp(_))), "{step:?}");
        assert!(transactions.is_closed());
    }
}

#[test]
fn rows_of_the_table_are_marked_before_others_are_sent() {
    let mut transactions = Transactions::new(LIMITS);
    let table = Phase::Table;
    let beginning = Progress::beginning(1, "outboxd".to_owned(), Lsn::INVALID, table);
    transactions.begin(beginning, false);
    let row = |ticket| event(ticket, 0, 0);
    let facts = |is_marked| Facts {
        complete: Lsn::INVALID,
        last: None,
        is_marked,
        ..facts(100, 2)
    };
    transactions.sent(MS, row(1), Content::Events);
    transactions.sent(MS, row(2), Content::Events);
    assert_eq!(recorded(transactions.step(MS, &facts(true))).phase, table);
    transactions.progress_acknowledged();
    assert_eq!(transactions.step(MS, &facts(true)), Some(Step::Commit));
    transactions.committed_as(NOW, CommitOutcome::Committed);
    let mut marking = facts(false);
    marking.in_flight = 0;
    assert_eq!(transactions.step(MS * 60_000, &marking), None);
    assert!(!transactions.takes_events() && !transactions.is_empty());
    marking.is_marked = true;
    assert_eq!(transactions.step(MS * 60_000, &marking), None);
    assert!(transactions.takes_events() && transactions.is_empty());
}

#[test]
fn rows_of_a_replay_follow_each_other_without_marks_and_without_their_limit() {
    let limits = TransactionLimits {
        events_max: ROWS_MAX * 2,
        ..LIMITS
    };
    let facts = |in_flight| Facts {
        complete: Lsn::INVALID,
        last: None,
        is_marked: false,
        ..facts(100, in_flight)
    };
    for (phase, most) in [(Phase::Table, ROWS_MAX), (Phase::Replay, ROWS_MAX * 2)] {
        let mut transactions = Transactions::new(limits);
        let beginning = Progress::beginning(1, "outboxd".to_owned(), Lsn::INVALID, phase);
        transactions.begin(beginning, false);
        // The first one is committed at once, and the next ones at an interval.
        transactions.sent(MS, event(0, 0, 0), Content::Events);
        recorded(transactions.step(MS, &facts(1)));
        transactions.progress_acknowledged();
        assert_eq!(transactions.step(MS, &facts(1)), Some(Step::Commit));
        transactions.committed_as(MS, CommitOutcome::Committed);
        assert_eq!(transactions.takes_events(), phase == Phase::Replay);
        let marked = Facts {
            is_marked: true,
            ..facts(0)
        };
        transactions.step(MS, &marked);
        for sent in 1..most {
            let ticket = sent as Ticket;
            transactions.sent(MS, event(ticket, 0, 0), Content::Events);
            let step = transactions.step(MS, &facts(sent as u64));
            assert_eq!(step, None, "{phase:?} {sent}");
        }
        transactions.sent(MS, event(most as Ticket, 0, 0), Content::Events);
        recorded(transactions.step(MS, &facts(most as u64)));
    }
}

#[test]
fn a_stop_commits_at_once_at_the_end_of_the_transaction_of_postgres() {
    let mut transactions = transactions();
    commit_one(&mut transactions, MS, 1, 210);
    transactions.sent(MS * 2, event(2, 300, 0), Content::Events);
    let inside = Facts {
        open: Some((name(300), 1)),
        is_stopping: true,
        ..facts(210, 1)
    };
    assert_eq!(transactions.step(MS * 2, &inside), None);
    let at_end = Facts {
        is_stopping: true,
        ..facts(310, 1)
    };
    recorded(transactions.step(MS * 3, &at_end));
}

#[test]
fn a_retried_dead_letter_is_named_until_it_is_closed() {
    let mut transactions = transactions();
    let named =
        |transactions: &Transactions| transactions.committed().unwrap().dead_letters.clone();
    let commit = |transactions: &mut Transactions, letters: &[i64]| {
        let facts = facts(210, letters.len() as u64);
        for letter in letters {
            assert!(transactions.takes_letters());
            transactions.letter_sent(MS * 10, event(1, 0, 0), *letter, Content::Letters);
            assert!(!transactions.takes_events(), "the stream waits");
        }
        let progress = recorded(transactions.step(MS * 10, &facts));
        transactions.progress_acknowledged();
        assert_eq!(transactions.step(MS * 10, &facts), Some(Step::Commit));
        transactions.committed_as(NOW, CommitOutcome::Committed);
        progress.dead_letters
    };
    assert!(transactions.is_turn_of_letters());
    assert_eq!(commit(&mut transactions, &[7, 8]), [7, 8]);
    assert!(!transactions.is_turn_of_letters(), "the stream is next");
    assert_eq!(commit(&mut transactions, &[9]), [7, 8, 9]);
    transactions.letters_closed(|id| id < 9);
    assert_eq!(named(&transactions), [9]);
    commit_one(&mut transactions, MS * 100, 2, 310);
    assert_eq!(named(&transactions), [9]);
    transactions.letters_closed(|_| true);
    assert_eq!(named(&transactions), [0_i64; 0]);
}

#[test]
fn a_letter_goes_with_letters_alone_and_so_many_of_them() {
    let mut transactions = transactions();
    transactions.sent(MS, event(1, 200, 0), Content::Events);
    assert!(!transactions.takes_letters(), "the stream has it");
    let mut transactions = self::transactions();
    let mut letters = 0;
    while transactions.takes_letters() {
        transactions.letter_sent(MS, event(1, 0, 0), letters, Content::Letters);
        letters += 1;
    }
    assert_eq!(letters, 500);
    let mut transactions = self::transactions();
    transactions.letter_sent(MS, event(1, 0, 0), 1, Content::Single);
    assert!(!transactions.takes_letters() && !transactions.takes_events());
}
