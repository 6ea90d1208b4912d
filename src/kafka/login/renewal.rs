//! The producer's tokens, fetched in the background.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use crate::backoff::Backoff;
use crate::config::{Config, Token, TokenFailure, TokenSource};
use crate::kafka::login::tokens::{Outcome, renewed};
use crate::line_limit::LineLimit;

/// How old a token is at least when a refusal of it is a reason to fetch another one.
const REFUSED_FIRST: Duration = Duration::from_secs(5);
const REFUSED_MAX: Duration = Duration::from_secs(120);

/// Fetches tokens until it is dropped.
#[derive(Debug)]
pub(in crate::kafka) struct TokenRenewal {
    news: watch::Receiver<News>,
    refused: Arc<Notify>,
    task: JoinHandle<()>,
}

/// What the last attempt to fetch a token came to.
#[derive(Debug, Clone)]
pub(in crate::kafka) enum News {
    /// There was none yet.
    None,
    Token(Arc<Token>),
    /// No token is valid.
    Failure(TokenFailure),
}

impl TokenRenewal {
    /// Begins to fetch; `None` where the mechanism needs no token. To be called in a runtime.
    pub(in crate::kafka) fn begin(config: &Config) -> Option<TokenRenewal> {
        let source = config.kafka_login.token_source.clone()?;
        let (sender, news) = watch::channel(News::None);
        let refused = Arc::<Notify>::default();
        let work = fetch_all(config.clone(), source, sender, Arc::clone(&refused));
        let task = tokio::spawn(work);
        Some(TokenRenewal {
            news,
            refused,
            task,
        })
    }

    /// Resolves when there is something to [`take`](TokenRenewal::take). Cancel-safe.
    pub(in crate::kafka) async fn renewed(&self) {
        if self.news.clone().changed().await.is_err() {
            // The task ends with the runtime.
            std::future::pending().await
        }
    }

    /// The news, once.
    pub(in crate::kafka) fn take(&mut self) -> Option<News> {
        let is_new = self.news.has_changed().unwrap_or(false);
        is_new.then(|| self.news.borrow_and_update().clone())
    }

    /// A broker refuses the token: another one may be accepted.
    pub(in crate::kafka) fn refused(&self) {
        self.refused.notify_one();
    }
}

impl Drop for TokenRenewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn fetch_all(
    config: Config,
    source: TokenSource,
    news: watch::Sender<News>,
    refused: Arc<Notify>,
) {
    let mut lines = LineLimit::default();
    let mut refusals = Backoff::new(REFUSED_FIRST, REFUSED_MAX);
    loop {
        let Outcome {
            token,
            failure,
            due_at,
        } = renewed(&config, &source).await;
        if let (Some(_), Some(failure)) = (&token, &failure)
            && let Some(suppressed) = lines.admit(&failure.message, Instant::now())
        {
            let TokenFailure { message, hint } = failure;
            tracing::warn!(hint, suppressed, "no new token for Kafka: {message}");
        }
        let next = match (&token, failure) {
            (Some(token), _) => News::Token(Arc::clone(token)),
            (None, Some(failure)) => News::Failure(failure),
            (None, None) => News::None,
        };
        if news.send(next).is_err() {
            return;
        }
        let fetched_at = Instant::now();
        tokio::select! {
            () = sleep_until(due_at.into()) => refusals.reset(),
            () = refused.notified() => {
                sleep_until((fetched_at + refusals.next_delay()).into()).await;
                if let Some(token) = token {
                    let mut kept = config.kafka_login.kept_token.lock().await;
                    kept.refused(&token);
                }
            }
        }
    }
}
