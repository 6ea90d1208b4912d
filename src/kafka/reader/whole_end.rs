//! Reads the end of a topic whole: everything back to the last record that matters, or it says that
//! it could not.
//!
//! A reader of committed records stops before the first open transaction, of any producer. So the
//! read begins when everything is committed or aborted that the partition had at its start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::message::BorrowedMessage;

use crate::config::{Config, Token};
use crate::error::{Code, Error, Result};
use crate::kafka::admin::{CancelOnDrop, blocking};
use crate::kafka::reader::backwards::Backwards;
use crate::kafka::reader::ends::Seen;
use crate::kafka::reader::{Ends, TopicReader, reader_token};

/// How long the open transactions of others may last.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// How often the ends are read meanwhile.
const AGAIN: Duration = Duration::from_millis(200);
/// The most that is found.
const FOUND_MAX: usize = 4_000_000;

/// What was found in a topic.
#[derive(Debug)]
pub(crate) enum WholeEnd<T> {
    /// All of it.
    Found(Vec<T>),
    /// Older records of this partition are deleted, and some of them may have mattered.
    Cut(i32),
}

/// What `look` finds at the end of a topic, which need not exist. Lasts as long as the records
/// take; ends early when the caller has gone.
///
/// # Errors
/// Transient: no broker answers, or a transaction stays open. Fatal: the user may not read the
/// topic, or there is too much.
pub(crate) async fn read_whole_end<T: Send + 'static>(
    config: Arc<Config>,
    topic: String,
    look: impl Fn(&BorrowedMessage<'_>) -> Option<Seen<T>> + Send + 'static,
) -> Result<WholeEnd<T>> {
    let token = reader_token(&config).await?;
    let cancelled = CancelOnDrop::default();
    let flag = Arc::clone(&cancelled.0);
    let found = blocking(move || read(&config, token.as_deref(), &topic, look, flag)).await;
    drop(cancelled);
    found
}

fn read<T>(
    config: &Config,
    token: Option<&Token>,
    topic: &str,
    look: impl Fn(&BorrowedMessage<'_>) -> Option<Seen<T>>,
    cancelled: Arc<AtomicBool>,
) -> Result<WholeEnd<T>> {
    let reader = TopicReader::new(config, token, Arc::clone(&cancelled))?;
    let mut found = Vec::new();
    let mut backwards = Backwards::new(&reader, topic, |partition| {
        committed_end(&reader, topic, partition, &cancelled)
    })?;
    while !backwards.is_done() {
        backwards.step(|record| {
            let Some(seen) = look(record) else {
                return Ok(false);
            };
            found.push(seen.found);
            match found.len() > FOUND_MAX {
                true => Err(too_much(topic)),
                false => Ok(seen.is_last),
            }
        })?;
    }
    Ok(match backwards.cut() {
        Some(partition) => WholeEnd::Cut(partition),
        None => WholeEnd::Found(found),
    })
}

/// The first offset of a partition, and the one behind the last record that it has now.
fn committed_end(
    reader: &TopicReader,
    topic: &str,
    partition: i32,
    cancelled: &AtomicBool,
) -> Result<(i64, i64)> {
    let began = Instant::now();
    let Ends { high: until, .. } = reader.ends(topic, partition)?;
    loop {
        let Ends { low, stable, .. } = reader.ends(topic, partition)?;
        if stable >= until {
            return Ok((low, stable));
        }
        if began.elapsed() > OPEN_MAX || cancelled.load(Ordering::Relaxed) {
            let message = format!(
                "a Kafka transaction of another producer is open in topic {topic}, partition \
                 {partition}, which hides the records behind it"
            );
            return Err(Error::transient(Code::Connect, message));
        }
        std::thread::sleep(AGAIN);
    }
}

fn too_much(topic: &str) -> Error {
    let message = format!("topic {topic} has more than {FOUND_MAX} events that may be unmarked");
    Error::fatal(Code::Slot, message)
}
