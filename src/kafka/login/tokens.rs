//! The token that is valid now, fetched when it is due.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::client::{Client, ClientContext};

use crate::config::{Config, KAFKA_TOKEN_COMMAND, Secret, Token, TokenFailure, TokenSource};
use crate::error::{Code, Error, Result};
use crate::kafka::login::provider;
use crate::kafka::waking_producer::set_token;
use crate::secret_command;

/// The token that is valid now, if there is one, and when the next one is due.
pub(super) struct Outcome {
    pub(super) token: Option<Arc<Token>>,
    /// Why there is no newer one.
    pub(super) failure: Option<TokenFailure>,
    pub(super) due_at: Instant,
}

/// The token for a new client; `None` where the mechanism needs none.
///
/// # Errors
/// Transient: there is no token now.
pub(in crate::kafka) async fn token(config: &Config) -> Result<Option<Arc<Token>>> {
    let Some(source) = &config.kafka_login.token_source else {
        return Ok(None);
    };
    let outcome = renewed(config, source).await;
    match (outcome.token, outcome.failure) {
        (Some(token), _) => Ok(Some(token)),
        (None, failure) => Err(failure.map_or_else(
            || Error::transient(Code::Connect, "there is no token for Kafka"),
            |TokenFailure { message, hint }| {
                Error::transient(Code::Connect, message).with_hint(hint)
            },
        )),
    }
}

/// Gives a client this token, if there is one.
pub(in crate::kafka) fn log_in<C: ClientContext>(
    client: &Client<C>,
    token: Option<&Token>,
    config: &Config,
) -> Result<()> {
    let Some(token) = token else {
        return Ok(());
    };
    match set_token(client, token, &config.kafka_login.extensions) {
        Ok(true) => Ok(()),
        // A token that has ended since it was fetched, for instance.
        _ => Err(Error::transient(
            Code::Connect,
            "librdkafka does not take the token for Kafka",
        )),
    }
}

/// The token that is valid now, after an attempt to fetch one if that is due.
pub(super) async fn renewed(config: &Config, source: &TokenSource) -> Outcome {
    // The other clients wait for the attempt.
    let mut kept = config.kafka_login.kept_token.lock().await;
    if kept.due_at(Instant::now()) <= Instant::now() {
        let fetched = fetch(source, config.operation_timeout).await;
        if let Ok(token) = &fetched {
            tracing::debug!(life = ?token.life, "new token for Kafka");
        }
        kept.fetched(Instant::now(), fetched);
    }
    let now = Instant::now();
    Outcome {
        token: kept.valid(now),
        failure: kept.failure().cloned(),
        due_at: kept.due_at(now),
    }
}

async fn fetch(source: &TokenSource, limit: Duration) -> Result<Token, TokenFailure> {
    let (origin, answer, hint) = match source {
        TokenSource::Command(command) => {
            let printed = secret_command::run(KAFKA_TOKEN_COMMAND, command, limit).await;
            let printed = printed.map_err(|error| TokenFailure {
                message: error.reason(),
                hint: error.hint().unwrap_or_default().to_owned(),
            })?;
            let hint = "let it print a token, or JSON with token and expires_in, and nothing else";
            (
                format!("the command of {KAFKA_TOKEN_COMMAND}"),
                printed,
                hint,
            )
        }
        TokenSource::Provider(provider) => {
            let answer = provider::ask(provider, limit).await?;
            let hint = "is sasl.oauthbearer.token.endpoint.url that of the token endpoint, and \
                        are both clocks right?";
            (provider::named(provider), Secret::new(answer), hint)
        }
    };
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    let token = Token::read(answer.expose(), since_1970.unwrap_or_default());
    token.map_err(|unusable| TokenFailure {
        message: format!("{origin} {unusable}"),
        hint: hint.to_owned(),
    })
}
