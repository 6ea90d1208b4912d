//! How to log in to Kafka: passwords from files, tokens, and what contradicts.

use std::path::Path;

use super::*;

const PLAIN: &str = "security.protocol=SASL_SSL,sasl.mechanism=PLAIN,sasl.username=u";
const BEARER: &str = "security.protocol=SASL_SSL,sasl.mechanism=OAUTHBEARER";
const OIDC: &str = "security.protocol=SASL_SSL,sasl.mechanism=oauthbearer,\
                    sasl.oauthbearer.method=oidc,sasl.oauthbearer.client.id=c,\
                    sasl.oauthbearer.token.endpoint.url=https://idp.example/t";

struct Given<'a> {
    properties: &'a str,
    file: Option<&'a str>,
    command: Option<&'a str>,
}

fn given(properties: &str) -> Given<'_> {
    Given {
        properties,
        file: None,
        command: None,
    }
}

impl Given<'_> {
    fn build(self) -> Result<Config, SettingErrors> {
        build(Settings {
            kafka_properties: Some(self.properties.to_owned()),
            kafka_password_file: self.file.map(str::to_owned),
            kafka_token_command: self.command.map(str::to_owned),
            ..valid()
        })
    }

    #[track_caller]
    fn expect_refusal(self, setting: &str, words: &[&str]) {
        let what = self.properties.to_owned();
        let error = only_error(self.build());
        assert!(error.starts_with(setting), "{what}: {error}");
        for word in words {
            assert!(error.contains(word), "{what}: no {word} in {error}");
        }
    }
}

fn names(config: &Config) -> Vec<&str> {
    let properties = config.kafka_properties.iter();
    properties.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_mechanism_is_named_with_all_that_it_needs() {
    const PROPERTIES: &str = "KAFKA_PROPERTIES";
    for (properties, words) in [
        ("security.protocol=SSH", &["SASL_SSL"][..]),
        (
            "security.protocol=SASL_SSL",
            &["sasl.mechanism", "SCRAM-SHA-512"],
        ),
        (
            "security.protocol=sasl_ssl,sasl.mechanism=GSSAPI",
            &["Kerberos"],
        ),
        (
            "security.protocol=SASL_SSL,sasl.mechanisms=SCRAM",
            &["sasl.mechanism"],
        ),
        (
            "security.protocol=SASL_SSL,sasl.mechanism=PLAIN,sasl.password=p",
            &["sasl.username"],
        ),
        (PLAIN, &["sasl.password", "KAFKA_PASSWORD_FILE"]),
        (
            BEARER,
            &["KAFKA_TOKEN_COMMAND", "sasl.oauthbearer.method=oidc"],
        ),
        (
            OIDC,
            &["sasl.oauthbearer.client.secret", "KAFKA_PASSWORD_FILE"],
        ),
        (
            "security.protocol=SASL_SSL,sasl.mechanism=OAUTHBEARER,\
             sasl.oauthbearer.method=other",
            &["sasl.oauthbearer.method=oidc"],
        ),
    ] {
        given(properties).expect_refusal(PROPERTIES, words);
    }
    let without_id = OIDC.replace("sasl.oauthbearer.client.id=c,", "");
    let without_id = format!("{without_id},sasl.oauthbearer.client.secret=s");
    given(&without_id).expect_refusal(PROPERTIES, &["sasl.oauthbearer.client.id"]);
    for url in [
        "idp.example/t",
        "ftp://idp/t",
        "https://u:hunter2@idp/t",
        "https:///t",
    ] {
        let wrong = OIDC.replace("https://idp.example/t", url);
        let wrong = format!("{wrong},sasl.oauthbearer.client.secret=s");
        given(&wrong).expect_refusal(PROPERTIES, &["sasl.oauthbearer.token.endpoint.url"]);
    }
    let extensions = format!(
        "{OIDC},sasl.oauthbearer.client.secret=s,\
                              sasl.oauthbearer.extensions=auth=x"
    );
    given(&extensions).expect_refusal(PROPERTIES, &["sasl.oauthbearer.extensions"]);
}

#[test]
fn a_password_has_one_place() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "p\n").unwrap();
    let file = file.path().to_str().unwrap();
    let with_file = |properties| Given {
        file: Some(file),
        ..given(properties)
    };
    let config = with_file(PLAIN).build().unwrap();
    assert_eq!(
        config.kafka_login.password_file.as_deref(),
        Some(Path::new(file))
    );
    let twice = format!("{PLAIN},sasl.password=p");
    with_file(&twice).expect_refusal("KAFKA_PASSWORD_FILE", &["sasl.password"]);
    let twice = format!("{OIDC},sasl.oauthbearer.client.secret=s");
    with_file(&twice).expect_refusal("KAFKA_PASSWORD_FILE", &["sasl.oauthbearer.client.secret"]);
    for without_sasl in ["", "security.protocol=SSL"] {
        with_file(without_sasl).expect_refusal("KAFKA_PASSWORD_FILE", &["SASL_SSL"]);
    }
    let missing = Given {
        file: Some("/nowhere/password"),
        ..given(PLAIN)
    };
    missing.expect_refusal("KAFKA_PASSWORD_FILE", &["cannot be read"]);
}

#[test]
fn tokens_have_one_source() {
    let with_command = |properties| Given {
        command: Some("print-token"),
        ..given(properties)
    };
    for properties in [BEARER, "security.protocol=SASL_SSL"] {
        let config = with_command(properties).build().unwrap();
        let source = config.kafka_login.token_source.as_ref();
        assert!(
            matches!(source, Some(TokenSource::Command(_))),
            "{config:?}"
        );
        assert!(names(&config).contains(&"sasl.mechanism"));
        assert!(!format!("{config:?}").contains("print-token"));
    }
    let oidc = format!(
        "{OIDC},sasl.oauthbearer.client.secret=s,https.ca.location=/ca.pem,\
                        sasl.oauthbearer.extensions=logicalCluster=a,identityPoolId=b"
    );
    let config = given(&oidc).build().unwrap();
    let source = config.kafka_login.token_source.as_ref();
    assert!(
        matches!(source, Some(TokenSource::Provider(_))),
        "{config:?}"
    );
    assert_eq!(names(&config), ["security.protocol", "sasl.mechanism"]);
    let extensions = [("logicalCluster", "a"), ("identityPoolId", "b")];
    let extensions = extensions.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(config.kafka_login.extensions, extensions);

    with_command(&oidc).expect_refusal("KAFKA_TOKEN_COMMAND", &["sasl.oauthbearer.method=oidc"]);
    with_command("").expect_refusal("KAFKA_TOKEN_COMMAND", &["SASL_SSL"]);
    let password = format!("{PLAIN},sasl.password=p");
    with_command(&password).expect_refusal("KAFKA_TOKEN_COMMAND", &["PLAIN"]);
    let oidc_and_plain = format!("{password},sasl.oauthbearer.method=oidc");
    given(&oidc_and_plain).expect_refusal("KAFKA_PROPERTIES", &["PLAIN"]);
}

#[test]
fn commands_that_use_postgres_alone_read_no_password_of_kafka() {
    let settings = Settings {
        kafka_properties: Some(PLAIN.to_owned()),
        kafka_password_file: Some("/nowhere/password".to_owned()),
        ..valid()
    };
    Config::build(settings, false, &nothing).unwrap();
}
