//! The client against a server that plays a script, byte by byte, over an in-memory pipe.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout};
use tokio_postgres::config::{ChannelBinding, TargetSessionAttrs};

use crate::config::RequireAuth;
use crate::error::{Code, Result};
use crate::lsn::Lsn;
use crate::postgres::ServerError;
use crate::postgres::transport::Socket;
use crate::replication::auth::Credentials;
use crate::replication::buffer::INITIAL;
use crate::replication::connection::Connection;
use crate::replication::message::STATUS_LEN;
use crate::replication::startup::{self, Login};
use crate::replication::{
    Frame, ReplicationClient, SessionOptions, StandbyStatusUpdate, Transport,
};

const PASSWORD: &[u8] = b"open sesame";

/// CopyData framing around a status update.
const STATUS_ON_THE_WIRE: usize = 5 + STATUS_LEN;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

fn error(severity: &str, code: &str, text: &str) -> Vec<u8> {
    message(
        b'E',
        format!("S{severity}\0V{severity}\0C{code}\0M{text}\0\0").as_bytes(),
    )
}

fn authentication(kind: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), rest].concat())
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn greeting(version: &str) -> Vec<u8> {
    [
        message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mhello\0\0"),
        message(b'S', format!("server_version\0{version}\0").as_bytes()),
        message(b'S', b"TimeZone\0UTC\0"),
        message(b'K', &[0, 0, 0, 42, 0, 0, 0, 7]),
        ready(),
    ]
    .concat()
}

fn x_log_data(payload: &[u8]) -> Vec<u8> {
    message(b'd', &[b"w", [0_u8; 24].as_slice(), payload].concat())
}

fn keepalive(wal_end: u64, reply: u8) -> Vec<u8> {
    message(
        b'd',
        &[b"k", wal_end.to_be_bytes().as_slice(), &[0; 8], &[reply]].concat(),
    )
}

/// The server's side of the pipe.
struct Script(DuplexStream);

impl Script {
    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn startup(&mut self) -> String {
        let length = self.0.read_u32().await.unwrap() as usize;
        String::from_utf8_lossy(&self.take(length - 4).await).replace('\0', " ")
    }

    async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.0.read_u8().await.unwrap();
        let length = self.0.read_u32().await.unwrap() as usize;
        (tag, self.take(length - 4).await)
    }

    async fn status(&mut self) -> StandbyStatusUpdate {
        let (tag, body) = self.message().await;
        assert_eq!(tag, b'd');
        StandbyStatusUpdate::parse(&body).unwrap().0
    }
}

fn pipe(capacity: usize) -> (Connection, Script) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    (
        Connection::new(Socket::Scripted(ours), "db.example:5432".into()),
        Script(theirs),
    )
}

async fn log_in(
    connection: Connection,
    password: Option<&[u8]>,
    channel_binding: ChannelBinding,
) -> Result<ReplicationClient> {
    let options = SessionOptions {
        wal_sender_timeout: Duration::from_secs(30),
        idle_session_timeout: Duration::from_millis(1500),
        command_timeout: Duration::from_secs(25),
        application_name: "outboxd test".into(),
    };
    let login = Login {
        database: "orders",
        credentials: Credentials {
            user: "publisher",
            password,
            channel_binding,
            require_auth: &RequireAuth::default(),
        },
        options: Some("-c search_path=x"),
        session: &options,
        target: TargetSessionAttrs::Any,
    };
    startup::log_in(connection, Transport::Tcp, &login)
        .await
        .map(ReplicationClient::from_session)
}

/// Plays `answers` to the start-up packet and to each client message after it; returns the error.
async fn refused(password: Option<&[u8]>, binding: ChannelBinding, answers: &[Vec<u8>]) -> String {
    let (connection, mut script) = pipe(1 << 16);
    let play = async move {
        script.startup().await;
        script.send(&answers[0]).await;
        for answer in &answers[1..] {
            script.message().await;
            script.send(answer).await;
        }
        script
    };
    let (outcome, _script) = tokio::join!(log_in(connection, password, binding), play);
    let error = outcome.unwrap_err();
    assert!(!error.is_transient(), "{}", error.report());
    assert!(!error.report().contains("sesame"), "{}", error.report());
    error.report()
}

