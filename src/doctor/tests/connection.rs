//! What a connection shows before it is a session.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Settings;
use crate::doctor::report::Verdict;

fn config(options: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some(format!("postgresql://u@db.example/none?{options}")),
        kafka_brokers: Some("localhost:9092".to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

fn server_error(code: &str) -> Error {
    Error::fatal(Code::Connect, "cannot connect").with_source(ServerError {
        severity: "FATAL".to_owned(),
        code: code.to_owned(),
        message: "refused".to_owned(),
        ..ServerError::default()
    })
}

#[test]
fn each_kind_of_refusal_fails_one_check_and_has_passed_those_before() {
    let io = |error: io::Error| Error::transient(Code::Connect, "no").with_source(error);
    let lookup = io(io::Error::other("failed to lookup address information"));
    let refused = io(io::ErrorKind::ConnectionRefused.into());
    let of = |obstacle| Error::fatal(Code::Connect, "no").with_source(obstacle);
    let standby = of(Obstacle::ReadOnly);
    let (no_tls, stranger) = (
        of(Obstacle::NoTls),
        of(Obstacle::Certificate("self-signed certificate".to_owned())),
    );
    let silent = Error::transient(Code::Connect, "no answer within 4s");
    let pooler = Error::fatal(Code::Connect, "it is a connection pooler");
    let no_file = Error::fatal(Code::Config, "cannot use sslrootcert /none");
    for (error, name) in [
        (&lookup, Name::Reachable),
        (&refused, Name::Reachable),
        (&silent, Name::Reachable),
        (&no_file, Name::Tls),
        (&server_error("28P01"), Name::Login),
        (&server_error("3D000"), Name::Login),
        (&server_error("53300"), Name::Session),
        (&standby, Name::Session),
        (&no_tls, Name::Tls),
        (&stranger, Name::Tls),
        (&pooler, Name::Session),
    ] {
        let checks = judge_refusal(error, &config(""));
        let failed: Vec<Name> = checks
            .iter()
            .filter(|it| it.verdict == Verdict::Fails)
            .map(|it| it.name)
            .collect();
        assert_eq!(failed, [name], "{error:?}");
        let is_unseen = checks.iter().any(|it| it.verdict == Verdict::CannotSay);
        assert_eq!(is_unseen, error.code() == Code::Config, "{error:?}");
        assert!(checks.last().unwrap().fix.is_some());
    }
    let named = judge_refusal(&lookup, &config(""));
    assert!(named[0].fix.as_deref().unwrap().contains("DNS"));
}

#[test]
fn an_unencrypted_or_unverified_connection_is_a_warning_only_across_a_network() {
    let of = |tls: Option<&str>, is_local: bool, options: &str| {
        let tls = tls.map(str::to_owned);
        let config = config(options);
        let checks = judge_session(&Transport { tls, is_local }, &config);
        let tls = checks.into_iter().find(|it| it.name == Name::Tls);
        tls.unwrap().verdict
    };
    assert_eq!(of(None, true, ""), Verdict::Ok);
    assert_eq!(of(None, false, ""), Verdict::Warning);
    assert_eq!(
        of(Some("TLSv1.3"), false, "sslmode=require"),
        Verdict::Warning
    );
    assert_eq!(
        of(Some("TLSv1.3"), false, "sslmode=verify-full"),
        Verdict::Ok
    );
    assert_eq!(of(Some("TLSv1.3"), true, ""), Verdict::Ok);
}
