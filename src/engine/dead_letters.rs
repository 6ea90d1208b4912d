//! The events that cannot be published: filed as dead letters, and retried or discarded on request.
//! Pure.
//!
//! Owns the database work about dead letters that is due, the parked keys, and the [`FilingLimit`],
//! at which the publisher stops rather than hide a whole outbox in the table. An event counts as
//! done only when its dead letter is committed; until then it holds the slot like any other, and a
//! write that fails is repeated without end.
//!
//! A parked key: all events behind a dead letter of the same topic and key are filed too, in order,
//! until it is retried or discarded; if Kafka refuses it again, so are those behind it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::config::OnPoison;
use crate::engine::filing_limit::FilingLimit;
use crate::engine::output::{DatabaseWork, PendingRequests};
use crate::engine::parked_keys::{KeyState, ParkedKeys};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{
    CloseDeadLetter, KeyHash, NewDeadLetter, OwnedRecord, ParkedKeyList, Rejection, ResolveRequest,
    RowId, RowName,
};

/// Dead letters in one statement.
const FILE_MAX: usize = 500;
/// Bytes of the records in one statement.
const FILE_BYTES_MAX: usize = 4 << 20;
/// How often requests to retry or discard are read.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Attempts that are counted in one statement.
const COUNT_MAX: usize = 1_000;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The dead letter of an event that is being retried or discarded.
#[derive(Debug)]
pub(super) struct Resolving {
    pub(super) dead_letter: i64,
    /// Its topic and key, if that is parked.
    key: Option<(Box<str>, KeyHash)>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct DeadLetterQueue {
    policy: OnPoison,
    pub(super) filing_limit: FilingLimit,
    to_file: VecDeque<NewDeadLetter>,
    to_close: VecDeque<CloseDeadLetter>,
    to_count: VecDeque<RowId>,
    pub(super) resolving: HashMap<Ticket, Resolving>,
    parked_keys: ParkedKeys,
    /// While the requests are being read: the version of the parked keys at the start, and up to
    /// where the stream had been received whole.
    reading: Option<(u64, Lsn)>,
    read_at: Duration,
    /// When the parked keys may be read next.
    read_keys_at: Duration,
    /// When the next work may start after a failure.
    retry_at: Duration,
    retry: Backoff,
    /// How many events are being retried or discarded.
    resolving_count: usize,
}

/// Why an event was not filed: the publisher stops, and the event stays unpublished.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotFiled {
    /// The policy is `halt`.
    ByPolicy(Rejection),
    /// As many as the limit allows were filed in the last minute.
    TooMany { per_minute: u32 },
}

impl DeadLetterQueue {
    pub(crate) fn new(policy: OnPoison, per_minute: u32, parked_keys_max: usize) -> Self {
        DeadLetterQueue {
            policy,
            filing_limit: FilingLimit::new(per_minute),
            to_file: VecDeque::new(),
            to_close: VecDeque::new(),
            to_count: VecDeque::new(),
            resolving: HashMap::new(),
            parked_keys: ParkedKeys::new(parked_keys_max),
            reading: None,
            read_at: Duration::ZERO,
            read_keys_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            resolving_count: 0,
        }
    }

    /// For another lineage, or a rewind: drops everything but the count of filed events.
    pub(crate) fn reset(&mut self) {
        let mut parked_keys = std::mem::replace(&mut self.parked_keys, ParkedKeys::new(0));
        parked_keys.reset();
        *self = DeadLetterQueue {
            parked_keys,
            filing_limit: self.filing_limit.clone(),
            ..DeadLetterQueue::new(self.policy, self.filing_limit.per_minute(), 0)
        };
    }

    /// Loads the parked keys of the table, before the first event.
    pub(crate) fn load_parked(&mut self, keys: ParkedKeyList) {
        self.parked_keys.load(keys);
    }

    /// What to do with an event of this topic and key. A new event stays behind all that are filed,
    /// a retried one only behind an event that was refused again.
    pub(crate) fn key_state(
        &self,
        ticket: Option<Ticket>,
        topic: &str,
        key: Option<&[u8]>,
    ) -> KeyState {
        let Some(key) = key.filter(|_| !self.parked_keys.is_empty()) else {
            return KeyState::Free;
        };
        let is_resolving = ticket.is_some_and(|ticket| self.is_resolving(ticket));
        self.parked_keys
            .state(KeyHash::of(topic, key), is_resolving)
    }

    /// Whether this event is a dead letter that is being retried or discarded.
    pub(crate) fn is_resolving(&self, ticket: Ticket) -> bool {
        self.resolving.contains_key(&ticket)
    }

    /// How many dead letters of this key are being retried or discarded.
    pub(crate) fn resolving_of(&self, hash: KeyHash) -> u64 {
        self.parked_keys.resolving_of(hash)
    }

