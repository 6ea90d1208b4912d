//! Each kind of log-in publishes.

use anyhow::Result;

use super::broker::{Broker, PASSWORD, SCRAM, SECRET};
use super::{LIMIT, Publisher};
use crate::support::identity_provider::{CLIENT, unsecured_token};
use crate::support::run_cases;

struct Login {
    listener: &'static str,
    variables: Vec<(&'static str, String)>,
}

impl Login {
    fn new(listener: &'static str, properties: String) -> Login {
        Login {
            listener,
            variables: vec![("KAFKA_PROPERTIES", properties)],
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Login {
        self.variables.push((name, value.into()));
        self
    }

    async fn publishes(self, broker: &Broker) -> Result<()> {
        let publisher = Publisher::start(&broker.kafka, self.listener, &self.variables).await?;
        publisher.outboxd.wait_until_ready(LIMIT).await?;
        publisher.insert(3).await?;
        publisher.end(&broker.kafka).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_login_publishes() -> Result<()> {
    let broker = Broker::shared();
    broker.set_scram("scram", SCRAM).await?;
    let folder = tempfile::tempdir()?;
    let write = |name: &str, content: &[u8]| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, content)?;
        Ok(path.display().to_string())
    };
    let client = broker.authority.sign("client", (-60, 3_600))?;
    let (certificate, key) = (
        write("client.pem", &client.certificate)?,
        write("client.key", &client.key)?,
    );
    let password = write("password", format!("{PASSWORD}\n").as_bytes())?;
    let scram = write("scram", SCRAM.as_bytes())?;
    let secret = write("secret", format!("{SECRET}\r\n").as_bytes())?;
    let token = write("token", unsecured_token("app", 3_600)?.as_bytes())?;
    let object = format!(
        r#"{{"token": "{}", "expires_in": 600}}"#,
        unsecured_token("app", 3_600)?
    );
    let object = write("object", object.as_bytes())?;
    let authority = broker.trusted().display().to_string();
    let hashed = folder.path().join("authorities");
    std::fs::create_dir(&hashed)?;
    let hashed_file = hashed.join(broker.authority.hashed_name());
    std::fs::write(hashed_file, broker.authority.pem()?)?;
    let plain = "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=app";
    let with_scram = |mechanism: &str| {
        format!("security.protocol=SASL_PLAINTEXT,sasl.mechanism={mechanism},sasl.username=scram")
    };
    let encrypted = "security.protocol=SASL_SSL,sasl.mechanism=PLAIN,sasl.username=app";
    let oidc = |url: &str| {
        format!(
            "security.protocol=SASL_PLAINTEXT,sasl.mechanism=OAUTHBEARER,\
             sasl.oauthbearer.method=oidc,sasl.oauthbearer.client.id={CLIENT},\
             sasl.oauthbearer.scope=kafka write,sasl.oauthbearer.extensions=traceId=a,other=b,\
             sasl.oauthbearer.token.endpoint.url={url}"
        )
    };
    let https = format!("https://127.0.0.1:{}/token", broker.provider_ports.1);
    let unsecured = "security.protocol=SASL_PLAINTEXT".to_owned();
    let certificates = format!(
        "security.protocol=SSL,ssl.ca.location={authority},\
         ssl.certificate.location={certificate},ssl.key.location={key}"
    );
    let logins = [
        Login::new(
            "PASSWORDS",
            format!("{plain},sasl.password={PASSWORD},linger.ms=1"),
        ),
        Login::new("PASSWORDS", plain.to_owned()).with("KAFKA_PASSWORD_FILE", &password),
        Login::new(
            "PASSWORDS",
            format!("{},sasl.password={SCRAM}", with_scram("SCRAM-SHA-256")),
        ),
        Login::new("PASSWORDS", with_scram("SCRAM-SHA-512")).with("KAFKA_PASSWORD_FILE", scram),
        Login::new(
            "ENCRYPTED",
            format!("{encrypted},ssl.ca.location={authority}"),
        )
        .with("KAFKA_PASSWORD_FILE", &password),
        Login::new("ENCRYPTED", encrypted.to_owned())
            .with("KAFKA_PASSWORD_FILE", &password)
            .with("SSL_CERT_FILE", &authority),
        Login::new("ENCRYPTED", encrypted.to_owned())
            .with("KAFKA_PASSWORD_FILE", &password)
            .with("SSL_CERT_DIR", hashed.display().to_string()),
        Login::new("ENCRYPTED", format!("{encrypted},ssl.ca.location=probe"))
            .with("KAFKA_PASSWORD_FILE", &password)
            .with("SSL_CERT_FILE", &authority),
        Login::new("CERTIFICATES", certificates),
        Login::new(
            "OIDC",
            format!(
                "{},sasl.oauthbearer.client.secret={SECRET}",
                oidc(&broker.token_url())
            ),
        ),
        Login::new(
            "OIDC",
            format!("{},https.ca.location={authority}", oidc(&https)),
        )
        .with("KAFKA_PASSWORD_FILE", &secret),
        Login::new("OIDC", oidc(&https))
            .with("KAFKA_PASSWORD_FILE", &secret)
            .with("SSL_CERT_FILE", &authority),
        Login::new("UNSECURED", unsecured.clone())
            .with("KAFKA_TOKEN_COMMAND", format!("cat {token}")),
        Login::new(
            "UNSECURED",
            format!("{unsecured},sasl.mechanism=OAUTHBEARER"),
        )
        .with("KAFKA_TOKEN_COMMAND", format!("cat {object}")),
    ];
    run_cases(logins.into_iter().map(|login| {
        let name = format!("{} {:?}", login.listener, login.variables);
        (name, login.publishes(broker))
    }))
    .await?;
    let forms = broker.provider.forms();
    let form = "grant_type=client_credentials&scope=kafka+write".to_owned();
    assert!(forms.contains(&form), "{forms:?}");
    Ok(())
}
