//! The byte stream below a connection: TCP, a Unix socket, or TLS over TCP.
//!
//! Every read and write here is cancel-safe: it moves bytes and returns their number, or does
//! nothing. The `try_` functions never wait. `try_read` calls the kernel: tokio's own `try_read`
//! answers from cached readiness, which is not updated while the task keeps its thread asleep, as
//! the reading loop does under backlog. Reading behind tokio's back is sound because its sockets
//! are non-blocking and its polling is edge-triggered: bytes that arrive later raise a new event.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_openssl::SslStream;

use crate::postgres::transport::tls;

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Socket {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket, which never carries TLS.
    Unix(UnixStream),
    /// TLS over TCP, after the handshake.
    Tls(Box<SslStream<KernelFirst>>),
    /// A pipe to a test's script.
    #[cfg(test)]
    Scripted(tokio::io::DuplexStream),
}

impl Socket {
    /// Reads into `room` once, or over TLS until nothing more is there. `Ready(Ok(0))` is the end
    /// of the stream.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        let read = self.poll_read_buf(cx, &mut room);
        read.map_ok(|()| room.filled().len())
    }

    /// The same behind what `room` holds.
    pub(crate) fn poll_read_buf(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        let first = Pin::new(self.inner()).poll_read(cx, room);
        if let Socket::Tls(tls) = self {
            read_further_records(tls, cx, room, before);
        }
        first
    }

    /// Writes once.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.inner()).poll_write(cx, bytes)
    }

    /// Reads the available bytes without waiting. `Ready(Ok(0))` is the end of the stream.
    #[inline]
    pub(crate) fn try_read(&mut self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(tcp) => from_kernel(&SockRef::from(&*tcp), room),
            Socket::Unix(unix) => from_kernel(&SockRef::from(&*unix), room),
            _ => self.poll_read(&mut Context::from_waker(Waker::noop()), room),
        }
    }

    /// Writes what a layer below has kept.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner()).poll_flush(cx)
    }

    /// Closes the writing half.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner()).poll_shutdown(cx)
    }

    /// The data for SCRAM channel binding, over TLS.
    pub(crate) fn server_end_point(&self) -> Option<Vec<u8>> {
        match self {
            Socket::Tls(tls) => tls::server_end_point(tls.ssl()),
            _ => None,
        }
    }

    /// Whether the bytes can be read on their way. TCP without TLS counts as such on the same
    /// machine too: what listens there may be a proxy.
    pub(crate) fn is_exposed(&self) -> bool {
        matches!(self, Socket::Tcp(_))
    }

    /// Whether the bytes leave the machine without TLS.
    pub(crate) fn leaves_in_clear(&self) -> bool {
        match self {
            Socket::Tcp(tcp) => tcp.peer_addr().is_ok_and(|peer| !peer.ip().is_loopback()),
            _ => false,
        }
    }

    fn inner(&mut self) -> &mut dyn Duplex {
        match self {
            Socket::Tcp(tcp) => tcp,
            Socket::Unix(unix) => unix,
            Socket::Tls(tls) => tls,
            #[cfg(test)]
            Socket::Scripted(script) => script,
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// TCP below TLS: reads also bypass tokio's cached readiness.
#[derive(Debug)]
pub(crate) struct KernelFirst(pub(crate) TcpStream);

impl AsyncRead for KernelFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match from_kernel(&SockRef::from(&self.0), room.initialize_unfilled()) {
            Poll::Ready(read) => Poll::Ready(read.map(|count| room.advance(count))),
            // Registers the task to be woken.
            Poll::Pending => Pin::new(&mut self.0).poll_read(cx, room),
        }
    }
}

impl AsyncWrite for KernelFirst {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A TLS read returns one record, and Postgres makes a record of nearly every message. Under
/// backlog one read would return a few hundred bytes of a buffer that holds many more.
fn read_further_records(
    tls: &mut SslStream<KernelFirst>,
    cx: &mut Context<'_>,
    room: &mut ReadBuf<'_>,
    mut before: usize,
) {
    while room.filled().len() > before && room.remaining() > 0 {
        before = room.filled().len();
        // The next read reports a failure or the end of the stream again.
        let _ = Pin::new(&mut *tls).poll_read(cx, room);
    }
}

#[inline]
fn from_kernel(mut socket: &socket2::Socket, room: &mut [u8]) -> Poll<io::Result<usize>> {
    match socket.read(room) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Poll::Pending
        }
        outcome => Poll::Ready(outcome),
    }
}