async fn connected(capacity: usize) -> (ReplicationClient, Script) {
    let (connection, mut script) = pipe(capacity);
    let play = async move {
        script.startup().await;
        script
            .send(&[authentication(0, b""), greeting("15.18 (Debian)")].concat())
            .await;
        script
    };
    let (client, script) = tokio::join!(log_in(connection, None, ChannelBinding::Prefer), play);
    (client.unwrap(), script)
}

async fn streaming(capacity: usize) -> (ReplicationClient, Script) {
    let (mut client, mut script) = connected(capacity).await;
    let play = async move {
        let (tag, sql) = script.message().await;
        assert_eq!((tag, &sql[..17]), (b'Q', b"START_REPLICATION".as_slice()));
        script.send(&message(b'W', &[0, 0, 0])).await;
        script
    };
    let (started, script) = tokio::join!(client.start("slot", Lsn::INVALID, "pub"), play);
    started.unwrap();
    // Start-up's reads count too; the tests count only the bytes after it.
    client.try_read().unwrap();
    (client, script)
}

fn status(position: u64) -> StandbyStatusUpdate {
    let lsn = Lsn::new(position);
    StandbyStatusUpdate {
        write: lsn,
        flush: lsn,
        apply: lsn,
        reply_requested: false,
    }
}

#[tokio::test]
async fn the_session_prints_text_one_way_and_has_no_timeouts_but_the_callers() {
    let (connection, mut script) = pipe(1 << 16);
    let play = async move {
        let packet = script.startup().await;
        script
            .send(&[authentication(0, b""), greeting("17.5")].concat())
            .await;
        let (tag, sql) = script.message().await;
        script
            .send(&[message(b'C', b"SET\0"), ready()].concat())
            .await;
        (packet, tag, String::from_utf8(sql).unwrap(), script)
    };
    let (client, (packet, tag, sql, _script)) =
        tokio::join!(log_in(connection, None, ChannelBinding::Prefer), play);
    for pair in [
        "user publisher",
        "database orders",
        "replication database",
        "application_name outboxd test",
        "wal_sender_timeout 30000",
        "idle_session_timeout 1500",
        "options -c search_path=x",
        "client_encoding UTF8",
        "search_path pg_catalog",
        "DateStyle ISO",
        "IntervalStyle postgres",
        "TimeZone UTC",
        "bytea_output hex",
        "extra_float_digits 3",
        "statement_timeout 0",
        "lock_timeout 0",
        "idle_in_transaction_session_timeout 0",
        "tcp_user_timeout 0",
    ] {
        assert!(
            packet.contains(&format!(" {pair} ")),
            "{pair} is not in {packet}"
        );
    }
    assert_eq!((tag, sql.as_str()), (b'Q', "SET transaction_timeout = 0\0"));
    let client = client.unwrap();
    assert_eq!(
        (client.server_version(), client.backend_pid()),
        (170_005, 42)
    );
    assert_eq!(client.describe(), "db.example:5432");
}

#[tokio::test]
async fn a_refused_password_is_fatal_and_not_repeated_in_the_error() {
    let refusal = error("FATAL", "28P01", "password authentication failed");
    for request in [authentication(3, b""), authentication(5, b"salt")] {
        let report = refused(
            Some(PASSWORD),
            ChannelBinding::Prefer,
            &[request, refusal.clone()],
        )
        .await;
        assert!(report.contains("db.example:5432"), "{report}");
        assert!(
            report.contains("password authentication failed"),
            "{report}"
        );
    }
}

#[tokio::test]
async fn a_password_that_is_not_configured_is_fatal() {
    for request in [
        authentication(3, b""),
        authentication(5, b"salt"),
        authentication(10, b"SCRAM-SHA-256\0\0"),
    ] {
        let report = refused(None, ChannelBinding::Prefer, &[request]).await;
        assert!(report.contains("needs a password"), "{report}");
    }
}

#[tokio::test]
async fn required_channel_binding_cannot_be_talked_away() {
    for request in [
        authentication(0, b""),
        authentication(3, b""),
        authentication(5, b"salt"),
        authentication(10, b"SCRAM-SHA-256\0\0"),
    ] {
        let report = refused(Some(PASSWORD), ChannelBinding::Require, &[request]).await;
        assert!(report.contains("channel binding"), "{report}");
    }
}

