//! Settings of any form give a configuration or errors, and no error shows a secret.

use super::*;
use crate::fuzz::{mutated, seeds};

const URLS: [&str; 7] = [
    "postgresql://outboxd:hunter2@db-1:5432,db-2:5433/orders?sslmode=disable&connect_timeout=3",
    "postgres://u:hunter2@[::1]:3/d?application_name=x%20y&require_auth=scram-sha-256,!md5",
    "host='/var/run' port=5432 user=u password='hunter2' dbname=d options='-c a=b'",
    "host=a,b hostaddr=127.0.0.1,::1 port=1,2 user=u password=hunter2 keepalives_idle=10",
    "postgresql://u:hunter2@%2Ftmp:6/d?target_session_attrs=read-write&channel_binding=require",
    "user=u password=hunter2 host=h tcp_user_timeout=1500 sslnegotiation=direct sslmode=require",
    "postgres://u:hunter2@h/d?load_balance_hosts=random&keepalives=0&gssencmode=disable",
];

const PROPERTIES: [&str; 4] = [
    "security.protocol=SASL_SSL,sasl.mechanism=PLAIN,sasl.username=app,sasl.password=hunter2",
    "linger.ms=5,compression.codec=zstd,batch.size=1000,message.max.bytes=2000000",
    "sasl.password=hunter2,ssl.key.password=hunter2,client.id=x,allow.auto.create.topics=true",
    "acks=all , enable.idempotence=true,,=,x=,=y",
];

/// The text with some changes, as UTF-8.
fn text(input: &str, seed: u64) -> String {
    String::from_utf8_lossy(&mutated(input.as_bytes(), seed)).replace('\0', "0")
}

#[test]
fn any_connection_string_is_read_or_named_without_its_password() {
    for seed in seeds(20_000) {
        let url = text(URLS[seed as usize % URLS.len()], seed);
        if let Err(errors) = database(&url) {
            let errors = errors.to_string();
            assert!(!errors.contains("hunter2"), "seed {seed}: {errors}");
        }
    }
}

#[test]
fn any_properties_are_read_or_named_without_their_secrets() {
    for seed in seeds(5_000) {
        let properties = text(PROPERTIES[seed as usize % PROPERTIES.len()], seed);
        let settings = Settings {
            kafka_properties: Some(properties),
            ..valid()
        };
        match Config::build(settings, true, &nothing) {
            Ok(config) => assert!(!format!("{config:?}").contains("hunter2"), "seed {seed}"),
            Err(errors) => {
                let errors = errors.to_string();
                assert!(!errors.contains("hunter2"), "seed {seed}: {errors}");
            }
        }
    }
}

const RULES: [(&str, &str); 14] = [
    (
        "--where",
        "a = 'it''s' AND \"B\" NOT IN ('x', -1.5) AND c IS NOT NULL AND d <> true",
    ),
    ("--where", "listener_id IN ('a,b','c') and status!='DONE'"),
    (
        "--columns",
        "id=tenant+seq,payload=body,published=s='x',headers=c:/a~1b,header=a:b",
    ),
    (
        "--columns",
        "topic=t,key=k,partition=p,timestamp=at,order=created,envelope=a:b",
    ),
    ("--topic", "outbox.event.${aggregatetype}-${b}"),
    ("--topic", "column:topic"),
    ("--topics", "com.acme.Order=orders,a=b,*=rest.${kind}"),
    ("--key", "${tenant}:${id}"),
    ("--key", "payload:/order/id"),
    ("--value", "payload:/Value"),
    ("--partition", "column:p"),
    ("--timestamp", "column:created_at"),
    ("--source-id", "shop.outbox"),
    ("--preset", "spring-modulith"),
];

#[test]
fn any_rule_is_read_or_named_in_one_line() {
    for seed in seeds(20_000) {
        let (flag, rule) = RULES[seed as usize % RULES.len()];
        let rule = text(rule, seed);
        let settings = flags(&[&format!("{flag}={rule}")]).or(valid());
        if let Err(errors) = build(settings) {
            for error in messages(&errors) {
                assert!(!error.contains('\n'), "seed {seed}: {error}");
                assert!(error.contains("; "), "seed {seed}: {error}");
            }
        }
    }
}
