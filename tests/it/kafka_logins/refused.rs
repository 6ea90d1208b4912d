//! Each refusal has a line of its own with a hint, before the first event, costs no event, and ends
//! without a restart once it is mended.

use std::path::Path;

use anyhow::{Result, ensure};

use super::Publisher;
use super::broker::{Broker, PASSWORD, SCRAM, SECRET};
use crate::support::certificates::{Authority, Signed};
use crate::support::ephemeral::free_port;
use crate::support::identity_provider::{CLIENT, unsecured_token};
use crate::support::run_cases;

type Mend<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// A wrong set-up, the words of the line that names it, and what mends it.
struct Refusal<'a> {
    listener: &'static str,
    variables: Vec<(&'static str, String)>,
    words: Vec<&'static str>,
    mend: Mend<'a>,
}

impl Refusal<'_> {
    async fn run(self, broker: &Broker) -> Result<()> {
        let publisher = Publisher::start(&broker.kafka, self.listener, &self.variables).await?;
        publisher.is_named(&self.words).await?;
        let words = [&["WARN", "no Kafka broker has answered"], &self.words[..]].concat();
        let log = publisher.outboxd.wait_for_log(&words, super::LIMIT).await;
        log?;
        let (code, why) = publisher.outboxd.get("/livez").await?;
        ensure!(code == 200, "{why}");
        publisher.insert(2).await?;
        (self.mend)()?;
        let log = publisher.outboxd.log();
        let warnings = log.lines().filter(|line| line.contains(" WARN "));
        ensure!(warnings.count() <= 3, "{log}");
        publisher.end(&broker.kafka).await
    }
}

/// A file with a wrong content, and the right one.
struct File {
    path: String,
    right: Vec<u8>,
}

impl File {
    fn new(folder: &Path, wrong: &[u8], right: &[u8]) -> Result<File> {
        let path = folder.join(format!("file-{}", fastrand::u64(..)));
        std::fs::write(&path, wrong)?;
        Ok(File {
            path: path.display().to_string(),
            right: right.to_vec(),
        })
    }

    fn mend<'a>(self) -> Mend<'a> {
        Box::new(move || Ok(std::fs::write(&self.path, &self.right)?))
    }

    fn password(folder: &Path, right: &str) -> Result<File> {
        File::new(folder, b"wr0ng-passw0rd\n", right.as_bytes())
    }
}

fn sasl(mechanism: &str, user: &str) -> String {
    format!("security.protocol=SASL_PLAINTEXT,sasl.mechanism={mechanism},sasl.username={user}")
}

fn oidc(url: &str, rest: &str) -> String {
    format!(
        "security.protocol=SASL_PLAINTEXT,sasl.mechanism=OAUTHBEARER,\
         sasl.oauthbearer.method=oidc,sasl.oauthbearer.client.id={CLIENT},\
         sasl.oauthbearer.token.endpoint.url={url}{rest}"
    )
}

