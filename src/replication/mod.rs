//! Client for the streaming replication protocol.
//!
//! Owns one connection from start-up to close: hosts, TLS, authentication, replication commands,
//! and the copy stream in both directions. It knows nothing of the outbox and does not decide when
//! a position is safe to confirm: it sends the [`StandbyStatusUpdate`]s that the caller queues.
//!
//! Why it is correct: the connection has one owner and no second task. All bytes that were read or
//! are still to be written are kept in the connection, never in a future, so a future documented as
//! cancel-safe can be dropped at any await. Messages are lent from the read buffer: the caller's
//! loop is `try_read`, then `next` until it returns `None`, and costs neither a copy nor an
//! allocation per message.
//!
//! See <https://www.postgresql.org/docs/current/protocol-replication.html>.
#![deny(clippy::indexing_slicing)]

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, NOTICE_RESPONSE_TAG,
    READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;
use tokio::time::Instant;

use crate::config::Database;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::postgres::sqlstate;

mod auth;
mod buffer;
mod command;
mod connection;
mod error_fields;
mod message;
mod notices;
mod options;
mod startup;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;

pub(crate) use command::Process;
pub use command::{CreatedSlot, IdentifySystem};
pub use message::{Frame, StandbyStatusUpdate};
pub use options::{SessionOptions, Transport};

use connection::Connection;
use startup::LoggedIn;

/// A connection in replication mode: first commands, then the stream.
///
/// Dropping a command's future leaves the connection in the middle of a reply, and every later
/// command fails. Drop the client then; the server also drops its temporary slots.
#[derive(Debug)]
pub struct ReplicationClient {
    connection: Connection,
    transport: Transport,
    backend_pid: i32,
    server_version: u32,
    copy: Copy,
    flushed: Lsn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    /// Commands may be sent.
    Off,
    /// The server streams.
    Both,
    /// The server has ended the stream.
    Ended,
}

impl ReplicationClient {
    /// Connects to the first host that accepts the session. The connect time-out of the settings,
    /// ten seconds by default, limits the handshake with each address. Dropping the future closes
    /// the connection.
    pub async fn connect(database: &Database, options: &SessionOptions) -> Result<Self> {
        startup::connect(database, options)
            .await
            .map(Self::from_session)
    }

    fn from_session(session: LoggedIn) -> Self {
        ReplicationClient {
            connection: session.connection,
            transport: session.transport,
            backend_pid: session.backend_pid,
            server_version: session.server_version,
            copy: Copy::Off,
            flushed: Lsn::INVALID,
        }
    }

    /// The server process, as it was announced: a proxy may announce a number of its own, or 0.
    /// `Process` is what the server says.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// As in `server_version_num`: 150018 is 15.18.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// The transport below the connection.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether the bytes leave this machine without TLS.
    pub(crate) fn leaves_in_clear(&self) -> bool {
        self.connection.socket().leaves_in_clear()
    }

    /// The server, as `host:port`.
    pub fn describe(&self) -> &str {
        self.connection.peer()
    }

    /// From now on a row of the stream that is longer than this many bytes arrives shortened: those
    /// of its values that do not fit are [`Unchanged`](crate::pgoutput::Column::Unchanged).
    pub(crate) fn limit_rows(&mut self, bytes: usize) {
        self.connection.input.limit_data(bytes);
    }

