//! The client against servers that send anything: recorded sessions, and thousands of mutations of
//! them.
//!
//! `corpus/` has the bytes that a server of each major version sent in one replication session: the
//! log-in by SCRAM, IDENTIFY_SYSTEM, a SELECT, a statement that fails, CREATE_REPLICATION_SLOT, and
//! the stream of inserts, an update, DDL, a delete and a TRUNCATE, up to pg_terminate_backend.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_postgres::config::{ChannelBinding, TargetSessionAttrs};

use crate::config::RequireAuth;
use crate::error::Result;
use crate::fuzz::{mutated, seeds};
use crate::lsn::Lsn;
use crate::pgoutput::Message;
use crate::postgres::transport::{AuthenticationPolicy, Inspector, Limits, Socket};
use crate::replication::auth::Credentials;
use crate::replication::connection::Connection;
use crate::replication::startup::{self, Login};
use crate::replication::{Frame, ReplicationClient, SessionOptions, Transport};

const CORPUS: [(u32, &[u8]); 5] = [
    (14, include_bytes!("corpus/14.bin")),
    (15, include_bytes!("corpus/15.bin")),
    (16, include_bytes!("corpus/16.bin")),
    (17, include_bytes!("corpus/17.bin")),
    (18, include_bytes!("corpus/18.bin")),
];

/// Rows are shortened beyond this many bytes.
const ROW_MAX: usize = 1 << 20;

/// The most that the read buffer may grow to: a row, a long control message, and room to read.
const BUFFER_MAX: usize = 8 << 20;

/// The recorded bytes for a client without a password: the exchange of SCRAM depends on a random
/// number.
fn without_scram(major: u32, recorded: &[u8]) -> Vec<u8> {
    let ok = [b'R', 0, 0, 0, 8, 0, 0, 0, 0];
    let at = recorded.windows(ok.len()).position(|bytes| bytes == ok);
    let mut bytes = recorded[at.unwrap()..].to_vec();
    if major >= 17 {
        // The client's first statement there is a SET.
        let ready = [b'Z', 0, 0, 0, 5, b'I'];
        let at = bytes.windows(6).position(|bytes| bytes == ready).unwrap() + 6;
        let answer = [b"C\0\0\0\x08SET\0".as_slice(), &ready].concat();
        bytes.splice(at..at, answer);
    }
    bytes
}

/// What a session understood before it ended.
#[derive(Debug, Default)]
struct Understood {
    messages: usize,
    inserts: usize,
    buffer: usize,
    end: String,
}

/// Plays these bytes to a client that does what the publisher does.
async fn play(bytes: &[u8]) -> Understood {
    let (ours, mut theirs) = tokio::io::duplex(1 << 20);
    let connection = Connection::new(Socket::Scripted(ours), "db.example:5432".into());
    theirs.write_all(bytes).await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut understood = Understood::default();
    let ended = session(connection, &mut understood).await;
    understood.end = ended.map_or_else(|error| error.report(), |()| "closed".to_owned());
    understood
}

async fn session(connection: Connection, understood: &mut Understood) -> Result<()> {
    let options = SessionOptions {
        wal_sender_timeout: Duration::from_secs(30),
        idle_session_timeout: Duration::from_secs(30),
        command_timeout: Duration::from_secs(25),
        application_name: "outboxd test".into(),
    };
    let login = Login {
        database: "orders",
        credentials: Credentials {
            user: "publisher",
            password: Some(b"open sesame"),
            channel_binding: ChannelBinding::Prefer,
            require_auth: &RequireAuth::default(),
        },
        options: None,
        session: &options,
        target: TargetSessionAttrs::Any,
    };
    let logged_in = startup::log_in(connection, Transport::Tcp, &login).await?;
    let mut client = ReplicationClient::from_session(logged_in);
    client.limit_rows(ROW_MAX);
    client.identify_system().await?;
    client.query("SELECT pg_postmaster_start_time()").await?;
    let _fails = client.query("SELECT 1/0").await;
    client.create_temporary_slot("s").await?;
    client.start("s", Lsn::INVALID, "p").await?;
    loop {
        client.readable().await?;
        while let Some(frame) = client.next()? {
            match frame {
                Frame::XLogData { payload, .. } => {
                    understood.messages += 1;
                    let message = Message::decode(payload)?;
                    understood.inserts += usize::from(matches!(message, Message::Insert(_)));
                }
                Frame::Keepalive { .. } => {}
                Frame::CopyDone => return Ok(()),
            }
        }
        understood.buffer = understood.buffer.max(client.connection.buffer_capacity());
    }
}

#[tokio::test(start_paused = true)]
async fn what_each_server_version_sends_is_understood_to_its_last_word() {
    for (major, recorded) in CORPUS {
        let understood = play(&without_scram(major, recorded)).await;
        assert_eq!(understood.inserts, 3, "{major}: {understood:?}");
        assert!(understood.end.contains("57P01"), "{major}: {understood:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_a_server_sends_ends_in_an_error_or_an_end() {
    let (mut ends, mut inserts) = (0, 0);
    for seed in seeds(3_000) {
        let (major, recorded) = CORPUS[seed as usize % CORPUS.len()];
        let whole = match seed % 3 {
            0 => recorded.to_vec(),
            _ => without_scram(major, recorded),
        };
        let bytes = mutated(&whole, seed);
        let played = play(&bytes);
        let limit = Duration::from_secs(3_600);
        let understood = tokio::time::timeout(limit, played).await;
        let understood = understood.unwrap_or_else(|_| panic!("seed {seed} waits for ever"));
        assert!(
            understood.buffer <= BUFFER_MAX,
            "seed {seed}: {understood:?}"
        );
        ends += usize::from(!understood.end.is_empty());
        inserts += understood.inserts;
    }
    // The mutations are small enough to get through to the stream.
    assert!(
        ends > 0 && inserts > ends / 2,
        "{inserts} inserts in {ends} sessions"
    );
}

#[test]
fn whatever_a_server_sends_to_an_sql_session_is_passed_or_refused() {
    for seed in seeds(3_000) {
        let (_, recorded) = CORPUS[seed as usize % CORPUS.len()];
        let bytes = mutated(recorded, seed);
        let (near, _far) = tokio::io::duplex(1);
        let socket = Socket::Scripted(near);
        let policy = AuthenticationPolicy::new(&RequireAuth::default(), &socket);
        let mut inspector = Inspector::new(policy, Limits { row: ROW_MAX });
        for part in bytes.chunks(1 + seed as usize % 900) {
            if inspector.feed(part).is_err() {
                break;
            }
        }
    }
}
