//! The rounds of a topic's queue.

use std::time::Duration;

use crate::engine::output::{DeliveryFailure, FailureKind};
use crate::engine::topics::topic_queue::{HeldRecord, RoundResult, TopicQueue};
use crate::engine::tracker::Ticket;
use crate::outbox::{OwnedRecord, Rejection};

const ATTEMPTS: u32 = 3;

fn record(ticket: Ticket) -> HeldRecord {
    let record = OwnedRecord::new("t", Some(b"k"), Some(b"v"), std::iter::empty());
    HeldRecord {
        ticket,
        record: Box::new(record),
    }
}

fn refused() -> Option<DeliveryFailure> {
    Some(DeliveryFailure {
        kind: FailureKind::Refused,
        rejection: Rejection {
            code: "REFUSED".to_owned(),
            message: "refused".to_owned(),
        },
        number: 1,
    })
}

/// The tickets of the next round, which is sent whole.
fn sent(queue: &mut TopicQueue) -> Vec<HeldRecord> {
    std::iter::from_fn(|| queue.next().map(|(held, _)| held)).collect()
}

/// Sends a round, of which these are refused.
fn round(queue: &mut TopicQueue, is_refused: impl Fn(Ticket) -> bool) -> (usize, RoundResult) {
    let records = sent(queue);
    let count = records.len();
    for held in records {
        let failure = is_refused(held.ticket).then(refused).flatten();
        queue.return_record(held, failure);
    }
    let result = queue.finish_round(Duration::ZERO, ATTEMPTS, true);
    (count, result)
}

/// A queue to which a batch of sixteen came back, refused as a whole.
fn batch() -> TopicQueue {
    let mut queue = TopicQueue::default();
    for ticket in 0..16 {
        queue.return_record(record(ticket), refused());
    }
    queue.finish_round(Duration::ZERO, ATTEMPTS, true);
    queue
}

#[test]
fn the_window_is_halved_by_a_failed_round_and_doubled_by_a_good_one() {
    let mut queue = batch();
    let sizes: Vec<usize> = [true, true, false, false, false]
        .into_iter()
        .map(|fails| round(&mut queue, |_| fails).0)
        .collect();
    assert_eq!(sizes, [8, 4, 2, 4, 8]);
}

#[test]
fn a_record_that_is_refused_alone_has_attempts_of_its_own() {
    let mut queue = batch();
    // The first is refused alone twice, and then goes through; the next is refused alone.
    for _ in 1..ATTEMPTS {
        let (_, first) = round(&mut queue, |ticket| ticket == 0);
        assert_eq!(first.attempted, Some(0));
        assert!(first.rejected.is_none());
    }
    let (count, _) = round(&mut queue, |_| false);
    assert_eq!(count, 1);
    let mut attempts = 0;
    loop {
        let (_, result) = round(&mut queue, |ticket| ticket == 1);
        attempts += u32::from(result.attempted == Some(1));
        if let Some((held, _, counted)) = result.rejected {
            assert_eq!((held.ticket, counted, attempts), (1, ATTEMPTS, ATTEMPTS));
            return;
        }
    }
}
