//! Whether a broker has answered since the start, and why not.
//!
//! Without an event nothing else shows a wrong address, protocol or password. Until the first
//! answer the cluster is asked again and again, by a client of its own, whose errors are read.
//! After that the records show the state of the cluster.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::kafka::{MetadataClient, reachable};

/// The limit for an answer.
const LIMIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(3);
/// How often the log says so.
const LOG: Duration = Duration::from_secs(60);

/// See the module's head.
#[derive(Debug)]
pub(super) struct KafkaReach {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    has_answered: bool,
    problem: Option<String>,
}

impl KafkaReach {
    /// Asks in the background, and warms the client for metadata up.
    pub(super) fn new(config: &Arc<Config>, metadata_client: Arc<MetadataClient>) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let (config, shared) = (Arc::clone(config), Arc::clone(&state));
        let task = tokio::spawn(async move {
            tokio::join!(until_answered(&config, &shared), async {
                if let Err(error) = metadata_client.warm_up().await {
                    tracing::debug!(error = %error.report(), "Kafka metadata query failed");
                }
            });
        });
        KafkaReach { state, task }
    }

    /// Whether a broker has answered.
    pub(super) fn has_answered(&self) -> bool {
        lock(&self.state).has_answered
    }

    /// Why no broker has answered yet.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.state).problem.clone()
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
    let mut logged_at: Option<Instant> = None;
    while let Err(error) = reachable(config, LIMIT).await {
        if logged_at.is_none_or(|at| at.elapsed() >= LOG) {
            logged_at = Some(Instant::now());
            tracing::warn!(error = %error.report(), "Kafka has not answered yet, retrying");
        }
        lock(state).problem = Some(error.describe());
        tokio::time::sleep(RETRY).await;
    }
    if logged_at.is_some() {
        tracing::info!("Kafka answers");
    }
    *lock(state) = State {
        has_answered: true,
        problem: None,
    };
}
