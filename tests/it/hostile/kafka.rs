//! A Kafka that is none.

use std::future::Future;
use std::pin::Pin;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::watch;
use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::postgres::{self, turn};

type Playing = Pin<Box<dyn Future<Output = std::io::Result<()>> + Send>>;
type Play = fn(TcpStream) -> Playing;

async fn flood(stream: &mut TcpStream, head: &[u8]) -> std::io::Result<()> {
    stream.write_all(head).await?;
    loop {
        stream.write_all(&[0; 65_536]).await?;
    }
}

const FLOOD: &str = "answers to no question";

const TRICKS: [(&str, Play); 7] = [
    ("a close", |_stream| Box::pin(async move { Ok(()) })),
    ("silence", |mut stream| {
        Box::pin(async move {
            let mut piece = [0; 4096];
            while stream.read(&mut piece).await? > 0 {}
            Ok(())
        })
    }),
    ("another protocol", |mut stream| {
        Box::pin(async move {
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
            flood(&mut stream, answer).await
        })
    }),
    ("an answer of two gigabytes", |mut stream| {
        Box::pin(async move { flood(&mut stream, &[0x7f, 0xff, 0xff, 0xff]).await })
    }),
    ("an answer of 30 megabytes", |mut stream| {
        Box::pin(async move { flood(&mut stream, &30_000_000_u32.to_be_bytes()).await })
    }),
    ("an answer of 99 megabytes", |mut stream| {
        Box::pin(async move { flood(&mut stream, &99_000_000_u32.to_be_bytes()).await })
    }),
    (FLOOD, |mut stream| {
        Box::pin(async move {
            loop {
                let answer = [0, 0, 0, 8, 0, 0, 0x77, 0x77, 0, 0, 0, 0];
                stream.write_all(&answer).await?;
            }
        })
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_sends_anything_is_waited_for_by_name_and_costs_no_event() -> Result<()> {
    let fixture = Fixture::create(postgres::shared(turn(15)), kafka::shared()).await?;
    let (database, topic) = (&fixture.database, &fixture.topic);
    database.insert("held", topic, "{}").await?;
    for (case, play) in TRICKS {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let broker = listener.local_addr()?.to_string();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(play(stream));
            }
        });
        let settings = fixture.settings.clone().set("KAFKA_BROKERS", broker);
        let words = ["\"on\":\"kafka\""];
        let watched = watch(&settings, &words).await.context(case)?;
        server.abort();
        watched.expect(case, &words)?;
        // librdkafka reads as fast as a broker sends.
        if case != FLOOD {
            watched.rested(case)?;
        }
        ensure!(watched.exit.is_none(), "{case}: {}", watched.log);
        let session = database.connect().await?;
        let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
        ensure!(session.value::<i64>(dead_letters).await? == 0, "{case}");
    }
    Ok(())
}
