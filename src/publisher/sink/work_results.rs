//! The forwarder's side of database work that has ended: its log lines, its metrics, and the error
//! that ends the publisher.

use crate::publisher::sink::database_worker::{self, Done};
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
        } = done;
        let filed_topics = result
            .as_ref()
            .map_or_else(|_| Vec::new(), |_| database_worker::log_filed(&work));
        let ends = self.lasting_errors.ends(now, &work, result.as_ref().err());
        let pending = match result {
            Ok(pending) => {
                self.work_errors.succeeded(&work);
                Ok(pending)
            }
            Err(error) => {
                self.metrics.error(error.code());
                tracing::warn!(error = %error.report(), "write-back failed, retrying");
                self.work_errors.failed(now, &work, error.report());
                self.database_error = Some(error).filter(|_| ends);
                Err(())
            }
        };
        self.engine
            .work_finished(now, generation, work, pending, position);
        for topic in filed_topics {
            self.metrics.topic(&topic).failed(1);
        }
    }
}
