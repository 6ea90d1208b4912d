//! What the publisher keeps from one session to the next, and how much of it is still valid. Pure.
//!
//! The engine holds positions and events; this holds what decides whether they may be used: where
//! they belong, and how the last session ended. The
//! supervisor reports each event by one method, and queries what follows from it.
//!
//! Memory is invalid at first. It becomes invalid again by [`invalidate`](ResumeState::invalidate),
//! by a server with another history, by another holder of the lock, and by a lost slot; only
//! [`resumed`](ResumeState::resumed) makes it valid. So an attempt that breaks off on its way to
//! the stream leaves it invalid, and the next attempt starts at the slot's own position. After a
//! restart of the server the engine holds marks and positions back until the stream has proven that
//! the history is the same; polling has no such proof, and drops memory.
//!
//! Another holder of the lock may have sent old events again, behind newer ones of their keys, and
//! filed dead letters, even if the slot has not moved. Whether there was one is known from the
//! numbers that each holder draws, and from nothing else.

use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::{HolderNumber, TableLocation};
use crate::postgres::Server;
use crate::postgres::slot::Slot;
use crate::publisher::instance_lock::Tenure;
use crate::publisher::lineage::{self, HistoryMismatch, StartPosition, TableIdentity};
use crate::publisher::slot_loss::{SlotLoss, SlotSuspicion, suspicion};
use crate::publisher::source::event_decoder::HandledRows;

/// What the server and table that were reached say of memory.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publisher) enum Arrival {
    /// It belongs to them.
    Known,
    /// The server was restarted since: the stream has to prove that its history is the same up to
    /// `drawn_at`, where this instance drew its number. An older copy would give that number again.
    Restarted { drawn_at: Lsn },
    /// It does not belong to them.
    Elsewhere(HistoryMismatch),
}

/// See the module's head.
#[derive(Debug)]
pub(in crate::publisher) struct ResumeState {
    /// The server and table that memory belongs to, and when the server was started.
    home: Option<(TableIdentity, String)>,
    /// Memory may be used.
    valid: bool,
    /// A slot loss that is not healed yet.
    unhealed: Option<SlotLoss>,
    /// What the last session's error suggests about slot and publication.
    suspicion: Option<SlotSuspicion>,
    handled_rows: HandledRows,
    /// The transaction that the server failed to decode last, and the SQLSTATE.
    failed_at: Option<(Lsn, String)>,
    /// The server process that held the lock last.
    holder: Option<(Server, i32)>,
    /// The number that it has drawn.
    number: Option<HolderNumber>,
    /// No other session has held the lock between this instance's last two.
    is_alone: bool,
    /// A session has streamed, or polled.
    streamed: bool,
}

impl ResumeState {
    /// Nothing is known yet.
    pub(in crate::publisher) fn new() -> Self {
        ResumeState {
            home: None,
            valid: false,
            unhealed: None,
            suspicion: None,
            handled_rows: HandledRows::default(),
            failed_at: None,
            holder: None,
            number: None,
            is_alone: false,
            streamed: false,
        }
    }

    /// Memory has to be dropped before the next session.
    pub(in crate::publisher) fn invalidate(&mut self) {
        self.valid = false;
    }

    /// Memory belongs to another history: nothing of it may be used.
    pub(in crate::publisher) fn forget(&mut self) {
        self.invalidate();
        self.handled_rows = HandledRows::default();
    }

    /// A session has ended. With a `replaced` producer its records are lost, and a change that was
    /// `skipped` was counted and not passed on: memory has to be dropped.
    pub(in crate::publisher) fn session_over(&mut self, replaced: bool, skipped: bool) {
        if replaced || skipped {
            self.invalidate();
        }
    }

    /// The session of `tenure` holds the lock at `place`, whose WAL ends at `end` (invalid when
    /// polling); `own` is the position up to which the stream was received. Returns what that says
    /// of memory.
    pub(in crate::publisher) fn arrived(
        &mut self,
        place: &TableLocation,
        tenure: &Tenure,
        own: Lsn,
        end: Lsn,
    ) -> Arrival {
        self.holder = Some((place.server.clone(), tenure.process));
        let last = std::mem::replace(&mut self.number, tenure.number);
        let last = last.filter(|last| tenure.number.is_some_and(|it| it.follows(*last)));
        self.is_alone = last.is_some();
        if !self.is_alone {
            self.invalidate();
        }
        let (lineage, table) = (place.server.lineage, place.table);
        let found = TableIdentity { lineage, table };
        let started = place.server.postmaster_start.clone();
        let Some((home, before)) = self.home.replace((found, started)) else {
            return Arrival::Known;
        };
        let restarted = before != place.server.postmaster_start;
        if let Err(mismatch) = lineage::compare(home, own, found, end) {
            self.forget();
            return Arrival::Elsewhere(mismatch);
        }
        match restarted {
            false => Arrival::Known,
            true if end.is_invalid() => {
                self.forget();
                Arrival::Elsewhere(HistoryMismatch::Restarted)
            }
            true => Arrival::Restarted {
                drawn_at: last.map_or(Lsn::INVALID, |last| last.drawn_at),
            },
        }
    }

