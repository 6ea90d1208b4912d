//! The forwarder's entries on the status board: its figures, and the name of what it waits for.
//! The gauges are set from the board, by [`Metrics::show`](crate::metrics::Metrics::show) alone.

use std::time::Duration;

use crate::engine::output::EngineStats;
use crate::publisher::sink::forwarder::Forwarder;

/// What the publisher waits for.
struct Wait {
    on: &'static str,
    detail: String,
    /// Since when, on the engine's clock, where that is known.
    since: Option<Duration>,
}

/// A record that Kafka has not acknowledged for this long means that the publisher waits for Kafka.
const KAFKA_WAIT: Duration = Duration::from_secs(5);

impl Forwarder {
    /// Updates the figures of the status, and what the publisher waits for.
    pub(crate) fn show(&mut self) {
        let (snapshot, oldest_seconds) = self.show_figures();
        match self.waiting(&snapshot, oldest_seconds) {
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
    pub(crate) fn show_figures(&mut self) -> (EngineStats, f64) {
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
        (snapshot, oldest_seconds)
    }

    fn waiting(&mut self, snapshot: &EngineStats, oldest_seconds: f64) -> Option<Wait> {
        let now = |on, detail: &str| Wait {
            on,
            detail: detail.to_owned(),
            since: None,
        };
        let replaced = self.engine.replacement_reason();
        if let Some(reason) = self.producer_care.failure().or(replaced) {
            return Some(now("kafka", reason));
        }
        if let Some(problem) = self.kafka_reach.problem().filter(|_| self.published == 0) {
            return Some(now("kafka", &problem));
        }
        let late = |_: &_| oldest_seconds > KAFKA_WAIT.as_secs_f64() && snapshot.unfiled_count == 0;
        if let Some(oldest) = snapshot.oldest.filter(late) {
            return Some(now("kafka", &self.kafka_problem(oldest.topic)));
        }
        if snapshot.standby {
            let detail =
                "a standby in synchronized_standby_slots does not have the WAL to send yet";
            return Some(now("standby", detail));
        }
        if snapshot.decoding {
            return Some(now(
                "decoding",
                "the server decodes changes of other tables",
            ));
        }
        let statement = self.config.operation_timeout;
        if let Some((error, since)) = self.work_errors.oldest(self.now, statement) {
            return Some(Wait {
                since: Some(since),
                ..now("write-back", error)
            });
        }
        stuck_rows(snapshot)
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

/// The rows that wait for their mark. Those that have waited longest give the wait its name.
fn stuck_rows(snapshot: &EngineStats) -> Option<Wait> {
    let (locked, hidden) = (snapshot.locked, snapshot.hidden);
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
        on,
        detail,
        since: Some(since),
    })
}
