//! How an attempt of a replay begins, exactly once, by the record that it finds. Pure.
//!
//! Two replays of one slot shut each other out: each new producer of their transactional id ends
//! the one before it. A process whose producer was ended cannot know why: another replay, or a
//! broker that had not heard from it. So it makes a new one, and the record decides. **The
//! process whose record was committed last goes on.** One that finds the record of another, after
//! its own was there, ends. One that has not committed a record yet has sent nothing, and tries
//! again.

use crate::engine::exactly_once::progress::Progress;
use crate::engine::exactly_once::recorded_replay::RecordedReplay;
use crate::error::{Code, Error};

/// This replay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Us<'a> {
    pub(super) replay: &'a RecordedReplay,
    /// It goes on with what another process has begun.
    pub(super) continues: bool,
    /// This process has committed a record.
    pub(super) is_recorded: bool,
}

/// How an attempt begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// Behind the row of this record, which is of this process.
    Continue(Progress),
    /// The same, once this record is committed.
    Begin(Progress),
}

/// Why another process goes on, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Another process has completed this replay.
    Completed,
    /// Another process goes on with this replay.
    Continued,
    /// Another replay was started.
    Replaced,
    /// There is no record any more.
    Gone,
}

/// Decides how an attempt begins. `fresh` is the progress of a replay that has sent nothing.
///
/// # Errors
/// This process ends.
pub(super) fn decide(
    found: Option<Progress>,
    fresh: Progress,
    us: Us<'_>,
) -> Result<Beginning, Ended> {
    let replay = found.as_ref().and_then(|it| it.replay.as_deref());
    let ended = match replay {
        None => Ended::Gone,
        Some(replay) if !replay.is_same(us.replay) => Ended::Replaced,
        Some(replay) if replay.complete => Ended::Completed,
        Some(_) => Ended::Continued,
    };
    let is_ours = replay.is_some_and(|it| it.run == us.replay.run);
    match found {
        Some(found) if is_ours => Ok(Beginning::Continue(found)),
        _ if us.is_recorded => Err(ended),
        Some(mut found) if us.continues && ended == Ended::Continued => {
            if let Some(replay) = &mut found.replay {
                replay.run.clone_from(&us.replay.run);
            }
            Ok(Beginning::Begin(found))
        }
        _ if us.continues => Err(ended),
        _ => Ok(Beginning::Begin(fresh)),
    }
}

impl Ended {
    /// The error that ends this process.
    pub(super) fn into_error(self, slot: &str) -> Error {
        let (text, hint) = match self {
            Ended::Completed => (
                "another process has completed this replay",
                "nothing is left to do",
            ),
            Ended::Continued => (
                "another process has continued this replay",
                "that process goes on: Kafka has shut this one out",
            ),
            Ended::Replaced => (
                "another replay was started",
                "Kafka lets one exactly-once replay of a slot send: continue this one when the \
                 other has ended",
            ),
            Ended::Gone => (
                "the progress record of this replay is gone",
                "keep the progress topic while a replay runs; `outboxd doctor` examines it",
            ),
        };
        let message = format!("{text} (slot {slot})");
        Error::fatal(Code::Lifecycle, message).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::exactly_once::progress::Phase;
    use crate::lsn::Lsn;
    use crate::outbox::replay::ReplayFilter;

    fn replay(started: &str, run: &str, complete: bool) -> RecordedReplay {
        RecordedReplay {
            table: "outbox.outbox".to_owned(),
            filter: ReplayFilter::default(),
            started: started.to_owned(),
            run: run.to_owned(),
            sent: 7,
            complete,
        }
    }

    fn progress(replay: RecordedReplay) -> Progress {
        Progress {
            replay: Some(Box::new(replay)),
            ..Progress::beginning(1, "outboxd".to_owned(), Lsn::INVALID, Phase::Replay)
        }
    }

    /// What replay `a` does, sent by run 1.
    fn decided(
        found: Option<RecordedReplay>,
        continues: bool,
        is_recorded: bool,
    ) -> Result<Beginning, Ended> {
        let ours = replay("a", "1", false);
        let us = Us {
            replay: &ours,
            continues,
            is_recorded,
        };
        decide(found.map(progress), progress(replay("a", "1", false)), us)
    }

    #[test]
    fn a_new_replay_replaces_every_record_until_its_own_is_there() {
        for found in [
            None,
            Some(replay("a", "2", false)),
            Some(replay("b", "2", true)),
        ] {
            let fresh = Beginning::Begin(progress(replay("a", "1", false)));
            assert_eq!(decided(found.clone(), false, false), Ok(fresh), "{found:?}");
            assert!(decided(found.clone(), false, true).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_replay_goes_on_with_its_own_record_whatever_was_known_of_it() {
        for (continues, is_recorded) in [(false, false), (false, true), (true, true)] {
            let own = replay("a", "1", false);
            let expected = Beginning::Continue(progress(own.clone()));
            assert_eq!(decided(Some(own), continues, is_recorded), Ok(expected));
        }
    }

    #[test]
    fn a_replay_that_is_continued_gets_another_run_and_keeps_its_figure() {
        let expected = Beginning::Begin(progress(replay("a", "1", false)));
        assert_eq!(
            decided(Some(replay("a", "2", false)), true, false),
            Ok(expected)
        );
        for (found, text) in [
            (None, "is gone"),
            (Some(replay("b", "2", false)), "another replay"),
            (Some(replay("a", "2", true)), "has completed this replay"),
        ] {
            let error = decided(found, true, false).expect_err("nothing to go on with");
            let error = error.into_error("s").to_string();
            assert!(error.contains(text), "{error}");
        }
        let continued = decided(Some(replay("a", "3", false)), true, true);
        let error = continued.expect_err("run 3 goes on").into_error("s");
        assert!(error.to_string().contains("has continued"), "{error}");
    }
}