async fn all(refusals: Vec<Refusal<'static>>, broker: &'static Broker) -> Result<()> {
    run_cases(refusals.into_iter().map(|refusal| {
        let name = format!("{} {:?}", refusal.listener, refusal.variables);
        (name, refusal.run(broker))
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_refused_is_named_and_needs_no_restart_once_it_is_right() -> Result<()> {
    let broker = Broker::shared();
    broker.set_scram("scram", SCRAM).await?;
    let folder = tempfile::tempdir()?;
    let mut refusals = Vec::new();
    for (mechanism, user, right) in [
        ("PLAIN", "app", PASSWORD),
        ("SCRAM-SHA-256", "scram", SCRAM),
        ("SCRAM-SHA-512", "scram", SCRAM),
    ] {
        let file = File::password(folder.path(), right)?;
        refusals.push(Refusal {
            listener: "PASSWORDS",
            variables: vec![
                ("KAFKA_PROPERTIES", sasl(mechanism, user)),
                ("KAFKA_PASSWORD_FILE", file.path.clone()),
            ],
            words: vec!["uthentication", "KAFKA_PASSWORD_FILE"],
            mend: file.mend(),
        });
    }
    all(refusals, broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_had_or_is_refused_is_named_and_needs_no_restart() -> Result<()> {
    let broker = Broker::shared();
    let folder = tempfile::tempdir()?;
    let secret = File::password(folder.path(), SECRET)?;
    let given = format!(",sasl.oauthbearer.client.secret={SECRET}");
    let away = free_port()?;
    let other = Authority::new("other")?;
    let trusted = File::new(folder.path(), &other.pem()?, &broker.authority.pem()?)?;
    let https = format!("https://127.0.0.1:{}/token", broker.provider_ports.1);
    let not_found = format!("http://127.0.0.1:{}/tokens", broker.provider_ports.0);
    let right = unsecured_token("app", 3_600)?;
    let mut refusals = vec![
        Refusal {
            listener: "OIDC",
            variables: vec![
                ("KAFKA_PROPERTIES", oidc(&broker.token_url(), "")),
                ("KAFKA_PASSWORD_FILE", secret.path.clone()),
            ],
            words: vec!["401", "invalid_client", "KAFKA_PASSWORD_FILE"],
            mend: secret.mend(),
        },
        Refusal {
            listener: "OIDC",
            variables: vec![(
                "KAFKA_PROPERTIES",
                oidc(&format!("http://127.0.0.1:{away}/token"), &given),
            )],
            words: vec!["token endpoint", "cannot be reached", "endpoint.url"],
            mend: Box::new(move || broker.provider.serve(away, None).map(|_address| ())),
        },
        Refusal {
            listener: "OIDC",
            variables: vec![(
                "KAFKA_PROPERTIES",
                oidc(
                    &https,
                    &format!("{given},https.ca.location={}", trusted.path),
                ),
            )],
            words: vec!["certificate that is not accepted", "https.ca.location"],
            mend: trusted.mend(),
        },
    ];
    let nowhere = [("KAFKA_PROPERTIES", oidc(&not_found, &given))];
    let named = Publisher::start(&broker.kafka, "OIDC", &nowhere).await?;
    named.is_named(&["404", "endpoint.url"]).await?;
    for (wrong, words) in [
        ("exit 3", vec!["exit status: 3", "run it by hand"]),
        ("echo two words", vec!["not a token", "KAFKA_TOKEN_COMMAND"]),
        (
            "echo refus3d-tok3n",
            vec!["uthentication", "KAFKA_TOKEN_COMMAND"],
        ),
        (
            "echo '{\"error\": \"s3cret-err0r\"}'",
            vec!["JSON object without", "KAFKA_TOKEN"],
        ),
        (
            "echo '{\"token\": \"3xpired-tok3n\", \"expires_in\": 0}'",
            vec!["has expired", "KAFKA_TOKEN_COMMAND"],
        ),
    ] {
        let script = File::new(
            folder.path(),
            wrong.as_bytes(),
            format!("echo {right}").as_bytes(),
        )?;
        refusals.push(Refusal {
            listener: "UNSECURED",
            variables: vec![
                (
                    "KAFKA_PROPERTIES",
                    "security.protocol=SASL_PLAINTEXT".to_owned(),
                ),
                ("KAFKA_TOKEN_COMMAND", format!("sh {}", script.path)),
            ],
            words,
            mend: script.mend(),
        });
    }
    all(refusals, broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_refused_is_named_and_needs_no_restart_once_it_is_right() -> Result<()>
{
    let broker = Broker::shared();
    let folder = tempfile::tempdir()?;
    let other = Authority::new("other")?;
    let (trusted, foreign) = (broker.authority.pem()?, other.pem()?);
    let right = broker.authority.sign("client", (-60, 3_600))?;
    let mut refusals = Vec::new();
    let ca = File::new(folder.path(), &foreign, &trusted)?;
    let password = File::new(folder.path(), PASSWORD.as_bytes(), b"")?;
    refusals.push(Refusal {
        listener: "ENCRYPTED",
        variables: vec![
            (
                "KAFKA_PROPERTIES",
                format!(
                    "security.protocol=SASL_SSL,sasl.mechanism=PLAIN,sasl.username=app,\
                     ssl.ca.location={}",
                    ca.path
                ),
            ),
            ("KAFKA_PASSWORD_FILE", password.path),
        ],
        words: vec!["certificate", "ssl.ca.location"],
        mend: ca.mend(),
    });
    let wrong = [
        other.sign("client", (-60, 3_600))?,
        broker.authority.sign("client", (-3_600, -60))?,
    ];
    let words = [
        vec![
            "trust the authority of the client certificate",
            "ssl.certificate.location",
        ],
        vec!["has expired", "ssl.certificate.location"],
    ];
    for (Signed { certificate, key }, words) in wrong.into_iter().zip(words) {
        let certificate = File::new(folder.path(), &certificate, &right.certificate)?;
        let key = File::new(folder.path(), &key, &right.key)?;
        let properties = format!(
            "security.protocol=SSL,ssl.ca.location={},ssl.certificate.location={},\
             ssl.key.location={}",
            broker.trusted().display(),
            certificate.path,
            key.path
        );
        refusals.push(Refusal {
            listener: "CERTIFICATES",
            variables: vec![("KAFKA_PROPERTIES", properties)],
            words,
            mend: Box::new(move || key.mend()().and_then(|()| certificate.mend()())),
        });
    }
    let trusting = format!(
        "security.protocol=SSL,ssl.ca.location={}",
        broker.trusted().display()
    );
    let none = [("KAFKA_PROPERTIES", trusting)];
    let named = Publisher::start(&broker.kafka, "CERTIFICATES", &none).await?;
    named
        .is_named(&["client certificate", "ssl.certificate.location"])
        .await?;
    all(refusals, broker).await
}
