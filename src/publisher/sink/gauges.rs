//! The forwarder's entries on the status board: its figures, and the name of what it waits for.
//! The gauges are set from the board, by [`Metrics::show`](crate::metrics::Metrics::show) alone.

use std::time::Duration;

use crate::engine::output::EngineStats;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::sink::waits::{self, Wait, WaitFacts, late_record};

impl Forwarder {
    /// Updates the figures of the status, and what the publisher waits for.
    pub(crate) fn show(&mut self) {
        let stats = self.show_figures();
        match self.waiting(&stats) {
            None => self.board.wait(None),
            Some(Wait { on, detail, since }) => match since {
                None => self.board.wait(Some((on, detail))),
                Some(since) => {
                    let lasted = self.now.saturating_sub(since);
                    self.board.wait_for(on, detail, lasted);
                }
            },
        }
    }

    /// Updates the figures alone, when the caller has set what it waits for.
    pub(crate) fn show_figures(&mut self) -> EngineStats {
        self.log_filed();
        let snapshot = self.engine.stats();
        let oldest_seconds = snapshot.oldest.map_or(0.0, |oldest| {
            self.now.as_secs_f64() - Duration::from_micros(oldest.sent_micros).as_secs_f64()
        });
        let rewinds = snapshot.rewind_count;
        self.metrics
            .partition_rewinds
            .inc_by(rewinds - std::mem::replace(&mut self.rewinds, rewinds));
        self.board.update(|status| {
            status.kafka_has_answered = self.published > 0 || self.kafka_reach.has_answered();
            status.published_total = self.published;
            status.in_flight_records = snapshot.in_flight_count;
            status.in_flight_bytes = snapshot.in_flight_bytes as u64;
            status.unmarked_records = snapshot.unmarked_count as u64;
            status.oldest_unacknowledged_seconds = oldest_seconds;
            status.received_lsn = Some(snapshot.received.to_string());
            status.confirmed_lsn = Some(snapshot.confirmed.to_string());
        });
        snapshot
    }

    fn waiting(&mut self, stats: &EngineStats) -> Option<Wait> {
        let late = late_record(stats, self.now);
        let kafka_problem = late.map(|late| self.kafka_problem(late.topic));
        let unreached = self.kafka_reach.problem().filter(|_| self.published == 0);
        let replaced = self.engine.replacement_reason();
        let statement = self.config.operation_timeout;
        waits::waiting(&WaitFacts {
            now: self.now,
            stats,
            producer_problem: self.producer_care.failure().or(replaced),
            unreached: unreached.as_deref(),
            kafka_problem: kafka_problem.as_deref(),
            write_back: self.work_errors.oldest(self.now, statement),
        })
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
