//! The types between engine and driver: the limits of the engine, its outputs, and why a session
//! ends.

use std::time::Duration;

use crate::config::{AfterPublish, Config, KeyRule, OnPoison};
use crate::engine::tracker::{InFlight, Ticket};
use crate::engine::violation::Violation;
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::{CloseDeadLetter, Mark, NewDeadLetter, OwnedRecord, Rejection};

/// The limits an engine works by.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) after_publish: AfterPublish,
    /// Events that wait for the write-back before it starts.
    pub(crate) batch_size: usize,
    /// The longest an event waits for the write-back.
    pub(crate) process_interval: Duration,
    /// Bytes of events in flight.
    pub(crate) memory_limit: usize,
    /// Every event is to have a key.
    pub(crate) needs_key: bool,
    /// Attempts for an event that Kafka refuses.
    pub(crate) attempts: u32,
    /// What becomes of it then.
    pub(crate) on_poison: OnPoison,
    /// More dead letters than this in a minute stop the publisher.
    pub(crate) dead_letters_per_minute: u32,
    /// A topic that is not there comes into being when it is sent to.
    pub(crate) auto_creates_topics: bool,
    /// Records may become smaller on their way, so that their size decides nothing beforehand.
    pub(crate) compresses: bool,
    /// The largest batch that the producer makes of several records.
    pub(crate) batch_bytes: usize,
    /// A report at least this often.
    pub(crate) status_interval: Duration,
    /// A server that is silent this long while we read is looked at.
    pub(crate) receive_timeout: Duration,
}

impl Limits {
    /// The limits that a configuration asks for.
    pub(crate) fn of(config: &Config) -> Self {
        Limits {
            after_publish: config.after_publish,
            batch_size: config.batch_size,
            process_interval: config.process_interval,
            memory_limit: config.memory_limit,
            needs_key: matches!(&config.key, KeyRule::Column(name) if name == "event_type"),
            attempts: config.max_retries,
            on_poison: config.on_poison,
            dead_letters_per_minute: config.dead_letters_per_minute,
            auto_creates_topics: config.auto_creates_topics(),
            compresses: config.compresses(),
            batch_bytes: config.batch_bytes(),
            status_interval: WAL_SENDER_TIMEOUT / 3,
            receive_timeout: RECEIVE_TIMEOUT,
        }
    }
}

/// Asked of the server for our session: how soon it lets go of a client that is gone.
pub(crate) const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(30);
/// Half of it. After this much silence the walsender is inspected over SQL; without a session,
/// in-flight records are withdrawn.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest write-back: one statement over this many rows.
pub(crate) const WRITE_BACK_MAX: usize = 5_000;

/// What the driver is to do. The order is that of the engine: nothing is sent behind an end.
#[derive(Debug)]
pub(crate) enum Output {
    Sink(SinkOutput),
    Session(SessionOutput),
}

/// What the sink carries out, with or without a session.
#[derive(Debug)]
pub(crate) enum SinkOutput {
    /// Give this record to Kafka.
    Send {
        ticket: Ticket,
        record: Box<OwnedRecord>,
    },
    /// Reports of this topic need not bring their records back any more, unless a failure came
    /// after this one.
    Trust { topic: String, failure: u64 },
    /// Query the metadata of these topics, then call [`Engine::topics_answered`].
    QueryTopics(Vec<String>),
    /// Do this in the database, then call [`Engine::work_finished`] with the same generation.
    Work { generation: u64, work: DatabaseWork },
}

/// What the owner of the session carries out.
#[derive(Debug)]
pub(crate) enum SessionOutput {
    /// Send a standby status update. Only while a session streams.
    Status {
        write: Lsn,
        flush: Lsn,
        ask_reply: bool,
    },
    /// Query over SQL what our walsender does, then call [`Engine::walsender`]. Only while a session
    /// streams.
    InspectWalsender,
    /// This session, or this scan of the table, is over.
    End(End),
}

impl From<SinkOutput> for Output {
    fn from(output: SinkOutput) -> Self {
        Output::Sink(output)
    }
}

impl From<SessionOutput> for Output {
    fn from(output: SessionOutput) -> Self {
        Output::Session(output)
    }
}

impl From<End> for Output {
    fn from(end: End) -> Self {
        Output::Session(SessionOutput::End(end))
    }
}

