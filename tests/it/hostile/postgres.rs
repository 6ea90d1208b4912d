//! A Postgres that is none.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{SECRET, WATCHED, watch};
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Settings, command};
use crate::support::postgres::{self, turn};

type Playing = Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;
type Play = fn(Client) -> Playing;

/// A client that has sent its start-up packet, without TLS.
struct Client {
    stream: TcpStream,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends it until the client hangs up.
    async fn flood(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let many = bytes.repeat(1 + 65_536 / bytes.len());
        loop {
            self.send(&many).await?;
        }
    }

    /// Reads until the client hangs up, and keeps the beginning.
    async fn listen(&mut self) -> std::io::Result<()> {
        let mut piece = [0; 4096];
        loop {
            let count = self.stream.read(&mut piece).await?;
            if count == 0 {
                return Ok(());
            }
            let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
            if received.len() < 1 << 16 {
                received.extend_from_slice(&piece[..count]);
            }
        }
    }

    /// Reads up to the end of the next command: a simple query, or a Sync.
    async fn command(&mut self) -> std::io::Result<Vec<u8>> {
        let mut tags = Vec::new();
        loop {
            let tag = self.stream.read_u8().await?;
            let length = self.stream.read_u32().await? as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            self.stream.read_exact(&mut body).await?;
            tags.push(tag);
            if matches!(tag, b'Q' | b'S' | b'X') {
                return Ok(tags);
            }
        }
    }

    /// Lets the client in.
    async fn greet(&mut self) -> std::io::Result<()> {
        self.send(&greeting()).await
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn request(kind: u32, rest: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), rest].concat())
}

