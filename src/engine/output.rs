//! The types between engine and driver: the limits of the engine, its outputs, and why a session
//! ends.

use std::time::Duration;

use crate::config::mapping::PartitionRule;
use crate::config::{AfterPublish, Config, OnPoison};
use crate::engine::exactly_once::limits::TransactionLimits;
use crate::engine::exactly_once::progress::Progress;
use crate::engine::exactly_once::start::Refusal;
use crate::engine::filing_limit::{DEAD_LETTER_FLOOD, MARKS_REFUSED};
use crate::engine::required_parts::RequiredParts;
use crate::engine::tracker::violation::Violation;
use crate::engine::tracker::{InFlight, Ticket};
use crate::engine::write_back_queue::StuckRows;
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::{
    CloseDeadLetter, Mark, NewDeadLetter, OwnedRecord, PARKED_KEYS_MAX, ParkedKeyList, Rejection,
    ResolveRequest, RetentionStep, RowId,
};

/// The limits that the engine keeps to.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) after_publish: AfterPublish,
    /// Published rows that are older are deleted.
    pub(crate) retain: Option<Duration>,
    /// The share of the time that this takes, in thousandths; `None`: as its state asks.
    pub(crate) retain_share: Option<u32>,
    /// Events that wait for the write-back before it starts.
    pub(crate) batch_size: usize,
    /// The longest time that an event waits for the write-back.
    pub(crate) process_interval: Duration,
    /// Bytes of events in flight.
    pub(crate) memory_limit: usize,
    /// Records are spread over all partitions of their topic, whatever their keys are.
    pub(crate) spreads: bool,
    /// What every record must have.
    pub(crate) required: RequiredParts,
    /// How many times an event that Kafka refuses is sent.
    pub(crate) attempts: u32,
    /// What happens to it then.
    pub(crate) on_poison: OnPoison,
    /// Requests to retry or discard dead letters are carried out.
    pub(crate) resolves: bool,
    /// More dead letters than this in a minute stop the publisher.
    pub(crate) dead_letters_per_minute: u32,
    /// The most parked keys that are kept apart; beyond it topics are parked whole.
    pub(crate) parked_keys_max: usize,
    /// Kafka creates a missing topic when a record is sent to it.
    pub(crate) auto_creates_topics: bool,
    /// Records are compressed, so their size cannot be checked before they are sent.
    pub(crate) compresses: bool,
    /// The largest batch that the producer makes of several records.
    pub(crate) batch_bytes: usize,
    /// A standby status update goes out at least this often.
    pub(crate) status_interval: Duration,
    /// After this much silence the walsender is inspected over SQL.
    pub(crate) receive_timeout: Duration,
    /// Those of Kafka's transactions; none at least once.
    pub(crate) transactions: Option<TransactionLimits>,
}

impl Limits {
    /// The limits of a configuration.
    pub(crate) fn of(config: &Config) -> Self {
        Limits {
            after_publish: config.after_publish,
            retain: config.retain,
            retain_share: config.retain_share,
            batch_size: config.batch_size,
            process_interval: config.process_interval,
            memory_limit: config.memory_limit,
            spreads: config.mapping.partition == PartitionRule::Spread,
            required: RequiredParts::of(&config.mapping),
            attempts: config.max_retries,
            on_poison: config.on_poison,
            resolves: true,
            dead_letters_per_minute: config.dead_letters_per_minute,
            parked_keys_max: PARKED_KEYS_MAX,
            auto_creates_topics: config.auto_creates_topics(),
            compresses: config.compresses(),
            batch_bytes: config.batch_bytes(),
            status_interval: WAL_SENDER_TIMEOUT / 3,
            receive_timeout: RECEIVE_TIMEOUT,
            transactions: TransactionLimits::of(config),
        }
    }
}

/// Set for the session: the server ends it after this much silence of the client.
pub(crate) const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(30);
/// Half of it. After this much silence the walsender is inspected over SQL; without a session,
/// in-flight records are withdrawn.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// The largest write-back: one statement over this many rows.
pub(crate) const WRITE_BACK_MAX: usize = 5_000;