#[tokio::test]
async fn a_server_that_skips_its_half_of_scram_is_refused() {
    let (connection, mut script) = pipe(1 << 16);
    let play = async move {
        script.startup().await;
        script.send(&authentication(10, b"SCRAM-SHA-256\0\0")).await;
        script.message().await;
        script
            .send(&[authentication(0, b""), greeting("15.1")].concat())
            .await;
        script
    };
    let (outcome, _script) = tokio::join!(
        log_in(connection, Some(PASSWORD), ChannelBinding::Prefer),
        play
    );
    assert_eq!(outcome.unwrap_err().code(), Code::Connect);
}

#[tokio::test]
async fn an_error_leaves_the_session_usable_and_a_dropped_query_does_not() {
    let (mut client, mut script) = connected(1 << 16).await;
    let refusal = [error("ERROR", "42704", "no such slot"), ready()].concat();
    script.send(&refusal).await;
    let error = client.start("gone", Lsn::INVALID, "pub").await.unwrap_err();
    assert!(error.message().contains("gone"), "{}", error.report());

    let row = [&[0, 2, 0, 0, 0, 1, b'1'], [0xff; 4].as_slice()].concat();
    let answer = [
        message(b'T', &[0, 0]),
        message(b'D', &row),
        message(b'C', b"SELECT 1\0"),
        ready(),
    ];
    script.send(&answer.concat()).await;
    assert_eq!(
        client.query("SELECT 1, NULL").await.unwrap(),
        [[Some("1".into()), None]]
    );

    let timed_out = timeout(Duration::ZERO, client.query("SELECT pg_sleep(9)")).await;
    assert!(timed_out.is_err());
    script.send(&ready()).await;
    assert!(client.query("SELECT 2").await.unwrap_err().is_transient());
}

#[tokio::test]
async fn the_reason_that_a_closing_server_gives_is_the_error() {
    let (mut client, mut script) = connected(1 << 16).await;
    script
        .send(&error("FATAL", "57P01", "terminating connection"))
        .await;
    drop(script);
    let error = client.query("SELECT 1").await.unwrap_err();
    assert!(
        error.report().contains("terminating connection"),
        "{}",
        error.report()
    );
}

#[tokio::test]
async fn a_stream_that_does_not_begin_is_an_error() {
    let (mut client, mut script) = connected(1 << 16).await;
    script
        .send(&[message(b'C', b"SELECT\0"), ready()].concat())
        .await;
    let error = client.start("slot", Lsn::INVALID, "pub").await.unwrap_err();
    assert!(error.report().contains("instead of"), "{}", error.report());
}

#[tokio::test(start_paused = true)]
async fn half_a_header_is_waited_for_and_nothing_is_lost_when_the_wait_is_dropped() {
    let (mut client, mut script) = streaming(1 << 16).await;
    let bytes = x_log_data(b"event");
    for byte in &bytes[..bytes.len() - 1] {
        script.send(&[*byte]).await;
        client.readable().await.unwrap();
        assert_eq!(client.next().unwrap(), None);
        timeout(Duration::from_secs(9), client.readable())
            .await
            .unwrap_err();
    }
    script.send(&bytes[bytes.len() - 1..]).await;
    client.readable().await.unwrap();
    let Some(Frame::XLogData { payload, .. }) = client.next().unwrap() else {
        panic!("no event")
    };
    assert_eq!(payload, b"event");
    // Bytes read by the waits count once.
    assert_eq!(client.try_read().unwrap(), bytes.len());
    assert_eq!(client.try_read().unwrap(), 0);
}

#[tokio::test]
async fn the_end_of_the_stream_does_not_hide_the_reason_that_came_before_it() {
    for read_on in [false, true] {
        let (mut client, mut script) = streaming(1 << 16).await;
        let last = error("FATAL", "57P01", "terminating connection");
        script.send(&last).await;
        drop(script);
        client.readable().await.unwrap();
        if read_on {
            client.readable().await.unwrap();
        }
        assert_eq!(client.try_read().unwrap(), last.len());
        assert_eq!(client.try_read().unwrap(), 0);
        let error = client.next().unwrap_err();
        assert!(error.report().contains("57P01"), "{}", error.report());
        let error = client.try_read().unwrap_err();
        assert!(error.message().contains("closed"), "{}", error.report());
    }
}

