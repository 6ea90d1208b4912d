//! How a start goes on: the progress record of Kafka compared with the slot of Postgres. Pure.
//!
//! The slot never passes the progress record, not even while nothing is published. So a record
//! before the slot's position always means that something else has happened, and so does a record
//! that the server's history does not have. outboxd cannot know what, and what is right then:
//! sending too much or too little. It refuses to start, and a person answers with a setting that
//! names this refusal and its position: the answer to one case can never answer another.
//!
//! A slot that is gone is no contradiction where outboxd may heal: the table and Kafka together
//! show what is missing, as long as the server's WAL is the one that the record is about.

use crate::config::{Answer, RefusalKind};
use crate::engine::exactly_once::progress::{Phase, Progress};
use crate::error::{Code, Error};
use crate::lsn::Lsn;

/// What is known when a session begins.
#[derive(Debug, Clone)]
pub(crate) struct StartFacts {
    /// The last committed progress record of the slot.
    pub(crate) progress: Option<Progress>,
    pub(crate) slot: SlotFacts,
    /// The server's timeline.
    pub(crate) timeline: u32,
    /// Where the server's WAL ends.
    pub(crate) wal_end: Lsn,
    /// Where the server's history left the timeline of the progress record, if that is another one
    /// and an ancestor.
    pub(crate) switched_at: Option<Lsn>,
    pub(crate) publication: String,
    /// What a person has answered to a refusal.
    pub(crate) answer: Option<Answer>,
    /// A lost slot is healed from the table.
    pub(crate) heals: bool,
}

/// The slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotFacts {
    Missing,
    /// This session has made it, and it is at this position.
    Created(Lsn),
    /// It exists, and has confirmed this position.
    Confirmed(Lsn),
}

/// How the start goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// A slot has to be created first.
    CreateSlot,
    /// Stream from the slot's position, and leave out what this covers.
    Continue(Progress),
    /// The same, once this progress is committed: nothing before it is in Kafka by this record.
    Begin(Progress),
}

/// A refused start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What answers it.
    pub(crate) answer: Answer,
    /// What was found.
    pub(crate) text: String,
    /// What the answer does.
    pub(crate) effect: &'static str,
}

impl Refusal {
    /// The error that ends the publisher.
    pub(crate) fn into_error(self) -> Error {
        let message = format!("cannot go on exactly once: {}", self.text);
        let hint = format!("OUTBOX_ACCEPT={} {}", self.answer, self.effect);
        Error::fatal(Code::Slot, message).with_hint(hint)
    }
}

/// Decides how a start goes on.
///
/// # Errors
/// It is refused, and has not been answered.
pub(crate) fn decide(facts: &StartFacts) -> Result<Start, Box<Refusal>> {
    let Some(progress) = &facts.progress else {
        return match facts.slot {
            SlotFacts::Missing => Ok(Start::CreateSlot),
            SlotFacts::Created(at) => Ok(Start::Begin(facts.beginning(at))),
            SlotFacts::Confirmed(at) => facts.answered(facts.no_progress(at), at),
        };
    };
    match facts.slot {
        SlotFacts::Missing if progress.unmarked_from().is_none() => Ok(Start::CreateSlot),
        SlotFacts::Missing if facts.heals && facts.has_wal_of(progress) => Ok(Start::CreateSlot),
        SlotFacts::Missing => match facts.refused(facts.slot_missing(progress)) {
            None => Ok(Start::CreateSlot),
            Some(refusal) => Err(refusal),
        },
        // The permission of the new slot has answered what became of the old one.
        SlotFacts::Created(at) => {
            let (timeline, publication) = (facts.timeline, facts.publication.clone());
            let next = progress.followed_by(timeline, publication, at, Phase::Stream);
            Ok(Start::Begin(next))
        }
        // A slot that outboxd has made is recorded first.
        SlotFacts::Confirmed(at) if progress.phase == Phase::Table => {
            facts.answered(facts.no_progress(at), at)
        }
        SlotFacts::Confirmed(at) => facts.with_slot(progress, at),
    }
}

impl StartFacts {
    /// The first record of a slot at this position.
    fn beginning(&self, position: Lsn) -> Progress {
        let publication = self.publication.clone();
        Progress::beginning(self.timeline, publication, position, Phase::Stream)
    }

    /// Whether the server's WAL reaches as far as the record, on the same timeline. On another one
    /// marks may be lost that the record relies on.
    fn has_wal_of(&self, progress: &Progress) -> bool {
        progress.timeline == self.timeline && progress.position <= self.wal_end
    }