/// An instruction to the driver. The driver keeps the order: it sends nothing behind an end.
#[derive(Debug)]
pub(crate) enum Output {
    Sink(SinkOutput),
    Session(SessionOutput),
}

/// Instructions that the sink carries out, with or without a session.
#[derive(Debug)]
pub(crate) enum SinkOutput {
    /// Send this record to Kafka.
    Send {
        ticket: Ticket,
        record: Box<OwnedRecord>,
    },
    /// Delivery reports of this topic need not bring their records back any more, unless a failure
    /// came after this one.
    Trust { topic: String, failure: u64 },
    /// Withdraw the records in flight, take their reports in, and make a new producer, for this
    /// reason. Then call [`Engine::producer_replaced`].
    ReplaceProducer(String),
    /// Query the metadata of these topics, then call [`Engine::topics_answered`].
    QueryTopics(Vec<String>),
    /// Read the ends of these topics back, to an event of this source that is before the position.
    /// Then call [`Engine::ends_read`] with the same generation.
    ReadBack {
        generation: u64,
        topics: Vec<String>,
        from: Lsn,
    },
    /// Send the progress record, with its own ticket.
    RecordProgress(Box<Progress>),
    /// Commit the transaction and begin the next one, then call [`Engine::commit_finished`] with
    /// the same generation.
    CommitTransaction { generation: u64 },
    /// Do this in the database, then call [`Engine::work_finished`] with the same generation.
    Work { generation: u64, work: DatabaseWork },
}

/// Instructions that the owner of the session carries out.
#[derive(Debug)]
pub(crate) enum SessionOutput {
    /// Send a standby status update. Only while a session streams.
    Status {
        write: Lsn,
        flush: Lsn,
        ask_reply: bool,
    },
    /// Inspect this session's walsender over SQL, then call [`Engine::walsender`]. Only while a
    /// session streams.
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

/// Work in the database, one piece at a time.
#[derive(Debug)]
pub(crate) enum DatabaseWork {
    /// Write these rows back.
    Mark(Vec<Mark>),
    /// File these dead letters.
    File(Vec<NewDeadLetter>),
    /// Close these dead letters, which were retried or discarded.
    Close(Vec<CloseDeadLetter>),
    /// Count one more attempt for each of these rows.
    CountAttempts(Vec<RowId>),
    /// Read the requests to retry or discard dead letters and, with `with_keys`, the parked keys.
    ReadRequests { with_keys: bool },
    /// Read whether a pause is requested, and say that the request was seen. `stands_still`: there
    /// is one, and nothing is in flight.
    ReadPause { stands_still: bool },
    /// Delete some of the published rows that are old enough. The worker sets what the step did.
    Retain(Option<RetentionStep>),
}

/// Kafka's delivery report on a record.
#[derive(Debug)]
pub(crate) struct DeliveryResult {
    pub(crate) ticket: Ticket,
    pub(crate) failure: Option<DeliveryFailure>,
    /// The number of the topic's last failure when the report was made; 0 if the partition had
    /// none.
    pub(crate) suspicion: u64,
    /// The record itself, if it was not delivered, or its partition refused another.
    pub(crate) record: Option<Box<OwnedRecord>>,
}

/// Why a record was not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeliveryFailure {
    pub(crate) kind: FailureKind,
    pub(crate) rejection: Rejection,
    /// Grows with each failure of a producer; 0 if the producer did not accept the record.
    pub(crate) number: u64,
}

/// The cause of a delivery failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// The cluster is unavailable; this passes.
    Outage,
    /// The topic does not exist, or not yet.
    NoTopic,
    /// Kafka refused the record, or another in its batch.
    Refused,
    /// The Kafka user may not write to the topic.
    Denied,
    /// The producer failed, or the record was withdrawn.
    Producer,
}

impl FailureKind {
    /// Whether no event is at fault. A denied record is, if `denials_count`.
    pub(crate) fn is_outage(self, denials_count: bool) -> bool {
        match self {
            FailureKind::Outage | FailureKind::NoTopic | FailureKind::Producer => true,
            FailureKind::Denied => !denials_count,
            FailureKind::Refused => false,
        }
    }
}

