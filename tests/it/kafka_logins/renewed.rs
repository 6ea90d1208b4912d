//! Passwords, certificates and tokens that are renewed while outboxd publishes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};

use super::broker::{Broker, SECRET};
use super::{LIMIT, Publisher};
use crate::support::ephemeral::free_port;
use crate::support::identity_provider::CLIENT;
use crate::support::proxy::Proxy;
use crate::support::wait::wait_until;

/// The life of a token in seconds.
const LIFE: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_rotated_is_used_without_a_restart() -> Result<()> {
    let broker = Broker::shared();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password");
    broker.set_scram("rotating", "f1rst-passw0rd").await?;
    std::fs::write(&file, "f1rst-passw0rd\n")?;
    let variables = [
        (
            "KAFKA_PROPERTIES",
            "security.protocol=SASL_PLAINTEXT,sasl.mechanism=SCRAM-SHA-512,\
             sasl.username=rotating"
                .to_owned(),
        ),
        ("KAFKA_PASSWORD_FILE", file.display().to_string()),
    ];
    let publisher = Publisher::start(&broker.kafka, "PASSWORDS", &variables).await?;
    publisher.database.all_marked(LIMIT).await?;
    // The broker asks for the password again within eight seconds.
    broker.set_scram("rotating", "s3cond-passw0rd").await?;
    let words = ["WARN", "uthentication", "KAFKA_PASSWORD_FILE"];
    publisher.outboxd.wait_for_log(&words, LIMIT).await?;
    publisher.insert(20).await?;
    std::fs::write(&file, "s3cond-passw0rd\n")?;
    publisher.database.all_marked(LIMIT).await?;
    let words = ["INFO", "replacing the Kafka producer", "password"];
    publisher.outboxd.wait_for_log(&words, LIMIT).await?;
    publisher.insert(5).await?;
    publisher.end(&broker.kafka).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_is_renewed_is_used_without_a_restart() -> Result<()> {
    let own = free_port()?;
    let proxy = Proxy::before(own).await?;
    let broker = Broker::behind(&proxy, own)?;
    let folder = tempfile::tempdir()?;
    let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
    let valid = Duration::from_secs(25);
    let first = broker
        .authority
        .sign("client", (-60, valid.as_secs() as i64))?;
    let ends = SystemTime::now() + valid;
    std::fs::write(&certificate, &first.certificate)?;
    std::fs::write(&key, &first.key)?;
    let properties = format!(
        "security.protocol=SSL,ssl.ca.location={},ssl.certificate.location={},\
         ssl.key.location={}",
        broker.trusted().display(),
        certificate.display(),
        key.display()
    );
    let variables = [("KAFKA_PROPERTIES", properties)];
    let publisher = Publisher::start(&broker.kafka, "CERTIFICATES", &variables).await?;
    publisher.database.all_marked(LIMIT).await?;
    wait_until("the certificate's end", LIMIT, async || {
        let is_over = SystemTime::now() > ends;
        Ok(is_over
            .then_some(())
            .ok_or_else(|| "it is valid".to_owned()))
    })
    .await?;
    proxy.reset();
    publisher.insert(20).await?;
    publisher
        .is_named(&["has expired", "ssl.certificate.location"])
        .await?;
    let second = broker.authority.sign("client", (-60, 3_600))?;
    std::fs::write(&key, &second.key)?;
    std::fs::write(&certificate, &second.certificate)?;
    publisher.database.all_marked(LIMIT).await?;
    let words = ["INFO", "replacing the Kafka producer", "certificates"];
    publisher.outboxd.wait_for_log(&words, LIMIT).await?;
    publisher.insert(5).await?;
    publisher.end(&broker.kafka).await
}

/// Waits until this many tokens were fetched, while events go through.
async fn tokens(publisher: &Publisher, count: usize, fetched: impl Fn() -> usize) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while fetched() < count {
        ensure!(Instant::now() < end, "{} tokens", fetched());
        publisher.insert(1).await?;
        publisher.database.all_marked(LIMIT).await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_providers_token_is_renewed_before_it_ends_and_by_a_secret_that_changes() -> Result<()> {
    let broker = Broker::shared();
    let provider = broker.provider.twin(SECRET, LIFE);
    let port = provider.serve(0, None)?.port();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("secret");
    std::fs::write(&file, SECRET)?;
    let properties = format!(
        "security.protocol=SASL_PLAINTEXT,sasl.mechanism=OAUTHBEARER,\
         sasl.oauthbearer.method=oidc,sasl.oauthbearer.client.id={CLIENT},\
         sasl.oauthbearer.token.endpoint.url=http://127.0.0.1:{port}/token"
    );
    let variables = [
        ("KAFKA_PROPERTIES", properties),
        ("KAFKA_PASSWORD_FILE", file.display().to_string()),
    ];
    let mut publisher = Publisher::start(&broker.kafka, "OIDC", &variables).await?;
    tokens(&publisher, 3, || provider.issued().len()).await?;
    let log = publisher.outboxd.log();
    ensure!(!log.contains(" WARN "), "{log}");
    provider.set_secret("an0ther-s3cret");
    let words = [
        "WARN",
        "no new token for Kafka",
        "invalid_client",
        "KAFKA_PASSWORD_FILE",
    ];
    publisher.outboxd.wait_for_log(&words, LIMIT).await?;
    std::fs::write(&file, "an0ther-s3cret\n")?;
    let so_far = provider.issued().len();
    tokens(&publisher, so_far + 1, || provider.issued().len()).await?;
    for token in provider.issued() {
        publisher.outboxd.has_secret(&token);
    }
    publisher.end(&broker.kafka).await
}

/// The command makes its tokens itself, counts them, and fails while a file is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_commands_token_is_renewed_before_it_ends_and_after_a_failure() -> Result<()> {
    let broker = Broker::shared();
    let folder = tempfile::tempdir()?;
    let (script, count, fails) = (
        folder.path().join("token"),
        folder.path().join("count"),
        folder.path().join("fails"),
    );
    let text = format!(
        "test -e {fails} && {{ echo s3cret-n0ise; echo s3cret-n0ise >&2; exit 7; }}\n\
         echo x >> {count}\n\
         part() {{ base64 -w0 | tr '+/' '-_' | tr -d =; }}\n\
         now=$(date +%s)\n\
         printf '{{\"alg\": \"none\"}}' | part\n\
         printf .\n\
         printf '{{\"sub\": \"app\", \"iat\": %d, \"exp\": %d}}' $now $((now + {LIFE})) | part\n\
         echo .\n",
        fails = fails.display(),
        count = count.display()
    );
    std::fs::write(&script, text)?;
    let variables = [
        (
            "KAFKA_PROPERTIES",
            "security.protocol=SASL_PLAINTEXT".to_owned(),
        ),
        ("KAFKA_TOKEN_COMMAND", format!("sh {}", script.display())),
    ];
    let mut publisher = Publisher::start(&broker.kafka, "UNSECURED", &variables).await?;
    publisher.outboxd.has_secret("s3cret-n0ise");
    let counted = || std::fs::read_to_string(&count).map_or(0, |it| it.lines().count());
    tokens(&publisher, 3, counted).await?;
    let log = publisher.outboxd.log();
    ensure!(!log.contains(" WARN "), "{log}");
    std::fs::write(&fails, "")?;
    let words = [
        "WARN",
        "no new token for Kafka",
        "exit status: 7",
        "run it by hand",
    ];
    publisher.outboxd.wait_for_log(&words, LIMIT).await?;
    publisher.insert(1).await?;
    publisher
        .is_named(&["KAFKA_TOKEN_COMMAND", "exit status: 7"])
        .await?;
    publisher.insert(10).await?;
    std::fs::remove_file(&fails)?;
    publisher.database.all_marked(LIMIT).await?;
    let so_far = counted();
    tokens(&publisher, so_far + 1, counted).await?;
    publisher.end(&broker.kafka).await
}
