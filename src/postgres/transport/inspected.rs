//! A stream whose incoming bytes an [`Inspector`] looks at, in the form that tokio-postgres takes.
//!
//! TLS is negotiated before, so tokio-postgres gets a connector that does nothing. The data for
//! channel binding are those of the connection below.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use crate::postgres::transport::Socket;
use crate::postgres::transport::inspector::Inspector;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Inspected {
    socket: Socket,
    /// None for a stream from which nothing is read.
    inspector: Option<Inspector>,
}

impl Inspected {
    pub(crate) fn new(socket: Socket, inspector: Inspector) -> Self {
        let inspector = Some(inspector);
        Inspected { socket, inspector }
    }

    /// A stream over which a statement is cancelled: the server answers nothing.
    pub(crate) fn without_answer(socket: Socket) -> Self {
        let inspector = None;
        Inspected { socket, inspector }
    }
}

impl AsyncRead for Inspected {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = room.filled().len();
        std::task::ready!(this.socket.poll_read_buf(cx, room))?;
        let arrived = room.filled().get(before..).unwrap_or_default();
        if let Some(inspector) = &mut this.inspector
            && let Err(refusal) = inspector.feed(arrived)
        {
            room.set_filled(before);
            return Poll::Ready(Err(io::Error::other(refusal)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inspected {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx)
    }
}

impl TlsStream for Inspected {
    fn channel_binding(&self) -> ChannelBinding {
        match self.socket.server_end_point() {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}

/// The connector for a stream whose TLS, if any, is negotiated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Negotiated;

impl TlsConnect<Inspected> for Negotiated {
    type Stream = Inspected;
    type Error = io::Error;
    type Future = Ready<io::Result<Inspected>>;

    fn connect(self, stream: Inspected) -> Self::Future {
        ready(Ok(stream))
    }
}
