//! A token for SASL's OAUTHBEARER, read from what a command printed or an identity provider
//! answered, and the token that is valid now. Pure: the time is an argument.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::base64::decode_block;
use serde_json::Value;

use crate::backoff::Backoff;
use crate::config::secret::Secret;

/// How long a token is taken to be valid that does not say it.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// A token is renewed after a day, however long it is valid.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// The part of a token's life after which it is renewed; librdkafka's own.
const RENEWED_AFTER: f64 = 0.8;
/// The first and the longest delay after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The names of the token in a JSON object: OAuth's, outboxd's and Azure's.
const VALUES: [&str; 3] = ["access_token", "token", "accessToken"];

/// A token, and how long it is valid.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) value: Secret<String>,
    /// Its life from the time at which it was read.
    pub(crate) life: Duration,
    /// The end of its life, in milliseconds since 1970.
    pub(crate) expires_ms: i64,
}

/// Why a text is no token. Nothing of the text is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnusableToken {
    /// It has other characters than a token, or is no text.
    NoToken,
    /// A JSON object without a token.
    NoneInObject,
    /// It has expired.
    Expired,
}

impl fmt::Display for UnusableToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnusableToken::NoToken => "gave something that is not a token",
            UnusableToken::NoneInObject => "gave a JSON object without access_token or token",
            UnusableToken::Expired => "gave a token that has expired",
        })
    }
}

impl Token {
    /// Reads a token, or a JSON object with one. `now` is the time since 1970.
    pub(crate) fn read(text: &[u8], now: Duration) -> Result<Token, UnusableToken> {
        let text = std::str::from_utf8(text).map_err(|_| UnusableToken::NoToken)?;
        let text = text.trim();
        let (value, stated) = match text.starts_with('{') {
            true => in_object(text, now)?,
            false => (text.to_owned(), None),
        };
        let is_token = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_token {
            return Err(UnusableToken::NoToken);
        }
        let claimed = claimed_expiry(&value).map(|expiry| expiry.saturating_sub(now));
        let life = match (stated, claimed) {
            (Some(stated), Some(claimed)) => stated.min(claimed),
            (one, other) => one.or(other).unwrap_or(LIFE),
        };
        if life.is_zero() {
            return Err(UnusableToken::Expired);
        }
        let life = life.min(LIFE_MAX);
        Ok(Token {
            value: Secret::new(value),
            life,
            expires_ms: i64::try_from((now + life).as_millis()).unwrap_or(i64::MAX),
        })
    }
}

/// The token of a JSON object and the life that it states.
fn in_object(text: &str, now: Duration) -> Result<(String, Option<Duration>), UnusableToken> {
    let object: Value = serde_json::from_str(text).map_err(|_| UnusableToken::NoToken)?;
    let mut values = VALUES.iter().filter_map(|name| object[*name].as_str());
    let value = values.next().ok_or(UnusableToken::NoneInObject)?;
    let life = seconds(&object["expires_in"]);
    let until = seconds(&object["expires_on"]).map(|expiry| expiry.saturating_sub(now));
    Ok((value.to_owned(), life.or(until)))
}

/// A number of seconds, also as a text.
fn seconds(value: &Value) -> Option<Duration> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    Duration::try_from_secs_f64(number.max(0.0)).ok()
}

/// The claim `exp` of a JWT, as the time since 1970.
fn claimed_expiry(token: &str) -> Option<Duration> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let mut claims = claims
        .trim_end_matches('=')
        .replace('-', "+")
        .replace('_', "/");
    let padding = claims.len().next_multiple_of(4) - claims.len();
    claims.extend(std::iter::repeat_n('=', padding));
    let claims = decode_block(&claims).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    seconds(&claims["exp"])
}

/// Why there is no new token, for people. Its texts hold no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenFailure {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// The token that is valid now, and what the last attempt to get one came to.
#[derive(Debug)]
pub(crate) struct KeptToken {
    token: Option<Kept>,
    failure: Option<Failed>,
    retry: Backoff,
}

#[derive(Debug)]
struct Kept {
    token: Arc<Token>,
    renew_at: Instant,
    ends_at: Instant,
}

#[derive(Debug)]
struct Failed {
    failure: TokenFailure,
    retry_at: Instant,
}

impl Default for KeptToken {
    fn default() -> Self {
        KeptToken {
            token: None,
            failure: None,
            retry: Backoff::new(RETRY.0, RETRY.1),
        }
    }
}

impl KeptToken {
    /// When the next token has to be fetched.
    pub(crate) fn due_at(&self, now: Instant) -> Instant {
        match (&self.failure, &self.token) {
            (Some(failed), _) => failed.retry_at,
            (None, Some(kept)) => kept.renew_at,
            (None, None) => now,
        }
    }

    /// The token, while it is valid.
    pub(crate) fn valid(&self, now: Instant) -> Option<Arc<Token>> {
        let kept = self.token.as_ref().filter(|kept| now < kept.ends_at)?;
        Some(Arc::clone(&kept.token))
    }

    /// Why the last attempt failed, if it did.
    pub(crate) fn failure(&self) -> Option<&TokenFailure> {
        self.failure.as_ref().map(|failed| &failed.failure)
    }

