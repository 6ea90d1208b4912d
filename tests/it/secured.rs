//! A Kafka that rejects the client: the reason is reported and waited out, and counts against no
//! event.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

use crate::support::kafka::{self, Outer};
use crate::support::oracle::{Oracle, check};
use crate::support::outboxd::{Outboxd, Settings, init};
use crate::support::postgres::{self, Database};

const LIMIT: Duration = Duration::from_secs(60);

/// The status names Kafka with these words, no dead letter is filed, and the process lives.
async fn expect_wait(outboxd: &Outboxd, database: &Database, words: &str) -> Result<()> {
    let named = outboxd
        .wait_for_status("Kafka to be named", LIMIT, |status| {
            status["waiting"]["on"] == "kafka"
        })
        .await?;
    let detail = named["waiting"]["detail"].to_string();
    assert!(detail.contains(words), "no {words} in {detail}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let dead_letters = "SELECT count(*) FROM outbox.dead_letter";
    let session = database.connect().await?;
    assert_eq!(session.value::<i64>(dead_letters).await?, 0);
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    assert_eq!(outboxd.get("/livez").await?.0, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_waited_for_and_costs_no_event() -> Result<()> {
    let outer = Outer {
        protocol: "SASL_PLAINTEXT",
        advertised: None,
    };
    let kafka = kafka::with_outer(
        outer,
        &[
            "listener.name.outer.sasl.enabled.mechanisms=PLAIN",
            "listener.name.outer.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"right\";",
        ],
    )?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 1).await?;
    let settings = |password: &str| -> Result<Settings> {
        let properties = format!(
            "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,\
             sasl.username=app,sasl.password={password}"
        );
        let brokers = format!("127.0.0.1:{}", kafka.outer_port()?);
        Ok(Settings::new(&database, &kafka)?
            .set("KAFKA_BROKERS", brokers)
            .set("KAFKA_PROPERTIES", properties))
    };
    init(&settings("right")?).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings("wr0ng")?)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("held", &topic, "{}").await?;
    expect_wait(&outboxd, &database, "uthentication").await?;
    assert!(!outboxd.log().contains("wr0ng"));
    outboxd.kill()?;
    let mut outboxd = Outboxd::spawn(&settings("right")?)?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    check(
        &oracle.committed().await?,
        &kafka.consume_all(&[&topic]).await?,
    )
    .expect_exact()
}

/// A self-signed certificate for 127.0.0.1 and its key, valid between these days from now.
pub(crate) fn certificate(from: i64, until: i64) -> Result<(Vec<u8>, Vec<u8>)> {
    let key = PKey::from_rsa(Rsa::generate(2048)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "127.0.0.1")?;
    let name = name.build();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = BigNum::from_u32(fastrand::u32(1..))?.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let day = |days: i64| Asn1Time::from_unix(now + days * 86_400);
    builder.set_not_before(&*day(from)?)?;
    builder.set_not_after(&*day(until)?)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    let context = builder.x509v3_context(None, None);
    let names = SubjectAlternativeName::new()
        .ip("127.0.0.1")
        .build(&context)?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build().to_pem()?, key.private_key_to_pem_pkcs8()?))
}

/// The broker's certificate has expired; once it is replaced, the same process goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_run_out_is_waited_for_and_costs_no_event() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("broker.pem");
    let trusted = folder.path().join("trusted.pem");
    let (old, old_key) = certificate(-10, -1)?;
    let (new, new_key) = certificate(-1, 10)?;
    std::fs::write(&trusted, [old.as_slice(), &new].concat())?;
    std::fs::write(&store, [old_key.as_slice(), &old].concat())?;
    let outer = Outer {
        protocol: "SSL",
        advertised: None,
    };
    let location = format!(
        "listener.name.outer.ssl.keystore.location={}",
        store.display()
    );
    let properties = ["listener.name.outer.ssl.keystore.type=PEM", &location];
    let mut kafka = kafka::with_outer(outer, &properties)?;
    let database = Database::create(postgres::shared(postgres::turn(17))).await?;
    let topic = kafka.topic("events", 1).await?;
    let properties = format!(
        "security.protocol=SSL,ssl.ca.location={}",
        trusted.display()
    );
    let settings = Settings::new(&database, &kafka)?
        .set(
            "KAFKA_BROKERS",
            format!("127.0.0.1:{}", kafka.outer_port()?),
        )
        .set("KAFKA_PROPERTIES", properties);
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("held", &topic, "{}").await?;
    expect_wait(&outboxd, &database, "certificate").await?;
    std::fs::write(&store, [new_key.as_slice(), &new].concat())?;
    kafka.stop()?;
    kafka.resume()?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    check(
        &oracle.committed().await?,
        &kafka.consume_all(&[&topic]).await?,
    )
    .expect_exact()
}

/// The broker's certificate is of a new authority, whose certificate replaces the old one in the
/// file that outboxd has read at its start.
#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_renewed_on_disk_needs_no_restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let store = folder.path().join("broker.pem");
    let trusted = folder.path().join("trusted.pem");
    let (old, _) = certificate(-1, 10)?;
    let (new, new_key) = certificate(-1, 10)?;
    std::fs::write(&trusted, &old)?;
    std::fs::write(&store, [new_key.as_slice(), &new].concat())?;
    let outer = Outer {
        protocol: "SSL",
        advertised: None,
    };
    let location = format!(
        "listener.name.outer.ssl.keystore.location={}",
        store.display()
    );
    let properties = ["listener.name.outer.ssl.keystore.type=PEM", &location];
    let kafka = kafka::with_outer(outer, &properties)?;
    let database = Database::create(postgres::shared(postgres::turn(15))).await?;
    let topic = kafka.topic("events", 1).await?;
    let properties = format!(
        "security.protocol=SSL,ssl.ca.location={}",
        trusted.display()
    );
    let settings = Settings::new(&database, &kafka)?
        .set(
            "KAFKA_BROKERS",
            format!("127.0.0.1:{}", kafka.outer_port()?),
        )
        .set("KAFKA_PROPERTIES", properties);
    init(&settings).await?;
    let oracle = Oracle::create(&database).await?;
    let mut outboxd = Outboxd::spawn(&settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    database.insert("held", &topic, "{}").await?;
    expect_wait(&outboxd, &database, "certificate").await?;
    std::fs::write(&trusted, &new)?;
    database.all_marked(LIMIT).await?;
    assert_eq!(outboxd.status().await?["reconnects"], 0);
    assert_eq!(outboxd.stop(LIMIT).await?, 0, "{}", outboxd.log());
    check(
        &oracle.committed().await?,
        &kafka.consume_all(&[&topic]).await?,
    )
    .expect_exact()
}
