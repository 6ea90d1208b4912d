//! Kafka's metadata about topics, requested before and after a record fails: whether a topic
//! exists, what it accepts, whether it can be written to now.
//!
//! **No request creates a topic.** A request for a topic by name leaves a handle in librdkafka that
//! is refreshed without end, and creates the topic on a broker with automatic creation. One request
//! therefore lists all topics of the cluster, and settings are requested only for existing ones.
//!
//! **One broker alone does not make a topic missing.** A broker that is cut off from its controller
//! goes on to answer with what it knew. A topic that one broker does not list is therefore looked
//! for at others, where the cluster has others.
//!
//! **Settings hold nothing up.** Some brokers and proxies never answer a request for settings, and
//! some users may not read them: the settings then stay unknown, which is no error. One answer is
//! waited for, for a second at most; while a request is unanswered, none is.
//!
//! **No queue grows.** rdkafka never reads the main queue of its admin client, so anything put
//! there would stay. At this log level librdkafka puts no log lines there, and errors only for
//! clients that register for such events, which this one does not.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::AdminClient;
use rdkafka::error::KafkaError;
use rdkafka::metadata::{Metadata, MetadataTopic};
use tokio::runtime::Handle;

use crate::config::{Config, Token};
use crate::error::{Error, Result};
use crate::kafka::admin::{CancelOnDrop, blocking};
use crate::kafka::context::Context;
use crate::kafka::topic_facts::{Partition, TopicFacts, facts, partitions};
use crate::kafka::topic_settings::TopicSettingsReader;
use crate::kafka::{admin, login, login_files, survey};

/// The limit for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A request whose caller has gone ends within this time.
const SLICE: Duration = Duration::from_millis(2_500);

/// The most brokers that are asked for a topic that another one does not list.
const OTHERS_MAX: usize = 3;

type Client = AdminClient<Context>;

/// Requests metadata about topics. The first request creates the underlying client.
pub(crate) struct MetadataClient {
    config: Config,
    client: Arc<Mutex<Option<Made>>>,
    /// The last request failed.
    failed: AtomicBool,
    topic_settings: TopicSettingsReader,
}

/// A client, and what it was made from: the digest of the files, and the token.
struct Made {
    client: Arc<Client>,
    files: u64,
    token: Option<Arc<Token>>,
}

impl Made {
    fn has(&self, token: Option<&Arc<Token>>) -> bool {
        self.token.as_ref().map(Arc::as_ptr) == token.map(Arc::as_ptr)
    }
}

/// Kafka's answer about a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TopicAnswer {
    Known(TopicFacts),
    /// The topic does not exist, or the Kafka user may not see it, which looks the same.
    Missing,
    /// Kafka lists no topic at all.
    NoneListed,
    /// One broker does not list it, and no other broker of the cluster answers.
    Unconfirmed,
}

impl MetadataClient {
    /// Connects to nothing yet.
    pub(crate) fn new(config: &Config) -> MetadataClient {
        MetadataClient {
            config: config.clone(),
            client: Arc::default(),
            failed: AtomicBool::new(false),
            topic_settings: TopicSettingsReader::default(),
        }
    }

    /// Kafka's answers about these topics, in their order.
    ///
    /// # Errors
    ///
    /// A transient [`Code::Connect`] when no broker answers within ten seconds, and a fatal
    /// [`Code::Config`] when librdkafka does not accept its properties.
    ///
    /// [`Code::Connect`]: crate::error::Code::Connect
    /// [`Code::Config`]: crate::error::Code::Config
    pub(crate) async fn ask(&self, topics: &[String]) -> Result<Vec<(String, TopicAnswer)>> {
        let deadline = Instant::now() + LIMIT;
        let client = self.client().await?;
        let listed = self.list(&client, topics, deadline).await;
        self.failed.store(listed.is_err(), Ordering::Relaxed);
        let listed = listed?;
        let present = topics.iter().zip(&listed);
        let present = present.filter(|(_, listing)| matches!(listing, Listing::Listed(_)));
        let present = present.map(|(topic, _)| topic.clone()).collect();
        let settings = self.topic_settings.read(&client, present).await;
        let answers = topics.iter().zip(listed).map(|(topic, listing)| {
            let answer = match listing {
                Listing::Listed(partitions) => {
                    let settings = settings.get(topic).cloned().unwrap_or_default();
                    TopicAnswer::Known(facts(&partitions, &settings))
                }
                Listing::Missing => TopicAnswer::Missing,
                Listing::NoneListed => TopicAnswer::NoneListed,
                Listing::Unconfirmed => TopicAnswer::Unconfirmed,
            };
            (topic.clone(), answer)
        });
        Ok(answers.collect())
    }

    /// Waits for the first answer of a broker, and returns the name of a usable topic, if there is
    /// one.
    ///
    /// # Errors
    ///
    /// As [`MetadataClient::ask`], after 2.5 seconds.
    pub(crate) async fn any_topic(&self) -> Result<Option<String>> {
        let (client, config) = (self.client().await?, self.config.clone());
        blocking(move || {
            let metadata = client.inner().fetch_metadata(None, SLICE);
            let metadata = metadata.map_err(|error| unreachable(&config, error))?;
            let mut usable = metadata.topics().iter().filter(|it| it.error().is_none());
            Ok(usable.next().map(|topic| topic.name().to_owned()))
        })
        .await
    }

