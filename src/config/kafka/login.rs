//! How outboxd logs in to Kafka: the checks of SASL's properties, and where a password or a token
//! comes from.
//!
//! librdkafka is built without an HTTP client, so the properties of `sasl.oauthbearer.method=oidc`
//! are taken out of its list, and outboxd fetches the tokens itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Uri;
use tokio::sync::Mutex;

use crate::config::check::Check;
use crate::config::connection::passfile;
use crate::config::error::InvalidValue;
use crate::config::kafka::token::KeptToken;
use crate::config::secret::Secret;
use crate::config::variables::{KAFKA_PASSWORD_FILE, KAFKA_PROPERTIES, KAFKA_TOKEN_COMMAND};

type Properties = Vec<(String, Secret<String>)>;

const PROTOCOLS: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
const OAUTHBEARER: &str = "OAUTHBEARER";
const MECHANISMS: [&str; 4] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", OAUTHBEARER];
const CHOICES: &str = "write sasl.mechanism=PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";
const NO_TOKEN: &str = "set KAFKA_TOKEN_COMMAND, or sasl.oauthbearer.method=oidc with \
                        sasl.oauthbearer.client.id, sasl.oauthbearer.client.secret and \
                        sasl.oauthbearer.token.endpoint.url";

/// The settings that say where a password or a token is.
#[derive(Debug, Default)]
pub(crate) struct LoginSource {
    pub(crate) password_file: Option<String>,
    pub(crate) token_command: Option<String>,
}

/// Where the password or the token comes from, if not from a property. Clones share the token that
/// is valid now, so that it is fetched once for all clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct KafkaLogin {
    /// A file with the password for `sasl.password`.
    pub(crate) password_file: Option<PathBuf>,
    /// Where tokens come from.
    pub(crate) token_source: Option<TokenSource>,
    /// Names and values that a broker wants beside the token.
    pub(crate) extensions: Vec<(String, String)>,
    /// The token that is valid now.
    pub(crate) kept_token: Arc<Mutex<KeptToken>>,
}

/// Where tokens come from.
#[derive(Debug, Clone)]
pub(crate) enum TokenSource {
    /// A command that prints one.
    Command(Secret<String>),
    /// An identity provider.
    Provider(IdentityProvider),
}

/// An identity provider that gives tokens for the credentials of a client.
#[derive(Debug, Clone)]
pub(crate) struct IdentityProvider {
    /// The token endpoint; `http` or `https`, with a host.
    pub(crate) endpoint: Uri,
    pub(crate) client_id: String,
    pub(crate) client_secret: ClientSecret,
    pub(crate) scope: Option<String>,
    /// The authorities for `https`; by default those of the system.
    pub(crate) authorities: Option<CertificateAuthorities>,
}

/// Where a client's secret is.
#[derive(Debug, Clone)]
pub(crate) enum ClientSecret {
    Given(Secret<String>),
    InFile(PathBuf),
}

/// Certificates of authorities, in PEM.
#[derive(Debug, Clone)]
pub(crate) enum CertificateAuthorities {
    /// A file or a folder.
    At(PathBuf),
    Pem(String),
}

impl Check {
    /// Checks the properties of SASL, and takes those out that librdkafka should not see.
    /// `reads_files` is false for commands that do not connect to Kafka.
    pub(in crate::config) fn kafka_login(
        &mut self,
        source: LoginSource,
        properties: &mut Properties,
        reads_files: bool,
    ) -> KafkaLogin {
        let before = self.errors.len();
        let mut reading = Reading {
            check: self,
            properties,
            source,
        };
        let login = reading.login();
        let file = reading.source.password_file.take();
        if let Some(file) = file.filter(|_| reads_files && self.errors.len() == before)
            && let Err(wrong) = passfile::whole_file(Path::new(&file))
        {
            self.errors.push(wrong.of(KAFKA_PASSWORD_FILE));
        }
        login
    }
}

struct Reading<'a> {
    check: &'a mut Check,
    properties: &'a mut Properties,
    source: LoginSource,
}

