//! outboxd publishes a transactional outbox from Postgres to Kafka by reading the write-ahead log.
//!
//! A service writes an event into the outbox table in its own transaction ([`Writer`]). The
//! publisher reads committed events from a replication slot, sends each to Kafka, writes back to
//! the row, and moves the slot forward ([`Publisher`]). The program `outboxd` is the same publisher
//! behind a command line.
//!
//! # Write an event
//!
//! The event commits or rolls back together with the change that it reports:
//!
//! ```no_run
//! # async fn example(
//! #     client: &mut tokio_postgres::Client,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use outboxd::{NewEvent, Writer};
//!
//! let writer = Writer::new("outbox.outbox")?;
//! let order = serde_json::json!({ "number": 7 });
//!
//! let transaction = client.transaction().await?;
//! transaction.execute("INSERT INTO orders (number) VALUES (7)", &[]).await?;
//! let event = NewEvent::new("OrderCreated", "orders", &order);
//! writer.write_event(&transaction, &event).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
#![cfg_attr(
    feature = "publisher",
    doc = r#"
# Run the publisher inside a program

Each of the [`Settings`] is the text that the environment variable of the same name would hold; one
that is `None` has its default. [`Config::from_settings`] reports every problem at once.

```no_run
# async fn example() -> Result<(), Box<dyn std::error::Error>> {
use outboxd::{Config, Publisher, Settings};

let config = Config::from_settings(Settings {
    database_url: Some("postgres://outboxd@localhost/shop".to_owned()),
    kafka_brokers: Some("localhost:9092".to_owned()),
    ..Settings::default()
})?;
let mut publisher = Publisher::new(config);
publisher.start().await?;
println!("{:?}", publisher.status().phase);
publisher.stop().await?;
# Ok(())
# }
```

[`http`] serves its metrics, health and status. The repository's `examples/` has both programs in
full.
"#
)]
//!
//! # Features
//!
//! - none (`default-features = false`): [`Writer`] and what belongs to it, for services that write
//!   events. Neither a Kafka client nor OpenSSL is built.
//! - `publisher` (default): the publisher, as a library and as the program.
//! - `demo` (default): the program's command `demo`, which starts temporary servers.
//! - `jemalloc` (default): the program's allocator.
//!
//! # Inside
//!
//! The way of one event through the crate:
//!
//! ```text
//! WAL → XLogData → pgoutput::Message → outbox::Event → outbox::Record → kafka delivery
//!     → tracker → write-back → flush LSN → StandbyStatusUpdate
//! ```
//!
//! The modules, lower ones first; a module uses only modules above its own line in this list. None
//! of them is public API but `http`: the public names are re-exported here.
//!
//! - `lsn`, `error`, `backoff`, `fnv`, `format`, `line_limit`, `status`, `table_name`,
//!   `topic_name`: what all modules use.
//! - `config`, `metrics`: settings, validated together before anything connects; counters and their
//!   names. `secret_command`: a password or token that a command prints.
//! - `pgoutput`: pure decoder, bytes in, messages out. `replication`: the client for the streaming
//!   replication protocol. `postgres`: the SQL side: connections, TLS, slot, publication.
//! - `outbox`: the rows: events, records, write-back, dead letters, and the writer for services in
//!   Rust. `kafka`: the producer, metadata and Kafka's errors.
//! - `engine`: every decision, as a pure state machine.
//! - `publisher`: carries out what the engine decides: start, stop, status. `http`: metrics, health
//!   and the status page. `doctor`: examines both servers and changes nothing. `verify`: compares
//!   the table with the topics and changes nothing. `cutover`: takes the table from a poller.

// Without the publisher, parts of what `Writer` shares with it have no caller.
#![cfg_attr(not(feature = "publisher"), allow(dead_code))]

#[doc(hidden)]
pub mod error;
mod fnv;
#[doc(hidden)]
pub mod outbox;
#[doc(hidden)]
pub mod postgres;
mod table_name;
mod topic_name;

#[cfg(feature = "publisher")]
mod backoff;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod cutover;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod doctor;
#[cfg(feature = "publisher")]
mod engine;
#[cfg(feature = "ephemeral")]
#[doc(hidden)]
pub mod ephemeral;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod format;
#[cfg(all(test, feature = "publisher"))]
mod fuzz;
#[cfg(feature = "publisher")]
pub mod http;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod kafka;
#[cfg(feature = "publisher")]
mod line_limit;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod lsn;
#[cfg(feature = "publisher")]
mod metrics;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod pgoutput;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod publisher;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod replication;
#[cfg(feature = "publisher")]
mod secret_command;
#[cfg(feature = "publisher")]
mod status;
#[cfg(feature = "publisher")]
#[doc(hidden)]
pub mod verify;

/// The Rust blocks of the manual, which `cargo test` compiles.
#[cfg(all(doctest, feature = "publisher"))]
mod manual {
    #[doc = include_str!("../README.md")]
    mod readme {}
    #[doc = include_str!("../docs/library.md")]
    mod library {}
}

#[doc(inline)]
pub use crate::{
    error::{Code, Disposition, Error, Result},
    outbox::{NewEvent, PAYLOAD_BYTES_MAX, Payload, PreparedWriter, Writer},
    table_name::TableName,
};

#[cfg(feature = "publisher")]
#[doc(inline)]
pub use crate::{
    config::{
        AfterPublish, AuthMethod, Backlog, Config, Database, IgnoredVariable, KeyRule, LogFormat,
        OldPartitions, OnPoison, OnSlotLoss, RequireAuth, Secret, SettingError, SettingErrors,
        Settings, Source, SslMode, TlsSettings,
    },
    metrics::{Metrics, TextFormat},
    publisher::Publisher,
    status::{
        BacklogProgress, BacklogUnit, DeadLetterGroup, Flow, Instance, OpenDeadLetters, Pause,
        Phase, Problem, RecentProblem, RetentionStatus, SlotHealth, Status, TopicFlow, Waiting,
    },
};
