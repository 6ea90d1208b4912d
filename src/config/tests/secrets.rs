//! Nothing that is printed holds a password.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "Zq7Kw9Xv";

/// Whether the text contains four characters of the secret in a row.
fn reveals(text: &str) -> bool {
    (0..=SECRET.len() - 4).any(|at| text.contains(&SECRET[at..at + 4]))
}

#[test]
fn nothing_that_can_be_printed_holds_a_secret() {
    let settings = Settings {
        database_url: Some(format!("postgres://u:{SECRET}@h/d")),
        kafka: vec![format!("sasl.password={SECRET}")],
        kafka_properties: Some(format!("ssl.key.password={SECRET}")),
        ..valid()
    };
    assert!(!reveals(&format!("{settings:?}")));
    let config = build(settings).unwrap();
    assert!(!reveals(&format!(
        "{config:?} {:?} {}",
        config.database, config.database
    )));
    assert!(
        format!("{config:?}").contains("sasl.password"),
        "names are shown"
    );
    // A connection string that went to the wrong setting.
    for name in [
        "kafka_brokers",
        "table",
        "slot",
        "key",
        "http_listen",
        "log",
        "after_publish",
        "source",
        "preset",
        "where",
        "topic",
        "value",
        "headers",
        "source_id",
    ] {
        let message = build(with(name, &format!("postgres://u:{SECRET}@h/d"))).unwrap_err();
        assert!(
            !reveals(&format!("{message} {message:?}")),
            "{name}: {message}"
        );
    }
    let file = file(&format!(
        "database_url = \"postgres://u:{SECRET}@h/d\" x\n[kafka]\na = '{SECRET}"
    ));
    let error = Error::from(build(file).unwrap_err());
    assert!(
        !reveals(&format!("{error} {error:?} {}", error.report())),
        "{error}"
    );
}

/// One character too many or too few, anywhere in a connection string of one of three forms.
fn broken_connection_string() -> impl Strategy<Value = String> {
    let forms = prop::sample::select(vec![
        format!("postgres://user:{SECRET}@db.example:5432/orders?sslmode=require&port=1"),
        format!("host=db.example password={SECRET} user=u port=5432 connect_timeout=3"),
        format!("password='{SECRET}' host=db.example user=u sslmode=verify-full dbname=orders"),
    ]);
    let signs: Vec<char> = r#" '"\:/?#@&=%[],;"#.chars().collect();
    let sign = prop::option::of(prop::sample::select(signs));
    (forms, 0..70_usize, sign).prop_map(|(mut text, at, sign)| {
        let at = at.min(text.len() - 1);
        match sign {
            Some(sign) => text.insert(at, sign),
            None => {
                text.remove(at);
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn whatever_is_said_of_a_broken_connection_string_its_password_is_not(
        text in broken_connection_string(),
    ) {
        if let Err(errors) = database(&text) {
            let error = Error::from(errors.clone());
            let message = format!("{errors} {errors:?} {error:?} {}", error.report());
            prop_assert!(!reveals(&message), "{message}");
        }
    }
}
