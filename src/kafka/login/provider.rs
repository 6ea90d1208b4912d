//! The request to an identity provider for a token, by OAuth's grant for client credentials
//! (RFC 6749, 4.4), as librdkafka's own client sends it.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use openssl::base64::encode_block;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::{X509, X509VerifyResult};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::config::{
    CertificateAuthorities, ClientSecret, IdentityProvider, KAFKA_PASSWORD_FILE, TokenFailure,
};
use crate::kafka::login_files;

/// The longest answer, in bytes.
const ANSWER_MAX: usize = 64 << 10;

type Cause = Box<dyn StdError + Send + Sync>;

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The provider for people: its address without the path, which may hold a name of a tenant.
pub(super) fn named(provider: &IdentityProvider) -> String {
    let (host, port) = address(&provider.endpoint);
    format!("the token endpoint at {host}:{port}")
}

/// The provider's answer to a request for a token.
pub(super) async fn ask(
    provider: &IdentityProvider,
    limit: Duration,
) -> Result<Vec<u8>, TokenFailure> {
    let secret = match &provider.client_secret {
        ClientSecret::Given(secret) => secret.clone(),
        ClientSecret::InFile(path) => login_files::secret(path).map_err(|wrong| TokenFailure {
            message: format!("{KAFKA_PASSWORD_FILE} {}", wrong.problem),
            hint: wrong.hint,
        })?,
    };
    let credentials = format!("{}:{}", provider.client_id, secret.expose());
    let credentials = encode_block(credentials.as_bytes());
    let asked = async {
        let stream = connect(provider).await?;
        exchange(provider, stream, &credentials).await
    };
    let answer = tokio::time::timeout(limit, asked).await;
    answer.unwrap_or_else(|_elapsed| {
        let problem = format!("did not answer within {limit:?}");
        Err(failure(provider, problem, UNREACHED))
    })
}

const UNREACHED: &str = "is sasl.oauthbearer.token.endpoint.url right, is the identity provider \
                         up, and can this machine reach it?";
const CREDENTIALS: &str = "check sasl.oauthbearer.client.id, sasl.oauthbearer.client.secret (or \
                           KAFKA_PASSWORD_FILE) and sasl.oauthbearer.scope";
const AUTHORITIES: &str = "set https.ca.location to the certificate of the authority that has \
                           signed the identity provider's";

fn failure(provider: &IdentityProvider, problem: impl Into<String>, hint: &str) -> TokenFailure {
    TokenFailure {
        message: format!("{} {}", named(provider), problem.into()),
        hint: hint.to_owned(),
    }
}

/// Host and port of the endpoint.
fn address(endpoint: &Uri) -> (&str, u16) {
    let host = endpoint.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_https = endpoint.scheme_str() == Some("https");
    let usual = if is_https { 443 } else { 80 };
    (host, endpoint.port_u16().unwrap_or(usual))
}

async fn connect(provider: &IdentityProvider) -> Result<Box<dyn Stream>, TokenFailure> {
    let address = address(&provider.endpoint);
    let stream = TcpStream::connect(address).await.map_err(|error| {
        let problem = format!("cannot be reached: {error}");
        failure(provider, problem, UNREACHED)
    })?;
    if provider.endpoint.scheme_str() != Some("https") {
        return Ok(Box::new(stream));
    }
    let ssl = connector(provider).and_then(|connector| {
        let ssl = connector.configure()?.into_ssl(address.0)?;
        Ok(SslStream::new(ssl, stream)?)
    });
    let mut stream = ssl.map_err(|cause| {
        let problem = format!("cannot be reached by TLS: {cause}");
        failure(
            provider,
            problem,
            "check https.ca.location and https.ca.pem",
        )
    })?;
    if let Err(error) = Pin::new(&mut stream).connect().await {
        let verdict = stream.ssl().verify_result();
        return Err(match verdict == X509VerifyResult::OK {
            true => failure(
                provider,
                format!("cannot be reached by TLS: {error}"),
                UNREACHED,
            ),
            false => {
                let problem = format!(
                    "has a certificate that is not accepted: {}",
                    verdict.error_string()
                );
                failure(provider, problem, AUTHORITIES)
            }
        });
    }
    Ok(Box::new(stream))
}

