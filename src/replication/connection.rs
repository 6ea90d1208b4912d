//! One connection to Postgres: whole messages in, queued bytes out.
//!
//! Owns the stream, the read buffer and the bytes to be written. Knows message boundaries, server
//! errors and notices, but no command. Bytes read or still to be written are kept in the connection
//! and not in a future, so any of its futures may be dropped at any await without losing or tearing
//! a message.

use std::future::poll_fn;
use std::ops::Range;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{
    ERROR_RESPONSE_TAG, Message, NOTICE_RESPONSE_TAG, NOTIFICATION_RESPONSE_TAG,
    PARAMETER_STATUS_TAG, READY_FOR_QUERY_TAG,
};
use postgres_protocol::message::frontend;

use crate::error::{Code, Error, Result};
use crate::postgres::sqlstate::{self, ServerError};
use crate::postgres::transport::Socket;
use crate::replication::buffer::{RawMessage, ReadBuffer};
use crate::replication::error_fields::error_of_fields;
use crate::replication::message::{StandbyStatusUpdate, postgres_clock};
use crate::replication::notices::Notices;

/// The limit for closing.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The most reads that search for the server's last error on a connection that accepts no more
/// bytes.
const FINAL_ERROR_READS: usize = 1024;

/// A connected stream with its buffers.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Socket,
    peer: String,
    /// How long the server may take to answer a command.
    command_timeout: Duration,
    /// The code of its own errors: the connect code during start-up, the replication code later.
    code: Code,
    pub(super) input: ReadBuffer,
    output: BytesMut,
    /// The latest status update, encoded once `output` is empty: it replaces an older one not sent
    /// yet.
    status: Option<StandbyStatusUpdate>,
    /// The server waits for a command, and none was sent since.
    ready: bool,
    notices: Notices,
    /// Bytes read by `readable`, which the next `try_read` counts.
    fresh: usize,
    /// The error that ended reading, held back until whole messages are taken: the server's reason
    /// may be among them.
    failure: Option<Error>,
}

impl Connection {
    /// `peer` is the server's name in errors: `host:port`.
    pub(crate) fn new(stream: Socket, peer: String) -> Self {
        Connection {
            stream,
            peer,
            command_timeout: Duration::from_secs(25),
            code: Code::Connect,
            input: ReadBuffer::new(),
            output: BytesMut::new(),
            status: None,
            ready: false,
            notices: Notices::default(),
            fresh: 0,
            failure: None,
        }
    }

    /// The other side, as `host:port`.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// The stream below.
    pub(crate) fn socket(&self) -> &Socket {
        &self.stream
    }

    /// Ends start-up: later failures are replication errors, and commands have this time limit.
    pub(crate) fn established(&mut self, command_timeout: Duration) {
        self.code = Code::Replication;
        self.command_timeout = command_timeout;
    }

    /// How long the server may take to answer a command.
    pub(crate) fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// The error for a command that the server did not answer in time. The connection is in the
    /// middle of that command and accepts no other.
    pub(crate) fn no_answer(&self, command: &str) -> Error {
        let (peer, limit) = (&self.peer, self.command_timeout);
        let message = format!("Postgres at {peer} did not answer `{command}` within {limit:?}");
        Error::transient(Code::Connect, message).with_hint(
            "the server is frozen or overloaded, or a proxy in front of it has lost the answer",
        )
    }

    /// Waits until bytes are read, and writes queued bytes meanwhile. Returns at once when the
    /// buffer is full of whole messages. Cancel-safe. The end of the stream is an error.
    pub(crate) async fn readable(&mut self) -> Result<()> {
        poll_fn(|cx| {
            if let Poll::Ready(Err(e)) = self.poll_flush(cx) {
                return Poll::Ready(Err(e));
            }
            if let Some(failed) = self.failed() {
                return Poll::Ready(failed);
            }
            let room = self.input.room();
            if room.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let outcome = self.stream.poll_read(cx, room);
            outcome.map(|read| self.was_read(read))
        })
        .await
    }

