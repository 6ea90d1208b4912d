//! Addresses, encryption and the right to write.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::config::Settings;
use crate::doctor::report::Verdict;
use crate::error::{Code, Error};

fn config(brokers: &str, properties: &str) -> Config {
    Config::from_settings(Settings {
        database_url: Some("postgresql://nobody@localhost/none".to_owned()),
        kafka_brokers: Some(brokers.to_owned()),
        kafka_properties: Some(properties.to_owned()),
        ..Settings::default()
    })
    .unwrap()
}

#[test]
fn addresses_have_schemes_ports_and_brackets_or_none() {
    let found = addresses("a:1, SSL://b:2,[::1]:3,c,[::2]");
    let expected = [("a", 1), ("b", 2), ("::1", 3), ("c", 9_092), ("::2", 9_092)];
    let expected: Vec<(String, u16)> = expected
        .into_iter()
        .map(|(host, port)| (host.to_owned(), port))
        .collect();
    assert_eq!(found, expected);
}

fn dialled(problems: &[Option<&str>]) -> Vec<Dialled> {
    let one = |problem: &Option<&str>| Dialled {
        address: "b:1".to_owned(),
        problem: problem.map(str::to_owned),
    };
    problems.iter().map(one).collect()
}

#[test]
fn one_bootstrap_server_of_several_is_enough_and_every_broker_must_be_reached() {
    let verdicts = |checks: Vec<Check>| checks.iter().map(|it| it.verdict).collect::<Vec<_>>();
    let half = dialled(&[None, Some("refused")]);
    assert_eq!(verdicts(bootstrap(&half)), [Verdict::Warning]);
    assert_eq!(verdicts(listeners(&half)), [Verdict::Fails]);
    let none = dialled(&[Some("refused"), Some("refused")]);
    assert_eq!(verdicts(bootstrap(&none)), [Verdict::Fails, Verdict::Fails]);
    let all = dialled(&[None, None]);
    assert_eq!(bootstrap(&all)[0].reason, "2 of 2 answer");
    assert_eq!(verdicts(listeners(&all)), [Verdict::Ok]);
}

#[test]
fn what_crosses_a_network_in_clear_is_a_warning() {
    let of = |brokers: &str, properties: &str| encryption(&config(brokers, properties)).verdict;
    assert_eq!(of("127.0.0.1:1,localhost:2,[::1]:3", ""), Verdict::Ok);
    assert_eq!(of("kafka.example:1", ""), Verdict::Warning);
    assert_eq!(of("kafka.example:1", "security.protocol=ssl"), Verdict::Ok);
    let plain = "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=u,\
                 sasl.password=p";
    let clear = encryption(&config("k:1", plain));
    assert!(clear.reason.contains("password"), "{}", clear.reason);
}

#[test]
fn a_producer_that_is_refused_fails_and_one_without_an_answer_says_nothing() {
    let config = config("k:1", "");
    let of = |right| producer(Ok(right), &config);
    assert_eq!(of(WriteRight::Granted).verdict, Verdict::Ok);
    let refused = of(WriteRight::Refused("cluster".to_owned()));
    assert_eq!(refused.verdict, Verdict::Fails);
    assert!(refused.fix.unwrap().contains("--operation Write"));
    assert_eq!(
        of(WriteRight::Unknown("slow".to_owned())).verdict,
        Verdict::CannotSay
    );
    let error = Error::fatal(Code::Config, "unknown property");
    assert_eq!(producer(Err(error), &config).verdict, Verdict::Fails);
}
