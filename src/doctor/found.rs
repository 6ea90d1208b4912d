//! Asks Kafka what it knows of some topics.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::Config;
use crate::error::Result;
use crate::kafka::survey::{self, Absence};
use crate::kafka::{MetadataClient, TopicAnswer, TopicFacts};

/// The limit for an answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Known(TopicFacts),
    Missing,
    Forbidden,
    Invalid(String),
    Unclear(String),
}

impl Found {
    /// Kafka has said nothing of the topic.
    pub(super) fn unanswered() -> Self {
        Found::Unclear("no answer in time".to_owned())
    }
}

/// What is known of each of these topics, whose names are valid.
///
/// # Errors
/// No broker answers.
pub(super) async fn ask(config: &Config, topics: Vec<String>) -> Result<HashMap<String, Found>> {
    let client = MetadataClient::new(config);
    let answers = match topics.is_empty() {
        true => Vec::new(),
        false => client.ask(&topics).await?,
    };
    let mut found: HashMap<String, Found> = HashMap::new();
    let mut absent = Vec::new();
    for (topic, answer) in answers {
        match answer {
            TopicAnswer::Known(facts) => drop(found.insert(topic, Found::Known(facts))),
            _ => absent.push(topic),
        }
    }
    for (topic, absence) in survey::absences(config, absent, ANSWER).await? {
        let absence = match absence {
            Absence::Missing => Found::Missing,
            Absence::Forbidden => Found::Forbidden,
            Absence::Unclear(reason) => Found::Unclear(reason),
        };
        found.insert(topic, absence);
    }
    Ok(found)
}