impl Reading<'_> {
    fn login(&mut self) -> KafkaLogin {
        let protocol = self.get("security.protocol").unwrap_or("plaintext");
        let protocol = protocol.to_ascii_lowercase();
        if !PROTOCOLS.contains(&protocol.as_str()) {
            let problem = "has a security.protocol that is none";
            self.wrong(problem, "write PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL");
            return KafkaLogin::default();
        }
        if !protocol.starts_with("sasl") {
            let problem = "has no effect, because security.protocol is without SASL";
            let hint = "set security.protocol=SASL_SSL, or remove it";
            if self.source.password_file.is_some() {
                self.wrong_setting(KAFKA_PASSWORD_FILE, problem, hint);
            }
            if self.source.token_command.is_some() {
                self.wrong_setting(KAFKA_TOKEN_COMMAND, problem, hint);
            }
            let _of_no_effect = self.provider_properties();
            return KafkaLogin::default();
        }
        let Some(mechanism) = self.mechanism() else {
            return KafkaLogin::default();
        };
        match mechanism == OAUTHBEARER {
            true => self.tokens(),
            false => self.password(mechanism),
        }
    }

    /// The mechanism, in capitals as librdkafka wants it.
    fn mechanism(&mut self) -> Option<&'static str> {
        let named = ["sasl.mechanism", "sasl.mechanisms"].map(|name| self.take(name));
        let named = named.into_iter().flatten().next();
        let named = match (named, &self.source.token_command) {
            (Some(named), _) => named.to_ascii_uppercase(),
            (None, Some(_)) => OAUTHBEARER.to_owned(),
            (None, None) => {
                self.wrong("has no sasl.mechanism", CHOICES);
                return None;
            }
        };
        let found = MECHANISMS.iter().find(|known| **known == named);
        match found {
            Some(known) => {
                let value = Secret::new((*known).to_owned());
                self.properties.push(("sasl.mechanism".to_owned(), value));
            }
            None if named == "GSSAPI" => {
                let problem = "has sasl.mechanism=GSSAPI, and outboxd is built without Kerberos";
                self.wrong(problem, CHOICES);
            }
            None => self.wrong("has a sasl.mechanism that is none", CHOICES),
        }
        found.copied()
    }

    fn password(&mut self, mechanism: &str) -> KafkaLogin {
        let problem = format!("is for OAUTHBEARER, and sasl.mechanism is {mechanism}");
        if self.source.token_command.is_some() {
            self.wrong_setting(KAFKA_TOKEN_COMMAND, &problem, "remove one of the two");
        }
        if self.provider_properties().method.is_some() {
            let problem = format!("has sasl.oauthbearer.method, which {problem}");
            self.wrong(&problem, "remove one of the two");
        }
        if self.get("sasl.username").is_none() {
            let problem = format!("has no sasl.username, which {mechanism} needs");
            self.wrong(&problem, "add it");
        }
        match (&self.source.password_file, self.get("sasl.password")) {
            (None, None) => {
                let problem = format!("has no sasl.password, which {mechanism} needs");
                self.wrong(&problem, "add it, or set KAFKA_PASSWORD_FILE");
            }
            (Some(_), Some(_)) => {
                let problem = "names a password and sasl.password is one";
                self.wrong_setting(KAFKA_PASSWORD_FILE, problem, "remove one of the two");
            }
            _ => {}
        }
        KafkaLogin {
            password_file: self.source.password_file.as_ref().map(PathBuf::from),
            ..KafkaLogin::default()
        }
    }

    fn tokens(&mut self) -> KafkaLogin {
        let extensions = self.extensions();
        let provider = self.provider_properties();
        let is_oidc = match provider.method.as_deref() {
            None => false,
            Some(method) if method.eq_ignore_ascii_case("default") => false,
            Some(method) if method.eq_ignore_ascii_case("oidc") => true,
            Some(_) => {
                let problem = "has a sasl.oauthbearer.method that is none";
                self.wrong(problem, "write sasl.oauthbearer.method=oidc");
                return KafkaLogin::default();
            }
        };
        let token_source = match (self.source.token_command.clone(), is_oidc) {
            (Some(_), true) => {
                let problem = "gives tokens, and so does sasl.oauthbearer.method=oidc";
                self.wrong_setting(KAFKA_TOKEN_COMMAND, problem, "remove one of the two");
                None
            }
            (Some(command), false) => {
                if self.source.password_file.is_some() {
                    let problem = "names a password, and KAFKA_TOKEN_COMMAND needs none";
                    self.wrong_setting(KAFKA_PASSWORD_FILE, problem, "remove one of the two");
                }
                Some(TokenSource::Command(Secret::new(command)))
            }
            (None, true) => self.provider(provider).map(TokenSource::Provider),
            (None, false) => {
                let problem = "has sasl.mechanism=OAUTHBEARER, and nothing gives a token";
                self.wrong(problem, NO_TOKEN);
                None
            }
        };
        KafkaLogin {
            token_source,
            extensions,
            ..KafkaLogin::default()
        }
    }

    fn provider(&mut self, given: ProviderProperties) -> Option<IdentityProvider> {
        let client_secret = match (&self.source.password_file, given.client_secret) {
            (Some(_), Some(_)) => {
                let problem = "names a secret and sasl.oauthbearer.client.secret is one";
                self.wrong_setting(KAFKA_PASSWORD_FILE, problem, "remove one of the two");
                None
            }
            (Some(file), None) => Some(ClientSecret::InFile(PathBuf::from(file))),
            (None, Some(secret)) => Some(ClientSecret::Given(Secret::new(secret))),
            (None, None) => {
                let problem = "has no sasl.oauthbearer.client.secret, which oidc needs";
                self.wrong(problem, "add it, or set KAFKA_PASSWORD_FILE");
                None
            }
        };
        if given.client_id.is_none() {
            let problem = "has no sasl.oauthbearer.client.id, which oidc needs";
            self.wrong(problem, "add it");
        }
        let endpoint = given.endpoint.and_then(|url| url.parse::<Uri>().ok());
        let endpoint = endpoint.filter(is_endpoint);
        if endpoint.is_none() {
            let problem = "has no sasl.oauthbearer.token.endpoint.url that is one";
            let hint = "write https://host/path, without a user and a password";
            self.wrong(problem, hint);
        }
        Some(IdentityProvider {
            endpoint: endpoint?,
            client_id: given.client_id?,
            client_secret: client_secret?,
            scope: given.scope,
            authorities: given.authorities,
        })
    }

    /// Takes the properties of an identity provider out of the list.
    fn provider_properties(&mut self) -> ProviderProperties {
        let mut client = |name: &str| {
            let alias = self.take(&format!(
                "sasl.oauthbearer.client.credentials.client.{name}"
            ));
            self.take(&format!("sasl.oauthbearer.client.{name}"))
                .or(alias)
        };
        let (client_id, client_secret) = (client("id"), client("secret"));
        let pem = self.take("https.ca.pem").map(CertificateAuthorities::Pem);
        let at = self.take("https.ca.location").filter(|at| at != "probe");
        let at = at.map(|at| CertificateAuthorities::At(PathBuf::from(at)));
        ProviderProperties {
            method: self.take("sasl.oauthbearer.method"),
            endpoint: self.take("sasl.oauthbearer.token.endpoint.url"),
            scope: self.take("sasl.oauthbearer.scope"),
            authorities: pem.or(at),
            client_id,
            client_secret,
        }
    }

    fn extensions(&mut self) -> Vec<(String, String)> {
        let given = self.take("sasl.oauthbearer.extensions").unwrap_or_default();
        let pairs = given
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphabetic());
            let is_value = value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
            (is_name && is_value && name != "auth").then(|| (name.to_owned(), value.to_owned()))
        };
        let extensions: Option<Vec<_>> = pairs.map(pair).collect();
        if extensions.is_none() {
            let problem = "has sasl.oauthbearer.extensions that are none";
            self.wrong(problem, "write name=value,name=value with names of letters");
        }
        extensions.unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.properties.iter().find(|(known, _)| known == name)?;
        Some(value.expose().as_str()).filter(|value| !value.is_empty())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let value = self.get(name).map(str::to_owned);
        self.properties.retain(|(known, _)| known != name);
        value
    }

    fn wrong(&mut self, problem: &str, hint: &str) {
        self.wrong_setting(KAFKA_PROPERTIES, problem, hint);
    }

    fn wrong_setting(&mut self, setting: &str, problem: &str, hint: &str) {
        let wrong = InvalidValue::new(problem, hint).of(setting);
        self.check.errors.push(wrong);
    }
}

#[derive(Debug)]
struct ProviderProperties {
    method: Option<String>,
    endpoint: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scope: Option<String>,
    authorities: Option<CertificateAuthorities>,
}

/// Whether a token can be requested at this address. A password in it would reach errors.
fn is_endpoint(uri: &Uri) -> bool {
    let has_user = uri.authority().is_some_and(|it| it.as_str().contains('@'));
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && !has_user
}
