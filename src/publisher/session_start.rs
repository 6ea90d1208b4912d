//! Decides, while a session begins, what becomes of memory, whether a slot has to be created, and
//! where the stream begins. Pure.
//!
//! The steps in their order: [`entered`](SessionStart::entered) when the session holds the lock,
//! [`slot_read`](SessionStart::slot_read), [`position`](SessionStart::position). `resume` carries
//! out what a step returns before it takes the next one. So no row is written and no slot is read
//! while memory of another history is there, and every step that drops memory leaves it invalid
//! until the session has a position.

use crate::engine::Engine;
use crate::engine::violation::Violation;
use crate::lsn::Lsn;
use crate::outbox::TableLocation;
use crate::postgres::slot::Slot;
use crate::publisher::lineage::{HistoryMismatch, StartPosition};
use crate::publisher::resume_state::{Arrival, ResumeState};
use crate::publisher::slot_loss::SlotLoss;

/// See the module's head.
pub(in crate::publisher) struct SessionStart<'a> {
    pub(in crate::publisher) engine: &'a mut Engine,
    pub(in crate::publisher) resume: &'a mut ResumeState,
}

/// The slot to stream from.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publisher) enum SlotStep {
    /// The one that was read.
    Stream,
    /// It has to be created.
    Create {
        /// The loss that this heals, if any.
        loss: Option<SlotLoss>,
        memory: BeforeCreation,
    },
}

/// What becomes of the events in memory before a slot is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::publisher) enum BeforeCreation {
    /// They are settled: what Kafka has is marked as published, and is not sent again.
    Settled,
    /// They are dropped. Records that were lost with their producer are never reported, so they
    /// cannot be waited for.
    Dropped,
    /// They are dropped together with the records in flight, for they belong to another history.
    Cleared(HistoryMismatch),
}

/// Where the stream begins.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publisher) enum PositionStep {
    /// Here, with what is in memory.
    Resume(Lsn),
    /// At the slot's position, with memory dropped. If something is to be `cleared`, it comes
    /// first.
    StartOver { cleared: Option<Cleared> },
}

/// Why the records in flight are dropped as well.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publisher) enum Cleared {
    History(HistoryMismatch),
    /// Since the last session the slot was moved from the reported position.
    Moved {
        reported: Lsn,
        confirmed: Lsn,
    },
}

impl SessionStart<'_> {
    /// The server process `holder` holds the lock at `place`, whose WAL ends at `end` (invalid when
    /// polling). Returns why memory has to be cleared, if it has to.
    pub(in crate::publisher) fn entered(
        &mut self,
        place: &TableLocation,
        end: Lsn,
        holder: i32,
    ) -> Option<HistoryMismatch> {
        self.engine.lock_held();
        let own = self.engine.resume_at();
        match self.resume.arrived(place, holder, own, end) {
            Arrival::Known => None,
            Arrival::Restarted => {
                self.engine.doubt();
                None
            }
            Arrival::Elsewhere(why) => Some(why),
        }
    }

    /// The slot as it was read, if it exists.
    pub(in crate::publisher) fn slot_read(&mut self, found: Option<&Slot>) -> SlotStep {
        let reported = self.engine.reported();
        let was_valid = self.resume.is_valid();
        let Err(loss) = self.resume.slot_found(found, reported) else {
            return SlotStep::Stream;
        };
        let memory = match (self.unproven(), was_valid) {
            (Some(why), _) => BeforeCreation::Cleared(why),
            (None, true) => BeforeCreation::Settled,
            (None, false) => BeforeCreation::Dropped,
        };
        SlotStep::Create { loss, memory }
    }

    /// The slot to stream from is at `confirmed`. A slot that was moved since the last session is
    /// no error: this instance did not hold the lock, so another one may have published.
    pub(in crate::publisher) fn position(&mut self, confirmed: Lsn) -> PositionStep {
        let (reported, own) = (self.engine.reported(), self.engine.resume_at());
        match self.resume.start(confirmed, reported, own) {
            StartPosition::Own(own) if self.engine.is_proven() => {
                self.resume.resumed([]);
                return PositionStep::Resume(own);
            }
            StartPosition::Own(_) => {
                if let Some(proof) = self.engine.expect_proof(confirmed) {
                    self.resume.resumed([]);
                    return PositionStep::Resume(proof);
                }
            }
            StartPosition::Slot => {}
            StartPosition::Moved {
                reported,
                confirmed,
            } => {
                let cleared = Some(Cleared::Moved {
                    reported,
                    confirmed,
                });
                return PositionStep::StartOver { cleared };
            }
        }
        let cleared = self.unproven().map(Cleared::History);
        PositionStep::StartOver { cleared }
    }

    /// The stream of the session that has ended contradicts what was received before. Returns
    /// whether memory has to be cleared.
    pub(in crate::publisher) fn contradicted(&mut self, violation: &Violation) -> bool {
        self.resume.invalidate();
        let is_other = matches!(violation, Violation::OtherHistory { .. });
        if is_other {
            self.resume.forget();
        }
        is_other
    }

    /// Forgets what cannot be shown to belong to this history, unless the server is still the one
    /// that was seen, or has proven its history.
    fn unproven(&mut self) -> Option<HistoryMismatch> {
        if self.engine.is_proven() {
            return None;
        }
        self.resume.forget();
        Some(HistoryMismatch::Restarted)
    }
}
