//! Every character that a password may have works in every place that takes one, and nothing that
//! the program prints has a piece of a secret, at any level of the log.
//!
//! The tests' own [`Outboxd`] and `command` check every output for the secrets of their settings,
//! so this module plants what others do not.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::kafka_logins::{Broker, PASSWORD};
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command, init};
use crate::support::postgres::{self, Database, turn};

const LIMIT: Duration = Duration::from_secs(90);

/// A password of the database with what a URL, a shell and a password file treat in their own way.
const ODD: &str = "p4ss,w0rd88=y \"q\" 'r' \\ #%&:/?@é";

/// What the doctor says about this check, and its whole output.
async fn examined(
    settings: &Settings,
    arguments: &[&str],
    check: &str,
) -> Result<(String, String)> {
    let arguments = [&["doctor", "--json"], arguments].concat();
    let output = command(settings, &arguments, LIMIT).await?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let checks = report["checks"].as_array().context("checks")?.iter();
    let mut checks = checks.filter(|it| it["check"] == check);
    let verdict = checks.next().context("no such check")?["verdict"].to_string();
    Ok((verdict, report.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kafka_password_of_any_characters_works_in_every_place_that_takes_one() -> Result<()> {
    let broker = Broker::shared();
    let database = Database::create(postgres::shared(turn(15))).await?;
    let folder = tempfile::tempdir()?;
    let base = Settings::new(&database, &broker.kafka)?
        .set("KAFKA_BROKERS", broker.kafka.listener("PASSWORDS")?);
    init(&base).await?;
    let rest = "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=app";
    let quoted = PASSWORD.replace('\\', "\\\\").replace('"', "\\\"");
    let write = |name: &str, text: String| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let file = write("password", format!("{PASSWORD}\n"))?;
    let mut toml = String::from("[kafka]\n");
    for property in rest.split(',') {
        let (name, value) = property.split_once('=').context("a property")?;
        writeln!(toml, "{name} = \"{value}\"")?;
    }
    writeln!(toml, "sasl.password = \"{quoted}\"")?;
    let toml = write("outboxd.toml", toml)?;
    let properties = |text: String| base.clone().set("KAFKA_PROPERTIES", text);
    let flag = format!("sasl.password={PASSWORD}");
    for (settings, arguments) in [
        (
            properties(format!("{rest},sasl.password={PASSWORD}")),
            vec![],
        ),
        (
            properties(format!("sasl.password={PASSWORD},{rest}")),
            vec![],
        ),
        (properties(rest.to_owned()), vec!["--kafka", &flag]),
        (
            properties(rest.to_owned()).set("KAFKA_PASSWORD_FILE", file),
            vec![],
        ),
        (base.clone().set("OUTBOX_CONFIG", toml), vec![]),
    ] {
        let (verdict, report) = examined(&settings, &arguments, "kafka-answer").await?;
        ensure!(verdict == "\"ok\"", "{settings:?} {arguments:?}: {report}");
        for piece in ["p4ss", "w0rd99"] {
            ensure!(!report.contains(piece), "{report}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_password_of_any_characters_works_in_every_place_that_takes_one() -> Result<()> {
    let mut server = postgres::private(turn(17), &[])?;
    let database = Database::create(&server).await?;
    let session = database.connect().await?;
    let role = format!(
        "CREATE ROLE relay SUPERUSER LOGIN PASSWORD E'{}'",
        ODD.replace('\\', "\\\\").replace('\'', "\\'")
    );
    session.batch_execute(&role).await?;
    server.write(
        "data/pg_hba.conf",
        "local all all trust\nhost all relay 127.0.0.1/32 scram-sha-256\n\
         host replication relay 127.0.0.1/32 scram-sha-256\n",
    )?;
    server.reload()?;
    let folder = tempfile::tempdir()?;
    let (file, passfile) = (folder.path().join("password"), folder.path().join("pgpass"));
    std::fs::write(&file, format!("{ODD}\n"))?;
    let escaped = ODD.replace('\\', "\\\\").replace(':', "\\:");
    std::fs::write(&passfile, format!("*:*:*:relay:{escaped}\n"))?;
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600))?;
    let (file, passfile) = (file.display().to_string(), passfile.display().to_string());
    let url = database.url_as("relay");
    let encoded: String = ODD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let with_password = database.url_as(&format!("relay:{encoded}"));
    let pairs = format!(
        "host=127.0.0.1 port={} user=relay dbname={} password='{}'",
        server.port(),
        url.rsplit('/').next().unwrap_or_default(),
        ODD.replace('\\', "\\\\").replace('\'', "\\'")
    );
    let base = Settings::new(&database, kafka::shared())?.polling();
    init(&base).await?;
    let with_url = base.clone().set("DATABASE_URL", url);
    for settings in [
        base.clone().set("DATABASE_URL", with_password),
        base.clone().set("DATABASE_URL", pairs),
        with_url.clone().set("PGPASSWORD", ODD),
        with_url.clone().set("PGPASSFILE", passfile),
        with_url.clone().set("DATABASE_PASSWORD_FILE", &file),
        with_url
            .clone()
            .set("DATABASE_PASSWORD_COMMAND", format!("cat {file}")),
    ] {
        let (verdict, report) = examined(&settings, &[], "login").await?;
        ensure!(verdict == "\"ok\"", "{settings:?}: {report}");
        for piece in ["p4ss", "w0rd88"] {
            ensure!(!report.contains(piece), "{report}");
        }
    }
    let wrong = with_url.set("PGPASSWORD", "wr0ng-passw0rd,x=y");
    let (verdict, _) = examined(&wrong, &[], "login").await?;
    ensure!(verdict == "\"fails\"", "the password counts");
    Ok(())
}

/// Log-ins that succeed and log-ins that fail, with librdkafka's own debug lines.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_printed_at_any_level_whether_the_login_succeeds_or_not() -> Result<()> {
    let broker = Broker::shared();
    let kafka = &broker.kafka;
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("token");
    let printed = crate::support::identity_provider::unsecured_token("app", 3_600)?;
    std::fs::write(&token, &printed)?;
    let debug = ",debug=all";
    let plain = "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=app,\
                 sasl.password=";
    let oidc = format!(
        "security.protocol=SASL_PLAINTEXT,sasl.mechanism=OAUTHBEARER,\
         sasl.oauthbearer.method=oidc,sasl.oauthbearer.client.id=outboxd-client,\
         sasl.oauthbearer.token.endpoint.url={},sasl.oauthbearer.client.secret=",
        broker.token_url()
    );
    let logins = [
        ("PASSWORDS", format!("{plain}{PASSWORD}{debug}"), true),
        (
            "PASSWORDS",
            format!("{plain}wr0ng-passw0rd,h4nter2=x{debug}"),
            false,
        ),
        (
            "OIDC",
            format!("{oidc}{}{debug}", crate::kafka_logins::SECRET),
            true,
        ),
        (
            "OIDC",
            format!("{oidc}wr0ng-s3cret,h4nter2=x{debug}"),
            false,
        ),
        (
            "UNSECURED",
            format!("security.protocol=SASL_PLAINTEXT{debug}"),
            true,
        ),
    ];
    for (number, (listener, properties, succeeds)) in logins.into_iter().enumerate() {
        let database = Database::create(postgres::shared(turn(17))).await?;
        let topic = kafka.topic("secrets", 1).await?;
        let url = database.url().replacen('@', ":d4tabase-passw0rd@", 1);
        let format = ["text", "json"][number % 2];
        let mut settings = Settings::new(&database, kafka)?
            .set("DATABASE_URL", url)
            .set("KAFKA_BROKERS", kafka.listener(listener)?)
            .set("KAFKA_PROPERTIES", properties)
            .set("OUTBOX_LOG", "trace")
            .set("OUTBOX_LOG_FORMAT", format);
        if listener == "UNSECURED" {
            let command = format!("cat {}", token.display());
            settings = settings.set("KAFKA_TOKEN_COMMAND", command);
        }
        init(&settings).await?;
        let mut outboxd = Outboxd::spawn(&settings)?;
        outboxd.has_secret(&printed);
        outboxd.has_secret("h4nter2");
        outboxd.wait_for_phase("streaming", LIMIT).await?;
        database.insert("a", &topic, "{}").await?;
        match succeeds {
            true => database.all_marked(LIMIT).await?,
            false => {
                let waits = outboxd.wait_for_status("the wait", LIMIT, |status| {
                    status["waiting"]["on"] == "kafka"
                });
                waits.await?;
            }
        }
        for path in ["/", "/status", "/metrics", "/readyz"] {
            outboxd.get(path).await?;
        }
        for arguments in [
            &["doctor"][..],
            &["status"],
            &["run", "--help"],
            &["run", "--key=x"],
        ] {
            command(&settings, arguments, LIMIT).await?;
        }
        for token in broker.provider_tokens() {
            outboxd.has_secret(&token);
        }
        ensure!(outboxd.log().contains("librdkafka"), "its lines are logged");
        outboxd.stop(LIMIT).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_piece_of_a_password_is_no_name_of_a_property_in_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("outboxd.toml");
    std::fs::write(
        &path,
        "[kafka]\nsasl.password = \"s3cret-a,s3cret-b=x\"\nacks = 1\n",
    )?;
    let base = Settings::nowhere()?
        .set("DATABASE_URL", "postgres://u@127.0.0.1:1/d")
        .set("KAFKA_BROKERS", "127.0.0.1:1");
    for properties in [
        "sasl.password=s3cret-a,s3cret.b=x,acks=1",
        "sasl.password=s3cret-a, s3cret b=x,acks=1",
        "sasl.pasword=s3cret-a,s3cretb=x,acks=1",
        "sasl.jaas.config=a.B required password=\"s3cret-a,s3cretb=x\";",
        "ssl.key.password=s3cret-a,s3cret=b=c,acks=1",
        "sasl.oauthbearer.client.secret=s3cret-a,s3cretb=,acks=1",
        "s3cret-a",
    ] {
        let settings = base.clone().set("KAFKA_PROPERTIES", properties);
        let output = command(&settings, &["run"], LIMIT).await?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(2), "{properties}: {text}");
        ensure!(!text.contains("s3cret"), "{properties}: {text}");
    }
    let settings = base.set("OUTBOX_CONFIG", path.display().to_string());
    let output = command(&settings, &["run"], LIMIT).await?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(text.contains("acks") && !text.contains("s3cret"), "{text}");
    Ok(())
}
