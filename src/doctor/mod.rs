//! Examines Postgres and Kafka before the first start or beside a running outboxd: what would keep
//! events from their topics, why, and what fixes it.
//!
//! Owns the catalogue of checks and their verdicts. Thin readers bring facts from `postgres`,
//! `outbox` and `kafka`; pure functions judge them. An examination changes nothing on either side:
//! no lock, slot, topic or record. It ends in bounded time, whatever a server does, and a check
//! that was not reached says so.

mod catalogue;
mod connection;
mod found;
mod kafka;
mod postgres;
mod progress;
mod report;
mod server;
mod slot;
mod table;
mod topics;

use std::time::Duration;

use tokio::time::timeout;

use crate::config::Config;

pub use catalogue::{Name, Side};
pub use report::{Check, Report, Verdict};

/// The limit for each server, and for the topics: for one that answers slowly. One that does not
/// answer ends its checks within the limit of a single statement or request.
const LIMIT: Duration = Duration::from_secs(30);

/// Examines both sides.
pub async fn examine(config: &Config) -> Report {
    let (mut of_postgres, mut of_kafka, mut sample) = (Vec::new(), Vec::new(), None);
    let database = postgres::examine(config, &mut of_postgres, &mut sample);
    let brokers = kafka::examine(config, &mut of_kafka);
    // A side that runs out of time has left the checks that it reached.
    let (_, answers) = tokio::join!(timeout(LIMIT, database), timeout(LIMIT, brokers));
    if let Ok(true) = answers {
        let progress = progress::examine(config, &mut of_kafka);
        let _in_time = timeout(LIMIT, progress).await;
        if let Some(sample) = &sample {
            let topics = topics::examine(config, sample, &mut of_kafka);
            let _in_time = timeout(LIMIT, topics).await;
        }
    }
    of_postgres.extend(of_kafka);
    Report::complete(of_postgres, config)
}