#[tokio::test]
async fn a_keepalive_that_asks_is_answered_with_the_status_that_the_caller_gives() {
    let (mut client, mut script) = streaming(1 << 16).await;
    script.send(&keepalive(77, 1)).await;
    client.readable().await.unwrap();
    let asked = Frame::Keepalive {
        wal_end: Lsn::new(77),
        reply_requested: true,
    };
    assert_eq!(client.next().unwrap(), Some(asked));
    client.queue_status(status(77));
    assert!(client.try_flush().unwrap());
    assert_eq!(script.status().await, status(77));
}

/// What `keepalive(5, 0)` is read as.
const AT_FIVE: Frame<'static> = Frame::Keepalive {
    wal_end: Lsn::new(5),
    reply_requested: false,
};

#[tokio::test]
async fn notices_and_parameters_in_the_stream_are_passed_over() {
    let (mut client, mut script) = streaming(1 << 16).await;
    let bytes = [
        message(b'N', b"SWARNING\0VWARNING\0C01000\0Mmind the gap\0\0"),
        message(b'S', b"TimeZone\0UTC\0"),
        keepalive(5, 0),
    ];
    script.send(&bytes.concat()).await;
    client.readable().await.unwrap();
    assert_eq!(client.next().unwrap(), Some(AT_FIVE));
}

#[tokio::test]
async fn the_stream_ends_before_it_passes_what_a_missing_publication_leaves_out() {
    let (mut client, mut script) = streaming(1 << 16).await;
    let warning = |routine: &str| {
        let fields = format!("SWARNUNG\0VWARNING\0C55000\0Mfehlt\0R{routine}\0\0");
        message(b'N', fields.as_bytes())
    };
    let bytes = [
        warning("ReplicationSlotRelease"),
        keepalive(5, 0),
        warning("LoadPublications"),
        keepalive(6, 0),
    ];
    script.send(&bytes.concat()).await;
    client.readable().await.unwrap();
    assert_eq!(client.next().unwrap(), Some(AT_FIVE));
    let error = client.next().unwrap_err();
    assert_eq!(error.code(), Code::Slot);
    let server = ServerError::of(&error).unwrap();
    assert!(server.is_skipped_publication(), "{}", error.report());
}

#[tokio::test]
async fn an_error_in_the_stream_comes_after_what_was_sent_before_it() {
    let (mut client, mut script) = streaming(1 << 16).await;
    let bytes = [
        x_log_data(b"last"),
        error("FATAL", "57P01", "terminating connection"),
    ];
    script.send(&bytes.concat()).await;
    drop(script);
    client.readable().await.unwrap();
    assert!(matches!(
        client.next(),
        Ok(Some(Frame::XLogData {
            payload: b"last",
            ..
        }))
    ));
    let error = client.next().unwrap_err();
    assert!(
        error.report().contains("terminating connection"),
        "{}",
        error.report()
    );
    assert!(client.readable().await.unwrap_err().is_transient());
}

#[tokio::test]
async fn garbage_in_the_stream_is_an_error() {
    for bytes in [
        message(b'd', b"?"),
        message(b'd', b""),
        message(b'T', b""),
        vec![b'd', 0, 0, 0, 3],
    ] {
        let (mut client, mut script) = streaming(1 << 16).await;
        script.send(&bytes).await;
        client.readable().await.unwrap();
        assert_eq!(client.next().unwrap_err().code(), Code::Replication);
    }
}

#[tokio::test]
async fn the_end_of_the_stream_is_transient() {
    let (mut client, mut script) = streaming(1 << 16).await;
    script.send(&x_log_data(b"torn")[..9]).await;
    drop(script);
    client.readable().await.unwrap();
    assert_eq!(client.next().unwrap(), None);
    let error = client.try_read().unwrap_err();
    assert!(error.is_transient());
    assert_eq!(error.code(), Code::Replication);
}

