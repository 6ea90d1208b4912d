//! Distinguishes a Postgres server from a connection pooler in front of it.
//!
//! A pooler shares one server session among several clients, and with it session settings, prepared
//! statements and locks. The key for cancelling statements (`BackendKeyData`) gives it away: the
//! server puts its own process id there, a pooler an id that it made up. tokio-postgres does not
//! expose the key, but writes it into any stream over which it is to cancel a statement. Here that
//! stream is an in-memory pipe, so nothing is cancelled.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

/// The code of an SSLRequest.
const SSL_REQUEST: i32 = 80_877_103;

/// The process id that the other side announced when the connection began.
///
/// Sends nothing to the server and cannot block: both ends of the pipe are in this function.
pub(super) async fn announced_pid(token: &CancelToken) -> io::Result<i32> {
    let (near, far) = tokio::io::duplex(64);
    let (sent, pid) = tokio::join!(token.cancel_query_raw(near, Plain), read_pid(far));
    sent.map_err(io::Error::other)?;
    pid
}

async fn read_pid(mut pipe: DuplexStream) -> io::Result<i32> {
    let _length = pipe.read_i32().await?;
    if pipe.read_i32().await? == SSL_REQUEST {
        pipe.write_all(b"S").await?;
        let _length_and_code = pipe.read_i64().await?;
    }
    let pid = pipe.read_i32().await?;
    let _secret = pipe.read_i32().await?;
    Ok(pid)
}

/// Takes the place of TLS, which an in-memory pipe does not need.
struct Plain;

impl TlsConnect<DuplexStream> for Plain {
    type Stream = PlainStream;
    type Error = io::Error;
    type Future = Ready<io::Result<PlainStream>>;

    fn connect(self, stream: DuplexStream) -> Self::Future {
        ready(Ok(PlainStream(stream)))
    }
}

struct PlainStream(DuplexStream);

impl AsyncRead for PlainStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl TlsStream for PlainStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}
