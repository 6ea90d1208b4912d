//! Examines the brokers: their addresses, the protocol, the right to write. Every wait has a limit.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::config::Config;
use crate::doctor::catalogue::Name;
use crate::doctor::report::Check;
use crate::format::count;
use crate::kafka;
use crate::kafka::survey::{self, Broker, WriteRight};

/// The limit for one address.
const DIAL: Duration = Duration::from_secs(3);

/// The limit for the first answer, and for each later one.
const ANSWER: Duration = Duration::from_secs(5);

/// The most addresses that are tried.
const ADDRESSES_MAX: usize = 32;

/// Runs the checks that need no topic. Returns whether a broker answers.
pub(super) async fn examine(config: &Config, checks: &mut Vec<Check>) -> bool {
    checks.push(encryption(config));
    let addresses = addresses(&config.brokers);
    let (dialled, answer) = tokio::join!(dial(addresses), kafka::reachable(config, ANSWER));
    checks.extend(bootstrap(&dialled));
    if dialled.iter().all(|it| it.problem.is_some()) {
        return false;
    }
    if let Err(error) = answer {
        let fix = error.hint().unwrap_or("see the brokers' log").to_owned();
        checks.push(Check::fails(Name::Answer, error.reason(), fix));
        return false;
    }
    let (brokers, right) = tokio::join!(
        survey::brokers(config, ANSWER),
        survey::write_right(config, ANSWER)
    );
    let brokers = match brokers {
        Ok(brokers) => brokers,
        Err(error) => {
            let fix = error.hint().unwrap_or("see the brokers' log").to_owned();
            checks.push(Check::fails(Name::Answer, error.reason(), fix));
            return false;
        }
    };
    checks.push(Check::ok(
        Name::Answer,
        format!(
            "{}, by {}",
            count(brokers.len() as u64, "broker"),
            kafka::security_protocol(config)
        ),
    ));
    let dialled = dial(advertised(&brokers)).await;
    checks.extend(listeners(&dialled));
    checks.push(producer(right, config));
    true
}

/// An address, and why it does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dialled {
    address: String,
    problem: Option<String>,
}

/// Opens a connection to each address and closes it.
async fn dial(addresses: Vec<(String, u16)>) -> Vec<Dialled> {
    let mut dialling = JoinSet::new();
    for (place, (host, port)) in addresses.into_iter().take(ADDRESSES_MAX).enumerate() {
        dialling.spawn(async move {
            let problem = match timeout(DIAL, TcpStream::connect((host.as_str(), port))).await {
                Ok(Ok(_stream)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_elapsed) => Some(format!("no answer within {} s", DIAL.as_secs())),
            };
            let address = format!("{host}:{port}");
            (place, Dialled { address, problem })
        });
    }
    let mut dialled = dialling.join_all().await;
    dialled.sort_by_key(|(place, _)| *place);
    dialled.into_iter().map(|(_, dialled)| dialled).collect()
}

/// Host and port of each bootstrap server.
fn addresses(brokers: &str) -> Vec<(String, u16)> {
    let brokers = brokers.split(',').map(str::trim);
    let brokers = brokers.filter(|broker| !broker.is_empty());
    let address = |broker: &str| {
        let broker = broker.rsplit_once("://").map_or(broker, |(_, rest)| rest);
        let (host, port) = match broker.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
            _ => (broker, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (host.to_owned(), port.unwrap_or(9_092))
    };
    brokers.map(address).collect()
}

fn advertised(brokers: &[Broker]) -> Vec<(String, u16)> {
    let address = |broker: &Broker| (broker.host.clone(), broker.port);
    brokers.iter().map(address).collect()
}

/// Each bootstrap server that does not answer: one that does is enough to begin with.
fn bootstrap(dialled: &[Dialled]) -> Vec<Check> {
    const NAME: Name = Name::Bootstrap;
    const FIX: &str = "check host and port in KAFKA_BROKERS: is that broker up, and does a \
                       firewall let this machine through?";
    let answering = dialled.iter().filter(|it| it.problem.is_none()).count();
    let mut checks = Vec::new();
    for Dialled { address, problem } in dialled {
        let Some(problem) = problem else { continue };
        let reason = format!("{address}: {problem}");
        checks.push(match answering {
            0 => Check::fails(NAME, reason, FIX),
            _ => Check::warning(NAME, format!("{reason}; others answer"), FIX),
        });
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            NAME,
            format!("{answering} of {answering} answer"),
        ));
    }
    checks
}

/// Each broker that the cluster advertises at an address that this machine does not reach: its
/// partitions take no records.
fn listeners(dialled: &[Dialled]) -> Vec<Check> {
    const NAME: Name = Name::Advertised;
    let mut checks = Vec::new();
    for Dialled { address, problem } in dialled {
        let Some(problem) = problem else { continue };
        checks.push(Check::fails(
            NAME,
            format!("the cluster advertises {address}, which does not answer: {problem}"),
            "start that broker, or set its advertised.listeners to an address that this machine \
             reaches",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            NAME,
            format!("{} answered", count(dialled.len() as u64, "broker")),
        ));
    }
    checks
}

/// Whether anything crosses a network in clear.
fn encryption(config: &Config) -> Check {
    const NAME: Name = Name::Encryption;
    let protocol = kafka::security_protocol(config);
    if protocol.ends_with("SSL") {
        return Check::ok(NAME, format!("security.protocol is {protocol}"));
    }
    let is_local = |(host, _): &(String, u16)| {
        host == "localhost"
            || host
                .parse()
                .is_ok_and(|it: std::net::IpAddr| it.is_loopback())
    };
    if addresses(&config.brokers).iter().all(is_local) {
        let reason = format!("security.protocol is {protocol}, and stays on this machine");
        return Check::ok(NAME, reason);
    }
    let sent = match protocol.starts_with("SASL") {
        true => "events and perhaps the password",
        false => "events",
    };
    Check::warning(
        NAME,
        format!("security.protocol is {protocol}: {sent} cross the network in clear"),
        "set security.protocol to SSL or SASL_SSL, and ssl.ca.location",
    )
}

/// Whether the user may write at all.
fn producer(right: Result<WriteRight, crate::error::Error>, config: &Config) -> Check {
    const NAME: Name = Name::Producer;
    let grant = format!(
        "kafka-acls.sh --bootstrap-server {} --add --allow-principal User:NAME --operation Write \
         --operation Describe --topic TOPIC, for outboxd's Kafka user",
        config.brokers
    );
    match right {
        Ok(WriteRight::Granted) => Check::ok(NAME, "the user may write to a topic"),
        Ok(WriteRight::Refused(reason)) => Check::fails(
            NAME,
            format!("the user may write to no topic: {reason}"),
            grant,
        ),
        Ok(WriteRight::Unknown(reason)) => Check::cannot_say(NAME, reason, grant),
        Err(error) => {
            let fix = error.hint().unwrap_or("see the brokers' log").to_owned();
            Check::fails(NAME, error.reason(), fix)
        }
    }
}

#[cfg(test)]
#[path = "tests/kafka.rs"]
mod tests;
