//! The HTTP server over real connections, as a monitor and a browser see it.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::publisher::{DeadLetterGroup, OpenDeadLetters, Phase, Problem, SlotHealth, Waiting};

fn streaming() -> Status {
    let names = ("outboxd_orders".to_owned(), "outboxd".to_owned());
    let status = Status::new("db:5432/orders".to_owned(), Some(names), "outbox.outbox");
    Status {
        phase: Phase::Streaming,
        received_lsn: Some("0/2A".to_owned()),
        kafka_has_answered: true,
        published_total: 1_234_567,
        in_flight_records: 7,
        in_flight_bytes: 4_096,
        unmarked_records: 3,
        oldest_unacknowledged_seconds: 0.5,
        slot_health: Some(SlotHealth {
            lag_bytes: 2_048,
            retained_bytes: 16_777_216,
            safe_wal_size: None,
            wal_status: Some("reserved".to_owned()),
            wal_bytes_per_second: None,
            seconds_until_lost: None,
            active: true,
        }),
        loop_age_seconds: 0.1,
        ..status
    }
}

fn waiting(on: &'static str, seconds: f64) -> Option<Waiting> {
    Some(Waiting {
        on,
        detail: "orders[3] <has> no leader".to_owned(),
        seconds,
    })
}

struct Server {
    address: SocketAddr,
    status: Arc<Mutex<Status>>,
    metrics: Arc<Metrics>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(status: Status) -> Server {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(Mutex::new(status));
        let metrics = Arc::new(Metrics::new("orders", "outboxd_orders"));
        let (stop, stopped) = oneshot::channel::<()>();
        let seen = Arc::clone(&status);
        let handle: StatusHandle = Arc::new(move || seen.lock().unwrap().clone());
        let shutdown = async move {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, &[], handle, Arc::clone(&metrics), shutdown));
        Server {
            address,
            status,
            metrics,
            stop,
            task,
        }
    }

    /// Status line and headers, then body.
    async fn get(&self, path: &str) -> (String, String) {
        self.get_as("x", path, "*/*").await
    }

    /// The same for this host name and with this header `Accept`.
    async fn get_as(&self, host: &str, path: &str, accept: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1
Host: {host}
Accept: {accept}
Connection: close

"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// Sends these bytes on a connection of their own and returns all that comes back.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may have closed it by then.
        let _ = stream.write_all(bytes).await;
        String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
    }

    async fn code(&self, path: &str) -> u16 {
        let (head, _) = self.get(path).await;
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn set(&self, status: Status) {
        *self.status.lock().unwrap() = status;
    }
}

#[tokio::test]
async fn a_streaming_publisher_is_live_and_ready() {
    let server = Server::start(streaming()).await;
    assert_eq!(
        (server.code("/livez").await, server.code("/readyz").await),
        (200, 200)
    );
    assert_eq!(server.code("/nowhere").await, 404);
}

#[tokio::test]
async fn a_long_wait_is_not_ready_and_says_for_what_but_stays_live() {
    let server = Server::start(Status {
        waiting: waiting("kafka", 61.0),
        ..streaming()
    })
    .await;
    assert_eq!(server.code("/livez").await, 200);
    let (head, body) = server.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(
        body,
        "waiting for kafka for 61 s: orders[3] <has> no leader\n"
    );
    server.set(Status {
        waiting: waiting("kafka", 59.0),
        ..streaming()
    });
    assert_eq!(server.code("/readyz").await, 200);
}

#[tokio::test]
async fn a_trouble_that_loses_events_is_not_ready_and_a_warning_is() {
    let problem = |loses_events| Status {
        problems: vec![Problem {
            name: "not-published",
            detail: "it left <outboxd>".to_owned(),
            hint: "put it back".to_owned(),
            loses_events,
        }],
        ..streaming()
    };
    let server = Server::start(problem(true)).await;
    let (head, body) = server.get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(body, "not-published: it left <outboxd> (put it back)\n");
    let (_, body) = server.get("/metrics").await;
    assert!(body.contains("trouble=\"not-published\"} 1"), "{body}");
    let (_, body) = server.get("/").await;
    assert!(body.contains("<b>not-published</b>: it left &lt;outboxd&gt;"));
    server.set(problem(false));
    assert_eq!(server.code("/readyz").await, 200);
    let (_, body) = server.get("/status").await;
    assert!(body.contains("\"name\":\"not-published\""), "{body}");
}