fn error(code: &str) -> Vec<u8> {
    message(b'E', format!("SERROR\0VERROR\0C{code}\0Mno\0\0").as_bytes())
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

fn greeting() -> Vec<u8> {
    let parameters = message(b'S', b"server_version\x0017.11\0");
    let key = message(b'K', &[0, 0, 0, 9, 0, 0, 0, 9]);
    [request(0, b""), parameters, key, ready()].concat()
}

/// A RowDescription of columns with these types.
fn columns(types: &[u32]) -> Vec<u8> {
    let mut body = (types.len() as u16).to_be_bytes().to_vec();
    for id in types {
        body.extend(b"c\0\0\0\0\0\0\0");
        body.extend(id.to_be_bytes());
        body.extend([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 1]);
    }
    message(b'T', &body)
}

/// The answer to a simple query: the server process that the greeting announced, of a primary.
fn process() -> Vec<u8> {
    let row = message(b'D', &[0, 2, 0, 0, 0, 1, b'9', 0, 0, 0, 1, b'f']);
    let end = message(b'C', b"SELECT 1\0");
    [columns(&[25, 25]), row, end, ready()].concat()
}

/// Answers each command as a server does whose rows have other columns than the statement selects.
async fn answer_with(client: &mut Client, types: &[u32], row: &[u8]) -> std::io::Result<()> {
    client.greet().await?;
    loop {
        let asked = client.command().await?;
        let mut answer = Vec::new();
        for tag in asked {
            answer.extend(match tag {
                b'P' => message(b'1', b""),
                b'D' => [message(b't', &[0, 0]), columns(types)].concat(),
                b'B' => message(b'2', b""),
                b'E' => [message(b'D', row), message(b'C', b"SELECT 1\0")].concat(),
                b'Q' => process(),
                b'C' => message(b'3', b""),
                _ => ready(),
            });
        }
        client.send(&answer).await?;
    }
}

/// A server on a port of its own, which ends with this value.
struct Scripted {
    address: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    connections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    async fn start(play: Play) -> Result<Scripted> {
        Scripted::beside(play, None).await
    }

    /// The same for replication connections; all others are served by a real server.
    async fn beside(play: Play, real: Option<u16>) -> Result<Scripted> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (kept, counted) = (Arc::clone(&received), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                let received = Arc::clone(&kept);
                tokio::spawn(async move {
                    let (stream, packet) = begin(stream).await?;
                    let streams = packet.windows(12).any(|word| word == b"replication\0");
                    match real.filter(|_| !streams) {
                        Some(port) => pass_on(stream, &packet, port).await,
                        None => play(Client { stream, received }).await,
                    }
                });
            }
        });
        Ok(Scripted {
            address,
            received,
            connections,
            task,
        })
    }

    fn url(&self, options: &str) -> String {
        format!(
            "postgresql://relay:{SECRET}@{}/orders{options}",
            self.address
        )
    }

    /// What the client sent after the start-up packet.
    fn received(&self) -> String {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&received).into_owned()
    }

    fn connections(&self) -> usize {
        *self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects the client with the real server behind this port.
async fn pass_on(mut client: TcpStream, packet: &[u8], port: u16) -> std::io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(packet).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Refuses TLS and reads the start-up packet.
async fn begin(mut stream: TcpStream) -> std::io::Result<(TcpStream, Vec<u8>)> {
    const SSL_REQUEST: u32 = 80_877_103;
    loop {
        let length = stream.read_u32().await? as usize;
        let code = stream.read_u32().await?;
        if code == SSL_REQUEST {
            stream.write_all(b"N").await?;
            continue;
        }
        let mut packet = [(length as u32).to_be_bytes(), code.to_be_bytes()].concat();
        packet.resize(length.clamp(8, 10_000), 0);
        stream.read_exact(&mut packet[8..]).await?;
        return Ok((stream, packet));
    }
}

fn settings(url: &str) -> Result<Settings> {
    Ok(Settings::nowhere()?
        .set("DATABASE_URL", url)
        .set("KAFKA_BROKERS", kafka::shared().brokers()))
}

/// Tricks before the end of the log-in, with words of what outboxd says.
const BEFORE_LOG_IN: [(&str, Play, &[&str]); 10] = [
    (
        "a password in clear text",
        |mut client| {
            Box::pin(async move {
                client.send(&request(3, b"")).await?;
                client.listen().await
            })
        },
        &["clear text", "sslmode=verify-full"],
    ),
    (
        "hashing without end",
        |mut client| {
            Box::pin(async move {
                client.send(&request(10, b"SCRAM-SHA-256\0\0")).await?;
                let mut head = [0; 5];
                client.stream.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                let mut body = vec![0; length - 4];
                client.stream.read_exact(&mut body).await?;
                let text = String::from_utf8_lossy(&body).into_owned();
                let nonce = text.rsplit("r=").next().unwrap_or_default();
                let first = format!("r={nonce}x,s=c2FsdA==,i=2000000000");
                client.send(&request(11, first.as_bytes())).await?;
                client.listen().await
            })
        },
        &["iterations of SCRAM"],
    ),
    (
        "a message of a gigabyte",
        |mut client| {
            Box::pin(async move {
                client.send(&[b'R', 0x40, 0, 0, 0]).await?;
                client.flood(&[0; 4096]).await
            })
        },
        &["claims a length of 1073741824 bytes"],
    ),
    (
        "notices without end",
        |mut client| {
            Box::pin(async move {
                client.send(&request(0, b"")).await?;
                let notice = message(b'N', b"SWARNING\0VWARNING\0C01000\0Mhello\0\0");
                client.flood(&notice).await
            })
        },
        &["before the end of the log-in"],
    ),
    (
        "parameters without end",
        |mut client| {
            Box::pin(async move {
                client.send(&request(0, b"")).await?;
                for number in 0.. {
                    let parameter = format!("name{number}\0value\0");
                    client.send(&message(b'S', parameter.as_bytes())).await?;
                }
                Ok(())
            })
        },
        &["more than 256 parameters"],
    ),
    (
        "another protocol",
        |mut client| {
            Box::pin(async move {
                client.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
                client.listen().await
            })
        },
        &["claims a length"],
    ),
    (
        "an unknown method",
        |mut client| {
            Box::pin(async move {
                client.send(&request(10, b"OAUTHBEARER\0\0")).await?;
                client.listen().await
            })
        },
        &["SASL mechanism"],
    ),
    (
        "half a message",
        |mut client| Box::pin(async move { client.send(&[b'R', 0, 0]).await }),
        &["CONNECT_ERROR"],
    ),
    (
        "nothing at all",
        |mut client| Box::pin(async move { client.listen().await }),
        &["starting"],
    ),
    (
        "a close",
        |_client| Box::pin(async move { Ok(()) }),
        &["CONNECT_ERROR"],
    ),
];

/// Tricks after it.
const AFTER_LOG_IN: [(&str, Play, &[&str]); 7] = [
    (
        "rows of other types",
        |mut client| {
            Box::pin(async move {
                let row = [0, 2, 0, 0, 0, 1, b'x', 0, 0, 0, 1, b'y'];
                answer_with(&mut client, &[25, 25], &row).await
            })
        },
        &["a row of another shape"],
    ),
    (
        "rows without columns",
        |mut client| Box::pin(async move { answer_with(&mut client, &[], &[0, 0]).await }),
        &["a row of another shape"],
    ),
    (
        "rows that end early",
        |mut client| {
            Box::pin(
                async move { answer_with(&mut client, &[23, 16], &[0, 2, 0, 0, 0, 99, 1]).await },
            )
        },
        &["CONNECT_ERROR"],
    ),
    (
        "errors without end",
        |mut client| {
            Box::pin(async move {
                client.greet().await?;
                loop {
                    client.command().await?;
                    client.send(&[error("XX000"), ready()].concat()).await?;
                }
            })
        },
        &["XX000"],
    ),
    (
        "notices without end",
        |mut client| {
            Box::pin(async move {
                client.greet().await?;
                client.command().await?;
                let notice = message(b'N', b"SWARNING\0VWARNING\0C01000\0Mhello\0\0");
                client.flood(&notice).await
            })
        },
        &["bytes of notices"],
    ),
    (
        "a row of a gigabyte",
        |mut client| {
            Box::pin(async move {
                client.greet().await?;
                client.command().await?;
                client.send(&[b'D', 0x40, 0, 0, 0]).await?;
                client.flood(&[0; 4096]).await
            })
        },
        &["claims a length of 1073741824 bytes"],
    ),
    (
        "an error of megabytes",
        |mut client| {
            Box::pin(async move {
                client.greet().await?;
                loop {
                    client.command().await?;
                    let text = "x".repeat(8 << 20);
                    let body = format!("SERROR\0VERROR\0CXX000\0M{text}\0\0");
                    let error = message(b'E', body.as_bytes());
                    client.send(&[error, ready()].concat()).await?;
                }
            })
        },
        &["XX000"],
    ),
];

async fn expect_each(cases: &[(&'static str, Play, &'static [&'static str])]) -> Result<()> {
    let mut watching = Vec::new();
    for &(case, play, words) in cases {
        watching.push(tokio::spawn(async move {
            let server = Scripted::start(play).await?;
            let watched = watch(&settings(&server.url(""))?, words).await?;
            watched.expect(case, words)?;
            watched.rested(case)?;
            ensure!(!server.received().contains(SECRET), "{case}: gave it away");
            // The pauses between two attempts grow.
            let connections = server.connections();
            ensure!(connections <= 24, "{case}: {connections} connections");
            anyhow::Ok(())
        }));
        // Some at once: each is a process of its own.
        if watching.len() == 4 {
            for case in watching.drain(..) {
                case.await.context("a case")??;
            }
        }
    }
    for case in watching {
        case.await.context("a case")??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_log_in_nothing_is_given_away_and_little_is_taken() -> Result<()> {
    expect_each(&BEFORE_LOG_IN).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_with_anything_is_an_error_with_a_name() -> Result<()> {
    expect_each(&AFTER_LOG_IN).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_gives_a_password_away_in_clear_text() -> Result<()> {
    let (_, play, words) = BEFORE_LOG_IN[0];
    let server = Scripted::start(play).await?;
    let settings = settings(&server.url("?sslmode=disable"))?;
    for arguments in [
        &["doctor"][..],
        &["status"],
        &["init"],
        &["drop", "--yes"],
        &["dead-letter", "list"],
        &["skip-transaction", "--lsn", "0/1"],
    ] {
        let output = command(&settings, arguments, WATCHED).await?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        ensure!(!output.status.success(), "{arguments:?}: {text}");
        ensure!(text.contains(words[0]), "{arguments:?}: {text}");
        ensure!(!text.contains(SECRET), "{arguments:?}: {text}");
    }
    ensure!(!server.received().contains(SECRET), "it was given away");
    // By demand it is sent.
    let demanded = settings.set(
        "DATABASE_URL",
        server.url("?sslmode=disable&require_auth=password"),
    );
    command(&demanded, &["status"], WATCHED * 4).await?;
    ensure!(server.received().contains(SECRET), "it was not sent");
    Ok(())
}

/// The SQL side is a real server; the login for replication leads to the trick.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_takes_no_more_from_a_stranger_than_the_statements_do() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(17)), kafka::shared()).await?;
    let tricks: [(&str, Play, &[&str]); 4] = [
        BEFORE_LOG_IN[0],
        BEFORE_LOG_IN[1],
        (
            "a gigabyte of CopyData before the stream",
            |mut client| {
                Box::pin(async move {
                    client.send(&[b'd', 0x40, 0, 0, 0]).await?;
                    client.flood(&[0; 4096]).await
                })
            },
            &["claims a length of 1073741824 bytes"],
        ),
        (
            "warnings without end",
            |mut client| {
                Box::pin(async move {
                    client.greet().await?;
                    let notice = message(b'N', b"SWARNING\0VWARNING\0C01000\0Mhello\0\0");
                    client.flood(&notice).await
                })
            },
            &["postgres sent a warning", "bytes of notices"],
        ),
    ];
    let name = &fixture.database.name;
    for (case, play, words) in tricks {
        let real = postgres::shared(turn(17)).port();
        let server = Scripted::beside(play, Some(real)).await?;
        let url = server.url("?sslmode=disable");
        let url = url
            .replace("/orders", &format!("/{name}"))
            .replace("relay:", "postgres:");
        let settings = fixture.settings.clone().set("REPLICATION_URL", url);
        let watched = watch(&settings, words).await?;
        watched.expect(case, words)?;
        watched.rested(case)?;
        ensure!(!server.received().contains(SECRET), "{case}: gave it away");
    }
    Ok(())
}
