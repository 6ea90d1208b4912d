//! What a cluster says of itself, by a broker that is scripted.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::kafka::survey;
use crate::kafka::tests::producer::config;

const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const UNSUPPORTED_VERSION: i16 = 35;

/// Versions of requests: the key, and the lowest and the highest version.
fn versions(error: i16, of: &[[i16; 3]]) -> Vec<u8> {
    let mut answer = error.to_be_bytes().to_vec();
    answer.extend((of.len() as i32).to_be_bytes());
    answer.extend(of.iter().flatten().flat_map(|it| it.to_be_bytes()));
    answer
}

/// A cluster of one broker at this port, and no topic.
fn cluster(port: u16) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as i16).to_be_bytes(), text.as_bytes()].concat();
    let (none, id) = ((-1i16).to_be_bytes(), 7i32.to_be_bytes());
    let parts: [&[u8]; 9] = [
        &1i32.to_be_bytes(),
        &id,
        &text("127.0.0.1"),
        &i32::from(port).to_be_bytes(),
        &none,
        &text("scripted"),
        &id,
        &0i32.to_be_bytes(),
        &[],
    ];
    parts.concat()
}

/// Answers which versions the broker has, and the first request for metadata alone.
async fn serve(mut stream: TcpStream, advertised: u16) -> std::io::Result<()> {
    let mut has_answered = false;
    loop {
        let size = stream.read_i32().await?;
        let mut request = vec![0; size as usize];
        stream.read_exact(&mut request).await?;
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let answer = match (number(0), number(2)) {
            (API_VERSIONS, 0) => versions(0, &[[API_VERSIONS, 0, 0], [METADATA, 0, 2]]),
            (API_VERSIONS, _) => versions(UNSUPPORTED_VERSION, &[[API_VERSIONS, 0, 0]]),
            (METADATA, 2) if !has_answered => {
                has_answered = true;
                cluster(advertised)
            }
            _ => continue,
        };
        stream.write_i32(answer.len() as i32 + 4).await?;
        stream.write_all(&request[4..8]).await?;
        stream.write_all(&answer).await?;
    }
}

/// librdkafka closes the bootstrap connection once it has the list: nothing else answers.
#[tokio::test]
async fn brokers_are_known_from_the_first_answer_whether_they_are_reached_or_not() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertised = closed.local_addr().unwrap().port();
    drop(closed);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bootstrap = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, advertised));
        }
    });
    let config = config(&bootstrap);
    let brokers = survey::brokers(&config, Duration::from_secs(10));
    let brokers = brokers.await.unwrap();
    let found: Vec<_> = brokers
        .iter()
        .map(|it| (it.id, &*it.host, it.port))
        .collect();
    assert_eq!(found, [(7, "127.0.0.1", advertised)]);
}