#[tokio::test]
async fn a_standby_is_ready_however_long_it_waits_for_the_lock() {
    let status = Status {
        phase: Phase::Standby,
        waiting: waiting("lock", 1e6),
        ..streaming()
    };
    let server = Server::start(status).await;
    assert_eq!(
        (server.code("/livez").await, server.code("/readyz").await),
        (200, 200)
    );
}

#[tokio::test]
async fn a_standby_that_waits_for_a_session_that_is_not_outboxd_is_ready_for_a_minute() {
    for (seconds, ready) in [(59.0, 200), (61.0, 503)] {
        let status = Status {
            phase: Phase::Standby,
            waiting: waiting("foreign-lock", seconds),
            ..streaming()
        };
        let server = Server::start(status).await;
        assert_eq!(server.code("/livez").await, 200);
        assert_eq!(server.code("/readyz").await, ready, "{seconds}");
    }
}

#[tokio::test]
async fn a_loop_that_no_longer_turns_is_neither_live_nor_ready() {
    let server = Server::start(Status {
        loop_age_seconds: 30.0,
        ..streaming()
    })
    .await;
    assert_eq!(
        (server.code("/livez").await, server.code("/readyz").await),
        (503, 503)
    );
}

#[test]
fn every_other_phase_is_unready_and_tells_the_last_error() {
    for phase in [
        Phase::Connecting,
        Phase::Backlog,
        Phase::Reconnecting,
        Phase::Stopping,
        Phase::Stopped,
        Phase::Failed,
    ] {
        let status = Status {
            phase,
            last_error: Some("it broke".to_owned()),
            ..streaming()
        };
        let why = readiness(&status).unwrap_err();
        assert!(why.ends_with("last error: it broke"), "{why}");
        assert_eq!(liveness(&status), Ok(()));
    }
}

#[tokio::test]
async fn metrics_show_the_gauges_of_the_present_status() {
    let server = Server::start(streaming()).await;
    server.metrics.topic("orders").published(5);
    let (_, body) = server.get("/metrics").await;
    let shows = |body: &str, name: &str, rest: &str| {
        let lines = body.lines();
        let found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'));
        assert!(
            found.into_iter().any(|it| it.ends_with(rest)),
            "{name} {rest}\n{body}"
        );
    };
    let published = "topic=\"orders\",status=\"published\"} 1";
    shows(&body, "outbox_events_processed_total", published);
    shows(&body, "outboxd_in_flight_records", "} 7");
    shows(&body, "outboxd_slot_lag_bytes", "} 2048");
    shows(&body, "outboxd_wal_status", "status=\"reserved\"} 1");
    shows(&body, "outboxd_ready", "} 1");
    server.set(Status {
        slot_health: None,
        waiting: waiting("kafka", 61.0),
        ..streaming()
    });
    let (_, body) = server.get("/metrics").await;
    let stale = body.contains("\noutboxd_slot_lag_bytes{");
    assert!(!stale, "a stale lag is shown\n{body}");
    shows(&body, "outboxd_waiting_seconds", "wait=\"kafka\"} 61.0");
    shows(&body, "outboxd_ready", "} 0");
}