#[tokio::test]
async fn memory_for_a_large_event_is_given_back_when_it_was_taken() {
    let (mut client, mut script) = streaming(1 << 16).await;
    let large = vec![b'x'; 10 << 20];
    let bytes = [x_log_data(&large), x_log_data(b"small")].concat();
    let play = tokio::spawn(async move {
        script.send(&bytes).await;
        script
    });
    let mut taken = vec![];
    let mut highest = 0;
    while taken.len() < 2 {
        client.readable().await.unwrap();
        highest = highest.max(client.connection.buffer_capacity());
        while let Some(Frame::XLogData { payload, .. }) = client.next().unwrap() {
            taken.push(payload.len());
        }
    }
    assert_eq!(taken, [large.len(), 5]);
    assert!(highest < large.len() + 2 * INITIAL, "{highest} bytes");
    let mut script = play.await.unwrap();
    script.send(&keepalive(1, 0)).await;
    client.readable().await.unwrap();
    assert_eq!(client.connection.buffer_capacity(), INITIAL);
}

#[tokio::test]
async fn a_status_that_is_half_written_stays_whole_and_an_unsent_one_gives_way_to_a_newer() {
    let (mut client, mut script) = streaming(1 << 16).await;
    let (ours, theirs) = tokio::io::duplex(10);
    client.connection = Connection::new(Socket::Scripted(ours), "narrow:5432".into());
    script.0 = theirs;

    client.queue_status(status(1));
    assert!(!client.try_flush().unwrap());
    client.queue_status(StandbyStatusUpdate {
        reply_requested: true,
        ..status(2)
    });
    assert!(!client.try_flush().unwrap());
    client.queue_status(status(3));

    let mut wire = vec![];
    while wire.len() < 2 * STATUS_ON_THE_WIRE {
        wire.extend(script.take(3).await);
        client.try_flush().unwrap();
    }
    assert!(client.try_flush().unwrap());
    let statuses: Vec<_> = wire
        .chunks(STATUS_ON_THE_WIRE)
        .map(|bytes| StandbyStatusUpdate::parse(&bytes[5..]).unwrap().0)
        .collect();
    // The reply request is kept.
    let newest = StandbyStatusUpdate {
        reply_requested: true,
        ..status(3)
    };
    assert_eq!(statuses, [status(1), newest]);
}

#[tokio::test]
async fn waiting_for_bytes_writes_what_is_queued() {
    let (mut client, mut script) = streaming(1 << 16).await;
    client.queue_status(status(9));
    let play = async move {
        let status = script.status().await;
        script.send(&keepalive(9, 0)).await;
        (status, script)
    };
    let (readable, (sent, _script)) = tokio::join!(client.readable(), play);
    readable.unwrap();
    assert_eq!(sent, status(9));
}

#[tokio::test]
async fn the_end_of_the_copy_waits_for_the_server_behind_what_it_still_sends() {
    let (mut client, mut script) = streaming(1 << 16).await;
    client.queue_status(status(3));
    let play = async move {
        assert_eq!(script.status().await, status(3));
        assert_eq!(script.message().await.0, b'c');
        let rest = [
            x_log_data(b"rest"),
            message(b'c', b""),
            message(b'C', b"COPY 0\0"),
            ready(),
        ];
        script.send(&rest.concat()).await;
        assert_eq!(script.message().await.0, b'X');
        assert_eq!(script.0.read(&mut [0]).await.unwrap(), 0);
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let (ended, ()) = tokio::join!(client.finish_copy(deadline), play);
    assert!(ended.unwrap());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_copy_gives_up_at_its_deadline() {
    let (client, _script) = streaming(1 << 16).await;
    let deadline = Instant::now() + Duration::from_secs(2);
    assert!(!client.finish_copy(deadline).await.unwrap());
    assert!(Instant::now() < deadline + Duration::from_secs(2));
}

#[tokio::test]
async fn a_server_that_shuts_down_completes_the_copy_and_closes() {
    let (mut client, mut script) = streaming(1 << 16).await;
    script.send(&message(b'C', b"COPY 0\0")).await;
    drop(script);
    client.readable().await.unwrap();
    assert_eq!(client.next().unwrap(), Some(Frame::CopyDone));
    assert_eq!(client.next().unwrap(), None);
    let deadline = Instant::now() + Duration::from_secs(60);
    assert!(client.finish_copy(deadline).await.unwrap());
}

#[cfg(debug_assertions)]
#[tokio::test]
#[should_panic(expected = "confirms more than was received")]
async fn confirming_more_than_was_received_is_caught_in_debug_builds() {
    let (mut client, _script) = streaming(1 << 16).await;
    client.queue_status(StandbyStatusUpdate {
        flush: Lsn::new(8),
        ..status(7)
    });
}
