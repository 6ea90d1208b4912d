//! What is wrong between outboxd and Kafka is one line of the log with its cause and a hint, before
//! the first event and later, and outboxd is not ready. It ends without a restart.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::secured::certificate;
use crate::support::kafka::{self, Kafka, Outer};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database, Server};
use crate::support::run_cases;
use crate::support::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

const TLS: &str = "security.protocol=SSL";
const SASL: &str = "security.protocol=SASL_PLAINTEXT,sasl.username=app";

/// A wrong set-up: the brokers, the properties, and words of the line that names it.
struct Mistake {
    brokers: String,
    properties: String,
    words: [&'static str; 2],
}

impl Mistake {
    fn new(brokers: impl Into<String>, properties: &str, words: [&'static str; 2]) -> Self {
        Mistake {
            brokers: brokers.into(),
            properties: properties.to_owned(),
            words,
        }
    }

    /// Runs outboxd with it until the line is there, and a while longer.
    async fn run(self, server: &'static Server) -> Result<()> {
        let database = Database::create(server).await?;
        let settings = Settings::nowhere()?
            .set("DATABASE_URL", database.unix_url())
            .set("KAFKA_BROKERS", &self.brokers)
            .set("KAFKA_PROPERTIES", &self.properties)
            .polling();
        init(&settings).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.wait_for_phase("polling", LIMIT).await?;
        let words = self.words;
        wait_until("readiness to name it", LIMIT, async || {
            let (code, why) = outboxd.get("/readyz").await?;
            ensure!(code == 503, "{code} {why}");
            let is_named = words.iter().all(|word| why.contains(word));
            Ok(is_named.then_some(()).ok_or(why))
        })
        .await?;
        let words = [&["WARN", "no Kafka broker has answered"], &self.words[..]].concat();
        outboxd.wait_for_log(&words, LIMIT).await?;
        outboxd
            .wait_for_status("the wait to last", LIMIT, |status| {
                status["waiting"]["seconds"].as_f64() > Some(25.0)
            })
            .await?;
        let log = outboxd.log();
        let warnings = log.lines().filter(|line| !line.contains(" INFO "));
        // A second line is due after 30 s.
        let waited = outboxd.status().await?["waiting"]["seconds"].as_f64();
        let due = if waited > Some(30.0) { 2 } else { 1 };
        ensure!((1..=due).contains(&warnings.count()), "{log}");
        assert_eq!(outboxd.get("/livez").await?.0, 200);
        assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
        Ok(())
    }
}

/// A listener that takes connections and answers each with these bytes, or never.
fn foreign(answer: &'static [u8]) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { break };
            if answer.is_empty() {
                kept.push(stream);
            } else {
                let _ = stream.read(&mut [0; 1024]);
                let _ = stream.write_all(answer);
            }
        }
    });
    Ok(address)
}

/// A broker with a second listener with TLS, whose certificate is for 127.0.0.1.
struct WithTls {
    kafka: Kafka,
    folder: tempfile::TempDir,
}

impl WithTls {
    fn start(valid: (i64, i64)) -> Result<WithTls> {
        let folder = tempfile::tempdir()?;
        let (broker, key) = certificate(valid.0, valid.1)?;
        let store = folder.path().join("broker.pem");
        std::fs::write(folder.path().join("trusted.pem"), &broker)?;
        std::fs::write(&store, [key.as_slice(), &broker].concat())?;
        let location = format!(
            "listener.name.outer.ssl.keystore.location={}",
            store.display()
        );
        let outer = Outer {
            protocol: "SSL",
            advertised: None,
        };
        let kafka = kafka::with_outer(
            outer,
            &["listener.name.outer.ssl.keystore.type=PEM", &location],
        )?;
        Ok(WithTls { kafka, folder })
    }

    fn trusting(&self) -> String {
        let trusted = self.folder.path().join("trusted.pem");
        format!("{TLS},ssl.ca.location={}", trusted.display())
    }
}