#[tokio::test]
async fn metrics_are_open_metrics_where_the_scraper_prefers_it_and_plain_text_elsewhere() {
    let server = Server::start(streaming()).await;
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,\
                      text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    let (head, body) = server.get_as("x", "/metrics", prometheus).await;
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(kind), "{head}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    for accept in ["*/*", "text/plain;version=0.0.4"] {
        let (head, body) = server.get_as("x", "/metrics", accept).await;
        let kind = "content-type: text/plain; version=0.0.4; charset=utf-8";
        assert!(head.contains(kind), "{head}");
        assert!(!body.contains("# EOF"), "{body}");
        assert!(
            body.contains("# TYPE outbox_errors_total counter\n"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn status_is_json_with_lower_case_phases() {
    let server = Server::start(streaming()).await;
    let (head, body) = server.get("/status").await;
    assert!(head.contains("application/json"), "{head}");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["phase"], "streaming");
    assert_eq!(status["slot_health"]["lag_bytes"], 2_048);
}

#[tokio::test]
async fn the_page_shows_the_state_and_escapes_what_came_from_outside() {
    let bad = "<script>alert('x')</script>";
    let mut status = Status {
        problems: vec![Problem {
            name: "not-published",
            detail: bad.to_owned(),
            hint: format!("type `{bad}`"),
            loses_events: true,
        }],
        waiting: waiting("kafka", 70.0),
        ..streaming()
    };
    status.dead_letters = OpenDeadLetters {
        open: 30,
        oldest_seconds: Some(61.0),
        groups: vec![DeadLetterGroup::new(
            "dead".to_owned(),
            Some(bad.to_owned()),
            "TOPIC_UNKNOWN".to_owned(),
            30,
            61.0,
        )],
        ..OpenDeadLetters::default()
    };
    status.table = bad.to_owned();
    let server = Server::start(status).await;
    let (head, body) = server.get("/").await;
    assert!(head.contains("text/html"), "{head}");
    for part in [
        "class=\"bad\" role=\"status\"",
        "30 open, the oldest for 1 min",
        "1\u{202f}234\u{202f}567",
        "16.0 MiB",
        "type <code>&lt;script&gt;alert(&#39;x&#39;)",
        "db:5432/orders",
    ] {
        assert!(body.contains(part), "{part} is not in {body}");
    }
    assert_eq!(body.matches("<script").count(), 1, "{body}");
    for outside in ["http:", "https:", "//"] {
        assert!(!body.contains(outside), "{outside} is in {body}");
    }
}

#[tokio::test]
async fn the_page_says_first_who_it_is_and_then_what_is_in_the_way_and_for_how_long() {
    let slot = streaming().slot_health.map(|slot| SlotHealth {
        safe_wal_size: Some(1 << 30),
        seconds_until_lost: Some(7_200.0),
        ..slot
    });
    let server = Server::start(Status {
        waiting: waiting("write-back", 20.0),
        slot_health: slot,
        ..streaming()
    })
    .await;
    let (_, body) = server.get("/").await;
    let at = |part: &str| body.find(part).unwrap_or_else(|| panic!("{part}: {body}"));
    let places = [
        "<h1>",
        "db:5432/orders",
        "id=\"flow\"",
        "id=\"topics\"",
        "id=\"letters\"",
        "<b>waiting for write-back</b> for 20 s: orders[3] &lt;has&gt; no leader",
        "1.0 GiB more until the slot is lost, in 2 h at the present rate",
    ]
    .map(at);
    assert!(places.is_sorted(), "{places:?}");
    assert!(!body.contains("None now."), "{body}");
    // One that stands by, or waits for an instant, has no problem.
    for (on, seconds) in [("lock", 900.0), ("write-back", 1.0)] {
        server.set(Status {
            waiting: waiting(on, seconds),
            ..streaming()
        });
        let (_, body) = server.get("/").await;
        assert!(body.contains("None now."), "{on}: {body}");
    }
}

/// What every answer says.
const HARDENED: [&str; 4] = [
    "content-security-policy: default-src 'none';",
    "x-content-type-options: nosniff",
    "referrer-policy: no-referrer",
    "cache-control: no-store",
];

#[tokio::test]
async fn every_answer_is_hardened_and_a_strange_host_name_is_refused() {
    let server = Server::start(streaming()).await;
    for path in [
        "/",
        "/page.css",
        "/page.js",
        "/status",
        "/metrics",
        "/livez",
        "/nowhere",
    ] {
        let (head, _) = server.get(path).await;
        let (refused, body) = server.get_as("rebound.example:9464", path, "*/*").await;
        assert!(refused.starts_with("HTTP/1.1 421"), "{path}: {refused}");
        assert!(body.contains("OUTBOX_HTTP_HOSTS"), "{body}");
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = server.send(request.as_bytes()).await;
        let (written, _) = answer.split_once("\r\n\r\n").unwrap();
        let is_missing = path == "/nowhere";
        let code = if is_missing { "404" } else { "405" };
        let expected = format!("HTTP/1.1 {code}");
        assert!(written.starts_with(&expected), "{path}: {written}");
        for head in [head.as_str(), &refused, written] {
            for header in HARDENED {
                assert!(head.contains(header), "{path}: {header} is not in {head}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_passes_only_if_all_the_names_in_it_do() {
    let server = Server::start(streaming()).await;
    for (target, hosts, code) in [
        ("/livez", "", 200),
        ("/livez", "Host: localhost\r\n", 200),
        ("http://127.0.0.1:9464/livez", "Host: localhost\r\n", 200),
        ("http://rebound.example/livez", "Host: localhost\r\n", 421),
        ("http://rebound.example/livez", "", 421),
        (
            "/livez",
            "Host: localhost\r\nHost: rebound.example\r\n",
            421,
        ),
        (
            "/livez",
            "Host: rebound.example\r\nHost: localhost\r\n",
            421,
        ),
        ("/livez", "Host: \u{fc}.local\r\n", 421),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let answer = server.send(request.as_bytes()).await;
        let expected = format!("HTTP/1.1 {code} ");
        assert!(answer.starts_with(&expected), "{request}{answer}");
    }
}

#[tokio::test]
async fn serving_ends_with_the_shutdown_and_frees_the_address() {
    let server = Server::start(streaming()).await;
    assert_eq!(server.code("/livez").await, 200);
    server.stop.send(()).unwrap();
    server.task.await.unwrap();
    bind(server.address).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_a_fault_of_configuration() {
    let server = Server::start(streaming()).await;
    let error = bind(server.address).await.unwrap_err();
    assert_eq!(error.code(), Code::Config);
    assert!(error.message().contains("OUTBOX_HTTP_LISTEN"), "{error}");
}

/// Everything that the server sends on this connection until it closes it.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes).await;
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_arrive_ends_its_connection_within_seconds() {
    let server = Server::start(streaming()).await;
    for sent in ["", "GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let began = tokio::time::Instant::now();
        rest(&mut stream).await;
        let took = began.elapsed();
        let limit = connections::HEAD_LIMIT + std::time::Duration::from_secs(1);
        assert!(took < limit, "{sent:?} {took:?}");
    }
}

/// Each byte arrives within the limit, all of them do not.
#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_ends_its_connection_within_seconds() {
    let server = Server::start(streaming()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let began = tokio::time::Instant::now();
    let trickle = async {
        let second = std::time::Duration::from_secs(1);
        while writing.write_all(b"G").await.is_ok() {
            tokio::time::sleep(second).await;
        }
    };
    let ended = async {
        // A reset is an end as well.
        let _ = reading.read_to_end(&mut Vec::new()).await;
    };
    tokio::select! {
        () = ended => {}
        () = trickle => {}
    }
    let took = began.elapsed();
    let limit = connections::HEAD_LIMIT + std::time::Duration::from_secs(2);
    assert!(took < limit, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_sends_no_second_request_ends_within_seconds() {
    let server = Server::start(streaming()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let began = tokio::time::Instant::now();
    let answer = String::from_utf8(rest(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let took = began.elapsed();
    let limit = connections::HEAD_LIMIT + std::time::Duration::from_secs(1);
    assert!(took < limit, "{took:?}");
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let server = Server::start(streaming()).await;
    let request = |bytes: usize| {
        let filler = "x".repeat(bytes);
        format!("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {filler}\r\n\r\n")
    };
    let limit = connections::HEAD_BYTES_MAX;
    let answer = server.send(request(limit / 2).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // One byte more than the buffer, so that none is left over when the connection is closed.
    let head = request(0).len();
    let request = request(limit + 1 - head);
    let answer = server.send(&request.as_bytes()[..limit]).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn connections_that_are_held_open_keep_no_probe_out() {
    let server = Server::start(streaming()).await;
    let mut held = Vec::new();
    for _ in 0..4 * connections::CONNECTIONS_MAX {
        held.push(TcpStream::connect(server.address).await.unwrap());
        assert_eq!(server.code("/livez").await, 200);
    }
    // The oldest made room for the others.
    assert_eq!(rest(&mut held[0]).await, b"");
}

#[tokio::test]
async fn http_2_is_not_spoken() {
    let server = Server::start(streaming()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let answer = rest(&mut stream).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 4"), "{text}");
    // Nor after an upgrade: the offer is passed over.
    let upgrade = "GET /livez HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAAQAAP__\r\n\
                   Connection: Upgrade, HTTP2-Settings, close\r\n\r\n";
    let answer = server.send(upgrade.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
