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
//! A browser that a foreign page has led here by a name of its own (DNS rebinding) is refused: see
//! `host`. No answer may be framed, sniffed or cached.
//!
//! Connections are limited in number and in time (`connections`), so that no client can hold memory
//! or a file descriptor for long, or keep a probe out.

mod connections;
mod host;
mod page;

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use tokio::net::{TcpListener, ToSocketAddrs};

use crate::error::{Code, Error, Result};
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
///
/// `hosts`: host names to answer to, beside IP addresses, names without a dot and those below
/// `localhost`, `local` and `internal`.
pub fn serve(
    listener: TcpListener,
    hosts: &[String],
    status: StatusHandle,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let router = router(Shown {
        status,
        metrics,
        hosts: hosts.into(),
    });
    connections::serve(listener, router, shutdown)
}

#[derive(Clone)]
struct Shown {
    status: StatusHandle,
    metrics: Arc<Metrics>,
    hosts: Arc<[String]>,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

fn router(shown: Shown) -> Router {
    let hosts = Arc::clone(&shown.hosts);
    Router::new()
        .route("/", get(page))
        .route("/page.css", get(style))
        .route("/page.js", get(script))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .with_state(shown)
        .layer(middleware::from_fn_with_state(hosts, host::check))
        .layer(middleware::map_response(hardened))
}

/// What every answer says, for browsers.
async fn hardened(mut response: Response) -> Response {
    // The page needs nothing from elsewhere, so nothing else is allowed.
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn page(State(shown): State<Shown>) -> Html<String> {
    let status = (shown.status)();
    let ready = readiness(&status);
    Html(page::render(&status, ready.err().as_deref()))
}

async fn style() -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        page::STYLE,
    )
}

async fn script() -> impl IntoResponse {
    let kind = "text/javascript; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], page::SCRIPT)
}

async fn status(State(shown): State<Shown>) -> impl IntoResponse {
    Json((shown.status)())
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
