//! The records of one topic that cannot be sent at once: the topic is not known yet, or Kafka has
//! refused a record before them.
//!
//! Owns their copies and their order. Two queues, one behind the other: `replay` has the records
//! that Kafka has refused and those that their partition took behind them; `held` has the records
//! that came since, with retried dead letters at their place in the WAL. While a topic has a queue,
//! no record of the topic passes it.
//!
//! Why order survives a refusal. A producer goes on behind a refused batch by itself, so later
//! events of a key are appended before the refusal is known. From the first refusal on, each
//! delivery report of that partition brings its record back, delivered or not, and the record
//! counts as in flight. When nothing of the topic is in flight any more, all of it is sent again in
//! its order, one round at a time: a record leaves the queue only when it and all before it in its
//! round were appended. So an event's last copy lies behind the last copy of every earlier one of
//! its key: duplicates, never an old event as the last word.
//!
//! Which record is the cause. Kafka refuses a batch as a whole. The window of a round is halved
//! when the round fails and doubled when it succeeds, and only a record that failed alone has had
//! an attempt. An outage does not count as an attempt: the same record is sent again later.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::engine::output::{DeliveryFailure, FailureKind};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{OwnedRecord, Rejection};

/// The largest round. What comes back of a round is in memory twice for a moment.
const ROUND_MAX: usize = 4_096;
/// The pause after a failed round, by the number of failures.
const BACK_OFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Where in the queue a record was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It was sent before.
    Replay,
    Held,
}

/// A record that waits in the queue.
#[derive(Debug)]
pub(crate) struct HeldRecord {
    pub(crate) ticket: Ticket,
    pub(crate) record: Box<OwnedRecord>,
}

/// The result of a round.
#[derive(Debug, Default)]
pub(crate) struct RoundResult {
    /// Appended in order: acknowledged.
    pub(crate) delivered: Vec<Ticket>,
    /// This record was refused alone.
    pub(crate) attempted: Option<Ticket>,
    /// This record was refused alone in its last attempt, with the number of attempts.
    pub(crate) rejected: Option<(HeldRecord, Rejection, u32)>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub(crate) struct TopicQueue {
    replay: VecDeque<HeldRecord>,
    held: VecDeque<HeldRecord>,
    returned: Vec<(HeldRecord, Option<DeliveryFailure>)>,
    /// The size of a round; 0 before the first round of a replay.
    window: usize,
    /// Records that may still be sent in this round.
    quota: usize,
    /// The record that was refused alone last, and how many times.
    suspect: Option<(Ticket, u32)>,
    outage_count: u32,
    back_off_until: Option<Duration>,
    /// Why the last round failed.
    problem: Option<Rejection>,
    /// The last round failed, and no record caused it.
    is_outage: bool,
    /// Delivered records that came back.
    delivered: u64,
    /// A record was returned: delivery reports of the topic bring their records along from then on.
    needs_trust: bool,
}

impl TopicQueue {
    /// Adds a new event of the topic, at the end.
    pub(crate) fn hold(&mut self, held_record: HeldRecord) {
        self.held.push_back(held_record);
    }

    /// Takes the held records that are such, in their order.
    pub(crate) fn take_held(
        &mut self,
        mut is_such: impl FnMut(&OwnedRecord) -> bool,
    ) -> Vec<Ticket> {
        let mut taken = Vec::new();
        self.held.retain(|held| {
            let takes = is_such(&held.record);
            if takes {
                taken.push(held.ticket);
            }
            !takes
        });
        taken
    }

    /// Adds a dead letter to be sent again: behind the other dead letters, and behind the events
    /// before its own position in the WAL. One without a position was read from the table and
    /// counts as older than all events of the stream. Events that are read from the table now count
    /// as newer than all dead letters.
    pub(crate) fn retry(
        &mut self,
        held_record: HeldRecord,
        place: Option<(Lsn, u32)>,
        is_dead_letter: impl Fn(Ticket) -> bool,
    ) {
        let newer = |held: &HeldRecord| {
            let stands = held.record.place();
            !is_dead_letter(held.ticket) && (stands.is_none() || stands > place)
        };
        let at = self.held.iter().position(newer);
        self.held.insert(at.unwrap_or(self.held.len()), held_record);
    }

    /// Puts a record of the replay behind the dead letters of its key that were filed since.
    pub(crate) fn requeue_behind(
        &mut self,
        held_record: HeldRecord,
        is_dead_letter: impl Fn(Ticket) -> bool,
    ) {
        let newer =
            |held: &HeldRecord| !is_dead_letter(held.ticket) && held.ticket > held_record.ticket;
        let at = self.held.iter().position(newer);
        self.held.insert(at.unwrap_or(self.held.len()), held_record);
    }

    /// A delivery report returned this record: Kafka refused it, or delivered it in a partition
    /// that refused another.
    pub(crate) fn return_record(
        &mut self,
        held_record: HeldRecord,
        failure: Option<DeliveryFailure>,
    ) {
        self.delivered += u64::from(failure.is_none());
        self.returned.push((held_record, failure));
        self.needs_trust = true;
        // The round sends nothing more: the failure is handled before any record follows it.
        self.quota = 0;
    }

    /// Whether the round failed because the Kafka user may not write to the topic.
    pub(crate) fn is_denied(&self) -> bool {
        let kind = |failure: &Option<DeliveryFailure>| failure.as_ref().map(|it| it.kind);
        let mut kinds = self.returned.iter().map(|(_, failure)| kind(failure));
        kinds.any(|kind| kind == Some(FailureKind::Denied))
    }

    /// How many delivered records came back, of a queue that waits for Kafka.
    pub(crate) fn delivered_count(&self) -> u64 {
        self.delivered
    }

