//! Reads topics back while a lost slot is healed exactly once, to find the rows that Kafka has.
//!
//! Owns what was read; `engine::exactly_once::copies` decides. A topic that cannot be read whole
//! ends the healing before a row of it is sent: then a person has to decide.

use std::sync::Arc;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers as _};

use crate::config::{Answer, Config};
use crate::engine::exactly_once::copies::{Copies, Presence};
use crate::error::{Code, Error, Result};
use crate::kafka::{MetadataClient, Seen, TopicAnswer, WholeEnd, read_whole_end};
use crate::lsn::Lsn;
use crate::outbox::{RowCopy, Signature};

/// See the module's head.
#[derive(Debug)]
pub(crate) struct KafkaCopies {
    copies: Copies,
    /// What a person may answer where Kafka cannot tell.
    answer: Answer,
}

impl KafkaCopies {
    /// Of events that were committed at `from` or later.
    pub(crate) fn new(from: Lsn, answer: Answer) -> Self {
        KafkaCopies {
            copies: Copies::new(from),
            answer,
        }
    }

    /// See [`Copies::presence`].
    pub(crate) fn presence(&self, topic: &str, row: RowCopy) -> Presence {
        self.copies.presence(topic, row)
    }

    /// Reads a topic; the result is for [`take`](KafkaCopies::take).
    pub(crate) fn read(
        &self,
        config: &Arc<Config>,
        topic: &str,
    ) -> impl Future<Output = Result<ReadTopic>> + use<> {
        let (config, topic, from) = (Arc::clone(config), topic.to_owned(), self.copies.from());
        async move {
            let is_compacted = is_compacted(&config, &topic).await?;
            let source_id = config.mapping.source_id.clone();
            let look = move |record: &BorrowedMessage<'_>| seen(record, source_id.as_bytes(), from);
            let end = read_whole_end(config, topic.clone(), look).await?;
            Ok(ReadTopic {
                topic,
                end,
                is_compacted,
            })
        }
    }

    /// Takes in what was read.
    ///
    /// # Errors
    /// Fatal: Kafka may have had more than it has now.
    pub(crate) fn take(&mut self, read: ReadTopic) -> Result<()> {
        let ReadTopic {
            topic,
            end,
            is_compacted,
        } = read;
        let why = match end {
            WholeEnd::Found(_) if is_compacted => "it is compacted".to_owned(),
            WholeEnd::Found(found) => {
                let found: Vec<RowCopy> = found.into_iter().flatten().collect();
                let from = self.copies.from();
                tracing::info!(topic, events = found.len(), %from, "topic read back");
                self.copies.read(&topic, found);
                return Ok(());
            }
            WholeEnd::Cut(partition) => {
                format!("older records of its partition {partition} are deleted")
            }
        };
        let message = format!(
            "cannot heal the slot exactly once: which unpublished rows topic {topic} has had \
             cannot be known, since {why}"
        );
        let hint = format!(
            "mark the rows that consumers have received, and set OUTBOX_ACCEPT={}: the others are \
             sent then",
            self.answer
        );
        Err(Error::fatal(Code::Slot, message).with_hint(hint))
    }
}

/// A topic that was read.
#[derive(Debug)]
pub(crate) struct ReadTopic {
    topic: String,
    end: WholeEnd<Option<RowCopy>>,
    /// Kafka deletes records of it that later ones have replaced.
    is_compacted: bool,
}

async fn is_compacted(config: &Arc<Config>, topic: &str) -> Result<bool> {
    let client = MetadataClient::new(config);
    let answers = client.ask(&[topic.to_owned()]).await?;
    Ok(answers.iter().any(|(_, answer)| match answer {
        TopicAnswer::Known(facts) => facts.compacted,
        _ => false,
    }))
}

/// What a record says, if it is a streamed event of this source.
fn seen(record: &impl Message, source_id: &[u8], from: Lsn) -> Option<Seen<Option<RowCopy>>> {
    let headers = record.headers()?;
    let named = headers.iter().map(|header| (header.key, header.value));
    let is_last = Signature::of_source(named, source_id)?.place().0 < from;
    let id = headers.iter().find(|header| header.key == "outbox_id")?;
    let copy = RowCopy::of(id.value?, record.key(), record.payload());
    Some(Seen {
        found: (!is_last).then_some(copy),
        is_last,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rdkafka::Timestamp;
    use rdkafka::message::{Header, OwnedHeaders, OwnedMessage};

    use super::*;
    use crate::config::RefusalKind;

    fn record(source: &str, place: Option<&str>) -> OwnedMessage {
        let header = |key, value| Header {
            key,
            value: Some(value),
        };
        let mut headers = OwnedHeaders::new()
            .insert(header("outbox_id", "7"))
            .insert(header("outbox_source_id", source));
        if let Some(place) = place {
            headers = headers
                .insert(header("outbox_committed_at", "2026-01-02T03:04:05Z"))
                .insert(header("outbox_lsn", place))
                .insert(header("outbox_index", "0"));
        }
        let (key, value) = (Some(b"k".to_vec()), Some(b"v".to_vec()));
        let (topic, time) = ("t".to_owned(), Timestamp::NotAvailable);
        OwnedMessage::new(value, key, topic, time, 0, 0, Some(headers))
    }

    #[test]
    fn streamed_events_of_this_source_count_and_the_first_older_one_ends_the_read() {
        let copy = RowCopy::of(b"7", Some(b"k"), Some(b"v"));
        for (record, expected) in [
            (record("shop", Some("0/20")), Some((Some(copy), false))),
            (record("shop", Some("0/1F")), Some((None, true))),
            (record("shop", None), None),
            (record("other", Some("0/20")), None),
        ] {
            let seen = seen(&record, b"shop", Lsn::new(0x20));
            let seen = seen.map(|seen| (seen.found, seen.is_last));
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn what_kafka_may_have_had_ends_the_healing_with_what_to_do() {
        let answer = RefusalKind::SlotMissing.at(Lsn::new(0x20));
        let mut copies = KafkaCopies::new(Lsn::new(0x20), answer);
        let read = |end, is_compacted| ReadTopic {
            topic: "t".to_owned(),
            end,
            is_compacted,
        };
        for (read, why) in [
            (read(WholeEnd::Found(Vec::new()), true), "it is compacted"),
            (read(WholeEnd::Cut(3), false), "its partition 3"),
        ] {
            let report = copies.take(read).unwrap_err().report();
            assert!(report.contains(why), "{report}");
            assert!(
                report.contains("OUTBOX_ACCEPT=slot-missing@0/20"),
                "{report}"
            );
        }
        copies
            .take(read(WholeEnd::Found(Vec::new()), false))
            .unwrap();
    }
}
