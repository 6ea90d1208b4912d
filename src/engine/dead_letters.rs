//! What becomes of events that cannot be published: filed as dead letters, and retried or discarded when a person says so. Pure.
//!
//! Owns what waits to be written about them, the keys that are parked, and the breaker. An event counts as done only when its
//! letter is committed; until then it holds the slot like any other, and a write that fails is repeated for as long as it takes.
//!
//! A parked key. Behind a dead event all later ones of its topic and key are filed too, in order, until the dead one is retried or
//! discarded; if it is refused again, those behind it are parked again. [`ParkedKeys`] keeps account of that.
//!
//! The breaker. Events that fail one by one are theirs to fail; a flood of them is a mistake somewhere else, such as rights that were
//! taken away, and to file a whole outbox would only hide it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::backoff::Backoff;
use crate::config::OnPoison;
use crate::engine::output::DatabaseWork;
use crate::engine::parked_keys::{Key, Park, ParkedKeys};
use crate::engine::tracker::Ticket;
use crate::lsn::Lsn;
use crate::outbox::{
    CloseDeadLetter, NewDeadLetter, OwnedRecord, ParkedKey, Rejection, ResolveRequest,
};

/// DeadLetterQueue in one statement.
const FILE_MAX: usize = 500;
/// Bytes of their records.
const FILE_BYTES_MAX: usize = 4 << 20;
/// How often the table is asked for what people want.
const LOOK: Duration = Duration::from_secs(1);
/// Attempts that are counted in one statement.
const COUNT_MAX: usize = 1_000;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// What a look at the table has shown.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    pub(crate) requests: Vec<ResolveRequest>,
    /// Which keys are parked, if that was asked for.
    pub(crate) parked: Option<Vec<ParkedKey>>,
}

/// Where an event came from that is being retried or discarded.
#[derive(Debug)]
struct Source {
    dead_letter: i64,
    /// If the key is parked.
    key: Option<Key>,
}

/// See the module's head.
#[derive(Debug)]
pub(crate) struct DeadLetterQueue {
    policy: OnPoison,
    per_minute: u32,
    filing: VecDeque<NewDeadLetter>,
    closing: VecDeque<CloseDeadLetter>,
    counts: VecDeque<i64>,
    sources: HashMap<Ticket, Source>,
    parked_keys: ParkedKeys,
    /// The version of the parks at the look that is out, and up to where the stream had been received whole.
    looked: Option<(u64, Lsn)>,
    look_at: Duration,
    /// After a failure, when the next write is tried.
    retry_at: Duration,
    retry: Backoff,
    /// Events that are being retried or discarded.
    open: usize,
    minute: Duration,
    filed_in_minute: u32,
}

/// What a parked key means for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// Nothing.
    Free,
    /// It is filed behind the others of its key.
    Follow,
    /// It waits until the letters before it are closed.
    Wait,
}

/// The flood that stops the publisher.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyDeadLetters {
    pub(crate) per_minute: u32,
}

impl DeadLetterQueue {
    pub(crate) fn new(policy: OnPoison, per_minute: u32) -> Self {
        DeadLetterQueue {
            policy,
            per_minute,
            filing: VecDeque::new(),
            closing: VecDeque::new(),
            counts: VecDeque::new(),
            sources: HashMap::new(),
            parked_keys: ParkedKeys::default(),
            looked: None,
            look_at: Duration::ZERO,
            retry_at: Duration::ZERO,
            retry: Backoff::new(RETRY_FIRST, RETRY_MAX),
            open: 0,
            minute: Duration::ZERO,
            filed_in_minute: 0,
        }
    }

    /// Another lineage, or a rewind: everything is dropped but the breaker's count.
    pub(crate) fn reset(&mut self) {
        let mut parked_keys = std::mem::take(&mut self.parked_keys);
        parked_keys.reset();
        *self = DeadLetterQueue {
            parked_keys,
            minute: self.minute,
            filed_in_minute: self.filed_in_minute,
            ..DeadLetterQueue::new(self.policy, self.per_minute)
        };
    }

    /// Which keys are parked, as the table has it, before the first event.
    pub(crate) fn load_parked(&mut self, keys: Vec<ParkedKey>) {
        self.parked_keys.load(keys);
    }