    /// Runs one or more SQL statements and returns their rows as text, 4 MiB at most. As every
    /// command but the creation of a slot, it has the session's `command_timeout`.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        command::query(&mut self.connection, sql).await
    }

    /// Runs `IDENTIFY_SYSTEM`.
    pub async fn identify_system(&mut self) -> Result<IdentifySystem> {
        command::identify_system(&mut self.connection).await
    }

    /// Asks for the server process and the start of its postmaster. From now on
    /// [`backend_pid`](Self::backend_pid) is that process.
    pub(crate) async fn identify_process(&mut self) -> Result<Process> {
        let process = command::identify_process(&mut self.connection).await?;
        self.backend_pid = process.pid;
        Ok(process)
    }

    /// Creates a slot that the server drops when this connection ends, and exports its snapshot.
    ///
    /// The server first waits for every running transaction, which may take hours and has no limit:
    /// poll the future beside other work, and inspect the server process over SQL. Drop the client
    /// as well if you drop the future.
    pub async fn create_temporary_slot(&mut self, name: &str) -> Result<CreatedSlot> {
        command::create_temporary_slot(&mut self.connection, name).await
    }

    /// Copies a slot to one that the server drops when this connection ends, and returns its
    /// position. A session may read from the slot meanwhile; it stays as it is.
    pub async fn copy_to_temporary_slot(&mut self, from: &str, to: &str) -> Result<Lsn> {
        command::copy_to_temporary_slot(&mut self.connection, from, to).await
    }

    /// Drops an inactive slot.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        command::drop_slot(&mut self.connection, name).await
    }

    /// Sets the slot's `failover` option, so that standbys synchronize the slot and it survives a
    /// failover. `failover` is the option's present value: `None` before Postgres 17, which lacks
    /// it. Returns whether the option is set now.
    pub(crate) async fn enable_failover(
        &mut self,
        slot: &str,
        failover: Option<bool>,
    ) -> Result<bool> {
        if failover == Some(false) {
            command::enable_failover(&mut self.connection, slot).await?;
        }
        Ok(failover.is_some())
    }

    /// Starts to stream the transactions that commit after `from`; `0/0` means the slot's own
    /// position. After an error from the server (the slot is in use, say) the client can be used
    /// again.
    pub async fn start(&mut self, slot: &str, from: Lsn, publication: &str) -> Result<()> {
        command::start_replication(&mut self.connection, slot, from, publication).await?;
        self.connection.begin_copy();
        self.copy = Copy::Both;
        Ok(())
    }

    /// Waits until at least one more byte is read, and writes queued bytes meanwhile. Cancel-safe.
    ///
    /// Returns at once when the buffer is full of messages that `next` has not returned yet. The
    /// end of the stream is an error, reported after every whole message was taken.
    pub async fn readable(&mut self) -> Result<()> {
        self.connection.readable().await
    }

    /// Reads once, without waiting. Returns the number of bytes that arrived since the last call,
    /// including those read by [`readable`](Self::readable). It calls the kernel, so it also sees
    /// bytes that arrived while the task kept its thread asleep. The end of the stream is an error,
    /// reported after every whole message was taken.
    #[inline]
    pub(crate) fn try_read(&mut self) -> Result<usize> {
        self.connection.try_read()
    }

    /// The number of bytes read that belong to messages which [`next`](Self::next) has not
    /// returned.
    #[inline]
    pub fn unread(&self) -> usize {
        self.connection.unread()
    }

    /// The next whole message of the stream, or `None` when more bytes are needed or the copy has
    /// ended.
    ///
    /// An ErrorResponse ends the stream and is returned as an error.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator cannot lend its items"
    )]
    pub fn next(&mut self) -> Result<Option<Frame<'_>>> {
        while let Some(raw) = self.connection.next()? {
            if raw.tag == COPY_DATA_TAG && self.copy == Copy::Both {
                let connection = &self.connection;
                return match Frame::parse(connection.slice(raw.body)) {
                    Ok(frame) => Ok(Some(frame)),
                    Err(malformed) => Err(connection.protocol_error(malformed)),
                };
            }
            if self.control_message(&raw)? {
                return Ok(Some(Frame::CopyDone));
            }
        }
        Ok(None)
    }

    /// Handles a message without data; true when it ends the copy.
    #[cold]
    fn control_message(&mut self, raw: &buffer::RawMessage) -> Result<bool> {
        match raw.tag {
            // On shutdown the server completes the command without ending the copy first.
            COPY_DONE_TAG | COMMAND_COMPLETE_TAG => {
                let first = self.copy == Copy::Both;
                self.copy = Copy::Ended;
                Ok(first)
            }
            READY_FOR_QUERY_TAG => {
                self.copy = Copy::Off;
                self.connection.note_ready(raw);
                Ok(false)
            }
            ERROR_RESPONSE_TAG => {
                self.copy = Copy::Ended;
                let context = format!("Postgres at {} ended the stream", self.connection.peer());
                Err(sqlstate::classify(
                    context,
                    self.connection.server_error(raw),
                ))
            }
            NOTICE_RESPONSE_TAG if self.copy == Copy::Both => {
                self.connection.skips(raw)?;
                self.stream_is_whole(raw).map(|()| false)
            }
            _ if self.connection.skips(raw)? => Ok(false),
            _ => Err(self.connection.unexpected(raw, "the stream")),
        }
    }

    /// Ends the session at the warning that the server leaves out what the publication had: the
    /// messages after it would move the position past events that were never sent.
    fn stream_is_whole(&self, raw: &buffer::RawMessage) -> Result<()> {
        let notice = self.connection.server_error(raw);
        if !notice.is_skipped_publication() {
            return Ok(());
        }
        let peer = self.connection.peer();
        let context =
            format!("Postgres at {peer} leaves out what it decodes without a publication");
        Err(sqlstate::skipped_publication(context, notice))
    }

    /// Queues a status update, which replaces one that is not sent yet.
    ///
    /// The server does not check it: confirming a position that was never received loses the events
    /// before that position.
    pub fn queue_status(&mut self, status: StandbyStatusUpdate) {
        debug_assert!(
            status.write >= status.flush,
            "confirms more than was received: {status:?}"
        );
        debug_assert!(
            status.flush >= self.flushed || status.flush.is_invalid(),
            "moves the confirmed position back from {}: {status:?}",
            self.flushed
        );
        self.flushed = self.flushed.max(status.flush);
        if self.copy == Copy::Both {
            self.connection.queue_status(status);
        }
    }

    /// Writes everything that is queued. Cancel-safe: bytes not written stay queued.
    pub async fn flush(&mut self) -> Result<()> {
        self.connection.flush().await
    }

    /// Writes as much as the kernel accepts now; true when nothing is left. The rest is written by
    /// the next [`readable`](Self::readable), [`flush`](Self::flush) or `try_flush`.
    pub(crate) fn try_flush(&mut self) -> Result<bool> {
        self.connection.try_flush()
    }

    /// Ends the copy, discards messages until the server waits for a command, and closes. True when
    /// the server ended the copy, by which time it has read every status update; false when the
    /// deadline came first.
    ///
    /// In the middle of a large transaction the server sends the rest of it before it reacts.
    pub async fn finish_copy(mut self, deadline: Instant) -> Result<bool> {
        if self.copy == Copy::Both {
            self.connection.queue(|out| {
                frontend::copy_done(out);
                Ok(())
            })?;
        }
        let ended = tokio::time::timeout_at(deadline, self.discard()).await;
        // The server has read every update before it ends the copy, so a later failure undoes
        // nothing.
        let taken = self.copy != Copy::Both;
        self.connection.close().await;
        match ended {
            Ok(Err(e)) if !taken => Err(e),
            Ok(_) => Ok(true),
            Err(_deadline) => Ok(taken),
        }
    }

    /// Sends Terminate, and waits until the server has closed. Dropping the client also closes, but
    /// leaves a line in the server's log.
    pub async fn close(self) {
        self.connection.close().await;
    }

    async fn discard(&mut self) -> Result<(), Error> {
        loop {
            while self.next()?.is_some() {}
            if self.connection.is_ready() {
                return self.connection.flush().await;
            }
            self.readable().await?;
        }
    }
}
