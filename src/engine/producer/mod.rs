//! When the producer is replaced by a new one, and what is sent meanwhile. Pure.
//!
//! A fatal error, a certificate that was read at the start, metadata that librdkafka refuses to
//! take: such a state ends only with its producer. A replacement keeps the session and all memory.
//! First the records in flight are withdrawn: each comes back with its delivery report and waits in
//! its topic's queue. When all have come back, the new producer is made, and the old one closes its
//! connections. Then the queues are sent again, in their order. In between nothing is sent: a
//! record of the old producer never arrives behind one of the new producer, and an event's last
//! copy lies behind the last copy of every earlier one of its key, as after any refusal.

pub(crate) mod replacement;

use std::time::Duration;

use crate::engine::Engine;
use crate::engine::output::{End, Output, SinkOutput};
use crate::engine::tracker::InFlight;
use crate::outbox::Rejection;

/// While no record waits longer than this, no topic is examined.
const LATE: Duration = Duration::from_secs(5);

impl Engine {
    /// Replaces the producer, unless that is under way.
    pub(crate) fn replace_producer(&mut self, now: Duration, reason: &str) {
        if self.exactly_once.is_some() {
            let code = "PRODUCER_FAILED".to_owned();
            let message = reason.to_owned();
            return self.give_up(Rejection { code, message });
        }
        if self.dispatch.replacement.begin(now, reason) {
            self.push(SinkOutput::ReplaceProducer(reason.to_owned()));
        }
    }

    /// The new producer is in place, and the old one has closed its connections. A replacement that
    /// was not begun yet is done with it.
    pub(crate) fn producer_replaced(&mut self) {
        let is_due =
            |output: &Output| matches!(output, Output::Sink(SinkOutput::ReplaceProducer(_)));
        self.outputs.retain(|output| !is_due(output));
        self.dispatch.producer_replaced();
    }

    /// Why the producer is being replaced, if it is.
    pub(crate) fn replacement_reason(&self) -> Option<&str> {
        self.dispatch.replacement.reason()
    }

    /// Replaces a producer that delivers nothing to a topic in order, and gives up a replacement
    /// that takes too long.
    pub(super) fn watch_producer(&mut self, now: Duration) {
        if let Some(reason) = self.dispatch.replacement.overdue(now) {
            let code = "WITHDRAWAL_TIMEOUT".to_owned();
            let message = format!("the producer's records did not come back: {reason}");
            self.push(End::ProducerFailed(Rejection { code, message }));
        }
        let is_late =
            |(_, event): (_, &InFlight)| now >= Duration::from_micros(event.sent_micros) + LATE;
        let is_running = self.dispatch.replacement.is_running();
        if is_running
            || !self.dispatch.stalled_topics.is_due(now)
            || !self.tracker.oldest_in_flight().is_some_and(is_late)
        {
            return;
        }
        if let Some(name) = self.dispatch.check_stalls(now, &self.tracker) {
            let reason = format!(
                "the producer delivers nothing to topic {name}, where Kafka shows nothing wrong"
            );
            self.replace_producer(now, &reason);
        }
    }
}