/// What there is to do in the database, one thing at a time.
#[derive(Debug)]
pub(crate) enum DatabaseWork {
    /// Write these rows back.
    Mark(Vec<Mark>),
    /// File these dead letters.
    File(Vec<NewDeadLetter>),
    /// Close these, which were retried or discarded.
    Close(Vec<CloseDeadLetter>),
    /// Add an attempt to each of these rows of the outbox.
    CountAttempts(Vec<i64>),
    /// Read what people want done with dead letters, and, if asked for, which keys are parked.
    ReadRequests { with_keys: bool },
}

/// Kafka's report on a record.
#[derive(Debug)]
pub(crate) struct DeliveryResult {
    pub(crate) ticket: Ticket,
    pub(crate) failure: Option<DeliveryFailure>,
    /// The record itself, where it was not delivered, or its partition has refused another.
    pub(crate) record: Option<Box<OwnedRecord>>,
}

/// Why a record was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeliveryFailure {
    pub(crate) kind: FailureKind,
    pub(crate) rejection: Rejection,
    /// Grows with each failure of a producer; 0 where it had not come as far as to fail.
    pub(crate) number: u64,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The cluster's: it will pass.
    Outage,
    /// The topic is not there, or not yet.
    NoTopic,
    /// The record's own, or that of another in its batch.
    Refused,
    /// The producer's, or the record was withdrawn.
    Producer,
}

/// Why it is over.
#[derive(Debug)]
pub(crate) enum End {
    /// Asked to stop, everything acknowledged, written back and confirmed.
    Stopped,
    /// The server is shutting down and waits for us to let go.
    ServerStopping,
    /// The server is silent and its walsender is gone or idle.
    ReceiveTimeout,
    /// So much time has passed between two reports that the server may have given the session up.
    Expired,
    /// The producer is of no more use, or has given a record back: a new one begins at the last confirmed position.
    ProducerFailed(Rejection),
    /// An event cannot be published, and the configuration says to stop there; or too many cannot.
    Halted(Rejection),
    /// The stream contradicts what was received before: to be dropped and begun again at the slot's position.
    Violated(Violation),
}

impl End {
    /// What it means for the attempt that it ended.
    pub(crate) fn into_error(self) -> Error {
        match self {
            End::Stopped | End::ServerStopping => {
                Error::transient(Code::Connect, "the server is shutting down")
            }
            End::ReceiveTimeout => {
                let message = "the server sends nothing and its walsender is idle or gone";
                Error::transient(Code::Connect, message)
            }
            End::Expired => {
                let message = "the process stood still, and another instance may publish by now";
                Error::transient(Code::Connect, message)
            }
            End::Violated(violation) => {
                let message = "the stream does not go on where it had stopped";
                Error::transient(Code::Replication, message).with_source(violation)
            }
            End::ProducerFailed(rejection) => {
                let message = "the Kafka producer failed, going back to what is confirmed";
                Error::transient(Code::Publish, message).with_source(rejection)
            }
            End::Halted(rejection) => {
                let message = "stopped at an event that cannot be published";
                Error::fatal(Code::Publish, message)
                    .with_source(rejection)
                    .with_hint(
                        "mend what it names and start again, or set OUTBOX_ON_POISON=dead-letter",
                    )
            }
        }
    }
}

/// What to do with what the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Read, decode, hand over.
    Open,
    /// Do not read: enough is in flight.
    Paused,
    /// Read and throw away: only keepalives count.
    Discard,
}

/// What a look at our walsender over SQL has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walsender {
    /// There, and busy with decoding.
    Busy,
    /// There, and waiting until a standby has what it is about to send.
    Standby,
    /// There, and waiting for something to send.
    Idle,
    /// Not there.
    Gone,
}

/// Figures for status and metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EngineStats {
    pub(crate) received: Lsn,
    pub(crate) confirmed: Lsn,
    pub(crate) in_flight_count: u64,
    pub(crate) in_flight_bytes: usize,
    pub(crate) unmarked_count: usize,
    /// Rows that were tried and could not be written back yet.
    pub(crate) deferred_count: usize,
    /// Those of them that nobody sees yet.
    pub(crate) hidden_count: usize,
    pub(crate) oldest: Option<InFlight>,
    /// The server decodes something that sends us nothing.
    pub(crate) decoding: bool,
    /// The server waits for a standby before it sends more.
    pub(crate) standby: bool,
    /// Partitions that were rewound, since the start.
    pub(crate) rewind_count: u64,
    /// Dead letters that wait to be filed.
    pub(crate) unfiled_count: usize,
}