    /// Keeps the outcome of an attempt.
    pub(crate) fn fetched(&mut self, now: Instant, outcome: Result<Token, TokenFailure>) {
        match outcome {
            Ok(token) => {
                self.token = Some(Kept {
                    renew_at: now + token.life.mul_f64(RENEWED_AFTER),
                    ends_at: now + token.life,
                    token: Arc::new(token),
                });
                self.failure = None;
                self.retry.reset();
            }
            Err(failure) => {
                let retry_at = now + self.retry.next_delay();
                self.failure = Some(Failed { failure, retry_at });
            }
        }
    }

    /// A broker has refused this token: it counts no more, and another one is due.
    pub(crate) fn refused(&mut self, token: &Arc<Token>) {
        let is_refused = |kept: &mut Kept| Arc::ptr_eq(&kept.token, token);
        self.token.take_if(is_refused);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn jwt(claims: &str) -> String {
        let encoded = openssl::base64::encode_block(claims.as_bytes());
        let encoded = encoded.trim_end_matches('=').replace('+', "-");
        format!("e30.{}.c2ln", encoded.replace('/', "_"))
    }

    fn life(text: &str) -> Result<u64, UnusableToken> {
        Token::read(text.as_bytes(), NOW).map(|token| token.life.as_secs())
    }

    #[test]
    fn a_token_says_itself_how_long_it_is_valid_or_the_object_around_it_does() {
        assert_eq!(life("opaque\n"), Ok(900));
        assert_eq!(life(r#"{"token": "opaque"}"#), Ok(900));
        assert_eq!(life(r#"{"token": "opaque", "expires_in": 60}"#), Ok(60));
        assert_eq!(life(r#"{"access_token": "x", "expires_in": "61"}"#), Ok(61));
        let azure = r#"{"accessToken": "x", "expires_on": 1800000062, "expiresOn": "noon"}"#;
        assert_eq!(life(azure), Ok(62));
        for padded in ["a", "ab", "abc", "?>~"] {
            let token = jwt(&format!(r#"{{"sub": "{padded}", "exp": 1800000063}}"#));
            assert_eq!(life(&token), Ok(63), "{token}");
        }
        let token = jwt(r#"{"exp": 1800000063.5}"#);
        let both = format!(r#"{{"token": "{token}", "expires_in": 3600}}"#);
        assert_eq!(life(&both), Ok(63));
        assert_eq!(life(r#"{"token": "x", "expires_in": 1e300}"#), Ok(900));
        assert_eq!(life(r#"{"token": "x", "expires_in": 1e15}"#), Ok(86_400));
        assert_eq!(life(&jwt("no JSON")), Ok(900));
        let token = Token::read(b"x", NOW).unwrap();
        assert_eq!(token.expires_ms, 1_800_000_900_000);
    }

    #[test]
    fn what_is_no_token_is_named_without_a_piece_of_it() {
        use UnusableToken::{Expired, NoToken, NoneInObject};
        for (text, expected) in [
            ("", NoToken),
            ("two words", NoToken),
            ("two\nlines", NoToken),
            ("é", NoToken),
            ("{", NoToken),
            (r#"{"token": ""}"#, NoToken),
            (r#"{"error": "hunter2"}"#, NoneInObject),
            (r#"{"token": 5}"#, NoneInObject),
            (r#"{"token": "x", "expires_in": 0}"#, Expired),
            (r#"{"token": "x", "expires_in": -5}"#, Expired),
        ] {
            assert_eq!(life(text), Err(expected), "{text}");
        }
        assert_eq!(life(&jwt(r#"{"exp": 1799999999}"#)), Err(Expired));
        assert!(Token::read(&[0xff], NOW).is_err());
        let token = Token::read(b"hunter2", NOW).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
    }

    #[test]
    fn a_token_is_renewed_before_its_end_and_kept_while_that_fails() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let token = Token::read(br#"{"token": "x", "expires_in": 100}"#, NOW).unwrap();
        let failure = TokenFailure {
            message: "it failed".to_owned(),
            hint: "mend it".to_owned(),
        };
        let mut kept = KeptToken::default();
        assert_eq!(kept.due_at(start), start);
        kept.fetched(start, Err(failure.clone()));
        assert_eq!(kept.due_at(start), at(1));
        assert!(kept.valid(start).is_none());
        kept.fetched(start, Ok(token.clone()));
        assert_eq!((kept.due_at(at(5)), kept.failure()), (at(80), None));
        kept.fetched(at(80), Err(failure.clone()));
        assert_eq!(kept.due_at(at(80)), at(81));
        kept.fetched(at(81), Err(failure.clone()));
        assert_eq!(kept.due_at(at(81)), at(83));
        assert!(kept.valid(at(99)).is_some() && kept.valid(at(100)).is_none());
        assert_eq!(kept.failure(), Some(&failure));
    }

    #[test]
    fn a_token_that_a_broker_refuses_is_renewed_once() {
        let start = Instant::now();
        let token = Token::read(b"x", NOW).unwrap();
        let mut kept = KeptToken::default();
        kept.fetched(start, Ok(token.clone()));
        let first = kept.valid(start).unwrap();
        kept.refused(&first);
        assert!(kept.valid(start).is_none());
        assert_eq!(kept.due_at(start + SECOND), start + SECOND);
        kept.fetched(start + SECOND, Ok(token));
        kept.refused(&first);
        assert!(kept.due_at(start) > start + SECOND * 600);
    }
}