/// Why a session or a scan is over.
#[derive(Debug)]
pub(crate) enum End {
    /// A stop was requested, and everything is acknowledged, written back and confirmed.
    Stopped,
    /// The server is shutting down and waits for this session to end.
    ServerStopping,
    /// The server is silent and its walsender is gone or idle.
    ReceiveTimeout,
    /// So much time has passed between two updates that the server may have ended the session.
    Expired,
    /// The producer has failed, or has withdrawn a record: a new one begins at the confirmed
    /// position.
    ProducerFailed(Rejection),
    /// An event cannot be published and the policy is `halt`, or there are too many dead letters.
    Halted(Rejection),
    /// The stream does not contain what the progress record names: a person has to decide.
    ProgressRefused(Box<Refusal>),
    /// The stream contradicts what was received before: memory is dropped, and the next session
    /// begins at the slot's position.
    Violated(Violation),
}

impl End {
    /// The error for the attempt that it ended.
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
                let message = "the process was suspended or the clock was set, and another \
                               instance may publish by now";
                Error::transient(Code::Connect, message)
            }
            End::Violated(violation) => {
                let message = "the stream does not continue where it stopped";
                Error::transient(Code::Replication, message).with_source(violation)
            }
            End::ProducerFailed(rejection) => {
                let message = "the Kafka producer failed, going back to the confirmed position";
                Error::transient(Code::Publish, message).with_source(rejection)
            }
            End::ProgressRefused(refusal) => refusal.into_error(),
            End::Halted(rejection) => {
                let message = "stopped at an event that cannot be published";
                let hint = match rejection.code.as_str() {
                    DEAD_LETTER_FLOOD => {
                        "`outboxd dead-letter list` shows the errors: fix the cause and start \
                         again, then `outboxd dead-letter retry` publishes what was filed"
                    }
                    MARKS_REFUSED => {
                        "fix the trigger or constraint and start again, then `outboxd dead-letter \
                         discard` marks the rows and sends nothing"
                    }
                    _ => "fix the cause and start again, or set OUTBOX_ON_POISON=dead-letter",
                };
                Error::fatal(Code::Publish, message)
                    .with_source(rejection)
                    .with_hint(hint)
            }
        }
    }
}

/// What the driver does with messages from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Read and decode them.
    Open,
    /// Do not read them: enough is in flight.
    Paused,
    /// Read and discard them, except keepalives.
    Discard,
}

/// What was read from the table of dead letters, or whether a pause is requested.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    /// Whether a pause is requested, if that was read.
    pub(crate) paused: Option<bool>,
    pub(crate) requests: Vec<ResolveRequest>,
    /// The parked keys, if they were read.
    pub(crate) parked: Option<ParkedKeyList>,
}

/// The state of this session's walsender, as read over SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walsender {
    /// It is decoding.
    Busy,
    /// It waits until a standby has the WAL that it is about to send.
    Standby,
    /// It waits for WAL to send.
    Idle,
    /// It does not exist.
    Gone,
}

/// Figures for status and metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineStats {
    pub(crate) received: Lsn,
    pub(crate) confirmed: Lsn,
    pub(crate) in_flight_count: u64,
    pub(crate) in_flight_bytes: usize,
    pub(crate) unmarked_count: usize,
    /// Rows that were tried and could not be written back yet, without the hidden ones.
    pub(crate) locked: StuckRows,
    /// The same of rows that are not visible yet.
    pub(crate) hidden: StuckRows,
    pub(crate) oldest: Option<InFlight>,
    /// The server is decoding and sends nothing meanwhile.
    pub(crate) decoding: bool,
    /// The server waits for a standby before it sends more.
    pub(crate) standby: bool,
    /// How many times a topic was replayed since the start.
    pub(crate) rewind_count: u64,
    /// The oldest event waits for its dead letter to be filed.
    pub(crate) is_oldest_unfiled: bool,
}