    fn with_slot(&self, progress: &Progress, slot: Lsn) -> Result<Start, Box<Refusal>> {
        let position = progress.position;
        if progress.timeline != self.timeline {
            match self.switched_at {
                None => return self.answered(self.other_timeline(progress, slot), slot),
                Some(at) if at < position => {
                    // What lies between is in Kafka and not in this history. Everything up to the
                    // switch is in both.
                    return self.answered(self.timeline_lost(progress, at, slot), slot.max(at));
                }
                Some(_) => {}
            }
        } else if position > self.wal_end {
            return self.answered(self.wal_behind(progress, slot), slot);
        }
        if position < slot {
            return self.answered(self.slot_ahead(progress, slot), slot);
        }
        let is_unfinished = position != slot || progress.partial.is_some();
        if is_unfinished && progress.publication != self.publication {
            return self.answered(self.other_publication(progress, slot), slot);
        }
        let is_same = progress.timeline == self.timeline;
        Ok(Start::Continue(Progress {
            timeline: self.timeline,
            // A standby may lack marks that the lost server had.
            settled: progress.settled.filter(|_| is_same),
            publication: self.publication.clone(),
            phase: Phase::Stream,
            ..progress.clone()
        }))
    }

    /// The refusal, unless a person has answered it.
    fn refused(&self, refusal: Refusal) -> Option<Box<Refusal>> {
        (self.answer != Some(refusal.answer)).then(|| Box::new(refusal))
    }

    /// Begins at `position` if a person has answered the refusal.
    fn answered(&self, refusal: Refusal, position: Lsn) -> Result<Start, Box<Refusal>> {
        match self.refused(refusal) {
            Some(refusal) => Err(refusal),
            None => Ok(Start::Begin(self.beginning(position))),
        }
    }

    fn no_progress(&self, slot: Lsn) -> Refusal {
        Refusal {
            answer: RefusalKind::NoProgress.at(slot),
            text: format!(
                "the slot exists and is at {slot}, and Kafka has no progress record of it: it was \
                 read at least once, or the progress topic was deleted, or this is another Kafka \
                 cluster"
            ),
            effect: "begins at the slot's position: events behind it that are in Kafka already are \
                     sent a second time",
        }
    }

    fn slot_ahead(&self, progress: &Progress, slot: Lsn) -> Refusal {
        let position = progress.position;
        Refusal {
            answer: RefusalKind::SlotAhead.at(slot),
            text: format!(
                "the slot is at {slot}, and the progress record at {position}: another client has \
                 moved or recreated the slot, or older records of the progress topic are back"
            ),
            effect: "begins at the slot's position: events between the two are not sent, unless \
                     another client has sent them",
        }
    }

    fn slot_missing(&self, progress: &Progress) -> Refusal {
        let position = progress.position;
        Refusal {
            answer: RefusalKind::SlotMissing.at(position),
            text: format!(
                "the slot does not exist, and the progress record is at {position}: it was \
                 dropped, or a standby without it was promoted"
            ),
            effect: "creates a new slot: the stream does not bring the events between the record \
                     and the new slot",
        }
    }

    fn wal_behind(&self, progress: &Progress, slot: Lsn) -> Refusal {
        let (position, end) = (progress.position, self.wal_end);
        Refusal {
            answer: RefusalKind::WalBehind.at(slot),
            text: format!(
                "the server's WAL ends at {end}, before the progress record at {position}: its \
                 files are an older copy"
            ),
            effect: "begins at the slot's position: events that the older copy has are sent a \
                     second time, and those that it has lost stay in Kafka",
        }
    }

    fn timeline_lost(&self, progress: &Progress, switched_at: Lsn, slot: Lsn) -> Refusal {
        let (position, old, new) = (progress.position, progress.timeline, self.timeline);
        Refusal {
            answer: RefusalKind::TimelineLost.at(slot.max(switched_at)),
            text: format!(
                "timeline {new} began at {switched_at}, before the progress record at {position} \
                 of timeline {old}: a standby was promoted that lacked the end of the WAL"
            ),
            effect: "begins where the timelines part: events that only the lost server had stay \
                     in Kafka",
        }
    }

    fn other_timeline(&self, progress: &Progress, slot: Lsn) -> Refusal {
        let (old, new) = (progress.timeline, self.timeline);
        Refusal {
            answer: RefusalKind::OtherTimeline.at(slot),
            text: format!(
                "the progress record is of timeline {old}, which the history of the server's \
                 timeline {new} does not contain: an older primary is back, or a copy of one"
            ),
            effect: "begins at the slot's position: events behind it that are in Kafka already are \
                     sent a second time",
        }
    }

