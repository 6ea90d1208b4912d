//! Judges the topic of the progress records, which exactly once depends on: if it is lost, no start
//! knows what is in Kafka.

use crate::config::Config;
use crate::doctor::catalogue::Name;
use crate::doctor::found::{self, ANSWER, Found};
use crate::doctor::report::Check;
use crate::kafka::{TopicFacts, Unfit, topic_rights, unfit_for_progress};

const NAME: Name = Name::Progress;

/// Runs the check, with exactly once alone.
pub(super) async fn examine(config: &Config, checks: &mut Vec<Check>) {
    let Some(settings) = &config.exactly_once else {
        return;
    };
    let topic = &settings.progress_topic;
    let asked = vec![topic.clone()];
    let (found, rights) = tokio::join!(
        found::ask(config, asked.clone()),
        topic_rights::may_write(config, asked, ANSWER)
    );
    checks.push(match found {
        Ok(mut found) => {
            let found = found.remove(topic).unwrap_or_else(Found::unanswered);
            let may_write = rights.unwrap_or_default().get(topic).copied();
            judge(topic, &found, may_write, &config.brokers)
        }
        Err(error) => {
            let fix = error.hint().unwrap_or("see the brokers' log").to_owned();
            Check::fails(NAME, error.reason(), fix)
        }
    });
}

/// `may_write` is what a broker lists.
fn judge(topic: &str, found: &Found, may_write: Option<bool>, brokers: &str) -> Check {
    let grant = || {
        format!(
            "kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal User:NAME \
             --operation Describe --operation Read --operation Write --topic {topic}, for \
             outboxd's Kafka user"
        )
    };
    match found {
        Found::Known(facts) => match faults(topic, facts, brokers) {
            Some(fault) => fault,
            None if may_write == Some(false) => {
                let reason = format!("the Kafka user may not write to topic {topic}");
                Check::fails(NAME, reason, grant())
            }
            None => Check::ok(
                NAME,
                format!("topic {topic} outlives the loss of one broker"),
            ),
        },
        Found::Missing => Check::warning(
            NAME,
            format!(
                "topic {topic} does not exist: outboxd creates it with the brokers' default \
                 replication"
            ),
            create(topic, brokers),
        ),
        Found::Forbidden => {
            let reason = format!("the Kafka user may not describe topic {topic}");
            Check::fails(NAME, reason, grant())
        }
        Found::Invalid(why) | Found::Unclear(why) => {
            let reason = format!("topic {topic}: {why}");
            Check::cannot_say(NAME, reason, "run `outboxd doctor` again")
        }
    }
}

fn faults(topic: &str, facts: &TopicFacts, brokers: &str) -> Option<Check> {
    if let Some(unfit) = unfit_for_progress(facts) {
        let fix = match unfit {
            Unfit::Partitions(_) => "name another topic in OUTBOX_PROGRESS_TOPIC".to_owned(),
            Unfit::NotCompacted => format!(
                "kafka-configs.sh --bootstrap-server {brokers} --alter --topic {topic} \
                 --add-config cleanup.policy=compact; or grant DescribeConfigs on it, if the user \
                 may not see its cleanup.policy"
            ),
        };
        return Some(Check::fails(NAME, format!("topic {topic} {unfit}"), fix));
    }
    if let Some(problem) = facts.problem() {
        let reason = format!("topic {topic}: {problem}");
        return Some(Check::fails(
            NAME,
            reason,
            "start the brokers that are down",
        ));
    }
    (facts.replicas == 1).then(|| {
        Check::warning(
            NAME,
            format!(
                "topic {topic} has one replica: without its broker no start knows what is in Kafka"
            ),
            "kafka-reassign-partitions.sh, to three replicas",
        )
    })
}

fn create(topic: &str, brokers: &str) -> String {
    format!(
        "kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic} --partitions 1 \
         --replication-factor 3 --config cleanup.policy=compact --config min.insync.replicas=2"
    )
}

#[cfg(test)]
#[path = "tests/progress.rs"]
mod tests;
