//! The newest Debezium Server with its Outbox Event Router, tuned: large queues and batches, short
//! polls, and delivery at least once (`acks=all`, offsets written every second).
//!
//! It is downloaded by Maven and needs Java 21 or later; the newest Java on the machine runs it.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::support::debezium::{Distribution, NEWEST, Source};
use crate::support::ephemeral::free_port;

/// The distribution.
#[derive(Debug, Clone)]
pub(crate) struct Debezium(Distribution);

impl Debezium {
    /// Downloads it if necessary.
    ///
    /// # Errors
    ///
    /// Why it is not offered on this machine.
    pub(crate) fn find() -> Result<Debezium> {
        Distribution::find(NEWEST).map(Debezium)
    }

    /// The command that runs it on a slot; writes its settings to `folder`.
    pub(crate) fn command(
        &self,
        port: u16,
        database: &str,
        slot: &str,
        brokers: &str,
        folder: &Path,
    ) -> Result<Vec<String>> {
        fs::create_dir_all(folder)?;
        let offsets = folder.join("offsets.dat");
        let source = Source {
            host: "127.0.0.1",
            port: &port.to_string(),
            database,
            slot,
            publication: "outboxd",
            table: "outbox.outbox",
        };
        let tuned = format!(
            "debezium.source.offset.storage.file.filename={offsets}
debezium.source.offset.flush.interval.ms=1000
debezium.source.poll.interval.ms=5
debezium.source.max.batch.size=8192
debezium.source.max.queue.size=32768
debezium.transforms.outbox.table.field.event.id=id
debezium.transforms.outbox.table.field.event.key=event_type
debezium.transforms.outbox.table.field.event.payload=event_payload
debezium.transforms.outbox.route.by.field=topic
debezium.transforms.outbox.route.topic.replacement=\\\\${{routedByValue}}
debezium.format.key=simplestring
debezium.format.value=simplestring
debezium.sink.kafka.producer.key.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.value.serializer=org.apache.kafka.common.serialization.StringSerializer
debezium.sink.kafka.producer.acks=all
debezium.sink.kafka.producer.batch.size=262144
debezium.sink.kafka.producer.buffer.memory=67108864
quarkus.http.port={http}
quarkus.log.level=WARN
",
            offsets = offsets.display(),
            http = free_port()?,
        );
        let text = source.options(brokers) + &tuned;
        fs::write(folder.join("application.properties"), text)?;
        self.0.command(&["-Xmx512m"], folder)
    }
}
