//! The HTTP server: metrics, health and the status page. It is read-only and shows no setting that
//! could be secret.
//!
//! - `/livez`: 200 while the publisher's loop turns. A named wait never fails it: restarting a
//!   publisher that waits for Kafka or for a server that is busy decoding would only start the wait
//!   again.
//! - `/readyz`: 200 while events get through, or while this instance stands by; otherwise 503 and
//!   the reason, also until Kafka has answered for the first time. A problem that keeps events from
//!   the slot is a reason; one that may lead to that is shown in the status alone.
//! - `/metrics`, `/status` (JSON), `/` (for people).
//!
//! Connections are limited in number and in time (`listener`), so that no client can hold memory
//! or a file descriptor for long.

mod listener;
mod page;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::error::{Code, Error, Result};
use crate::http::listener::Limited;
use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::publisher::{Phase, Status, Waiting};
use crate::status::LOCK;

/// Returns the publisher's status.
pub type StatusHandle = Arc<dyn Fn() -> Status + Send + Sync>;

/// A loop that has not turned for this long is stuck.
const LOOP_AGE_MAX_SECONDS: f64 = 30.0;

/// Binds the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
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

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    shown.metrics.show(&(shown.status)());
    (
        [(header::CONTENT_TYPE, CONTENT_TYPE)],
        shown.metrics.render(),
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

fn liveness(status: &Status) -> Result<(), String> {
    if status.loop_age_seconds < LOOP_AGE_MAX_SECONDS {
        return Ok(());
    }
    Err(format!(
        "the publisher's loop has not turned for {:.0} s",
        status.loop_age_seconds
    ))
}

fn readiness(status: &Status) -> Result<(), String> {
    liveness(status)?;
    match status.phase {
        // A standby is ready, however long it waits for the instance that publishes.
        Phase::Standby => return long_wait(status),
        Phase::Streaming | Phase::Polling => {}
        Phase::Connecting | Phase::Reconnecting => return Err(unready("not connected", status)),
        Phase::Backlog => return Err(unready("publishing the backlog", status)),
        Phase::Stopping => return Err(unready("stopping", status)),
        Phase::Stopped => return Err(unready("stopped", status)),
        Phase::Failed => return Err(unready("failed", status)),
    }
    let mut losing = status.problems.iter().filter(|one| one.loses_events);
    if let Some(problem) = losing.next() {
        let (name, hint) = (problem.name, &problem.hint);
        return Err(format!("{name}: {} ({hint})", problem.detail));
    }
    if !status.kafka_has_answered {
        return Err(unready("no Kafka broker has answered yet", status));
    }
    long_wait(status)
}

fn long_wait(status: &Status) -> Result<(), String> {
    let matters = |waiting: &&Waiting| waiting.on != LOCK && waiting.is_long();
    match status.waiting.as_ref().filter(matters) {
        Some(waiting) => Err(format!(
            "waiting for {} for {:.0} s: {}",
            waiting.on, waiting.seconds, waiting.detail
        )),
        None => Ok(()),
    }
}

fn unready(what: &str, status: &Status) -> String {
    let mut why = what.to_owned();
    if let Some(waiting) = &status.waiting {
        why.push_str(&format!("; waiting for {}: {}", waiting.on, waiting.detail));
    }
    if let Some(error) = &status.last_error {
        why.push_str(&format!("; last error: {error}"));
    }
    why
}

#[cfg(test)]
mod tests;
