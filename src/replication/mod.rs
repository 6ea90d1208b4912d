//! Our client for the streaming replication protocol.
//!
//! Owns one connection from start-up to good-bye: hosts, TLS, authentication, replication commands, the copy stream in both
//! directions. It knows nothing of the outbox and has no opinion on when a position is safe to confirm: it sends the
//! [`StandbyStatusUpdate`]s that it is given.
//!
//! Why it is correct: there is one owner and no second task; all that was read or is still to be written lies in the
//! connection, never in a future, so the futures marked cancel-safe can be dropped at any moment. Messages are handed out
//! in place: the reading loop of a caller is `try_read`, then `next` until it gives `None`, and costs neither a copy nor an
//! allocation a message.
//!
//! See <https://www.postgresql.org/docs/current/protocol-replication.html>.
#![deny(clippy::indexing_slicing)]

use std::time::Duration;

use postgres_protocol::message::backend::{
    COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, ERROR_RESPONSE_TAG, READY_FOR_QUERY_TAG,
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
mod hosts;
mod message;
mod socket;
mod startup;

#[cfg(test)]
mod tests;

pub use command::{CreatedSlot, IdentifySystem};
pub use message::{Frame, StandbyStatusUpdate};

use connection::Connection;
use startup::LoggedIn;

/// What the caller decides about a session.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// After this long without a word from us the server ends the stream, and with it locks and slot become free.
    pub wal_sender_timeout: Duration,
    /// The same for the time in which we do not stream.
    pub idle_session_timeout: Duration,
    /// What `pg_stat_activity` and the server's log call us.
    pub application_name: String,
}

/// What carries the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with or without TLS.
    Tcp,
    /// A Unix socket.
    Unix,
}

/// A connection in replication mode: first commands, then the stream.
///
/// A command whose future is dropped leaves the connection in the middle of an answer: every later call then fails, and
/// the client is good for nothing but to be dropped, which also makes the server give up its temporary slots.
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
    /// The stream flows.
    Both,
    /// The server has said that it sends no more.
    Ended,
}

impl ReplicationClient {
    /// Connects to the first host that will have us. Each host has the connect timeout of the settings, or ten seconds, for
    /// the whole of its handshake. Dropping the future closes the connection.
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

    /// The process id that the server announced. A pooler announces its own, not that of `pg_backend_pid()`.
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// As in `server_version_num`: 150018 is 15.18.
    pub fn server_version(&self) -> u32 {
        self.server_version
    }

    /// What carries the connection.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The server, as `host:port`.
    pub fn describe(&self) -> &str {
        self.connection.peer()
    }

