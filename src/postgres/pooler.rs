//! Distinguishes a session of one's own from one that a connection pooler shares.
//!
//! A pooler that shares a server session among several clients also shares its settings, prepared
//! statements and locks. The key for cancelling statements (`BackendKeyData`) raises the suspicion:
//! the server puts its own process id there, a pooler or proxy an id that it made up, or none. That
//! proves nothing, because a proxy may pass one server session to one client all the same. So the
//! [`evidence`] is how the session behaves beside a second one.
//!
//! tokio-postgres does not expose the key, but writes it into any stream over which it is to cancel
//! a statement. Here that stream is an in-memory pipe, so nothing is cancelled.
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS>

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Client, Error, SimpleQueryMessage};

/// How often the two sessions are compared: a pooler that has several free server sessions may by
/// chance give each client the same one again.
const ROUNDS: usize = 3;

/// The server process of a session, and the mark that was set on it. The simple protocol, since a
/// pooler may not know prepared statements.
const LOOK: &str = "SELECT pg_catalog.pg_backend_pid(),
                           coalesce(pg_catalog.current_setting('outboxd.session', true), '')";

/// What one look at a session shows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Look {
    pid: String,
    mark: String,
}

/// Why the first session is not one of its own, if it is not. `other` is a second one to the same
/// address, which has done nothing yet.
///
/// A pooler that assigns a server session to each transaction gives the second session, whose
/// transaction stays open, the server session that the first has just used. If another client was
/// quicker, it gives the first session another one then. Neither happens to a client with a server
/// session of its own.
///
/// # Errors
/// Of the connections.
pub(super) async fn evidence(first: &Client, other: &Client) -> Result<Option<String>, Error> {
    let mark = format!("{:016x}", fastrand::u64(..));
    let set = format!("SET outboxd.session = '{mark}'");
    first.simple_query(&set).await?;
    let found = compare(first, other, &mark).await?;
    first.simple_query("RESET outboxd.session").await?;
    Ok(found)
}

async fn compare(first: &Client, other: &Client, mark: &str) -> Result<Option<String>, Error> {
    let began = look(first).await?;
    for _round in 0..ROUNDS {
        if let Err(error) = other.simple_query("BEGIN").await {
            // Pooling by the statement.
            return match error.as_db_error() {
                Some(refused) => Ok(Some(format!("it refuses a transaction ({refused})"))),
                None => Err(error),
            };
        }
        let beside = look(other).await?;
        // The first session might wait for the second one's server session: it is not asked then.
        let mut found = shared(mark, &began, &beside, None);
        if found.is_none() {
            found = shared(mark, &began, &beside, Some(&look(first).await?));
        }
        other.simple_query("ROLLBACK").await?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

async fn look(client: &Client) -> Result<Look, Error> {
    let messages = client.simple_query(LOOK).await?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |column| {
        let row = row.as_ref();
        row.and_then(|row| row.try_get(column).ok().flatten())
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Look {
        pid: text(0),
        mark: text(1),
    })
}

/// What the looks say of the first session: as it `began` with this mark, the second one `beside`
/// it, and the first one `again`. Pure.
fn shared(mark: &str, began: &Look, beside: &Look, again: Option<&Look>) -> Option<String> {
    if began.mark != mark {
        return Some("a session does not keep a setting".to_owned());
    }
    if beside.pid == began.pid {
        return Some(format!("two sessions have server process {}", began.pid));
    }
    if beside.mark == mark {
        return Some("one session has the settings of another".to_owned());
    }
    let again = again?;
    if again.pid != began.pid {
        return Some(format!(
            "the server process of a session changes from {} to {}",
            began.pid, again.pid
        ));
    }
    (again.mark != mark).then(|| "a session does not keep a setting".to_owned())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pid: &str, mark: &str) -> Look {
        Look {
            pid: pid.to_owned(),
            mark: mark.to_owned(),
        }
    }

    #[test]
    fn a_session_is_shared_when_process_or_setting_are_not_its_own() {
        let began = look("7", "m");
        let judge = |began: &Look, beside: Look, again: Look| {
            shared("m", began, &beside, Some(&again)).unwrap_or_default()
        };
        assert_eq!(judge(&began, look("8", ""), look("7", "m")), "");
        for (beside, again, words) in [
            (look("7", "m"), look("7", "m"), "two sessions"),
            (look("7", ""), look("7", "m"), "two sessions"),
            (look("8", ""), look("9", "m"), "changes from 7 to 9"),
            (look("8", ""), look("7", ""), "keep a setting"),
            (look("8", "m"), look("7", "m"), "settings of another"),
        ] {
            let found = judge(&began, beside, again);
            assert!(found.contains(words), "{found}");
        }
        let lost = judge(&look("7", ""), look("8", ""), look("7", "m"));
        assert!(lost.contains("keep a setting"), "{lost}");
    }
}
