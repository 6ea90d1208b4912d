//! Asks the running outboxd over HTTP, where it serves health and status.
//!
//! An answer counts only if it comes from the outboxd that is meant: of this table, slot and
//! server. Everything has a limit, because the command is also a container's health check.

use std::error::Error as StdError;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use outboxd::config::{Config, Source};
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long all answers may take together.
const LIMIT: Duration = Duration::from_secs(2);
/// The longest answer; a status has a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

type Failure = Box<dyn StdError + Send + Sync>;

/// What is known of the running outboxd.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Instance {
    /// Where it was asked.
    pub(super) address: String,
    /// Why nothing is known of it.
    pub(super) error: Option<String>,
    /// Whether its `/readyz` is 200.
    pub(super) ready: Option<bool>,
    /// What `/readyz` says otherwise.
    pub(super) not_ready: Option<String>,
    /// Its `/status`.
    pub(super) status: Option<Value>,
}

impl Instance {
    /// Asks it; `None` if `OUTBOX_HTTP_LISTEN` is `off`.
    pub(super) async fn ask(config: &Config) -> Option<Instance> {
        let address = reachable(config.http_listen.as_deref()?);
        let answers = tokio::time::timeout(LIMIT, answers(&address)).await;
        let answers = answers.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}").into()));
        let silent =
            |error: Failure| format!("no outboxd answers at {address}: {}", chain(&*error));
        let slot = (config.source == Source::Slot).then_some(config.slot.as_str());
        let told = answers
            .map_err(silent)
            .and_then(|answers| read(answers, &address, &config.table.to_string(), slot));
        Some(match told {
            Ok((not_ready, status)) => Instance {
                address,
                error: None,
                ready: Some(not_ready.is_none()),
                not_ready,
                status: Some(status),
            },
            Err(error) => Instance::unknown(address, error),
        })
    }

    fn unknown(address: String, error: String) -> Instance {
        Instance {
            address,
            error: Some(error),
            ready: None,
            not_ready: None,
            status: None,
        }
    }

    /// Forgets an outboxd of another server: its rows and positions mean nothing here.
    pub(super) fn of_server(self, system_id: u64) -> Instance {
        match self.text("system_id") {
            Some(theirs) if theirs != system_id.to_string() => {
                let error = format!(
                    "the outboxd at {} reads another server, of system identifier {theirs}",
                    self.address
                );
                Instance::unknown(self.address, error)
            }
            _ => self,
        }
    }

    /// A field of `/status`.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.status.as_ref()?.get(name)
    }

    /// A text of `/status`.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.field(name)?.as_str()
    }

    /// A number of `/status`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.as_u64()
    }
}

/// Where a program of this machine reaches what listens there.
fn reachable(listen: &str) -> String {
    let Ok(mut address) = listen.parse::<SocketAddr>() else {
        return listen.to_owned();
    };
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address.to_string()
}

/// The answers to `/readyz` and `/status`.
type Answers = [(StatusCode, Bytes); 2];

async fn answers(address: &str) -> Result<Answers, Failure> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let asking = async {
        let readyz = get(&mut sender, address, "/readyz").await?;
        Ok([readyz, get(&mut sender, address, "/status").await?])
    };
    tokio::pin!(connection);
    tokio::pin!(asking);
    tokio::select! {
        answers = &mut asking => answers,
        ended = &mut connection => match ended {
            Err(error) => Err(error.into()),
            Ok(()) => asking.await,
        },
    }
}

async fn get(
    sender: &mut SendRequest<Empty<Bytes>>,
    address: &str,
    path: &str,
) -> Result<(StatusCode, Bytes), Failure> {
    let request = Request::get(path).header(HOST, address);
    sender.ready().await?;
    let response = sender.send_request(request.body(Empty::new())?).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    Ok((code, body.collect().await?.to_bytes()))
}

/// Why it is not ready, if so, and its status; an error unless the answers are those of the outboxd
/// of this table and slot.
fn read(
    [readyz, status]: Answers,
    address: &str,
    table: &str,
    slot: Option<&str>,
) -> Result<(Option<String>, Value), String> {
    let foreign = || format!("what answers at {address} is not outboxd");
    let not_ready = match readyz {
        (StatusCode::OK, _) => None,
        (StatusCode::SERVICE_UNAVAILABLE, why) => {
            Some(String::from_utf8_lossy(&why).trim().to_owned())
        }
        _ => return Err(foreign()),
    };
    let status = match status {
        (StatusCode::OK, body) => serde_json::from_slice::<Value>(&body).map_err(|_| foreign())?,
        _ => return Err(foreign()),
    };
    let text = |name: &str| status.get(name).and_then(Value::as_str);
    let (their_table, their_slot) = (text("table").ok_or_else(foreign)?, text("slot"));
    if (their_table, their_slot) != (table, slot) {
        let from = their_slot.map_or_else(
            || "by polling".to_owned(),
            |slot| format!("from replication slot {slot}"),
        );
        return Err(format!(
            "the outboxd at {address} publishes {their_table} {from}"
        ));
    }
    Ok((not_ready, status))
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_of_all_interfaces_is_reached_over_the_loopback() {
        let at = reachable;
        assert_eq!(at("0.0.0.0:9464"), "127.0.0.1:9464");
        assert_eq!(at("[::]:9464"), "[::1]:9464");
        assert_eq!(at("10.1.2.3:80"), "10.1.2.3:80");
        assert_eq!(at("localhost:9464"), "localhost:9464");
    }

    #[test]
    fn only_the_outboxd_that_is_meant_counts() {
        let address = "127.0.0.1:9464";
        let told = |readyz: (u16, &str), status: (u16, &str)| {
            let answer = |(code, body): (u16, &str)| {
                let code = StatusCode::from_u16(code).unwrap();
                (code, Bytes::copy_from_slice(body.as_bytes()))
            };
            let answers = [answer(readyz), answer(status)];
            read(answers, address, "outbox.outbox", Some("outboxd_orders"))
        };
        let ours = r#"{"table": "outbox.outbox", "slot": "outboxd_orders"}"#;
        let ready = told((200, "ok\n"), (200, ours)).unwrap();
        assert_eq!(ready.0, None);
        let waits = told((503, "waiting\n"), (200, ours)).unwrap();
        assert_eq!(waits.0.as_deref(), Some("waiting"));
        for (readyz, status, words) in [
            ((404, ""), (404, ""), "is not outboxd"),
            ((200, "ok"), (200, "<html>"), "is not outboxd"),
            ((200, "ok"), (200, "{}"), "is not outboxd"),
            ((200, "ok"), (500, ours), "is not outboxd"),
            (
                (200, "ok"),
                (200, r#"{"table": "a.b"}"#),
                "publishes a.b by polling",
            ),
        ] {
            let error = told(readyz, status).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
