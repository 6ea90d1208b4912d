//! Whether a broker answers, and why not.
//!
//! Without an event nothing else shows a wrong address, protocol or password. The client for
//! metadata asks first, since it has to connect anyway. Where it has no answer within a second, the
//! cluster is asked again and again by a client of its own, whose errors are read. After an answer
//! the records show the state of the cluster, and it is asked again when none of them is
//! acknowledged, or when the producer has lost every broker.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::kafka::admin::reachable;
use crate::kafka::metadata::MetadataClient;

/// How long the client for metadata asks alone.
const ALONE: Duration = Duration::from_secs(1);
/// The limit for an answer.
const LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(3);
/// How long an answer counts.
const COUNTS: Duration = Duration::from_secs(10);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct KafkaReach {
    state: Arc<Mutex<State>>,
    asks: Arc<Notify>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    has_answered: bool,
    /// Since when it has not answered, while it is asked.
    asked_at: Option<Instant>,
    /// The events that were published by then.
    published: u64,
    answered_at: Option<Instant>,
    problem: Option<String>,
}

impl KafkaReach {
    /// Asks in the background, and warms the client for metadata up.
    pub(crate) fn new(config: &Arc<Config>, metadata_client: Arc<MetadataClient>) -> Self {
        let state = Arc::new(Mutex::new(State {
            asked_at: Some(Instant::now()),
            ..State::default()
        }));
        let asks = Arc::<Notify>::default();
        let (config, shared, asked) = (Arc::clone(config), Arc::clone(&state), Arc::clone(&asks));
        let task = tokio::spawn(async move {
            let first_answer = Notify::new();
            let ask = async {
                let alone = tokio::time::timeout(ALONE, first_answer.notified()).await;
                if alone.is_ok() {
                    answered(&shared);
                    asked.notified().await;
                }
                loop {
                    until_answered(&config, &shared).await;
                    asked.notified().await;
                }
            };
            tokio::join!(ask, warm_up(&metadata_client, &first_answer));
        });
        KafkaReach { state, asks, task }
    }

    /// Whether a broker has answered since the start.
    pub(crate) fn has_answered(&self) -> bool {
        lock(&self.state).has_answered
    }

    /// No broker could be reached at `lost_at`, or a record is late: asks, unless an answer counts.
    /// `published` events were acknowledged so far.
    pub(crate) fn ask(&self, lost_at: Option<Instant>, published: u64) {
        let mut state = lock(&self.state);
        let counts = |answered: Instant| match lost_at {
            Some(lost_at) => answered > lost_at,
            None => answered.elapsed() < COUNTS,
        };
        if state.asked_at.is_none() && !state.answered_at.is_some_and(counts) {
            (state.asked_at, state.published) = (Some(Instant::now()), published);
            self.asks.notify_one();
        }
    }

    /// Why no broker answers, and for how long. An event that was published meanwhile is an answer.
    pub(crate) fn problem(&self, published: u64) -> Option<(String, Duration)> {
        let state = lock(&self.state);
        let asked_at = state.asked_at.filter(|_| published == state.published)?;
        Some((state.problem.clone()?, asked_at.elapsed()))
    }
}

impl Drop for KafkaReach {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn until_answered(config: &Config, state: &Mutex<State>) {
    while let Err(error) = reachable(config, LIMIT).await {
        lock(state).problem = Some(error.describe());
        tokio::time::sleep(RETRY).await;
    }
    answered(state);
}

fn answered(state: &Mutex<State>) {
    let mut state = lock(state);
    (state.has_answered, state.answered_at) = (true, Some(Instant::now()));
    (state.asked_at, state.problem) = (None, None);
}

async fn warm_up(client: &MetadataClient, first_answer: &Notify) {
    let warm = async {
        let topic = client.any_topic().await?;
        first_answer.notify_one();
        match topic {
            Some(topic) => client.warm_up(topic).await,
            None => Ok(()),
        }
    };
    if let Err(error) = warm.await {
        tracing::debug!(error = %error.report(), "Kafka metadata query failed");
    }
}