    /// Whether the last round failed, and no record caused it.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_outage
    }

    fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Whether a replay is under way.
    pub(crate) fn is_rewinding(&self) -> bool {
        self.window > 0 || self.has_returned()
    }

    /// Whether delivery reports of the topic bring their records back because of this queue.
    pub(crate) fn needs_trust(&self) -> bool {
        self.needs_trust
    }

    /// Whether a round is over once nothing of the topic is in flight.
    pub(crate) fn is_round_over(&self) -> bool {
        self.has_returned() || (self.window > 0 && (self.quota == 0 || self.replay.is_empty()))
    }

    /// How many of the held records are such.
    pub(crate) fn held_count(&self, is_such: impl Fn(&HeldRecord) -> bool) -> usize {
        self.held.iter().filter(|held| is_such(held)).count()
    }

    /// Whether the queue holds no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.replay.is_empty() && self.held.is_empty() && self.returned.is_empty()
    }

    /// Ends the round when no record of the topic is in flight, and begins the next. A denied
    /// record has had an attempt only if `denials_count`.
    pub(crate) fn finish_round(
        &mut self,
        now: Duration,
        attempts_max: u32,
        denials_count: bool,
    ) -> RoundResult {
        let mut result = RoundResult::default();
        self.returned
            .sort_by_key(|(held_record, _)| held_record.ticket);
        let round = self.returned.len();
        let failed = self
            .returned
            .iter()
            .filter(|(_, failure)| failure.is_some());
        let alone = failed.count() == 1;
        let first = self
            .returned
            .iter()
            .position(|(_, failure)| failure.is_some());
        let behind = self.returned.split_off(first.unwrap_or(round));
        result.delivered = self
            .returned
            .drain(..)
            .map(|(held_record, _)| held_record.ticket)
            .collect();
        let (mut failure, mut outage, mut waits) = (None, None, false);
        for (held_record, failed) in behind.into_iter().rev() {
            if let Some(failed) = failed {
                if failed.kind.is_outage(denials_count) {
                    outage = Some(failed.rejection.clone());
                    waits |= failed.kind != FailureKind::Denied;
                }
                failure = Some(failed);
            }
            self.replay.push_front(held_record);
        }
        self.is_outage = waits;
        let Some(failure) = failure else {
            self.window = (self.window * 2).clamp(1, ROUND_MAX);
            self.outage_count = 0;
            self.begin_round();
            return result;
        };
        self.problem = Some(outage.clone().unwrap_or_else(|| failure.rejection.clone()));
        if outage.is_some() {
            self.outage_count = self.outage_count.saturating_add(1);
            self.back_off(now, self.outage_count);
            self.window = 1;
        } else if alone {
            self.window = 1;
            result.attempted = self.replay.front().map(|held_record| held_record.ticket);
            let attempts = match self.suspect {
                Some((ticket, attempts)) if Some(ticket) == result.attempted => attempts + 1,
                _ => 1,
            };
            self.suspect = result.attempted.map(|ticket| (ticket, attempts));
            if attempts >= attempts_max {
                let rejected = self.replay.pop_front();
                result.rejected =
                    rejected.map(|held_record| (held_record, failure.rejection, attempts));
            } else {
                self.back_off(now, attempts);
            }
        } else {
            let sent = if self.window > 0 { self.window } else { round };
            self.window = (sent / 2).clamp(1, ROUND_MAX);
        }
        self.begin_round();
        result
    }

    fn begin_round(&mut self) {
        if self.replay.is_empty() {
            // The replay is complete: held records are sent again.
            (self.window, self.suspect, self.problem) = (0, None, None);
        }
        self.quota = self.window;
    }

    fn back_off(&mut self, now: Duration, times: u32) {
        self.back_off_until = Some(now + BACK_OFF.delay_after(times - 1));
    }

    /// The end of the back-off, if there is one.
    pub(crate) fn back_off_until(&self) -> Option<Duration> {
        self.back_off_until
    }

    /// Whether the queue backs off at `now`; clears a back-off that is over.
    pub(crate) fn is_backing_off(&mut self, now: Duration) -> bool {
        self.back_off_until = self.back_off_until.filter(|until| now < *until);
        self.back_off_until.is_some()
    }

    /// The next record to send, and its stage. `None` while a round is in flight, or when nothing
    /// is left.
    pub(crate) fn next(&mut self) -> Option<(HeldRecord, Stage)> {
        if self.has_returned() {
            return None;
        }
        if self.window > 0 {
            self.quota = self.quota.checked_sub(1)?;
            return self
                .replay
                .pop_front()
                .map(|held_record| (held_record, Stage::Replay));
        }
        self.held
            .pop_front()
            .map(|held_record| (held_record, Stage::Held))
    }

    /// Puts a record back that [`next`](TopicQueue::next) returned and that cannot be sent yet.
    pub(crate) fn put_back(&mut self, held_record: HeldRecord, stage: Stage) {
        match stage {
            Stage::Replay => {
                self.quota += 1;
                self.replay.push_front(held_record);
            }
            Stage::Held => self.held.push_front(held_record),
        }
    }

    /// Empties the queue, in order, when the topic does not exist.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = HeldRecord> + use<> {
        self.returned
            .sort_by_key(|(held_record, _)| held_record.ticket);
        let returned: Vec<_> = self
            .returned
            .drain(..)
            .map(|(held_record, _)| held_record)
            .collect();
        let replay = std::mem::take(&mut self.replay);
        let held = std::mem::take(&mut self.held);
        *self = TopicQueue::default();
        returned.into_iter().chain(replay).chain(held)
    }

    /// Why the last round failed, until the replay is complete.
    pub(crate) fn problem(&self) -> Option<&Rejection> {
        self.problem.as_ref()
    }
}
