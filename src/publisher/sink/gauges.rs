//! The forwarder's entries on the status board: its figures, and the name of what it waits for.
//! The gauges are set from the board, by [`Metrics::show`](crate::metrics::Metrics::show) alone.

use std::time::Duration;

use crate::engine::output::EngineStats;
use crate::format::bytes;
use crate::kafka::{LastError, connection_hint};
use crate::publisher::marking_alarm::MarkingLine;
use crate::publisher::sink::forwarder::Forwarder;
use crate::publisher::sink::waits::{self, Wait, WaitFacts, late_record};
use crate::status::{SOMEBODY_ELSE_PUBLISHES, ShownWait, Turn};

impl Forwarder {
    /// Updates the figures of the status, and what the publisher waits for.
    pub(crate) fn show(&mut self) {
        let stats = self.engine.stats();
        let wait = match self.waiting(&stats) {
            None => ShownWait::None,
            Some(Wait { on, detail, since }) => match since {
                None => ShownWait::Named(on, detail),
                Some(since) => {
                    let lasted = self.now.saturating_sub(since);
                    ShownWait::Lasted(on, detail, lasted)
                }
            },
        };
        self.show_turn(&stats, wait);
    }

    /// Updates the figures alone, when the caller has set what it waits for.
    pub(crate) fn show_figures(&mut self) {
        let stats = self.engine.stats();
        self.show_turn(&stats, ShownWait::Unchanged);
    }

    fn show_turn(&mut self, stats: &EngineStats, wait: ShownWait) {
        self.log_filed();
        self.log_summary();
        self.show_foreign_marks();
        let oldest_seconds = stats.oldest.as_ref().map_or(0.0, |oldest| {
            self.now.as_secs_f64() - Duration::from_micros(oldest.sent_micros).as_secs_f64()
        });
        let rewinds = stats.rewind_count;
        self.metrics
            .partition_rewinds
            .inc_by(rewinds - std::mem::replace(&mut self.rewinds, rewinds));
        let turn = Turn {
            published: self.published,
            sample: self.topics.sample(self.now),
            wait,
        };
        let flow = self.topics.flow(self.now);
        self.board.show(turn, |status| {
            if let Some(flow) = flow {
                status.flow = flow;
            }
            status.kafka_has_answered = self.published > 0 || self.kafka_reach.has_answered();
            status.published_total = self.published;
            status.in_flight_records = stats.in_flight_count;
            status.in_flight_bytes = stats.in_flight_bytes as u64;
            status.unmarked_records = stats.unmarked_count as u64;
            status.oldest_unacknowledged_seconds = oldest_seconds;
            status.received_lsn = Some(stats.received.to_string());
            status.confirmed_lsn = Some(stats.confirmed.to_string());
        });
    }

    /// Shows the rows that another program has marked.
    fn show_foreign_marks(&mut self) {
        let alarm = &mut self.marking_alarm;
        let found = self.engine.take_marked_by_other();
        let is_new = found.is_some();
        if let Some(rows) = found {
            self.metrics.audit.foreign_marks.inc_by(rows.count);
            alarm.found(self.now, rows);
        }
        if let Some(MarkingLine { count, problem }) = alarm.line(self.now) {
            let (detail, hint) = (problem.detail, problem.hint);
            tracing::warn!(problem = problem.name, count, detail, hint, "problem found");
        }
        let ended = alarm.ends(self.now);
        if ended {
            tracing::info!(problem = SOMEBODY_ELSE_PUBLISHES, "problem ended");
        }
        if is_new || ended {
            let problem = alarm.problem();
            self.board.update(|status| {
                let problems = &mut status.problems;
                problems.retain(|problem| problem.name != SOMEBODY_ELSE_PUBLISHES);
                problems.extend(problem);
            });
        }
    }

    fn log_summary(&mut self) {
        let Some(published) = self.topics.summary(self.now, &mut self.summary) else {
            return;
        };
        let lag_bytes = self.board.lag_bytes();
        let lag = lag_bytes.map_or_else(String::new, |lag| format!(", lag {}", bytes(lag)));
        let p99_ms = published.p99.map(|p99| p99.as_millis() as u64);
        let events = published.events;
        tracing::info!(events, p99_ms, lag_bytes, "{published}{lag}");
    }

    fn waiting(&mut self, stats: &EngineStats) -> Option<Wait> {
        let late = late_record(stats, self.now);
        let lost_at = self.producer.health().down_at;
        if late.is_some() || lost_at.is_some() {
            self.kafka_reach.ask(lost_at, self.published);
        }
        let unreached = self.kafka_reach.problem(self.published);
        let reason = unreached.as_ref().map(|(problem, _)| problem.as_str());
        let kafka_problem = late.map(|late| self.kafka_problem(late.topic, reason));
        let replaced = self.engine.replacement_reason();
        let statement = self.config.operation_timeout;
        waits::waiting(&WaitFacts {
            now: self.now,
            stats,
            producer_problem: self.producer_care.failure().or(replaced),
            unreached: unreached
                .as_ref()
                .map(|(problem, lasted)| (problem.as_str(), self.now.saturating_sub(*lasted))),
            kafka_problem: kafka_problem.as_deref(),
            write_back: self.work_errors.oldest(self.now, statement),
        })
    }

    /// What keeps a record of this topic from Kafka; `unreached` says why no broker answers.
    fn kafka_problem(&mut self, topic: u32, unreached: Option<&str>) -> String {
        let problem = self.engine.kafka_problem(topic);
        let problem = problem.unwrap_or_else(|| "no acknowledgement".to_owned());
        let last_error = self.producer.health().last_error;
        match (unreached, last_error) {
            (Some(reason), _) => format!("{problem}: {reason}"),
            (None, Some(LastError { reason, .. })) => {
                let hint = connection_hint(&self.config, &reason);
                format!("{problem}: {reason} ({hint})")
            }
            (None, None) => problem,
        }
    }
}
