//! The settings of topics. They are useful, but nothing waits long for them.
//!
//! An answer is waited for, for a second if the cluster has answered before, and otherwise for a
//! moment: some clusters never answer such requests, and no event is held for what is only worth
//! knowing. While a request is unanswered for longer, the next ones wait no more, and what came
//! last is used.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use crate::kafka::context::Context;
use crate::kafka::topic_facts::{TopicSettings, read};

type Client = AdminClient<Context>;

/// How long an answer is waited for.
const WAIT: Duration = Duration::from_secs(1);

/// How long the first answer is waited for.
const FIRST_WAIT: Duration = Duration::from_millis(300);

/// The limit for the answer.
const LIMIT: Duration = Duration::from_secs(4);

/// The number of topics in one request.
const CHUNK: usize = 200;

/// Settings that are kept for a cluster that answers late.
const KEPT_MAX: usize = 10_000;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct TopicSettingsReader {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<String, TopicSettings>,
    /// Since when an answer is outstanding, or the last one did not come.
    unanswered_since: Option<Instant>,
    running: bool,
    has_answered: bool,
}

impl State {
    fn wait(&self) -> Duration {
        if self.has_answered { WAIT } else { FIRST_WAIT }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TopicSettingsReader {
    /// The settings of these topics, as far as they are known within a second.
    pub(super) async fn read(
        &self,
        client: &Arc<Client>,
        topics: Vec<String>,
    ) -> HashMap<String, TopicSettings> {
        if topics.is_empty() {
            return HashMap::new();
        }
        let mut is_requested = false;
        loop {
            let done = self.shared.done.notified();
            let (since, wait) = {
                let mut state = self.shared.state();
                if !state.running && is_requested {
                    break;
                }
                let since = *state.unanswered_since.get_or_insert_with(Instant::now);
                if !state.running {
                    (state.running, is_requested) = (true, true);
                    let (client, shared) = (Arc::clone(client), Arc::clone(&self.shared));
                    tokio::spawn(describe_all(client, shared, topics.clone()));
                }
                (since, state.wait())
            };
            let left = (since + wait).saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, done).await.is_err() {
                break;
            }
        }
        let state = self.shared.state();
        let known = topics.into_iter().filter_map(|topic| {
            let settings = state.known.get(&topic)?.clone();
            Some((topic, settings))
        });
        known.collect()
    }
}

async fn describe_all(client: Arc<Client>, shared: Arc<Shared>, topics: Vec<String>) {
    let mut is_answered = true;
    for chunk in topics.chunks(CHUNK) {
        let described = describe(&client, chunk).await;
        is_answered &= described.is_some();
        let mut state = shared.state();
        if state.known.len() > KEPT_MAX {
            state.known.clear();
        }
        state.known.extend(described.unwrap_or_default());
        if !is_answered {
            break;
        }
    }
    let mut state = shared.state();
    state.running = false;
    if is_answered {
        (state.unanswered_since, state.has_answered) = (None, true);
    }
    drop(state);
    shared.done.notify_waiters();
    // The last owner waits for the client's threads.
    tokio::task::spawn_blocking(move || drop(client));
}

/// The settings of these topics that Kafka describes; `None` without an answer in time.
async fn describe(client: &Client, topics: &[String]) -> Option<Vec<(String, TopicSettings)>> {
    let specifiers: Vec<ResourceSpecifier<'_>> = topics
        .iter()
        .map(|topic| ResourceSpecifier::Topic(topic))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(LIMIT));
    let results = match client.describe_configs(&specifiers, &options).await {
        Ok(results) => results,
        Err(error) => {
            // The Kafka user may not read settings, or the broker does not support it.
            let code = error.rdkafka_error_code();
            let is_answer = code.is_some_and(|code| code != RDKafkaErrorCode::OperationTimedOut);
            return is_answer.then(Vec::new);
        }
    };
    // The results are in the order of the request.
    let described = topics.iter().zip(results).filter_map(|(topic, result)| {
        let resource = result.ok()?;
        let named = resource.specifier == OwnedResourceSpecifier::Topic(topic.clone());
        named.then(|| (topic.clone(), read(&resource)))
    });
    Some(described.collect())
}
