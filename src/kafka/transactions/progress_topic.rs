//! The topic of the progress records: made if it is missing, checked if it exists, and read up to
//! its end.
//!
//! **What is the end.** A producer that has just been shut out may have written records whose fate
//! is still being decided. The reader takes the end of *all* records first, and waits until all
//! before it are committed or aborted. Then it reads what is committed up to there. Reading to the
//! end of what is committed at once would miss a transaction of this slot that is being completed,
//! and everything in it would be sent again.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::types::RDKafkaErrorCode;

use crate::config::{Config, Token};
use crate::error::{Code, Error, Result};
use crate::kafka::admin::{CancelOnDrop, admin_client, blocking};
use crate::kafka::reader::{Ends, Span, TopicReader, reader_token};
use crate::kafka::{MetadataClient, TopicAnswer, TopicFacts};

/// How long a new topic may take to appear.
const APPEARS: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Settings of a new topic. Twenty records a second are written: small segments let compaction
/// begin early, so that a start has little to read.
const SETTINGS: [(&str, &str); 4] = [
    ("cleanup.policy", "compact"),
    ("segment.bytes", "16777216"),
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),
];

/// The value of the last committed record of this key, if there is one. Makes the topic if it is
/// missing. To be called when every earlier producer of records of this key is shut out.
///
/// # Errors
/// Transient: the brokers do not answer, or another producer's transaction in the topic is not
/// completed within `limit`. Fatal: the topic cannot hold progress records.
pub(crate) async fn last_value(
    config: &Config,
    topic: &str,
    key: Vec<u8>,
    limit: Duration,
) -> Result<Option<Vec<u8>>> {
    ensure(config, topic).await?;
    let token = reader_token(config).await?;
    let cancelled = CancelOnDrop::default();
    let flag = Arc::clone(&cancelled.0);
    let (config, topic) = (config.clone(), topic.to_owned());
    let value = blocking(move || read(&config, token.as_deref(), &topic, &key, limit, flag)).await;
    drop(cancelled);
    value
}

async fn ensure(config: &Config, topic: &str) -> Result<()> {
    let metadata_client = MetadataClient::new(config);
    let began = Instant::now();
    let mut is_made = false;
    loop {
        let mut answers = metadata_client.ask(&[topic.to_owned()]).await?;
        match answers.pop().map(|(_, answer)| answer) {
            Some(TopicAnswer::Known(facts)) if facts.partition_count > 0 => {
                return check(topic, &facts);
            }
            Some(TopicAnswer::Missing | TopicAnswer::NoneListed) if !is_made => {
                make(config, topic).await?;
                is_made = true;
            }
            _ if began.elapsed() > APPEARS => {
                let message = format!("the brokers do not describe topic {topic}");
                return Err(Error::transient(Code::Connect, message));
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Why a topic cannot keep progress records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// It has this many partitions.
    Partitions(usize),
    NotCompacted,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unfit::Partitions(count) => {
                write!(
                    f,
                    "has {count} partitions, and progress records have one order"
                )
            }
            Unfit::NotCompacted => {
                f.write_str("is not compacted: its records would be deleted with time")
            }
        }
    }
}

/// Why this topic cannot keep progress records, if it cannot.
pub(crate) fn unfit_for_progress(facts: &TopicFacts) -> Option<Unfit> {
    match facts.partition_count {
        0 | 1 => (!facts.compacted).then_some(Unfit::NotCompacted),
        count => Some(Unfit::Partitions(count)),
    }
}

fn check(topic: &str, facts: &TopicFacts) -> Result<()> {
    let Some(unfit) = unfit_for_progress(facts) else {
        return Ok(());
    };
    let message = format!("topic {topic} {unfit}");
    Err(Error::fatal(Code::Config, message).with_hint(
        "set its cleanup.policy to compact, or name another topic in OUTBOX_PROGRESS_TOPIC: a new \
         one has no record of what was published",
    ))
}

async fn make(config: &Config, topic: &str) -> Result<()> {
    let new = NewTopic::new(topic, 1, TopicReplication::Fixed(-1));
    let new = SETTINGS
        .iter()
        .fold(new, |new, (name, value)| new.set(name, value));
    let client = admin_client(config).await?;
    let options = AdminOptions::new().request_timeout(Some(APPEARS));
    let made = client
        .create_topics([&new], &options)
        .await
        .map_err(|error| {
            let message = format!("Kafka did not create topic {topic}");
            Error::transient(Code::Connect, message).with_source(error)
        })?;
    match made.into_iter().next() {
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => {
            let message = format!("Kafka did not create topic {topic}");
            let hint = format!(
                "kafka-topics.sh --bootstrap-server BROKERS --create --topic {topic} \
                 --partitions 1 --config cleanup.policy=compact"
            );
            Err(Error::fatal(Code::Config, message)
                .with_source(code)
                .with_hint(hint))
        }
    }
}

fn read(
    config: &Config,
    token: Option<&Token>,
    topic: &str,
    key: &[u8],
    limit: Duration,
    cancelled: Arc<AtomicBool>,
) -> Result<Option<Vec<u8>>> {
    let reader = TopicReader::new(config, token, cancelled)?;
    let began = Instant::now();
    let Ends { low, high, .. } = reader.ends(topic, 0)?;
    while reader.ends(topic, 0)?.stable < high {
        if began.elapsed() > limit {
            let message = format!("a transaction in topic {topic} is not completed");
            return Err(Error::transient(Code::Publish, message)
                .with_hint("its producer's transaction.timeout.ms ends it"));
        }
        thread::sleep(PAUSE);
    }
    let span = Span {
        partition: 0,
        from: low,
        to: high,
    };
    let mut last = None;
    reader.read(topic, &[span], |record| {
        if record.key() == Some(key) {
            last = record.payload().map(<[u8]>::to_vec);
        }
        Ok(())
    })?;
    Ok(last)
}