    /// Files an event that can never be published as it is. An event that was retried is filed
    /// already and does not count.
    ///
    /// # Errors
    /// When the publisher has to stop instead.
    pub(crate) fn reject(
        &mut self,
        now: Duration,
        ticket: Ticket,
        row: Option<RowName>,
        record: Option<Box<OwnedRecord>>,
        rejection: Rejection,
        attempts: u32,
    ) -> Result<(), NotFiled> {
        if self.policy == OnPoison::Halt {
            return Err(NotFiled::ByPolicy(rejection));
        }
        if !self.is_resolving(ticket) && !self.filing_limit.admits(now) {
            let per_minute = self.filing_limit.per_minute();
            return Err(NotFiled::TooMany { per_minute });
        }
        let source = self.resolving.get(&ticket);
        // A dead letter of which nothing could be read this time keeps its key.
        let stored = source.and_then(|source| source.key.as_ref().map(|(_, hash)| *hash));
        let hash = record.as_deref().map_or(stored, KeyHash::of_record);
        let parked = hash.filter(|_| self.policy == OnPoison::ParkKey);
        if let Some(hash) = parked {
            self.parked_keys.file(hash, true, source.is_some());
        }
        let parks_key = parked.is_some();
        self.file(ticket, row, record, rejection, attempts, parks_key, false);
        Ok(())
    }

