//! Events that Kafka has refused. Pure.
//!
//! A broker refuses a batch as a whole, so most of the refused events may be innocent. Each is sent
//! again in a transaction of its own. One that is committed there is innocent; one that is refused
//! there as often as the configuration says is guilty, and becomes a dead letter when the stream
//! brings it again. So a refused event costs a transaction that is not committed, and every other
//! event is still sent once.

use std::collections::HashMap;

use crate::lsn::Lsn;
use crate::outbox::{Rejection, RowId};

/// The most events that are kept. Others are found when they are refused again.
const SUSPECTS_MAX: usize = 20_000;

/// What names an event, also when it comes again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A change of the stream: its transaction, and its index there.
    Change(Lsn, u32),
    /// A row of the table.
    Row(RowId),
    /// The event of a dead letter that is retried.
    DeadLetter(i64),
}

/// What is known of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Suspicion {
    None,
    /// It has to be sent alone.
    Suspect,
    /// It cannot be published.
    Guilty(Rejection),
}

#[derive(Debug)]
struct Refused {
    attempts: u32,
    rejection: Rejection,
}

/// See the module's head. It outlives the producer.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    by_place: HashMap<Place, Refused>,
}

impl Suspects {
    /// Kafka has refused this event, alone or with others.
    pub(crate) fn refused(&mut self, event: Place, rejection: Rejection, was_alone: bool) {
        if self.by_place.len() >= SUSPECTS_MAX && !self.by_place.contains_key(&event) {
            return;
        }
        let refused = self.by_place.entry(event).or_insert(Refused {
            attempts: 0,
            rejection: rejection.clone(),
        });
        refused.attempts += u32::from(was_alone);
        refused.rejection = rejection;
    }

    /// Whether no event is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// What is known of an event, of which `attempts` are made.
    pub(crate) fn suspicion(&self, event: &Place, attempts: u32) -> Suspicion {
        match self.by_place.get(event) {
            None => Suspicion::None,
            Some(refused) if refused.attempts >= attempts => {
                Suspicion::Guilty(refused.rejection.clone())
            }
            Some(_) => Suspicion::Suspect,
        }
    }

    /// This event is in Kafka.
    pub(crate) fn committed(&mut self, event: &Place) {
        self.by_place.remove(event);
    }

    /// Positions have another meaning from now on.
    pub(crate) fn clear(&mut self) {
        self.by_place.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(index: u32) -> Place {
        Place::Change(Lsn::new(100), index)
    }

    fn rejection(code: &str) -> Rejection {
        Rejection {
            code: code.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn an_event_is_guilty_after_its_own_attempts_and_innocent_once_it_is_committed() {
        let mut suspects = Suspects::default();
        let of = |suspects: &Suspects, index| suspects.suspicion(&event(index), 2);
        suspects.refused(event(1), rejection("BATCH"), false);
        suspects.refused(event(2), rejection("BATCH"), false);
        assert_eq!(of(&suspects, 0), Suspicion::None);
        assert_eq!(of(&suspects, 1), Suspicion::Suspect);
        suspects.refused(event(1), rejection("TOO_LARGE"), true);
        assert_eq!(of(&suspects, 1), Suspicion::Suspect);
        suspects.refused(event(1), rejection("TOO_LARGE"), true);
        assert_eq!(of(&suspects, 1), Suspicion::Guilty(rejection("TOO_LARGE")));
        suspects.committed(&event(2));
        suspects.committed(&event(3));
        assert_eq!(of(&suspects, 2), Suspicion::None);
        suspects.clear();
        assert_eq!(of(&suspects, 1), Suspicion::None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut suspects = Suspects::default();
        for index in 0..30_000 {
            suspects.refused(event(index), rejection("BATCH"), false);
        }
        assert_eq!(suspects.by_place.len(), SUSPECTS_MAX);
    }
}
