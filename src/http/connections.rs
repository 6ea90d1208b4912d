//! The connections of the HTTP server: limited in number, in time, and to HTTP/1.1.
//!
//! A connection beyond the limit takes the place of the one that has been open longest, so that
//! clients that hold connections open, idle or slow, never keep a probe out. A head has a limited
//! size and five seconds to arrive, also the next one of an idle connection; a connection ends
//! after a minute. A monitor whose connection ends opens another.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(super) const CONNECTIONS_MAX: usize = 32;
const AGE_MAX: Duration = Duration::from_secs(60);
pub(super) const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// The most that a connection may hold of a head, in bytes; a browser sends less than 16 KiB.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;

/// How long the end waits for open requests.
const END_LIMIT: Duration = Duration::from_secs(1);

/// Serves until `shutdown` resolves, then until the open requests are answered, for a second at
/// most.
pub(super) async fn serve(
    mut listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let ending = CancellationToken::new();
    let mut open = Open::default();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            // What became of a connection is the client's concern.
            _ended = open.tasks.join_next(), if !open.tasks.is_empty() => {}
            // axum's accept pauses and retries when the process has no file descriptor left.
            (stream, _) = Listener::accept(&mut listener) => {
                open.add(answer(stream, router.clone(), ending.clone()));
            }
        }
    }
    drop(listener);
    ending.cancel();
    let all_ended = async { while open.tasks.join_next().await.is_some() {} };
    // What is still open ends with its tasks.
    let _ = timeout(END_LIMIT, all_ended).await;
}

/// The open connections, the oldest first.
#[derive(Default)]
struct Open {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Open {
    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.by_age.retain(|it| !it.is_finished());
        if self.by_age.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(connection));
    }
}

/// Answers the requests of a connection.
async fn answer(stream: TcpStream, router: Router, ending: CancellationToken) {
    let mut protocol = http1::Builder::new();
    protocol
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX);
    let service = TowerToHyperService::new(router);
    let connection = protocol.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let answered = async {
        tokio::select! {
            answered = connection.as_mut() => answered,
            () = ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Ok(Err(error)) = timeout(AGE_MAX, answered).await {
        tracing::trace!(%error, "HTTP connection failed");
    }
}