    /// Files an event because an earlier one of its key is a dead letter.
    pub(crate) fn file_parked(
        &mut self,
        ticket: Ticket,
        row: Option<RowName>,
        record: Box<OwnedRecord>,
    ) {
        if let Some(hash) = KeyHash::of_record(&record) {
            self.parked_keys
                .file(hash, false, self.is_resolving(ticket));
        }
        let rejection = Rejection {
            code: "KEY_PARKED".to_owned(),
            message: "an earlier event of the same topic and key is a dead letter".to_owned(),
        };
        self.file(ticket, row, Some(record), rejection, 0, true, true);
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a dead letter")]
    fn file(
        &mut self,
        ticket: Ticket,
        row: Option<RowName>,
        record: Option<Box<OwnedRecord>>,
        rejection: Rejection,
        attempts: u32,
        parks_key: bool,
        parked: bool,
    ) {
        let source = self.resolving.remove(&ticket);
        let known = source.as_ref().map(|source| source.dead_letter);
        if let Some((_, hash)) = source.and_then(|source| source.key) {
            self.parked_keys.resolved(hash);
        }
        self.to_file.push_back(NewDeadLetter {
            ticket,
            known,
            row,
            record,
            rejection,
            attempts,
            parks_key,
            parked,
        });
    }

    /// Kafka has the event. True if it was a retried one: its dead letter is closed then, and its
    /// row is marked with it.
    pub(crate) fn delivered(&mut self, ticket: Ticket, row: Option<&RowName>) -> bool {
        let Some(dead_letter) = self.resolving.get(&ticket).map(|source| source.dead_letter) else {
            return false;
        };
        self.close(ticket, dead_letter, row.map(|row| row.id.clone()), true);
        true
    }

    /// The event was discarded on request.
    pub(crate) fn discarded(&mut self, ticket: Ticket, dead_letter: i64, row: Option<RowId>) {
        self.close(ticket, dead_letter, row, false);
    }

    fn close(&mut self, ticket: Ticket, dead_letter: i64, row: Option<RowId>, published: bool) {
        self.to_close.push_back(CloseDeadLetter {
            ticket,
            dead_letter,
            row,
            published,
        });
    }

    /// The event was refused alone: counts the attempt.
    pub(crate) fn attempted(&mut self, row: Option<RowName>) {
        self.to_count.extend(row.map(|row| row.id));
    }

    /// A dead letter is retried or discarded: from now on its event is on its way like any other.
    pub(crate) fn start_resolving(&mut self, request: &ResolveRequest, ticket: Ticket) {
        self.resolving_count += 1;
        let key = request.parked_key.clone();
        let key = key.filter(|(_, hash)| self.parked_keys.start_resolving(*hash));
        let dead_letter = request.dead_letter;
        let source = Resolving { dead_letter, key };
        self.resolving.insert(ticket, source);
    }

    /// The next work in the database, if any. `end`: up to where the stream was received whole;
    /// `reads`: requests may be read.
    pub(crate) fn work(&mut self, now: Duration, end: Lsn, reads: bool) -> Option<DatabaseWork> {
        if now < self.retry_at {
            return None;
        }
        if !self.to_file.is_empty() {
            let mut bytes = 0;
            let fits = self
                .to_file
                .iter()
                .take(FILE_MAX)
                .take_while(|dead_letter| {
                    let fits = bytes < FILE_BYTES_MAX;
                    let value = dead_letter.record.as_deref().and_then(OwnedRecord::value);
                    bytes += value.map_or(0, <[u8]>::len);
                    fits
                });
            let count = fits.count();
            return Some(DatabaseWork::File(self.to_file.drain(..count).collect()));
        }
        if !self.to_close.is_empty() {
            let count = self.to_close.len().min(FILE_MAX);
            return Some(DatabaseWork::Close(self.to_close.drain(..count).collect()));
        }
        if !self.to_count.is_empty() {
            let count = self.to_count.len().min(COUNT_MAX);
            let rows = self.to_count.drain(..count).collect();
            return Some(DatabaseWork::CountAttempts(rows));
        }
        if self.resolving_count == 0 && now >= self.read_at {
            self.read_at = now + READ_INTERVAL;
            if !reads {
                return None;
            }
            let with_keys = !self.parked_keys.is_empty() && now >= self.read_keys_at;
            if with_keys {
                self.read_keys_at = now + READ_INTERVAL.max(self.parked_keys.pause());
            }
            self.reading = Some((self.parked_keys.begin_read(with_keys), end));
            return Some(DatabaseWork::ReadRequests { with_keys });
        }
        None
    }

    /// The work failed: it is due again after a delay, in its order.
    pub(crate) fn work_failed(&mut self, now: Duration, work: DatabaseWork) {
        self.retry_at = now + self.retry.next_delay();
        match work {
            DatabaseWork::File(dead_letters) => dead_letters
                .into_iter()
                .rev()
                .for_each(|dead_letter| self.to_file.push_front(dead_letter)),
            DatabaseWork::Close(closings) => closings
                .into_iter()
                .rev()
                .for_each(|closing| self.to_close.push_front(closing)),
            DatabaseWork::CountAttempts(rows) => rows
                .into_iter()
                .rev()
                .for_each(|row| self.to_count.push_front(row)),
            DatabaseWork::ReadRequests { .. } => {
                if let Some((version, _)) = self.reading.take() {
                    self.parked_keys.end_read(version);
                }
            }
            DatabaseWork::Mark(_) | DatabaseWork::ReadPause { .. } | DatabaseWork::Retain(_) => {}
        }
    }

    /// The work succeeded.
    pub(crate) fn work_succeeded(&mut self) {
        self.retry.reset();
    }

    /// These dead letters are closed. Returns the topics whose held records may be sent now.
    pub(crate) fn closed(&mut self, closings: &[CloseDeadLetter]) -> Vec<Box<str>> {
        let mut topics = Vec::new();
        for closing in closings {
            let source = self.resolving.remove(&closing.ticket);
            if let Some((topic, hash)) = source.and_then(|source| source.key) {
                self.parked_keys.resolved(hash);
                topics.push(topic);
            }
        }
        self.requests_settled(closings.len());
        topics.dedup();
        topics
    }

    /// This many requests are settled: their events were published, discarded, or filed again.
    pub(crate) fn requests_settled(&mut self, from_requests: usize) {
        self.resolving_count = self.resolving_count.saturating_sub(from_requests);
        if self.resolving_count == 0 && from_requests > 0 {
            // There may be more requests: read again at once.
            self.read_at = Duration::ZERO;
        }
    }

    /// The requests were read. The parked keys that came with them are valid unless keys have
    /// changed since the read began. The requests are always valid, since a read begins only when
    /// none is open.
    ///
    /// A request waits until the stream has passed its event: after a restart the stream repeats
    /// unconfirmed events of the key, and those must be sent or filed first.
    pub(crate) fn requests_read(&mut self, mut pending: PendingRequests) -> Vec<ResolveRequest> {
        let Some((version, complete)) = self.reading.take() else {
            return Vec::new();
        };
        let passed = |(commit_lsn, _)| commit_lsn < complete || complete.is_invalid();
        pending
            .requests
            .retain(|request| request.place.is_none_or(passed));
        let current = self.parked_keys.end_read(version) && self.to_file.is_empty();
        if let Some(parked) = pending.parked.filter(|_| current) {
            self.load_parked(parked);
        }
        pending.requests
    }

    /// How many topics are parked whole. Their events are held while the parked keys are read.
    pub(crate) fn whole_topics(&self) -> usize {
        self.parked_keys.whole_topics()
    }

    /// When work is due even if nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if !self.is_idle() {
            return Some(self.retry_at);
        }
        (self.resolving_count == 0).then_some(self.read_at.max(self.retry_at))
    }

    /// Whether the event waits for its dead letter to be filed.
    pub(crate) fn is_unfiled(&self, ticket: Ticket) -> bool {
        self.to_file.iter().any(|it| it.ticket == ticket)
    }

    /// Whether anything waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.to_file.is_empty() && self.to_close.is_empty() && self.to_count.is_empty()
    }
}
