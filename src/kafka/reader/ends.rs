//! Reads the ends of topics: from the last record of each partition towards older ones, until the
//! caller has seen enough of it.
//!
//! Decides nothing about a record: it gives each to the caller. Only committed records count. Time,
//! records and bytes have limits; what is older than that stays unread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::message::BorrowedMessage;

use crate::config::{Config, Token};
use crate::error::Result;
use crate::kafka::admin::{CancelOnDrop, blocking};
use crate::kafka::reader::backwards::Backwards;
use crate::kafka::reader::{Ends, TopicReader, reader_token};

/// How long topics are read.
const TIME: Duration = Duration::from_secs(3);
/// How long the thread has to end then.
const GRACE: Duration = Duration::from_secs(1);
/// The records of all topics that are read.
const RECORDS_MAX: usize = 100_000;
/// The bytes of their keys and values.
const BYTES_MAX: usize = 32 << 20;

/// What the caller makes of a record.
#[derive(Debug)]
pub(crate) struct Seen<T> {
    pub(crate) found: T,
    /// Nothing before it in its partition is sought.
    pub(crate) is_last: bool,
}

/// What `look` finds in the records at the ends of these topics, as far as the limits allow. What
/// is read later of a partition can lie before what was read earlier.
///
/// # Errors
/// Transient: no client could be made, or it has no token. What fails later ends the read with what
/// is known by then.
pub(crate) async fn read_ends<T: Send + 'static>(
    config: Arc<Config>,
    topics: Vec<String>,
    look: impl Fn(&BorrowedMessage<'_>) -> Option<Seen<T>> + Send + 'static,
) -> Result<Vec<(String, Vec<T>)>> {
    let token = reader_token(&config).await?;
    let cancelled = CancelOnDrop::default();
    let flag = Arc::clone(&cancelled.0);
    let read = blocking(move || read(&config, token.as_deref(), topics, look, flag));
    tokio::pin!(read);
    tokio::select! {
        found = &mut read => return found,
        () = tokio::time::sleep(TIME) => cancelled.0.store(true, Ordering::Relaxed),
    }
    // It ends with what it has, unless a broker owes it an answer.
    let found = tokio::time::timeout(GRACE, read).await;
    found.unwrap_or_else(|_| Ok(Vec::new()))
}

fn read<T>(
    config: &Config,
    token: Option<&Token>,
    topics: Vec<String>,
    look: impl Fn(&BorrowedMessage<'_>) -> Option<Seen<T>>,
    cancelled: Arc<AtomicBool>,
) -> Result<Vec<(String, Vec<T>)>> {
    let reader = TopicReader::of_committed(config, token, Arc::clone(&cancelled))?;
    let mut reading = Reading {
        look,
        records: 0,
        bytes: 0,
    };
    let mut found = Vec::new();
    for topic in topics {
        let mut found_here = Vec::new();
        if let Err(error) = reading.topic(&reader, &topic, &mut found_here) {
            let what = "the end of the topic was not read, so events that it has may be sent again";
            tracing::info!(topic, error = %error.report(), "{what}");
        }
        found.push((topic, found_here));
        if reading.is_full() || cancelled.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(found)
}

/// One read, over several topics.
struct Reading<L> {
    look: L,
    records: usize,
    bytes: usize,
}

impl<L> Reading<L> {
    fn is_full(&self) -> bool {
        self.records >= RECORDS_MAX || self.bytes >= BYTES_MAX
    }

    /// Adds what is found in a topic. With an error, that of the steps that were read whole.
    fn topic<T>(&mut self, reader: &TopicReader, topic: &str, found: &mut Vec<T>) -> Result<()>
    where
        L: Fn(&BorrowedMessage<'_>) -> Option<Seen<T>>,
    {
        let mut backwards = Backwards::new(reader, topic, |partition| {
            let Ends { low, stable, .. } = reader.ends(topic, partition)?;
            Ok((low, stable))
        })?;
        while !backwards.is_done() && !self.is_full() {
            let mut read = Vec::new();
            backwards.step(|record| {
                self.records += 1;
                self.bytes += record.payload_len() + record.key_len();
                let seen = (self.look)(record);
                let is_last = seen.as_ref().is_some_and(|seen| seen.is_last);
                read.extend(seen.map(|seen| seen.found));
                Ok(is_last)
            })?;
            found.append(&mut read);
        }
        Ok(())
    }
}