    /// Asks for the settings of this topic, so that a cluster that does not answer such requests
    /// is known before the first event.
    pub(crate) async fn warm_up(&self, topic: String) -> Result<()> {
        let client = self.client().await?;
        self.topic_settings.read(&client, vec![topic]).await;
        Ok(())
    }

    /// The client that all requests share. A new one replaces it for each new token, and after a
    /// failure if a file of the login has changed.
    async fn client(&self) -> Result<Arc<Client>> {
        let token = login::token(&self.config).await?;
        let client = Arc::clone(&self.client);
        let (config, failed) = (self.config.clone(), self.failed.load(Ordering::Relaxed));
        blocking(move || {
            let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(made) = &*client
                && made.has(token.as_ref())
                && (!failed || made.files == login_files::digest(&config))
            {
                return Ok(Arc::clone(&made.client));
            }
            let files = login_files::digest(&config);
            let new = Arc::new(survey::client(&config, token.as_deref())?);
            let made = client.insert(Made {
                client: Arc::clone(&new),
                files,
                token,
            });
            Ok(Arc::clone(&made.client))
        })
        .await
    }

    /// What the brokers list of each topic.
    async fn list(
        &self,
        client: &Arc<Client>,
        topics: &[String],
        deadline: Instant,
    ) -> Result<Vec<Listing>> {
        let waiting = CancelOnDrop::default();
        let cancelled = Arc::clone(&waiting.0);
        let (client, topics) = (Arc::clone(client), topics.to_vec());
        let (config, token) = (self.config.clone(), login::token(&self.config).await?);
        let answer = blocking(move || {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match client.inner().fetch_metadata(None, SLICE.min(left)) {
                    Ok(metadata) => {
                        let is_over = || {
                            cancelled.load(Ordering::Relaxed) || Instant::now() + SLICE > deadline
                        };
                        return Ok(confirmed(
                            &config,
                            token.as_deref(),
                            &metadata,
                            &topics,
                            is_over,
                        ));
                    }
                    Err(_) if left > SLICE && !cancelled.load(Ordering::Relaxed) => {}
                    Err(error) => return Err(unreachable(&config, error)),
                }
            }
        })
        .await;
        drop(waiting);
        answer
    }
}

/// What the brokers list of a topic.
enum Listing {
    Listed(Vec<Partition>),
    Missing,
    NoneListed,
    Unconfirmed,
}

/// What one broker lists of these topics, and of those that it does not list, what others do.
/// `is_over` ends the requests.
fn confirmed(
    config: &Config,
    token: Option<&Token>,
    metadata: &Metadata,
    topics: &[String],
    is_over: impl Fn() -> bool,
) -> Vec<Listing> {
    let mut found = select(metadata.topics(), topics);
    let is_incomplete = |found: &[Option<Vec<Partition>>]| found.iter().any(Option::is_none);
    // The name of the broker that answered is `host:port/id`.
    let answered = metadata.orig_broker_name();
    let answered = answered.split('/').next().unwrap_or_default();
    let brokers = metadata.brokers().iter();
    let others = brokers.map(|broker| format!("{}:{}", broker.host(), broker.port()));
    let others: Vec<String> = others.filter(|other| other != answered).collect();
    let (mut none_listed, mut has_confirmed) = (metadata.topics().is_empty(), others.is_empty());
    for other in others.iter().take(OTHERS_MAX) {
        if !is_incomplete(&found) || is_over() {
            break;
        }
        let Some(second) = list_at(config, token, other) else {
            continue;
        };
        (has_confirmed, none_listed) = (true, none_listed && second.topics().is_empty());
        let second = select(second.topics(), topics);
        for (found, second) in found.iter_mut().zip(second) {
            *found = found.take().or(second);
        }
    }
    let listing = |found| match found {
        Some(partitions) => Listing::Listed(partitions),
        None if !has_confirmed => Listing::Unconfirmed,
        None if none_listed => Listing::NoneListed,
        None => Listing::Missing,
    };
    found.into_iter().map(listing).collect()
}

/// The list of the broker at this address. A client that was just made knows no other broker.
fn list_at(config: &Config, token: Option<&Token>, address: &str) -> Option<Metadata> {
    let config = Config {
        brokers: address.to_owned(),
        ..config.clone()
    };
    let client = survey::client(&config, token).ok()?;
    client.inner().fetch_metadata(None, SLICE).ok()
}

impl fmt::Debug for MetadataClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataClient")
            .field("brokers", &self.config.brokers)
            .finish_non_exhaustive()
    }
}

impl Drop for MetadataClient {
    /// Destroying the client waits for its threads, which must not block the thread of the runtime.
    fn drop(&mut self) {
        let client = Arc::clone(&self.client);
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

fn unreachable(config: &Config, error: KafkaError) -> Error {
    admin::unreachable(config, None).with_source(error)
}

/// The requested topics out of all, in the order of the request.
fn select(all: &[MetadataTopic], wanted: &[String]) -> Vec<Option<Vec<Partition>>> {
    let mut found: HashMap<&str, Option<Vec<Partition>>> =
        wanted.iter().map(|name| (name.as_str(), None)).collect();
    for topic in all {
        if let Some(found) = found.get_mut(topic.name()) {
            *found = partitions(topic);
        }
    }
    let of = |name: &String| found.get(name.as_str()).cloned().flatten();
    wanted.iter().map(of).collect()
}