    /// Whether it is known that no other session has held the lock since this instance did.
    pub(in crate::publisher) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// The server process that held the lock last.
    pub(in crate::publisher) fn holder(&self) -> Option<&(Server, i32)> {
        self.holder.as_ref()
    }

    /// The slot as it was read; `reported` is the position that the server was sent last. `Ok` if
    /// it can be streamed from. `Err` if a slot has to be created, with the loss that this heals,
    /// if any: memory is invalid then, and the loss stays until [`healed`](ResumeState::healed),
    /// even though the slot that showed it is dropped on the way.
    pub(in crate::publisher) fn slot_found(
        &mut self,
        found: Option<&Slot>,
        reported: Lsn,
    ) -> Result<(), Option<SlotLoss>> {
        let stuck = self.suspicion == Some(SlotSuspicion::NotThere);
        let loss = SlotLoss::of(found, reported, self.streamed, stuck);
        let unhealed = self.unhealed.take();
        if found.is_some() && loss.is_none() {
            return Ok(());
        }
        self.unhealed = loss.or(unhealed);
        self.invalidate();
        Err(self.unhealed.clone())
    }

    /// The slot was created. The stream may deliver these rows again.
    pub(in crate::publisher) fn healed(&mut self, handled_rows: HandledRows) {
        (self.unhealed, self.suspicion) = (None, None);
        self.handled_rows = handled_rows;
    }

    /// Where the stream starts, with a slot at `confirmed`; `reported` and `own` as above.
    pub(in crate::publisher) fn start(
        &self,
        confirmed: Lsn,
        reported: Lsn,
        own: Lsn,
    ) -> StartPosition {
        lineage::start(confirmed, reported, own, !self.valid)
    }

    /// Memory belongs to the session that begins, whether it was kept or dropped. The stream may
    /// deliver these `filed` dead letters again, each up to its commit position.
    pub(in crate::publisher) fn resumed(&mut self, filed: impl IntoIterator<Item = (String, Lsn)>) {
        for (row, commit_lsn) in filed {
            let of_commit = self.handled_rows.filed.entry(commit_lsn);
            of_commit.or_default().insert(row);
            self.handled_rows.until = self.handled_rows.until.max(commit_lsn);
        }
        self.valid = true;
    }

    /// Whether memory may be used.
    pub(in crate::publisher) fn is_valid(&self) -> bool {
        self.valid
    }

    /// The stream has begun, or polling has.
    pub(in crate::publisher) fn streaming(&mut self) {
        self.streamed = true;
        self.suspicion = None;
    }

    /// Whether a session has streamed, or polled: from then on a refused login is an outage and not
    /// a wrong setting.
    pub(in crate::publisher) fn has_streamed(&self) -> bool {
        self.streamed
    }

    /// A session could not be opened. The error is waited for if it `waits` by the configuration,
    /// or passes by itself, once a session has streamed; until then it is a wrong setting.
    pub(in crate::publisher) fn opening_failed(&self, error: Error, waits: bool) -> Error {
        match self.streamed && waits {
            true => error.into_transient(),
            false => error,
        }
    }

    /// Whether another attempt follows one that ended with this error.
    pub(in crate::publisher) fn retries(&self, error: &Error) -> bool {
        error.is_transient() || (self.streamed && error.code() == Code::Connect)
    }

    /// The rows that the stream may deliver again though they are handled.
    pub(in crate::publisher) fn handled_rows(&mut self) -> &mut HandledRows {
        &mut self.handled_rows
    }

    /// A session ended with this error, which may be the slot's or the publication's. The next
    /// attempt checks both, so the first such error is transient. It is final if it returns
    /// although both exist.
    pub(in crate::publisher) fn recheck_slot(&mut self, error: Error) -> Error {
        let before = self.suspicion.take();
        let found = suspicion(&error).filter(|_| !error.is_transient());
        if found.is_none() || found == before {
            return error;
        }
        self.suspicion = found;
        error.into_transient()
    }

    /// The transaction that the server failed to decode in the session that ended, and its
    /// SQLSTATE, if any. Returns whether the session before failed in the same way at the same
    /// transaction.
    pub(in crate::publisher) fn decoding_failed(
        &mut self,
        failed_at: Option<(Lsn, String)>,
    ) -> bool {
        let repeats = failed_at.is_some() && failed_at == self.failed_at;
        self.failed_at = failed_at;
        repeats
    }
}

#[cfg(test)]
mod tests;