    fn other_publication(&self, progress: &Progress, slot: Lsn) -> Refusal {
        let (old, new) = (&progress.publication, &self.publication);
        Refusal {
            answer: RefusalKind::OtherPublication.at(slot),
            text: format!(
                "the progress record is of publication {old}, and {new} is set: start once with \
                 {old} and stop, which settles what is under way"
            ),
            effect: "begins at the slot's position: events behind it that are in Kafka already are \
                     sent a second time",
        }
    }
}

/// The stream does not contain what the record names.
pub(crate) fn other_history(progress: &Progress, found: Lsn, slot: Lsn) -> Refusal {
    let position = progress.position;
    Refusal {
        answer: RefusalKind::OtherHistory.at(slot),
        text: format!(
            "the transaction at {found} is not the one that the progress record at {position} \
             expects there: the server's files are an older copy"
        ),
        effect: "begins at the slot's position: events that the older copy has are sent a second \
                 time, and those that it has lost stay in Kafka",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::exactly_once::progress::Partial;
    use crate::engine::tracker::TransactionName;

    fn lsn(position: u64) -> Lsn {
        Lsn::new(position)
    }

    fn progress(position: u64) -> Progress {
        Progress {
            timeline: 1,
            publication: "outboxd".to_owned(),
            position: lsn(position),
            last: Some(TransactionName::from(lsn(5))),
            partial: None,
            settled: Some(lsn(position)),
            phase: Phase::Stream,
            rows: Vec::new(),
            dead_letters: Vec::new(),
            replay: None,
        }
    }

    fn facts(progress: Option<Progress>, slot: SlotFacts) -> StartFacts {
        StartFacts {
            progress,
            slot,
            timeline: 1,
            wal_end: lsn(1_000),
            switched_at: None,
            publication: "outboxd".to_owned(),
            answer: None,
            heals: false,
        }
    }

    fn confirmed(at: u64) -> SlotFacts {
        SlotFacts::Confirmed(lsn(at))
    }

    /// The position that a start goes on or begins at.
    fn position(start: Result<Start, Box<Refusal>>) -> Lsn {
        match start.unwrap() {
            Start::Continue(progress) | Start::Begin(progress) => progress.position,
            Start::CreateSlot => Lsn::INVALID,
        }
    }

    #[test]
    fn an_ordinary_start_needs_no_answer() {
        let copying = |at| Progress {
            phase: Phase::Copying,
            last: None,
            ..progress(at)
        };
        let created = SlotFacts::Created(lsn(70));
        let cases = [
            // The first start, and a crash at each of its steps.
            (None, SlotFacts::Missing, Start::CreateSlot),
            (Some(copying(70)), SlotFacts::Missing, Start::CreateSlot),
            (
                None,
                created,
                Start::Begin(Progress {
                    last: None,
                    ..progress(70)
                }),
            ),
            (
                Some(copying(70)),
                confirmed(70),
                Start::Continue(Progress {
                    last: None,
                    ..progress(70)
                }),
            ),
            // Events are in Kafka, and not all of them are marked and confirmed.
            (
                Some(progress(100)),
                confirmed(100),
                Start::Continue(progress(100)),
            ),
            (
                Some(progress(100)),
                confirmed(60),
                Start::Continue(progress(100)),
            ),
            (
                Some(progress(1_000)),
                confirmed(60),
                Start::Continue(progress(1_000)),
            ),
        ];
        for (progress, slot, expected) in cases {
            let facts = facts(progress, slot);
            assert_eq!(decide(&facts), Ok(expected), "{facts:?}");
        }
    }

    #[test]
    fn a_new_slot_forgets_no_dead_letter_that_is_in_kafka() {
        let named = Progress {
            dead_letters: vec![3],
            ..progress(100)
        };
        let created = facts(Some(named), SlotFacts::Created(lsn(200)));
        let begins = |facts: &StartFacts| match decide(facts).unwrap() {
            Start::Begin(progress) => (progress.position, progress.dead_letters),
            other => panic!("{other:?}"),
        };
        assert_eq!(begins(&created), (lsn(200), vec![3]));
        let promoted = StartFacts {
            timeline: 2,
            ..created
        };
        assert_eq!(begins(&promoted), (lsn(200), Vec::new()));
    }

    #[test]
    fn a_promotion_goes_on_where_the_new_timeline_has_all_that_was_published() {
        let promoted = |switched_at| StartFacts {
            timeline: 2,
            switched_at: Some(lsn(switched_at)),
            ..facts(Some(progress(100)), confirmed(60))
        };
        for switched_at in [100, 101] {
            let expected = Progress {
                timeline: 2,
                settled: None,
                ..progress(100)
            };
            let start = decide(&promoted(switched_at));
            assert_eq!(start, Ok(Start::Continue(expected)));
        }
    }

    #[test]
    fn a_lost_slot_is_healed_where_the_wal_is_the_one_of_the_record() {
        let table = Progress {
            phase: Phase::Table,
            ..progress(100)
        };
        for record in [progress(100), table] {
            let healed = StartFacts {
                heals: true,
                ..facts(Some(record), SlotFacts::Missing)
            };
            assert_eq!(decide(&healed), Ok(Start::CreateSlot));
            for other in [
                StartFacts {
                    heals: false,
                    ..healed.clone()
                },
                StartFacts {
                    timeline: 2,
                    switched_at: Some(lsn(500)),
                    ..healed.clone()
                },
                StartFacts {
                    wal_end: lsn(99),
                    ..healed
                },
            ] {
                let refusal = decide(&other).unwrap_err();
                assert_eq!(refusal.answer, RefusalKind::SlotMissing.at(lsn(100)));
            }
        }
    }

    /// Each refusal, the text that tells it, and where its answer begins.
    fn refusals() -> Vec<(StartFacts, RefusalKind, u64, &'static str, u64)> {
        let streamed = || Some(progress(100));
        let promoted = |switched_at: Option<u64>, slot| StartFacts {
            timeline: 2,
            switched_at: switched_at.map(lsn),
            ..facts(streamed(), confirmed(slot))
        };
        let copy = StartFacts {
            wal_end: lsn(99),
            ..facts(streamed(), confirmed(60))
        };
        let renamed = StartFacts {
            publication: "another".to_owned(),
            ..facts(streamed(), confirmed(60))
        };
        use RefusalKind::*;
        vec![
            (
                facts(None, confirmed(60)),
                NoProgress,
                60,
                "no progress record",
                60,
            ),
            (
                facts(streamed(), confirmed(101)),
                SlotAhead,
                101,
                "moved or recreated",
                101,
            ),
            (
                facts(streamed(), SlotFacts::Missing),
                SlotMissing,
                100,
                "does not exist",
                0,
            ),
            (copy, WalBehind, 60, "ends at 0/63", 60),
            (
                promoted(Some(99), 60),
                TimelineLost,
                99,
                "began at 0/63",
                99,
            ),
            (
                promoted(Some(40), 60),
                TimelineLost,
                60,
                "began at 0/28",
                60,
            ),
            (
                promoted(None, 60),
                OtherTimeline,
                60,
                "does not contain",
                60,
            ),
            (renamed, OtherPublication, 60, "publication outboxd", 60),
        ]
    }

    #[test]
    fn what_cannot_be_known_is_refused_and_only_its_own_answer_starts() {
        for (facts, kind, at, text, begins) in refusals() {
            let refusal = decide(&facts).unwrap_err();
            assert_eq!(refusal.answer, kind.at(lsn(at)), "{facts:?}");
            assert!(refusal.text.contains(text), "{}", refusal.text);
            let written = refusal.answer.to_string();
            let answer: Answer = written.parse().unwrap();
            for (other, _) in RefusalKind::ALL {
                let wrong = [other.at(lsn(at + 1)), other.at(lsn(at))];
                for wrong in wrong.into_iter().filter(|wrong| *wrong != answer) {
                    let answer = Some(wrong);
                    let again = StartFacts {
                        answer,
                        ..facts.clone()
                    };
                    assert_eq!(decide(&again), Err(refusal.clone()));
                }
            }
            let answered = StartFacts {
                answer: Some(answer),
                ..facts
            };
            assert_eq!(position(decide(&answered)), lsn(begins), "{written}");
        }
    }

    #[test]
    fn another_publication_matters_only_while_something_is_under_way() {
        let renamed = |progress, slot| StartFacts {
            publication: "another".to_owned(),
            ..facts(Some(progress), confirmed(slot))
        };
        assert_eq!(position(decide(&renamed(progress(100), 100))), lsn(100));
        let partial = Some(Partial {
            transaction: lsn(120).into(),
            changes: 3,
        });
        let unfinished = Progress {
            partial,
            ..progress(100)
        };
        assert!(decide(&renamed(unfinished, 100)).is_err());
    }
}
