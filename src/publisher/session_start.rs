//! Decides, while a session begins, what becomes of memory, whether a slot has to be created, and
//! where the stream begins. Pure.
//!
//! The steps in their order: [`entered`](SessionStart::entered) when the session holds the lock,
//! [`slot_read`](SessionStart::slot_read), [`position`](SessionStart::position). `resume` carries
//! out what a step returns before it takes the next one. So no row is written and no slot is read
//! while memory of another history is there, and every step that drops memory leaves it invalid
//! until the session has a position.

use crate::engine::Engine;
use crate::engine::tracker::violation::Violation;
use crate::lsn::Lsn;
use crate::outbox::TableLocation;
use crate::postgres::slot::Slot;
use crate::publisher::instance_lock::Tenure;
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
    /// Since the last session the slot was moved from the reported position: `by_hand`, or perhaps
    /// by an instance that published what it passed.
    Moved {
        reported: Lsn,
        confirmed: Lsn,
        by_hand: bool,
    },
}

impl SessionStart<'_> {
    /// The session of `tenure` holds the lock at `place`, whose WAL ends at `end` (invalid when
    /// polling). Returns why memory has to be cleared, if it has to.
    pub(in crate::publisher) fn entered(
        &mut self,
        place: &TableLocation,
        end: Lsn,
        tenure: &Tenure,
    ) -> Option<HistoryMismatch> {
        self.engine
            .lock_held(tenure.number.map(|number| number.drawn_at));
        let own = self.engine.resume_at();
        match self.resume.arrived(place, tenure, own, end) {
            Arrival::Known => None,
            Arrival::Restarted { drawn_at } => {
                if self.engine.doubt() <= drawn_at {
                    self.resume.invalidate();
                }
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
    /// no error: what it has passed was published by another instance, or the audit finds it.
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
                    by_hand: self.resume.is_alone(),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Settings};
    use crate::engine::output::Limits;

    fn place(postmaster_start: &str) -> TableLocation {
        TableLocation::for_tests(1, postmaster_start, 5)
    }

    fn tenure(process: i32, drawn_at: u64) -> Tenure {
        Tenure::for_tests(process, Lsn::new(drawn_at))
    }

    /// A session that has drawn its number here receives a transaction at 100 from a slot at 90,
    /// and the server is restarted. Returns where the next one begins.
    fn after_a_restart(drawn_at: u64) -> PositionStep {
        let config = Config::from_settings(Settings {
            database_url: Some("postgres://outboxd@db/orders".to_owned()),
            kafka_brokers: Some("kafka:9092".to_owned()),
            ..Settings::default()
        });
        let limits = Limits::of(&config.expect("the settings are valid"));
        let (mut engine, mut resume) = (Engine::new(limits), ResumeState::new());
        let slot = Lsn::new(90);
        let mut start = SessionStart {
            engine: &mut engine,
            resume: &mut resume,
        };
        let first = start.entered(&place("1"), Lsn::new(95), &tenure(1, drawn_at));
        assert_eq!(first, None);
        assert_eq!(
            start.position(slot),
            PositionStep::StartOver { cleared: None }
        );
        engine.reset(slot);
        resume.resumed([]);
        engine.session_started(Duration::ZERO);
        engine.begin(Lsn::new(100));
        engine.commit(Lsn::new(100), Lsn::new(110));
        engine.session_ended();
        let mut start = SessionStart {
            engine: &mut engine,
            resume: &mut resume,
        };
        let again = start.entered(&place("2"), Lsn::new(200), &tenure(2, 205));
        assert_eq!(again, None);
        start.position(slot)
    }

    #[test]
    fn on_a_restarted_server_a_number_counts_if_the_proof_covers_its_draw() {
        assert_eq!(after_a_restart(95), PositionStep::Resume(Lsn::new(100)));
        // An older copy of the files may have the transaction and lack the draw. Another holder
        // then gets the number of this one.
        let cleared = Some(Cleared::History(HistoryMismatch::Restarted));
        assert_eq!(after_a_restart(105), PositionStep::StartOver { cleared });
    }
}