    /// Runs SQL, one or more statements, and returns their rows as text, four megabytes at most.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        command::query(&mut self.connection, sql).await
    }

    /// Asks who the server is and how far it has got.
    pub async fn identify_system(&mut self) -> Result<IdentifySystem> {
        command::identify_system(&mut self.connection).await
    }

    /// Creates a slot that ends with this connection, and exports the snapshot that goes with it.
    ///
    /// The server first waits for every transaction that is running, which may take hours and has no limit of its own: drive
    /// the future beside other work. Dropping it leaves nothing to do with this client but to drop it as well.
    pub async fn create_temporary_slot(&mut self, name: &str) -> Result<CreatedSlot> {
        command::create_temporary_slot(&mut self.connection, name).await
    }

    /// Drops a slot that nobody uses.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        command::drop_slot(&mut self.connection, name).await
    }

    /// Has standbys keep a copy of the slot, so that it outlives a failover. `failover` is what the server says of it: `None` where it
    /// is too old for that (before 17). True when standbys keep it now.
    pub async fn enable_failover(&mut self, slot: &str, failover: Option<bool>) -> Result<bool> {
        if failover == Some(false) {
            command::enable_failover(&mut self.connection, slot).await?;
        }
        Ok(failover.is_some())
    }

    /// Begins to stream what was committed after `from`; `0/0` means where the slot stands. After an error of the server
    /// (the slot is in use, say) the client can be used again.
    pub async fn start(&mut self, slot: &str, from: Lsn, publication: &str) -> Result<()> {
        command::start_replication(&mut self.connection, slot, from, publication).await?;
        self.copy = Copy::Both;
        Ok(())
    }

    /// Waits until at least one more byte was read, and writes what is queued meanwhile. Cancel-safe.
    ///
    /// Returns at once when the buffer is full of messages that nobody took. The end of the stream is an error, but not
    /// before every whole message was taken.
    pub async fn readable(&mut self) -> Result<()> {
        self.connection.readable().await
    }

    /// Reads once, what is there now, and never waits. Gives the bytes that have come since it was last called, those that
    /// [`readable`](Self::readable) read included. It asks the kernel, so it also sees what came while the task slept on its
    /// thread. The end of the stream is an error, but not before every whole message was taken.
    #[inline]
    pub fn try_read(&mut self) -> Result<usize> {
        self.connection.try_read()
    }

    /// How many bytes were read and belong to messages that [`next`](Self::next) has not given out.
    #[inline]
    pub fn unread(&self) -> usize {
        self.connection.unread()
    }

    /// The next whole message of the stream, or `None` when more bytes are needed or the copy is over.
    ///
    /// An error of the server ends the stream and comes out as an error.
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
            if self.beside_the_stream(&raw)? {
                return Ok(Some(Frame::CopyDone));
            }
        }
        Ok(None)
    }

    /// Takes a message that carries no data; true when it ends the copy.
    #[cold]
    fn beside_the_stream(&mut self, raw: &buffer::RawMessage) -> Result<bool> {
        match raw.tag {
            // A server that shuts down completes the command without ending the copy first.
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
            _ if self.connection.pass_over(raw) => Ok(false),
            _ => Err(self.connection.unexpected(raw, "the stream")),
        }
    }

    /// Queues a status update. It takes the place of one that was not sent yet.
    ///
    /// The server believes what it is told: a position that was never received loses what lies before it.
    pub fn queue_status(&mut self, status: StandbyStatusUpdate) {
        debug_assert!(
            status.write >= status.flush,
            "confirms more than was received: {status:?}"
        );
        debug_assert!(
            status.flush >= self.flushed || status.flush.is_invalid(),
            "takes back what was confirmed, {}: {status:?}",
            self.flushed
        );
        self.flushed = self.flushed.max(status.flush);
        if self.copy == Copy::Both {
            self.connection.queue_status(status);
        }
    }

    /// Writes all that is queued. Cancel-safe: what was not written stays queued.
    pub async fn flush(&mut self) -> Result<()> {
        self.connection.flush().await
    }

    /// Writes what the kernel takes now; true when nothing is left. The rest goes out with the next
    /// [`readable`](Self::readable), [`flush`](Self::flush) or `try_flush`.
    pub fn try_flush(&mut self) -> Result<bool> {
        self.connection.try_flush()
    }

    /// Ends the copy, reads on and discards until the server waits for a command, and closes. True when the server got
    /// that far, which means that it has taken every status update; false when the deadline came first.
    ///
    /// In the middle of a large transaction the server sends the rest of it before it takes notice.
    pub async fn finish_copy(mut self, deadline: Instant) -> Result<bool> {
        if self.copy == Copy::Both {
            self.connection.queue(|out| {
                frontend::copy_done(out);
                Ok(())
            })?;
        }
        let ended = tokio::time::timeout_at(deadline, self.discard()).await;
        // It has read everything before it ends the copy, so what goes wrong after that takes nothing back.
        let taken = self.copy != Copy::Both;
        self.connection.close().await;
        match ended {
            Ok(Err(e)) if !taken => Err(e),
            Ok(_) => Ok(true),
            Err(_deadline) => Ok(taken),
        }
    }

    /// Says good-bye. Dropping the client closes it as well, but leaves a line in the server's log.
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
