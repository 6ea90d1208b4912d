//! What becomes of events that cannot be published.

use crate::config::names;
use crate::config::{Check, Config, parse};

/// What becomes of an event that Kafka refuses for good, or that can never be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnPoison {
    /// It is filed as a dead letter; all others go on.
    #[default]
    DeadLetter,
    /// It is filed, and later events of its topic and key behind it.
    ParkKey,
    /// The publisher stops.
    Halt,
}

impl Check {
    pub(super) fn on_poison(&mut self, given: Option<String>) -> OnPoison {
        let choices = [
            ("dead-letter", OnPoison::DeadLetter),
            ("park-key", OnPoison::ParkKey),
            ("halt", OnPoison::Halt),
        ];
        self.or(names::ON_POISON, given, OnPoison::default(), |text| {
            parse::choice(text, &choices)
        })
    }

    pub(super) fn dead_letters_per_minute(&mut self, given: Option<String>) -> u32 {
        self.or(names::DEAD_LETTERS_PER_MINUTE, given, 1_000, |text| {
            parse::count(text, 1..=1_000_000)
        })
    }
}

/// What librdkafka puts into one batch at most, unless it is told otherwise.
const BATCH_BYTES: usize = 1_000_000;

impl Config {
    /// The largest batch that the producer makes of several records, in bytes.
    pub(crate) fn batch_bytes(&self) -> usize {
        let size = self.kafka_property("batch.size");
        size.and_then(|size| size.parse().ok())
            .unwrap_or(BATCH_BYTES)
    }

    /// What the user has set a property of librdkafka to.
    fn kafka_property(&self, wanted: &str) -> Option<&str> {
        let properties = self.kafka_properties.iter().rev();
        let mut found = properties.filter(|(name, _)| name == wanted);
        found.next().map(|(_, value)| value.as_str())
    }
}
