//! The byte stream below a connection: TCP, a Unix socket, or TLS over TCP.
//!
//! Every read and write here is cancel-safe: either bytes have moved and it says so, or nothing has happened. The `try_`
//! functions never wait. On plain sockets `try_read` asks the kernel itself: tokio's own `try_read` answers from its cached
//! readiness, which stands still while a task sleeps on its thread, as the reading loop does under backlog. It is sound to
//! read behind tokio's back, as its sockets are non-blocking and edge-triggered: whatever arrives later is a new edge.

use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_openssl::SslStream;

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix socket, which never carries TLS.
    Unix(UnixStream),
    /// TLS over TCP, the handshake done.
    Tls(Box<SslStream<TcpStream>>),
    /// The other end is a script in a test.
    #[cfg(test)]
    Scripted(tokio::io::DuplexStream),
}

impl Stream {
    /// Reads once into `room`. `Ready(Ok(0))` is the end of the stream.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        Pin::new(self.inner())
            .poll_read(cx, &mut room)
            .map_ok(|()| room.filled().len())
    }

    /// Writes once.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.inner()).poll_write(cx, bytes)
    }

    /// Reads once, what is there now. `Ready(Ok(0))` is the end of the stream.
    #[inline]
    pub(crate) fn try_read(&mut self, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(tcp) => from_kernel(&SockRef::from(&*tcp), room),
            Stream::Unix(unix) => from_kernel(&SockRef::from(&*unix), room),
            _ => self.poll_read(&mut Context::from_waker(Waker::noop()), room),
        }
    }

    /// Closes the writing half.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.inner().shutdown().await
    }

    fn inner(&mut self) -> &mut dyn Duplex {
        match self {
            Stream::Tcp(tcp) => tcp,
            Stream::Unix(unix) => unix,
            Stream::Tls(tls) => tls,
            #[cfg(test)]
            Stream::Scripted(script) => script,
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

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