    /// Reads once, without waiting. Returns the number of bytes that arrived since the last call,
    /// including those read by [`readable`](Self::readable).
    #[inline]
    pub(crate) fn try_read(&mut self) -> Result<usize> {
        if let Some(failed) = self.failed() {
            failed?;
        } else {
            let room = self.input.room();
            if !room.is_empty()
                && let Poll::Ready(read) = self.stream.try_read(room)
            {
                self.was_read(read)?;
            }
        }
        Ok(std::mem::take(&mut self.fresh))
    }

    /// The number of bytes read and not taken.
    #[inline]
    pub(crate) fn unread(&self) -> usize {
        self.input.unread()
    }

    /// Takes the next message if all of it has been read.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<RawMessage>> {
        self.input.next().map_err(|e| self.protocol_error(e))
    }

    /// Waits for the next message. Cancel-safe.
    pub(crate) async fn receive(&mut self) -> Result<RawMessage> {
        loop {
            if let Some(raw) = self.next()? {
                return Ok(raw);
            }
            self.readable().await?;
        }
    }

    /// Waits for the next message that answers a command, skipping notices and the like.
    /// Cancel-safe.
    pub(crate) async fn receive_reply(&mut self) -> Result<RawMessage> {
        loop {
            let raw = self.receive().await?;
            if !self.skips(&raw)? {
                self.note_ready(&raw);
                return Ok(raw);
            }
        }
    }

    /// Sends a command. Fails while the reply to another one is unfinished, as after a dropped
    /// future.
    pub(crate) async fn command(&mut self, sql: &str) -> Result<()> {
        if !self.ready {
            let message = format!(
                "the replication connection to Postgres at {} is in the middle of another command",
                self.peer
            );
            return Err(Error::transient(self.code, message));
        }
        self.queue(|out| frontend::query(sql, out))?;
        self.ready = false;
        self.flush().await
    }

    /// Whether a command may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// From now on the server sends CopyData, whose length is limited by that of a row.
    pub(crate) fn begin_copy(&mut self) {
        self.input.begin_copy();
    }

    /// Records a ReadyForQuery: the server waits for a command.
    pub(crate) fn note_ready(&mut self, raw: &RawMessage) {
        self.ready |= raw.tag == READY_FOR_QUERY_TAG;
    }

    /// Whether the message may come at any time and answers nothing. Logs a server's warning. Too
    /// many are an error.
    pub(crate) fn skips(&mut self, raw: &RawMessage) -> Result<bool> {
        let is_unasked = matches!(
            raw.tag,
            NOTICE_RESPONSE_TAG | PARAMETER_STATUS_TAG | NOTIFICATION_RESPONSE_TAG
        );
        if is_unasked {
            let counted = self.notices.count(raw.whole().len(), Instant::now());
            counted.map_err(|flood| self.protocol_error(flood))?;
        }
        if raw.tag == NOTICE_RESPONSE_TAG {
            let body = self.input.slice(raw.body.clone());
            self.notices.log(&self.peer, body);
        }
        Ok(is_unasked)
    }

    /// The bytes of a message that was taken since the last read.
    #[inline]
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.input.slice(range)
    }

    /// Parses a message outside the stream, where a copy costs little.
    pub(crate) fn parse(&self, raw: &RawMessage) -> Result<Message> {
        let mut bytes = BytesMut::from(self.slice(raw.whole()));
        match Message::parse(&mut bytes) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.protocol_error("a message is shorter than its length")),
            Err(e) => Err(self.protocol_error(e)),
        }
    }

    /// The error that an ErrorResponse carries.
    pub(crate) fn server_error(&self, raw: &RawMessage) -> ServerError {
        error_of_fields(self.slice(raw.body.clone()))
    }

    /// The error for a server that violates the protocol.
    pub(crate) fn protocol_error(
        &self,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        let message = format!(
            "Postgres at {} violated the replication protocol",
            self.peer
        );
        Error::transient(self.code, message).with_source(cause)
    }

    /// The error for a message that is not allowed here.
    pub(crate) fn unexpected(&self, raw: &RawMessage, instead_of: &str) -> Error {
        let tag = char::from(raw.tag);
        self.protocol_error(format!("message {tag:?} arrived instead of {instead_of}"))
    }

    /// Queues a message that one of postgres-protocol's functions encodes.
    pub(crate) fn queue(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<()> {
        self.encode_status();
        write(&mut self.output).map_err(|e| {
            let message = format!("cannot encode a message for Postgres at {}", self.peer);
            Error::fatal(self.code, message).with_source(e)
        })
    }

    /// Queues a status update, which replaces one that is not sent yet; its reply request is kept.
    pub(crate) fn queue_status(&mut self, mut status: StandbyStatusUpdate) {
        if let Some(unsent) = self.status {
            status.reply_requested |= unsent.reply_requested;
        }
        self.status = Some(status);
    }

    /// Writes everything that is queued. Cancel-safe: bytes not written stay queued.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Writes as much as the kernel accepts now; true when nothing is left.
    pub(crate) fn try_flush(&mut self) -> Result<bool> {
        match self.poll_flush(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(flushed) => flushed.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    /// Sends Terminate, and waits a second at most until the server has dropped temporary slots.
    pub(crate) async fn close(mut self) {
        let terminate = async {
            self.encode_status();
            frontend::terminate(&mut self.output);
            self.flush().await?;
            poll_fn(|cx| {
                while let Ok(1..) = ready!(self.stream.poll_read(cx, &mut [0; 8192])) {}
                Poll::Ready(Ok::<(), Error>(()))
            })
            .await
        };
        let _ = tokio::time::timeout(CLOSE_LIMIT, terminate).await;
    }

    /// The read buffer's capacity in bytes.
    #[cfg(test)]
    pub(crate) fn buffer_capacity(&self) -> usize {
        self.input.capacity()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            if self.output.is_empty() {
                self.encode_status();
                if self.output.is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
            match std::task::ready!(self.stream.poll_write(cx, &self.output)) {
                Ok(0) => {
                    return Poll::Ready(Err(self.broken(std::io::ErrorKind::WriteZero.into())));
                }
                Ok(count) => self.output.advance(count),
                Err(e) => {
                    let error = self.broken(e);
                    return Poll::Ready(Err(self.final_error().unwrap_or(error)));
                }
            }
        }
    }

    fn encode_status(&mut self) {
        if let Some(status) = self.status.take() {
            let body = status.encode(postgres_clock());
            // Only a length over 2 GiB can fail.
            if let Ok(copy_data) = frontend::CopyData::new(&body[..]) {
                copy_data.write(&mut self.output);
            }
        }
    }

    /// The server's last ErrorResponse, which explains more than a broken pipe does.
    fn final_error(&mut self) -> Option<Error> {
        for _ in 0..FINAL_ERROR_READS {
            while let Ok(Some(raw)) = self.input.next() {
                if raw.tag == ERROR_RESPONSE_TAG {
                    let context = format!("Postgres at {} ended the connection", self.peer);
                    return Some(sqlstate::classify(context, self.server_error(&raw)));
                }
            }
            if !self.try_read().is_ok_and(|count| count > 0) {
                return None;
            }
        }
        None
    }

    #[inline]
    fn was_read(&mut self, read: std::io::Result<usize>) -> Result<()> {
        let failure = match read {
            Ok(0) => {
                let message = format!("Postgres at {} closed the connection", self.peer);
                Error::transient(self.code, message)
            }
            Ok(count) => {
                self.input.filled(count);
                self.fresh += count;
                return Ok(());
            }
            Err(e) => self.broken(e),
        };
        self.failure = Some(failure);
        self.failed().unwrap_or(Ok(()))
    }

    /// `None` while the stream can be read. After a failure `Ok` until all whole messages are
    /// taken, then the error.
    #[inline]
    fn failed(&mut self) -> Option<Result<()>> {
        self.failure.as_ref()?;
        if self.input.has_message() {
            return Some(Ok(()));
        }
        self.failure.take().map(Err)
    }

    fn broken(&self, cause: std::io::Error) -> Error {
        let message = format!("the connection to Postgres at {} failed", self.peer);
        Error::transient(self.code, message).with_source(cause)
    }
}
