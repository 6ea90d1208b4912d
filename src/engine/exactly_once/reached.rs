//! The progress record of a transaction: what is in Kafka once it is committed.

use crate::engine::exactly_once::progress::{Partial, Phase, Progress};
use crate::engine::exactly_once::transaction::{Facts, Transactions};
use crate::engine::tracker::TransactionName;
use crate::lsn::Lsn;

impl Transactions {
    /// What is in Kafka once this transaction is committed. It never goes back: after a start the
    /// stream first repeats what is there already.
    pub(super) fn reached(&self, facts: &Facts) -> Option<Progress> {
        let before = self.committed()?;
        let position = facts.complete.max(before.position);
        let last = match (facts.last, before.last) {
            (Some(last), Some(before)) if last.commit_lsn < before.commit_lsn => Some(before),
            (last, before) => last.or(before),
        };
        // A keepalive may come before the rest of a transaction that is there in part.
        let rest = before.partial;
        let rest = rest.filter(|it| it.transaction.commit_lsn >= position);
        let settled = match before.phase {
            Phase::Stream => before.settled.max(Some(facts.settled)),
            Phase::Table | Phase::Copying | Phase::Replay => before.settled,
        };
        Some(Progress {
            position,
            settled,
            last,
            partial: facts
                .open
                .and_then(|open| self.part(open, position))
                .or(rest),
            dead_letters: before
                .dead_letters
                .iter()
                .copied()
                .chain(self.letters.iter().copied())
                .collect(),
            ..before.clone()
        })
    }

    /// The part of the open transaction of Postgres that is in Kafka then.
    fn part(&self, open: (TransactionName, u32), position: Lsn) -> Option<Partial> {
        let (transaction, counted) = open;
        let held = self
            .held()
            .filter(|it| it.commit_lsn == transaction.commit_lsn);
        let changes = held.map_or(counted, |held| held.index);
        let before = self.committed().and_then(|it| it.partial);
        let before = before.filter(|it| it.transaction == transaction);
        let changes = changes.max(before.map_or(0, |it| it.changes));
        (changes > 0 && transaction.commit_lsn >= position).then_some(Partial {
            transaction,
            changes,
        })
    }
}