fn with_passwords() -> Result<Kafka> {
    let outer = Outer {
        protocol: "SASL_PLAINTEXT",
        advertised: None,
    };
    kafka::with_outer(
        outer,
        &[
            "listener.name.outer.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256",
            "listener.name.outer.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"right\";",
            "listener.name.outer.scram-sha-256.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_way_to_kafka_is_one_line_with_a_cause_and_a_hint() -> Result<()> {
    let (tls, expired) = (WithTls::start((-1, 10))?, WithTls::start((-10, -1))?);
    let sasl = with_passwords()?;
    let at = |port: u16| format!("127.0.0.1:{port}");
    let (plain, password) = (at(sasl.port()), at(sasl.outer_port()?));
    let (tls_port, expired_port) = (tls.kafka.outer_port()?, expired.kafka.outer_port()?);
    let server = postgres::shared(postgres::turn(17));
    let other = expired.trusting();
    let wrong = |mechanism: &str| format!("{SASL},sasl.mechanism={mechanism},sasl.password=wr0ng");
    let http = foreign(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")?;
    let mistakes = [
        Mistake::new("no-such-host.invalid:9092", "", ["resolve", "host names"]),
        Mistake::new("127.0.0.1", "", ["refused", "names no port"]),
        Mistake::new("127.0.0.1:1", "", ["refused", "is Kafka up"]),
        Mistake::new(foreign(b"")?, "", ["no Kafka broker", "nothing answers"]),
        Mistake::new(at(server.port()), "", ["no Kafka broker", "KAFKA_BROKERS"]),
        Mistake::new(http, "", ["response", "an HTTP server"]),
        Mistake::new(&plain, TLS, ["SSL handshake", "does not seem to speak TLS"]),
        Mistake::new(at(tls_port), "", ["no Kafka broker", "TLS"]),
        Mistake::new(at(tls_port), &other, ["not accepted", "ssl.ca.location"]),
        Mistake::new(at(expired_port), &other, ["has expired", "renew"]),
        Mistake::new(
            format!("localhost:{tls_port}"),
            &tls.trusting(),
            ["mismatch", "as their certificates do"],
        ),
        Mistake::new(
            &plain,
            &wrong("PLAIN"),
            ["SASL", "does not seem to offer SASL"],
        ),
        Mistake::new(
            &password,
            &wrong("SCRAM-SHA-512"),
            ["supported mechanisms: ", "one that the broker supports"],
        ),
        Mistake::new(
            &password,
            &wrong("PLAIN"),
            ["uthentication", "sasl.password"],
        ),
        Mistake::new(&password, "", ["no Kafka broker", "TLS or SASL"]),
    ];
    run_cases(mistakes.into_iter().map(|mistake| {
        let name = format!("{} {}", mistake.brokers, mistake.properties);
        (name, mistake.run(server))
    }))
    .await
}

/// The broker learns another password while outboxd runs and has nothing to send.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changes_while_nothing_is_sent_is_named_and_needs_no_restart() -> Result<()>
{
    let mut kafka = with_passwords()?;
    let set = async |kafka: &Kafka, password: &str| {
        let config = format!("SCRAM-SHA-256=[password={password}]");
        let arguments = ["--alter", "--add-config", &config, "--entity-type", "users"];
        let arguments = [&arguments[..], &["--entity-name", "app"]].concat();
        kafka.tool(kafka::CONFIGS, &arguments).await
    };
    set(&kafka, "right").await?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 1).await?;
    let properties = format!("{SASL},sasl.mechanism=SCRAM-SHA-256,sasl.password=right");
    let settings = Settings::new(&database, &kafka)?
        .set(
            "KAFKA_BROKERS",
            format!("127.0.0.1:{}", kafka.outer_port()?),
        )
        .set("KAFKA_PROPERTIES", properties);
    init(&settings).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    wait_until("it to be ready", LIMIT, async || {
        let (code, why) = outboxd.get("/readyz").await?;
        Ok((code == 200).then_some(()).ok_or(why))
    })
    .await?;
    database.insert("a", &topic, "{}").await?;
    database.all_marked(LIMIT).await?;
    set(&kafka, "other").await?;
    kafka.stop()?;
    kafka.resume()?;
    let words = ["WARN", "Kafka", "uthentication", "sasl.password"];
    outboxd.wait_for_log(&words, LIMIT).await?;
    database.insert("b", &topic, "{}").await?;
    set(&kafka, "right").await?;
    database.all_marked(LIMIT).await?;
    outboxd
        .wait_for_log(&["INFO", "Kafka answers after"], LIMIT)
        .await?;
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    Ok(())
}