fn connector(provider: &IdentityProvider) -> Result<SslConnector, Cause> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    let system = login_files::system_authorities();
    let at = match &provider.authorities {
        Some(CertificateAuthorities::Pem(pem)) => {
            for certificate in X509::stack_from_pem(pem.as_bytes())? {
                builder.cert_store_mut().add_cert(certificate)?;
            }
            None
        }
        Some(CertificateAuthorities::At(path)) => Some(path),
        None => system.as_ref(),
    };
    match at {
        Some(folder) if folder.is_dir() => builder.load_verify_locations(None, Some(folder))?,
        Some(file) => builder.load_verify_locations(Some(file), None)?,
        None => {}
    }
    Ok(builder.build())
}

async fn exchange(
    provider: &IdentityProvider,
    stream: Box<dyn Stream>,
    credentials: &str,
) -> Result<Vec<u8>, TokenFailure> {
    let sent = async {
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
        let request = request(&provider.endpoint, provider.scope.as_deref(), credentials)?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            read(response).await
        };
        tokio::pin!(exchange);
        // The connection carries the exchange, and may end before it when all is received.
        let answer = tokio::select! {
            answer = &mut exchange => answer?,
            ended = connection => {
                ended?;
                exchange.await?
            }
        };
        Ok::<_, Cause>(answer)
    };
    let (status, body) = sent.await.map_err(|cause| {
        failure(
            provider,
            format!("does not answer a request: {cause}"),
            UNREACHED,
        )
    })?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let named = match error_name(&body) {
        Some(name) => format!("answers {status}: {name}"),
        None => format!("answers {status}"),
    };
    let hint = match status.is_client_error() && status != StatusCode::NOT_FOUND {
        true => CREDENTIALS,
        false => UNREACHED,
    };
    Err(failure(provider, named, hint))
}

fn request(
    endpoint: &Uri,
    scope: Option<&str>,
    credentials: &str,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let path = endpoint.path_and_query().map_or("/", |path| path.as_str());
    let host = endpoint
        .authority()
        .map_or("", |authority| authority.as_str());
    let mut body = "grant_type=client_credentials".to_owned();
    if let Some(scope) = scope {
        body.push_str("&scope=");
        encode(scope, &mut body);
    }
    Request::post(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(AUTHORIZATION, format!("Basic {credentials}"))
        .body(Full::from(body))
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Vec<u8>), Cause> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX);
    let body = body.collect().await?.to_bytes();
    Ok((status, body.to_vec()))
}

/// The code of an OAuth error. It is a word of the standard; other texts of an answer are not
/// shown.
fn error_name(body: &[u8]) -> Option<String> {
    const NAMES: [&str; 6] = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    ];
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let name = body["error"].as_str()?;
    NAMES.contains(&name).then(|| name.to_owned())
}

/// Appends the text in the encoding of forms.
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                into.push(char::from(byte));
            }
            b' ' => into.push('+'),
            _ => {
                let _infallible = write!(into, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_has_the_port_of_its_scheme_or_its_own() {
        for (url, expected) in [
            ("https://idp.example/token", ("idp.example", 443)),
            ("http://idp.example/token", ("idp.example", 80)),
            ("https://[::1]:8443/t?x=y", ("::1", 8_443)),
        ] {
            assert_eq!(address(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn a_request_names_grant_and_scope_and_shows_no_path_to_people() {
        let endpoint: Uri = "https://idp.example/realms/a?b=c".parse().unwrap();
        let request = request(&endpoint, Some("api://x/.default y"), "aWQ6c2VjcmV0").unwrap();
        assert_eq!(request.uri(), "/realms/a?b=c");
        assert_eq!(request.headers()[AUTHORIZATION], "Basic aWQ6c2VjcmV0");
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let expected = "grant_type=client_credentials&scope=api%3A%2F%2Fx%2F.default+y";
        assert_eq!(body, expected.as_bytes());
    }

    #[test]
    fn only_the_standards_words_of_an_error_are_shown() {
        let of = |body: &str| error_name(body.as_bytes());
        assert_eq!(
            of(r#"{"error": "invalid_client"}"#).as_deref(),
            Some("invalid_client")
        );
        assert_eq!(of(r#"{"error": "hunter2"}"#), None);
        assert_eq!(of("<html>"), None);
    }
}
