//! The forwarder's entries on the status board: its figures, and the name of what it waits for.
//! The gauges are set from the board, by [`Metrics::show`](crate::metrics::Metrics::show) alone.

use std::time::Duration;

use crate::engine::output::EngineStats;
use crate::publisher::sink::forwarder::Forwarder;

/// A record that Kafka has not acknowledged for this long means that the publisher waits for Kafka.
const KAFKA_WAIT: Duration = Duration::from_secs(5);

impl Forwarder {
    /// Updates the figures of the status, and what the publisher waits for.
    pub(crate) fn show(&mut self) {
        let (snapshot, oldest_seconds) = self.show_figures();
        let waiting = self.waiting(&snapshot, oldest_seconds);
        self.board.wait(waiting);
    }

    /// Updates the figures alone, when the caller has set what it waits for.
    pub(crate) fn show_figures(&mut self) -> (EngineStats, f64) {
        let snapshot = self.engine.stats();
        let oldest_seconds = snapshot.oldest.map_or(0.0, |oldest| {
            self.now.as_secs_f64() - Duration::from_micros(oldest.sent_micros).as_secs_f64()
        });
        let rewinds = snapshot.rewind_count;
        self.metrics
            .partition_rewinds
            .inc_by(rewinds - std::mem::replace(&mut self.rewinds, rewinds));
        self.board.update(|status| {
            status.published_total = self.published;
            status.in_flight_records = snapshot.in_flight_count;
            status.in_flight_bytes = snapshot.in_flight_bytes as u64;
            status.unmarked_records = snapshot.unmarked_count as u64;
            status.oldest_unacknowledged_seconds = oldest_seconds;
            status.received_lsn = Some(snapshot.received.to_string());
            status.confirmed_lsn = Some(snapshot.confirmed.to_string());
        });
        (snapshot, oldest_seconds)
    }

    fn waiting(
        &mut self,
        snapshot: &EngineStats,
        oldest_seconds: f64,
    ) -> Option<(&'static str, String)> {
        let late = |_: &_| oldest_seconds > KAFKA_WAIT.as_secs_f64() && snapshot.unfiled_count == 0;
        if let Some(oldest) = snapshot.oldest.filter(late) {
            return Some(("kafka", self.kafka_problem(oldest.topic)));
        }
        if snapshot.standby {
            let detail =
                "a standby in synchronized_standby_slots does not have the WAL to send yet";
            return Some(("standby", detail.to_owned()));
        }
        if snapshot.decoding {
            let detail = "the server decodes changes of other tables".to_owned();
            return Some(("decoding", detail));
        }
        if let Some(error) = &self.write_error {
            return Some(("write-back", error.clone()));
        }
        let (rows, hidden) = (snapshot.deferred_count, snapshot.hidden_count);
        let wait = match (rows, hidden) {
            (0, _) => return None,
            (_, 0) => ("write-back", format!("{rows} rows are locked")),
            // Committed and streamed, but not visible: their commits wait for a synchronous
            // standby.
            _ => (
                "standby",
                format!(
                    "{hidden} rows are not visible yet: a synchronous standby has not confirmed \
                     them"
                ),
            ),
        };
        Some(wait)
    }

    fn kafka_problem(&mut self, topic: u32) -> String {
        let problem = self.engine.kafka_problem(topic);
        let problem = problem.unwrap_or_else(|| "no acknowledgement".to_owned());
        match self.producer.health().last_error {
            Some(error) => format!("{problem}: {}", error.reason),
            None => problem,
        }
    }
}
