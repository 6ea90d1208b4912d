//! The HTTP server: metrics, health and the status page. It is read-only and shows no setting that
//! could be secret.
//!
//! - `/livez`: 200 while the publisher's loop turns. A named wait never fails it: restarting a
//!   publisher that waits for Kafka or for a server that is busy decoding would only start the wait
//!   again.
//! - `/readyz`: 200 while events get through, or while this instance stands by; otherwise 503 and
//!   the reason, also until Kafka has answered for the first time. A problem that keeps events from
//!   the slot is a reason; one that may lead to that is shown in the status alone.
//! - `/metrics`, in OpenMetrics where the scraper prefers it; `/status` (JSON), `/` (for people).
//!
//! Connections are limited in number and in time (`listener`), so that no client can hold memory
//! or a file descriptor for long.

mod listener;
mod page;

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::{TcpListener, ToSocketAddrs};

use crate::error::{Code, Error, Result};
use crate::http::listener::Limited;
use crate::metrics::{Metrics, TextFormat};
use crate::publisher::Status;
use crate::status::readiness::{liveness, readiness};

/// Returns the publisher's status.
pub type StatusHandle = Arc<dyn Fn() -> Status + Send + Sync>;

/// Binds the address: an IP address and a port, or `host:port`, where a name is looked up.
pub async fn bind(address: impl ToSocketAddrs + fmt::Display) -> Result<TcpListener> {
    TcpListener::bind(&address).await.map_err(|e| {
        Error::fatal(
            Code::Config,
            format!("cannot listen on {address} (OUTBOX_HTTP_LISTEN)"),
        )
        .with_hint("choose another address, or off")
        .with_source(e)
    })
}

/// Serves until `shutdown` resolves, then until the open requests are answered.
pub async fn serve(
    listener: TcpListener,
    status: StatusHandle,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let listener = Limited::new(listener);
    // The future is documented to end only after the shutdown, and never with an error.
    let _ = axum::serve(listener, router(Shown { status, metrics }))
        .with_graceful_shutdown(shutdown)
        .await;
}

#[derive(Clone)]
struct Shown {
    status: StatusHandle,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(shown)
}

async fn page(State(shown): State<Shown>) -> Response {
    // The page needs no script and no other origin, so none is allowed.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
    let status = (shown.status)();
    let ready = readiness(&status);
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, Html(page::render(&status, ready.err().as_deref()))).into_response()
}

async fn status(State(shown): State<Shown>) -> impl IntoResponse {
    (
        [(header::CACHE_CONTROL, "no-store")],
        Json((shown.status)()),
    )
}

async fn metrics(State(shown): State<Shown>, headers: HeaderMap) -> impl IntoResponse {
    let accepts = headers.get_all(header::ACCEPT).into_iter();
    let accepts: Vec<&str> = accepts.filter_map(|it| it.to_str().ok()).collect();
    let format = TextFormat::accepted(&accepts.join(","));
    shown.metrics.show(&(shown.status)());
    (
        [(header::CONTENT_TYPE, format.content_type())],
        shown.metrics.render(format),
    )
}

async fn livez(State(shown): State<Shown>) -> impl IntoResponse {
    answer(liveness(&(shown.status)()))
}

async fn readyz(State(shown): State<Shown>) -> impl IntoResponse {
    answer(readiness(&(shown.status)()))
}

fn answer(verdict: Result<(), String>) -> (StatusCode, String) {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests;