    /// What to do with an event of this topic and key: a new one stays behind all that are filed, a retried one only behind an event
    /// that was refused again.
    pub(crate) fn parking(
        &self,
        ticket: Option<Ticket>,
        topic: &str,
        key: Option<&[u8]>,
    ) -> KeyState {
        let Some(key) = key.filter(|_| !self.parked_keys.is_empty()) else {
            return KeyState::Free;
        };
        let Some(parked_key) = self.parked_keys.get(topic, key) else {
            return KeyState::Free;
        };
        let retried = ticket.is_some_and(|ticket| self.is_retried(ticket));
        match parked_key {
            Park { blocked: true, .. } => KeyState::Follow,
            _ if retried => KeyState::Free,
            Park { rows: 0, .. } => KeyState::Wait,
            Park { .. } => KeyState::Follow,
        }
    }

    /// Whether this event is a dead letter that was handed out.
    pub(crate) fn is_retried(&self, ticket: Ticket) -> bool {
        self.sources.contains_key(&ticket)
    }

    /// An event will never be published as it is. `halt` gives the fault back: the publisher has to stop.
    pub(crate) fn reject(
        &mut self,
        now: Duration,
        ticket: Ticket,
        row: i64,
        record: Option<Box<OwnedRecord>>,
        rejection: Rejection,
        attempts: u32,
    ) -> Result<Option<TooManyDeadLetters>, Rejection> {
        if self.policy == OnPoison::Halt {
            return Err(rejection);
        }
        let parked_keys = self.policy == OnPoison::ParkKey;
        let keyed = record.as_deref().filter(|record| record.key().is_some());
        let parked = keyed.filter(|_| parked_keys);
        if let Some(record) = parked {
            self.parked_keys.file(record, true);
        }
        let parks_key = parked.is_some();
        self.file(ticket, row, record, rejection, attempts, parks_key, false);
        if now >= self.minute + MINUTE {
            (self.minute, self.filed_in_minute) = (now, 0);
        }
        self.filed_in_minute = self.filed_in_minute.saturating_add(1);
        let per_minute = self.per_minute;
        Ok((self.filed_in_minute > per_minute).then_some(TooManyDeadLetters { per_minute }))
    }

