//! Judges the topics that the table's rows name against what Kafka knows of them.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::{Config, KeyRule};
use crate::doctor::catalogue::Name;
use crate::doctor::found::{self, ANSWER, Found};
use crate::doctor::report::Check;
use crate::error::Result;
use crate::format::{age, bytes, count};
use crate::kafka::TopicFacts;
use crate::kafka::topic_rights;
use crate::outbox::{Sample, TopicName, TopicSample};

/// What a record has beside its payload: the batch's header, the key and outboxd's headers.
const OVERHEAD: i64 = 512;

/// Clocks that are set by themselves differ by less: a topic with such a limit refuses nothing.
const CLOCK_TOLERANT: Duration = Duration::from_secs(600);

/// A topic of the table and what is known of it.
type Topic<'a> = (&'a TopicSample, Found);

/// Runs the checks of the topics that the sample names.
pub(super) async fn examine(config: &Config, sample: &Sample, checks: &mut Vec<Check>) {
    match find(config, sample).await {
        Ok(topics) => {
            checks.extend(existence(&topics, sample.without_topic, config));
            let named = known(&topics).map(|(topic, _)| topic.topic.clone());
            let may_write = topic_rights::may_write(config, named.collect(), ANSWER).await;
            checks.extend(rights(&topics, &may_write.unwrap_or_default(), config));
            checks.extend(leaders(&topics));
            checks.extend(replicas(&topics, config));
            checks.extend(sizes(&topics, sample, config));
            checks.extend(cleanup(&topics, config));
            checks.extend(clock(&topics, config));
        }
        Err(error) => {
            let fix = error.hint().unwrap_or("see the brokers' log").to_owned();
            checks.push(Check::fails(Name::Topics, error.reason(), fix));
        }
    }
}

/// Asks Kafka for each topic.
async fn find<'a>(config: &Config, sample: &'a Sample) -> Result<Vec<Topic<'a>>> {
    let name_of = |topic: &TopicSample| match TopicName::new(&topic.topic) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    };
    let valid = sample.topics.iter().filter(|it| name_of(it).is_none());
    let valid: Vec<String> = valid.map(|topic| topic.topic.clone()).collect();
    let found = found::ask(config, valid).await?;
    let of = |topic: &'a TopicSample| {
        let known = found.get(&topic.topic).cloned();
        let answer = || known.unwrap_or_else(Found::unanswered);
        (topic, name_of(topic).map_or_else(answer, Found::Invalid))
    };
    Ok(sample.topics.iter().map(of).collect())
}

fn known<'t>(topics: &'t [Topic<'_>]) -> impl Iterator<Item = (&'t TopicSample, &'t TopicFacts)> {
    topics.iter().filter_map(|(topic, found)| match found {
        Found::Known(facts) => Some((*topic, facts)),
        _ => None,
    })
}

/// These checks, or one that is ok.
fn or_ok(name: Name, checks: Vec<Check>, ok: impl Into<String>) -> Vec<Check> {
    match checks.is_empty() {
        true => vec![Check::ok(name, ok)],
        false => checks,
    }
}

