//! What the publisher waits for, by name. Pure: facts in, the wait out.
//!
//! Of several waits it names the one that the others follow from: without Kafka nothing is written
//! back, and without the standby nothing is streamed.

use std::time::Duration;

use crate::engine::output::EngineStats;
use crate::engine::tracker::InFlight;

/// A record that Kafka has not acknowledged for this long means that the publisher waits for Kafka.
const KAFKA_WAIT: Duration = Duration::from_secs(5);

/// What is known of the publisher `now`.
#[derive(Debug)]
pub(in crate::publisher) struct WaitFacts<'a> {
    pub(in crate::publisher) now: Duration,
    pub(in crate::publisher) stats: &'a EngineStats,
    /// Why the producer is being replaced, or has failed.
    pub(in crate::publisher) producer_problem: Option<&'a str>,
    /// Why no broker answers, and since when it was asked.
    pub(in crate::publisher) unreached: Option<(&'a str, Duration)>,
    /// What keeps the oldest record from Kafka.
    pub(in crate::publisher) kafka_problem: Option<&'a str>,
    /// The error of database work that has lasted longest, and since when.
    pub(in crate::publisher) write_back: Option<(&'a str, Duration)>,
}

/// What the publisher waits for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::publisher) struct Wait {
    pub(in crate::publisher) on: &'static str,
    pub(in crate::publisher) detail: String,
    /// Since when, on the engine's clock, where that is known.
    pub(in crate::publisher) since: Option<Duration>,
}

impl Wait {
    fn now(on: &'static str, detail: impl Into<String>) -> Wait {
        Wait {
            on,
            detail: detail.into(),
            since: None,
        }
    }
}

/// The record that Kafka has not acknowledged for so long that the publisher waits for Kafka. A
/// record that waits for its dead letter waits for the database.
pub(in crate::publisher) fn late_record(stats: &EngineStats, now: Duration) -> Option<&InFlight> {
    let is_late = |oldest: &&InFlight| now > Duration::from_micros(oldest.sent_micros) + KAFKA_WAIT;
    let oldest = stats.oldest.as_ref();
    oldest.filter(is_late).filter(|_| !stats.is_oldest_unfiled)
}

/// The wait to show; `None` if events get through, or there are none.
pub(in crate::publisher) fn waiting(facts: &WaitFacts<'_>) -> Option<Wait> {
    let stats = facts.stats;
    if let Some(problem) = facts.producer_problem {
        return Some(Wait::now("kafka", problem));
    }
    if let Some(oldest) = late_record(stats, facts.now) {
        let problem = facts.kafka_problem.unwrap_or("no acknowledgement");
        return Some(Wait {
            since: Some(Duration::from_micros(oldest.sent_micros)),
            ..Wait::now("kafka", problem)
        });
    }
    if let Some((problem, since)) = facts.unreached {
        return Some(Wait {
            since: Some(since),
            ..Wait::now("kafka", problem)
        });
    }
    if stats.standby {
        let detail = "a standby in synchronized_standby_slots does not have the WAL to send yet";
        return Some(Wait::now("standby", detail));
    }
    if stats.decoding {
        let detail = "the server decodes changes of other tables";
        return Some(Wait::now("decoding", detail));
    }
    if let Some((error, since)) = facts.write_back {
        return Some(Wait {
            since: Some(since),
            ..Wait::now("write-back", error)
        });
    }
    stuck_rows(stats)
}

/// The rows that wait for their mark. Those that have waited longest give the wait its name.
fn stuck_rows(stats: &EngineStats) -> Option<Wait> {
    let (locked, hidden) = (stats.locked, stats.hidden);
    let locked_first = hidden.count == 0 || (locked.count > 0 && locked.since < hidden.since);
    let (on, detail, since) = match (locked.count, locked_first) {
        (0, true) => return None,
        (rows, true) => (
            "write-back",
            format!("{rows} rows are locked"),
            locked.since,
        ),
        // Committed and streamed, but not visible: their commits wait for a synchronous standby.
        (_, false) => (
            "standby",
            format!(
                "{} rows are not visible yet: a synchronous standby has not confirmed them",
                hidden.count
            ),
            hidden.since,
        ),
    };
    Some(Wait {
        since: Some(since),
        ..Wait::now(on, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::topics::NO_TOPIC;

    const SECOND: Duration = Duration::from_secs(1);

    fn late() -> Option<InFlight> {
        Some(InFlight {
            row: None,
            xid: 0,
            untried: false,
            bytes: 0,
            topic: NO_TOPIC,
            since_micros: 0,
            sent_micros: 0,
        })
    }

    /// The name of the wait at second 6, and its start if that is known.
    fn named(
        stats: &EngineStats,
        change: impl FnOnce(&mut WaitFacts<'_>),
    ) -> Option<(&'static str, Option<u64>)> {
        let mut facts = WaitFacts {
            now: SECOND * 6,
            stats,
            producer_problem: None,
            unreached: None,
            kafka_problem: None,
            write_back: None,
        };
        change(&mut facts);
        let wait = waiting(&facts)?;
        Some((wait.on, wait.since.map(|since| since.as_secs())))
    }

    fn of(stats: &EngineStats) -> Option<(&'static str, Option<u64>)> {
        named(stats, |_| {})
    }

    #[test]
    fn nothing_is_waited_for_while_records_are_acknowledged_in_time() {
        assert_eq!(of(&EngineStats::default()), None);
        let oldest = late();
        let stats = EngineStats {
            oldest,
            ..EngineStats::default()
        };
        assert_eq!(named(&stats, |facts| facts.now = SECOND * 5), None);
        assert_eq!(of(&stats), Some(("kafka", Some(0))));
    }

    #[test]
    fn each_cause_has_a_name_and_the_one_that_others_follow_from_comes_first() {
        let mut stats = EngineStats::default();
        (stats.locked.count, stats.locked.since) = (1, SECOND * 2);
        assert_eq!(of(&stats), Some(("write-back", Some(2))));
        (stats.hidden.count, stats.hidden.since) = (1, SECOND * 3);
        assert_eq!(of(&stats), Some(("write-back", Some(2))));
        stats.hidden.since = SECOND;
        assert_eq!(of(&stats), Some(("standby", Some(1))));
        let failing = |facts: &mut WaitFacts<'_>| facts.write_back = Some(("it broke", SECOND));
        assert_eq!(named(&stats, failing), Some(("write-back", Some(1))));
        stats.decoding = true;
        assert_eq!(named(&stats, failing), Some(("decoding", None)));
        stats.standby = true;
        assert_eq!(named(&stats, failing), Some(("standby", None)));
        stats.oldest = late();
        assert_eq!(named(&stats, failing), Some(("kafka", Some(0))));
    }

    #[test]
    fn a_record_that_waits_for_its_dead_letter_waits_for_the_database() {
        let stats = EngineStats {
            oldest: late(),
            is_oldest_unfiled: true,
            ..EngineStats::default()
        };
        let failing = |facts: &mut WaitFacts<'_>| facts.write_back = Some(("it broke", SECOND));
        assert_eq!(named(&stats, failing), Some(("write-back", Some(1))));
    }

    #[test]
    fn a_producer_that_failed_and_a_broker_that_never_answered_are_a_wait_without_any_record() {
        let stats = EngineStats::default();
        let kafka = Some(("kafka", None));
        assert_eq!(
            named(&stats, |facts| facts.producer_problem = Some("it failed")),
            kafka
        );
        assert_eq!(
            named(&stats, |facts| facts.unreached = Some(("refused", SECOND))),
            Some(("kafka", Some(1)))
        );
    }
}