    /// An earlier event of its key is dead: this one follows it.
    pub(crate) fn follow(&mut self, ticket: Ticket, row: i64, record: Box<OwnedRecord>) {
        self.parked_keys.file(&record, false);
        let rejection = Rejection {
            code: "KEY_PARKED".to_owned(),
            message: "an earlier event of the same topic and key is a dead letter".to_owned(),
        };
        self.file(ticket, row, Some(record), rejection, 0, true, true);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a letter, each once"
    )]
    fn file(
        &mut self,
        ticket: Ticket,
        row: i64,
        record: Option<Box<OwnedRecord>>,
        rejection: Rejection,
        attempts: u32,
        parks_key: bool,
        parked: bool,
    ) {
        let source = self.sources.remove(&ticket);
        let known = source.as_ref().map(|source| source.dead_letter);
        if let Some(key) = source.and_then(|source| source.key) {
            self.parked_keys.returned(&key);
        }
        self.filing.push_back(NewDeadLetter {
            ticket,
            known,
            row: (row != 0).then_some(row),
            record,
            rejection,
            attempts,
            parks_key,
            parked,
        });
    }

    /// Kafka has the event. True when it was a retried one, whose letter is closed in place of its row being marked.
    pub(crate) fn delivered(&mut self, ticket: Ticket, row: i64) -> bool {
        let Some(dead_letter) = self.sources.get(&ticket).map(|source| source.dead_letter) else {
            return false;
        };
        self.close(ticket, dead_letter, row, true);
        true
    }

    /// A person does not want the event.
    pub(crate) fn discarded(&mut self, ticket: Ticket, dead_letter: i64, row: i64) {
        self.close(ticket, dead_letter, row, false);
    }

    fn close(&mut self, ticket: Ticket, dead_letter: i64, row: i64, published: bool) {
        self.closing.push_back(CloseDeadLetter {
            ticket,
            dead_letter,
            row: (row != 0).then_some(row),
            published,
        });
    }

    /// The event was refused alone, and is sent again.
    pub(crate) fn attempted(&mut self, row: i64) {
        if row != 0 {
            self.counts.push_back(row);
        }
    }

    /// A dead letter is handed out: from now on its event is on its way like any other.
    pub(crate) fn hand_out(&mut self, request: &ResolveRequest, ticket: Ticket) {
        self.open += 1;
        let record = request.record.as_deref().filter(|_| request.parks_key);
        let key = record.and_then(|record| self.parked_keys.hand_out(record));
        let dead_letter = request.dead_letter;
        self.sources.insert(ticket, Source { dead_letter, key });
    }

    /// What to write or read next, if anything.
    pub(crate) fn work(&mut self, now: Duration, complete: Lsn) -> Option<DatabaseWork> {
        if now < self.retry_at {
            return None;
        }
        if !self.filing.is_empty() {
            let mut bytes = 0;
            let fits = self.filing.iter().take(FILE_MAX).take_while(|dead_letter| {
                let fits = bytes < FILE_BYTES_MAX;
                let value = dead_letter.record.as_deref().and_then(OwnedRecord::value);
                bytes += value.map_or(0, <[u8]>::len);
                fits
            });
            let count = fits.count();
            return Some(DatabaseWork::File(self.filing.drain(..count).collect()));
        }
        if !self.closing.is_empty() {
            let count = self.closing.len().min(FILE_MAX);
            return Some(DatabaseWork::Close(self.closing.drain(..count).collect()));
        }
        if !self.counts.is_empty() {
            let count = self.counts.len().min(COUNT_MAX);
            return Some(DatabaseWork::Count(self.counts.drain(..count).collect()));
        }
        if self.open == 0 && now >= self.look_at {
            self.look_at = now + LOOK;
            self.looked = Some((self.parked_keys.version(), complete));
            return Some(DatabaseWork::Look {
                with_keys: !self.parked_keys.is_empty(),
            });
        }
        None
    }

    /// It could not be done, and is due again after a while, in its order.
    pub(crate) fn again(&mut self, now: Duration, work: DatabaseWork) {
        self.retry_at = now + self.retry.next_delay();
        match work {
            DatabaseWork::File(dead_letters) => dead_letters
                .into_iter()
                .rev()
                .for_each(|dead_letter| self.filing.push_front(dead_letter)),
            DatabaseWork::Close(closings) => closings
                .into_iter()
                .rev()
                .for_each(|closing| self.closing.push_front(closing)),
            DatabaseWork::Count(rows) => rows
                .into_iter()
                .rev()
                .for_each(|row| self.counts.push_front(row)),
            DatabaseWork::Look { .. } | DatabaseWork::Mark(_) => {}
        }
    }

    /// It was done.
    pub(crate) fn succeeded(&mut self) {
        self.retry.reset();
    }

    /// These letters are closed. The topics of which something may go on.
    pub(crate) fn closed(&mut self, closings: &[CloseDeadLetter]) -> Vec<Box<str>> {
        let mut topics = Vec::new();
        for closing in closings {
            let source = self.sources.remove(&closing.ticket);
            if let Some(key) = source.and_then(|source| source.key) {
                self.parked_keys.returned(&key);
                topics.push(key.0);
            }
        }
        self.settled(closings.len());
        topics.dedup();
        topics
    }

    /// These events are done with: they were retried or discarded, or filed again.
    pub(crate) fn settled(&mut self, from_requests: usize) {
        self.open = self.open.saturating_sub(from_requests);
        if self.open == 0 && from_requests > 0 {
            // There may be more of them.
            self.look_at = Duration::ZERO;
        }
    }

    /// A look has come back. Its parked keys hold, unless something has changed since it began; its requests do, since a look begins
    /// only when none is open.
    ///
    /// A request waits until the stream is past its event: a restart repeats older ones of the key that were not confirmed, and they
    /// must be on their way, or filed, before it goes.
    pub(crate) fn looked(&mut self, mut sight: PendingRequests) -> Vec<ResolveRequest> {
        let Some((version, complete)) = self.looked.take() else {
            return Vec::new();
        };
        let passed = |(commit_lsn, _)| commit_lsn < complete || complete.is_invalid();
        sight
            .requests
            .retain(|request| request.place.is_none_or(passed));
        let current = version == self.parked_keys.version() && self.filing.is_empty();
        if let Some(parked) = sight.parked.filter(|_| current) {
            self.load_parked(parked);
        }
        sight.requests
    }

    /// When work is due though nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if !self.is_idle() {
            return Some(self.retry_at);
        }
        (self.open == 0).then_some(self.look_at.max(self.retry_at))
    }

    /// DeadLetterQueue that are not filed yet.
    pub(crate) fn unfiled_count(&self) -> usize {
        self.filing.len()
    }

    /// Whether anything waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.filing.is_empty() && self.closing.is_empty() && self.counts.is_empty()
    }
}
