//! The words between engine and driver: the limits the engine works by, what it asks for, and why a session is over.

use std::time::Duration;

use crate::config::{AfterPublish, Config};
use crate::error::{Code, Error};
use crate::lsn::Lsn;
use crate::outbox::Mark;
use crate::publisher::tracker::Accepted;

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
    /// Attempts for an event that Kafka refuses.
    pub(crate) attempts: u32,
    /// A report at least this often.
    pub(crate) status_interval: Duration,
    /// A server that is silent this long while we read is looked at.
    pub(crate) silence: Duration,
}

impl Limits {
    /// The limits that a configuration asks for.
    pub(crate) fn of(config: &Config) -> Self {
        Limits {
            after_publish: config.after_publish,
            batch_size: config.batch_size,
            process_interval: config.process_interval,
            memory_limit: config.memory_limit,
            attempts: config.max_retries,
            status_interval: WAL_SENDER_TIMEOUT / 3,
            silence: SILENCE,
        }
    }
}

/// Asked of the server for our session: how soon it lets go of a client that is gone.
pub(crate) const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(25);

/// The largest write-back: one statement over this many rows.
pub(crate) const WRITE_BACK_MAX: usize = 5_000;

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send a standby status update.
    Status {
        write: Lsn,
        flush: Lsn,
        ask_reply: bool,
    },
    /// Write these rows back, then call [`Engine::written_back`].
    WriteBack(Vec<Mark>),
    /// Find out over SQL what our walsender does, then call [`Engine::walsender`].
    LookAtWalsender,
    /// This session, or this run over the table, is over.
    End(End),
}

/// Why it is over.
#[derive(Debug)]
pub(crate) enum End {
    /// Asked to stop, everything acknowledged, written back and confirmed.
    Stopped,
    /// The server is shutting down and waits for us to let go.
    ServerStopping,
    /// The server is silent and its walsender is gone or idle.
    Silent,
    /// Kafka refused an event: to be sent again from the last confirmed position, after everything in flight has been reported.
    Refused(Error),
    /// Kafka refused the same event in every attempt it had.
    GaveUp(Error),
    /// The stream contradicts what was received before: to be dropped and begun again at the slot's position.
    Violated(Violation),
}

impl End {
    /// What it means for the attempt that it ended.
    pub(crate) fn into_error(self, config: &Config) -> Error {
        match self {
            End::Stopped | End::ServerStopping => {
                Error::transient(Code::Connect, "the server is shutting down")
            }
            End::Silent => {
                let message = "the server sends nothing and its walsender is idle or gone";
                Error::transient(Code::Connect, message)
            }
            End::Violated(violation) => {
                let message = "the stream does not go on where it had stopped";
                Error::transient(Code::Replication, message).source(violation)
            }
            End::Refused(refusal) => {
                let message = "an event was refused, going back to what is confirmed";
                Error::transient(Code::Publish, message).source(refusal)
            }
            End::GaveUp(refusal) => {
                let message = format!(
                    "Kafka refused an event in each of {} attempts",
                    config.max_retries
                );
                Error::fatal(Code::Publish, message).source(refusal)
            }
        }
    }
}

/// The stream did not go on where it had stopped, or went backwards: nothing in memory can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("transaction {found} came where {expected} was cut in two")]
    NotResumed { expected: Lsn, found: Lsn },
    #[error("transaction {0} came again with fewer changes than before")]
    Shortened(Lsn),
    #[error("commit {found} came after {last}")]
    OutOfOrder { last: Lsn, found: Lsn },
    #[error("{0} outside a transaction")]
    OutsideTransaction(&'static str),
    #[error("transaction {0} began inside another")]
    Nested(Lsn),
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
    /// There, and waiting for something to send.
    Idle,
    /// Not there.
    Gone,
}

/// Figures for status and metrics.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Snapshot {
    pub(crate) received: Lsn,
    pub(crate) confirmed: Lsn,
    pub(crate) in_flight_count: u64,
    pub(crate) in_flight_bytes: usize,
    pub(crate) unmarked_count: usize,
    /// Rows that were tried and could not be written back yet.
    pub(crate) deferred_count: usize,
    pub(crate) oldest: Option<Accepted>,
    /// The server decodes something that sends us nothing.
    pub(crate) decoding: bool,
}
