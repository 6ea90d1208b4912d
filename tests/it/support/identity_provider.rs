//! A small identity provider: a token endpoint for the grant of client credentials, and the keys by
//! which a broker checks the tokens (JWKS). It serves HTTP, or HTTPS with a given certificate.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use openssl::base64::encode_block;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use openssl::ssl::{SslAcceptor, SslMethod};
use openssl::x509::X509;

use super::certificates::Signed;

/// The client that gets tokens.
pub(crate) const CLIENT: &str = "outboxd-client";
/// The issuer and the audience of the tokens.
pub(crate) const ISSUER: &str = "https://idp.test/";
pub(crate) const AUDIENCE: &str = "kafka";

/// See the module's head.
pub(crate) struct IdentityProvider {
    state: Arc<Mutex<State>>,
    key: PKey<Private>,
}

struct State {
    secret: String,
    life: u64,
    issued: Vec<String>,
    forms: Vec<String>,
}

impl IdentityProvider {
    /// Gives tokens with a life of this many seconds for this secret.
    pub(crate) fn new(secret: &str, life: u64) -> Result<IdentityProvider> {
        let state = State {
            secret: secret.to_owned(),
            life,
            issued: Vec::new(),
            forms: Vec::new(),
        };
        Ok(IdentityProvider {
            state: Arc::new(Mutex::new(state)),
            key: PKey::from_rsa(Rsa::generate(2048)?)?,
        })
    }

    /// A provider with the same keys, for another secret and another life.
    pub(crate) fn twin(&self, secret: &str, life: u64) -> IdentityProvider {
        let state = State {
            secret: secret.to_owned(),
            life,
            issued: Vec::new(),
            forms: Vec::new(),
        };
        IdentityProvider {
            state: Arc::new(Mutex::new(state)),
            key: self.key.clone(),
        }
    }

    /// Serves at a port of 127.0.0.1, 0 for a free one, until the test process ends.
    pub(crate) fn serve(&self, port: u16, tls: Option<&Signed>) -> Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let address = listener.local_addr()?;
        let acceptor = tls.map(acceptor).transpose()?;
        let (state, key) = (Arc::clone(&self.state), self.key.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _limited = stream.set_read_timeout(Some(Duration::from_secs(10)));
                let answered = match &acceptor {
                    None => answer(stream, &state, &key),
                    Some(acceptor) => acceptor
                        .accept(stream)
                        .context("TLS")
                        .and_then(|stream| answer(stream, &state, &key)),
                };
                // A client that goes away is what some tests do.
                let _ = answered;
            }
        });
        Ok(address)
    }

    /// From now on another secret counts.
    pub(crate) fn set_secret(&self, secret: &str) {
        lock(&self.state).secret = secret.to_owned();
    }

    /// The tokens so far.
    pub(crate) fn issued(&self) -> Vec<String> {
        lock(&self.state).issued.clone()
    }

    /// The forms of the requests so far.
    pub(crate) fn forms(&self) -> Vec<String> {
        lock(&self.state).forms.clone()
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn acceptor(signed: &Signed) -> Result<SslAcceptor> {
    let mut builder = SslAcceptor::mozilla_intermediate(SslMethod::tls_server())?;
    let certificate = X509::from_pem(&signed.certificate)?;
    builder.set_certificate(&certificate)?;
    builder.set_private_key(&*PKey::private_key_from_pem(&signed.key)?)?;
    Ok(builder.build())
}

/// Answers one request and closes.
fn answer(stream: impl Read + Write, state: &Mutex<State>, key: &PKey<Private>) -> Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut authorization, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = value.to_owned(),
            "content-length" => length = value.parse()?,
            _ => {}
        }
    }
    let mut form = vec![0; length];
    reader.read_exact(&mut form)?;
    let (status, body) = if line.starts_with("GET /jwks ") {
        ("200 OK", keys(key)?)
    } else if line.starts_with("POST /token ") {
        let mut state = lock(state);
        state.forms.push(String::from_utf8(form)?);
        let expected = encode_block(format!("{CLIENT}:{}", state.secret).as_bytes());
        if authorization == format!("Basic {expected}") {
            let token = token(key, state.life)?;
            state.issued.push(token.clone());
            let life = state.life;
            let body = format!(r#"{{"access_token": "{token}", "expires_in": {life}}}"#);
            ("200 OK", body)
        } else {
            (
                "401 Unauthorized",
                r#"{"error": "invalid_client"}"#.to_owned(),
            )
        }
    } else {
        ("404 Not Found", "{}".to_owned())
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    reader.get_mut().write_all(answer.as_bytes())?;
    reader.get_mut().flush()?;
    Ok(())
}

fn keys(key: &PKey<Private>) -> Result<String> {
    let rsa = key.rsa()?;
    let (n, e) = (url_safe(&rsa.n().to_vec()), url_safe(&rsa.e().to_vec()));
    Ok(format!(
        r#"{{"keys": [{{"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256",
            "n": "{n}", "e": "{e}"}}]}}"#
    ))
}

fn token(key: &PKey<Private>, life: u64) -> Result<String> {
    let header = url_safe(br#"{"alg": "RS256", "kid": "1"}"#);
    let claims = claims(CLIENT, life as i64)?;
    let signed = format!("{header}.{claims}");
    let mut signer = Signer::new(MessageDigest::sha256(), key)?;
    let signature = signer.sign_oneshot_to_vec(signed.as_bytes())?;
    Ok(format!("{signed}.{}", url_safe(&signature)))
}

/// The claims of a token that ends this many seconds from now, encoded.
fn claims(subject: &str, life: i64) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() as i64;
    let (issued, expiry) = (now.min(now + life - 1), now + life);
    let number = fastrand::u64(..);
    Ok(url_safe(
        format!(
            r#"{{"sub": "{subject}", "iss": "{ISSUER}", "aud": "{AUDIENCE}", "jti": "{number}",
                "iat": {issued}, "exp": {expiry}}}"#
        )
        .as_bytes(),
    ))
}

/// A token without a signature, which Kafka accepts where nothing else is configured.
pub(crate) fn unsecured_token(subject: &str, life: i64) -> Result<String> {
    let header = url_safe(br#"{"alg": "none"}"#);
    Ok(format!("{header}.{}.", claims(subject, life)?))
}

fn url_safe(bytes: &[u8]) -> String {
    let encoded = encode_block(bytes).replace('+', "-").replace('/', "_");
    encoded.trim_end_matches('=').to_owned()
}