/// Whether each row has a topic that exists; `without`: the rows that have none.
fn existence(topics: &[Topic<'_>], without: i64, config: &Config) -> Vec<Check> {
    const NAME: Name = Name::Topics;
    let mut checks = Vec::new();
    checks.extend((without > 0).then(|| no_topic(without, config)));
    for (topic, found) in topics {
        let (name, rows) = (&topic.topic, count(topic.rows.unsigned_abs(), "row"));
        let create = format!(
            "kafka-topics.sh --bootstrap-server {} --create --topic {name} --partitions 6",
            config.brokers
        );
        match found {
            Found::Known(_) | Found::Forbidden => {}
            Found::Missing if config.auto_creates_topics() => checks.push(Check::warning(
                NAME,
                format!("topic {name} ({rows}) does not exist; brokers may create it"),
                create,
            )),
            Found::Missing => checks.push(Check::fails(
                NAME,
                format!("topic {name} ({rows}) does not exist"),
                create,
            )),
            Found::Invalid(why) => checks.push(Check::fails(
                NAME,
                format!("{rows} with a topic that no broker accepts: {why}"),
                "correct topic in these rows, and what the writers write",
            )),
            Found::Unclear(why) => checks.push(Check::cannot_say(
                NAME,
                format!("topic {name}: {why}"),
                "run `outboxd doctor` again",
            )),
        }
    }
    let ok = match topics.len() {
        0 => "the table has no row that names a topic".to_owned(),
        1 => "the topic of the table exists".to_owned(),
        all => format!("all {all} topics of the table exist"),
    };
    or_ok(NAME, checks, ok)
}

/// Of rows to which the rules give no topic.
fn no_topic(rows: i64, config: &Config) -> Check {
    let why = match config.mapping.topics.entries.is_empty() {
        true => "a column that it is made of is null",
        false => "OUTBOX_TOPICS has no entry for their value",
    };
    let reason = format!("no topic for {}: {why}", count(rows.unsigned_abs(), "row"));
    let fix = "fill the column in these rows, or add the value, or *, to OUTBOX_TOPICS";
    Check::fails(Name::Topics, reason, fix)
}

/// Whether the user may see each topic and write to it. `may_write` has what a broker lists.
fn rights(topics: &[Topic<'_>], may_write: &HashMap<String, bool>, config: &Config) -> Vec<Check> {
    const NAME: Name = Name::TopicRights;
    let brokers = &config.brokers;
    let check = |(topic, found): &Topic<'_>| {
        let name = &topic.topic;
        let may = match found {
            Found::Forbidden => "describe",
            Found::Known(_) if may_write.get(name) == Some(&false) => "write to",
            Found::Known(_) if !may_write.contains_key(name) => {
                return Some(Check::cannot_say(
                    NAME,
                    format!("topic {name}: no broker has listed what the user may do there"),
                    format!("kafka-acls.sh --bootstrap-server {brokers} --list --topic {name}"),
                ));
            }
            _ => return None,
        };
        Some(Check::fails(
            NAME,
            format!("the Kafka user may not {may} topic {name}"),
            format!(
                "kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal User:NAME \
                 --operation Describe --operation Write --topic {name}, for outboxd's Kafka user"
            ),
        ))
    };
    let checks = topics.iter().filter_map(check).collect();
    or_ok(
        NAME,
        checks,
        "the user may write to each topic of the table",
    )
}

/// Whether each partition can be written to.
fn leaders(topics: &[Topic<'_>]) -> Vec<Check> {
    const NAME: Name = Name::Leaders;
    let problem = |(topic, facts): (&TopicSample, &TopicFacts)| {
        let problem = facts.problem()?;
        let reason = format!("topic {}: {problem}", topic.topic);
        let fix = "start the brokers that have its replicas, or lower min.insync.replicas";
        Some(Check::fails(NAME, reason, fix))
    };
    let checks = known(topics).filter_map(problem).collect();
    or_ok(NAME, checks, "every partition can be written to")
}

/// Whether a record outlives a broker.
fn replicas(topics: &[Topic<'_>], config: &Config) -> Vec<Check> {
    const NAME: Name = Name::Replicas;
    let check = |(topic, facts): (&TopicSample, &TopicFacts)| {
        let (name, replicas) = (&topic.topic, facts.replicas);
        let alter = |value: usize| {
            format!(
                "kafka-configs.sh --bootstrap-server {} --alter --topic {name} --add-config \
                 min.insync.replicas={value}",
                config.brokers
            )
        };
        let Some(least) = facts.min_in_sync else {
            return Some(Check::cannot_say(
                NAME,
                format!("topic {name}: the user may not see min.insync.replicas"),
                "grant the Kafka user DescribeConfigs on the topic",
            ));
        };
        match (replicas, least) {
            (0, _) => None,
            _ if least > replicas => Some(Check::fails(
                NAME,
                format!(
                    "topic {name} has {replicas} replicas and min.insync.replicas is {least}, so \
                     it takes no record"
                ),
                alter(replicas.max(2) - 1),
            )),
            (1, _) => Some(Check::warning(
                NAME,
                format!("topic {name} has one replica: its records are lost with one broker"),
                "kafka-reassign-partitions.sh, or a new topic with --replication-factor 3",
            )),
            (_, 1) => Some(Check::warning(
                NAME,
                format!("topic {name} acknowledges a record that one of {replicas} replicas has"),
                alter(2),
            )),
            _ if least == replicas => Some(Check::warning(
                NAME,
                format!("topic {name} takes no record while one of {replicas} replicas is away"),
                alter(replicas - 1),
            )),
            _ => None,
        }
    };
    let checks = known(topics).filter_map(check).collect();
    or_ok(NAME, checks, "records outlive the loss of one broker")
}

/// Whether the largest payload fits.
fn sizes(topics: &[Topic<'_>], sample: &Sample, config: &Config) -> Vec<Check> {
    const NAME: Name = Name::Size;
    if let Some(reason) = &sample.no_sizes {
        let fix = "see docs/dead-letters.md: a row that cannot be printed becomes a dead letter";
        return vec![Check::cannot_say(NAME, reason, fix)];
    }
    let producer = i64::try_from(config.record_bytes_max()).unwrap_or(i64::MAX);
    let check = |(topic, facts): (&TopicSample, &TopicFacts)| {
        let name = &topic.topic;
        let largest = topic.largest?;
        if largest + OVERHEAD > producer {
            return Some(Check::fails(
                NAME,
                format!(
                    "topic {name} has a payload of {}, and outboxd sends up to {}",
                    bytes(largest),
                    bytes(producer)
                ),
                "raise message.max.bytes in the Kafka properties, and max.message.bytes of the \
                 topic",
            ));
        }
        let Some(limit) = facts.max_message_bytes else {
            return Some(Check::cannot_say(
                NAME,
                format!("topic {name}: the user may not see max.message.bytes"),
                "grant the Kafka user DescribeConfigs on the topic",
            ));
        };
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let reason = format!(
            "topic {name} takes records up to {}, and a payload has {}",
            bytes(limit),
            bytes(largest)
        );
        let fix = format!(
            "kafka-configs.sh --bootstrap-server {} --alter --topic {name} --add-config \
             max.message.bytes={}",
            config.brokers,
            largest.saturating_add(OVERHEAD).max(1 << 20)
        );
        match largest + OVERHEAD > limit {
            true if config.compresses() => Some(Check::warning(
                NAME,
                format!("{reason} before compression"),
                fix,
            )),
            true => Some(Check::fails(NAME, reason, fix)),
            false => None,
        }
    };
    let checks = known(topics).filter_map(check).collect();
    or_ok(NAME, checks, "every payload of the sample fits its topic")
}

/// Whether compaction would refuse records or remove events.
fn cleanup(topics: &[Topic<'_>], config: &Config) -> Vec<Check> {
    const NAME: Name = Name::Cleanup;
    let check = |(topic, facts): (&TopicSample, &TopicFacts)| {
        let name = &topic.topic;
        if !facts.compacted {
            return None;
        }
        let delete = format!(
            "kafka-configs.sh --bootstrap-server {} --alter --topic {name} --add-config \
             cleanup.policy=delete",
            config.brokers
        );
        let unkeyed = match config.mapping.key {
            KeyRule::None => topic.rows,
            _ => topic.unkeyed.unwrap_or_default(),
        };
        if unkeyed > 0 {
            return Some(Check::fails(
                NAME,
                format!("topic {name} is compacted and refuses records without a key ({unkeyed})"),
                format!("set OUTBOX_KEY to what every event has, or {delete}"),
            ));
        }
        let of_type = config.mapping.columns.event_type.as_deref();
        let is_type = matches!(&config.mapping.key, KeyRule::Column(name) if of_type == Some(name));
        is_type.then(|| {
            Check::warning(
                NAME,
                format!(
                    "topic {name} is compacted, and the key is the event type: Kafka keeps the \
                     last event of each type"
                ),
                format!("set OUTBOX_KEY to what names the entity, or {delete}"),
            )
        })
    };
    let checks = known(topics).filter_map(check).collect();
    or_ok(
        NAME,
        checks,
        "no topic of the table removes or refuses events",
    )
}

/// Whether the difference between two clocks could make a topic refuse records. No answer of Kafka
/// shows a broker's clock.
fn clock(topics: &[Topic<'_>], config: &Config) -> Vec<Check> {
    const NAME: Name = Name::KafkaClock;
    let check = |(topic, facts): (&TopicSample, &TopicFacts)| {
        let name = &topic.topic;
        let limit = facts.clock_limit.filter(|limit| *limit < CLOCK_TOLERANT)?;
        Some(Check::cannot_say(
            NAME,
            format!(
                "topic {name} refuses a record whose time is {} from the broker's, and Kafka shows \
                 its clock in no answer",
                age(limit.as_secs_f64())
            ),
            format!(
                "compare `date -u` on the brokers with this machine's, or kafka-configs.sh \
                 --bootstrap-server {} --alter --topic {name} --delete-config \
                 message.timestamp.before.max.ms,message.timestamp.after.max.ms",
                config.brokers
            ),
        ))
    };
    let checks = known(topics).filter_map(check).collect();
    or_ok(
        NAME,
        checks,
        "no topic of the table refuses a record for minutes between two clocks",
    )
}

#[cfg(test)]
#[path = "tests/topics.rs"]
mod tests;
