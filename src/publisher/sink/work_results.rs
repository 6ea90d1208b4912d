//! The forwarder's side of database work that has ended: its log lines, its metrics, and the error
//! that ends the publisher. Also the first read of a pause, by the session that begins.

use std::time::Instant;

use crate::engine::output::DatabaseWork;
use crate::error::{Code, Error, Result};
use crate::outbox::Rejection;
use crate::outbox::pause::PauseReader;
use crate::postgres::Session;
use crate::publisher::sink::database_worker::{self, Done};
use crate::publisher::sink::filing_log::FilingLine;
use crate::publisher::sink::forwarder::Forwarder;

impl Forwarder {
    /// Takes in the result of database work.
    pub(in crate::publisher) fn work_finished(&mut self, done: Done) {
        let now = self.tick();
        let Done {
            generation,
            work,
            result,
            position,
            took,
        } = done;
        if let DatabaseWork::Retain(_) = work {
            // It concerns no event, so an error is neither a wait nor the end of the publisher.
            let result = result.map_err(|error| {
                self.metrics.error(error.code());
                self.log_error(&error, "old rows cannot be deleted, trying again");
            });
            self.engine
                .work_finished(now, generation, work, result, position);
            return;
        }
        if result.is_ok() {
            self.count_filed(&work);
            if let DatabaseWork::Mark(_) = work {
                self.metrics.marked(took);
            }
        }
        let ends = self.lasting_errors.ends(now, &work, result.as_ref().err());
        let pending = match result {
            Ok(pending) => {
                self.work_errors.succeeded(&work);
                Ok(pending)
            }
            Err(error) => {
                self.metrics.error(error.code());
                self.log_error(&error, "write-back failed, retrying");
                self.work_errors.failed(now, &work, error.report());
                self.database_error = Some(error).filter(|_| ends);
                Err(())
            }
        };
        self.engine
            .work_finished(now, generation, work, pending, position);
        self.log_filed();
    }

    /// Reads whether a pause is requested, before a session takes anything in.
    ///
    /// # Errors
    /// Of the session; fatal if the role lacks a right on the table of outboxd's state.
    pub(in crate::publisher) async fn read_pause(&mut self, session: &Session) -> Result<()> {
        let request = PauseReader::new(&self.config.table).read(session).await?;
        let is_paused = request.pause.is_some();
        let pause = request.pause.map(database_worker::shown_pause);
        self.board.pause(pause);
        let now = self.tick();
        self.engine.set_paused(now, is_paused);
        Ok(())
    }

    /// Logs an error that repeats: as a warning once a minute.
    pub(in crate::publisher) fn log_error(&mut self, error: &Error, what: &str) {
        let error = error.report();
        match self.line_limit.admit(&error, Instant::now()) {
            Some(suppressed) => tracing::warn!(error, suppressed, "{what}"),
            None => tracing::debug!(error, "{what}"),
        }
    }

    fn count_filed(&mut self, work: &DatabaseWork) {
        for dead_letter in database_worker::newly_filed(work) {
            self.filed += 1;
            let topic = dead_letter.record.as_ref().map(|record| record.topic());
            let Rejection { code, message } = &dead_letter.rejection;
            let row = dead_letter.row.as_ref().map(|row| row.id.clone());
            let filing_log = &mut self.filing_log;
            filing_log.filed(self.now, topic.unwrap_or("?"), code, row, message);
            let counted = database_worker::counted_topic(dead_letter);
            self.metrics.topic(counted).failed(1);
            self.metrics.error(Code::Publish);
        }
        let refused = database_worker::refused_marks(work);
        self.metrics.errors_by(Code::Write, refused as u64);
    }

    /// Writes the lines about dead letters that are due.
    pub(in crate::publisher) fn log_filed(&mut self) {
        for line in self.filing_log.due(self.now) {
            let FilingLine {
                topic,
                code,
                count,
                event_id,
                error,
            } = line;
            tracing::warn!(
                topic,
                code,
                count,
                event_id = event_id.as_ref().map(tracing::field::display),
                error,
                "events filed as dead letters"
            );
        }
    }
}
