//! One broker for the tests of this module, with a listener for each kind of log-in.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Result;

use crate::support::certificates::Authority;
use crate::support::ephemeral::free_port;
use crate::support::identity_provider::{AUDIENCE, ISSUER, IdentityProvider};
use crate::support::kafka::{self, Kafka, Listener};
use crate::support::proxy::Proxy;

/// The user's password, with what a list of properties and a URL treat in their own way.
pub(crate) const PASSWORD: &str = "p4ss,w0rd99=x \"q\" \\ #% é";
/// The identity provider's secret for the client.
pub(crate) const SECRET: &str = "cl1ent-s3cret,x=y";
/// The password of the user `scram`.
pub(super) const SCRAM: &str = "scr4m-passw0rd";

/// See the module's head.
pub(crate) struct Broker {
    pub(crate) kafka: Kafka,
    /// Where its files are.
    folder: tempfile::TempDir,
    /// The authority of its certificate and of the clients'.
    pub(super) authority: Authority,
    pub(super) provider: IdentityProvider,
    /// Where the identity provider serves HTTP and HTTPS.
    pub(super) provider_ports: (u16, u16),
}

impl Broker {
    /// The broker, which is started by the first call.
    pub(crate) fn shared() -> &'static Broker {
        static BROKER: OnceLock<Broker> = OnceLock::new();
        BROKER.get_or_init(|| Broker::start(None).expect("Kafka starts"))
    }

    /// A broker of its own, whose listener for client certificates is behind this proxy.
    pub(super) fn behind(proxy: &Proxy, own: u16) -> Result<Broker> {
        Broker::start(Some((own, proxy.port())))
    }

    fn start(proxied: Option<(u16, u16)>) -> Result<Broker> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new("authority")?;
        let server = authority.sign("broker", (-60, 86_400))?;
        let (store, trusted) = (
            folder.path().join("broker.pem"),
            folder.path().join("ca.pem"),
        );
        std::fs::write(&store, server.store())?;
        std::fs::write(&trusted, authority.pem()?)?;
        let provider = IdentityProvider::new(SECRET, 3_600)?;
        let http = provider.serve(0, None)?.port();
        let https = provider.serve(0, Some(&server))?.port();
        let (tls_port, tls_shown) = match proxied {
            Some((own, shown)) => (own, Some(shown)),
            None => (free_port()?, None),
        };
        let listener = |name, protocol| -> Result<Listener<'static>> {
            Ok(Listener {
                name,
                protocol,
                advertised: None,
                port: free_port()?,
            })
        };
        let listeners = [
            listener("PASSWORDS", "SASL_PLAINTEXT")?,
            listener("ENCRYPTED", "SASL_SSL")?,
            listener("OIDC", "SASL_PLAINTEXT")?,
            listener("UNSECURED", "SASL_PLAINTEXT")?,
            Listener {
                name: "CERTIFICATES",
                protocol: "SSL",
                advertised: tls_shown,
                port: tls_port,
            },
        ];
        let keys = format!("http://127.0.0.1:{http}/jwks");
        let options = [format!(
            "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={keys}"
        )];
        let properties = properties(&store.display().to_string(), &keys);
        let properties = [
            properties,
            vec![format!("ssl.truststore.location={}", trusted.display())],
        ]
        .concat();
        let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
        let kafka = kafka::with_listeners(&listeners, &options, &properties)?;
        Ok(Broker {
            kafka,
            folder,
            authority,
            provider,
            provider_ports: (http, https),
        })
    }

    /// The certificate of its authority.
    pub(super) fn trusted(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Makes the SCRAM user with this password.
    pub(super) async fn set_scram(&self, user: &str, password: &str) -> Result<()> {
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let config = format!("{mechanism}=[password={password}]");
            let arguments = ["--alter", "--add-config", &config, "--entity-type", "users"];
            let arguments = [&arguments[..], &["--entity-name", user]].concat();
            let tool = self.kafka.tool(kafka::CONFIGS, &arguments);
            tool.await?;
        }
        Ok(())
    }

    /// The identity provider's tokens so far.
    pub(crate) fn provider_tokens(&self) -> Vec<String> {
        self.provider.issued()
    }

    /// The token endpoint.
    pub(crate) fn token_url(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.provider_ports.0)
    }
}

fn properties(store: &str, keys: &str) -> Vec<String> {
    let plain = format!(
        "org.apache.kafka.common.security.plain.PlainLoginModule required user_app=\"{}\";",
        jaas(PASSWORD)
    );
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;";
    let validator = "org.apache.kafka.common.security.oauthbearer.\
                     OAuthBearerValidatorCallbackHandler";
    let mut lines = vec![
        "ssl.truststore.type=PEM".to_owned(),
        "ssl.keystore.type=PEM".to_owned(),
        format!("ssl.keystore.location={store}"),
        "listener.name.certificates.ssl.client.auth=required".to_owned(),
        "listener.name.passwords.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            .to_owned(),
        "listener.name.encrypted.sasl.enabled.mechanisms=PLAIN".to_owned(),
        "listener.name.oidc.sasl.enabled.mechanisms=OAUTHBEARER".to_owned(),
        "listener.name.unsecured.sasl.enabled.mechanisms=OAUTHBEARER".to_owned(),
        format!("listener.name.oidc.oauthbearer.sasl.jaas.config={bearer}"),
        format!("listener.name.unsecured.oauthbearer.sasl.jaas.config={bearer}"),
        format!("listener.name.oidc.oauthbearer.sasl.server.callback.handler.class={validator}"),
        format!("listener.name.oidc.sasl.oauthbearer.jwks.endpoint.url={keys}"),
        format!("listener.name.oidc.sasl.oauthbearer.expected.issuer={ISSUER}"),
        format!("listener.name.oidc.sasl.oauthbearer.expected.audience={AUDIENCE}"),
        // A session of a log-in ends with its token, and after this time.
        "connections.max.reauth.ms=8000".to_owned(),
    ];
    for mechanism in ["scram-sha-256", "scram-sha-512"] {
        lines.push(format!(
            "listener.name.passwords.{mechanism}.sasl.jaas.config={scram}"
        ));
    }
    for listener in ["passwords", "encrypted"] {
        lines.push(format!(
            "listener.name.{listener}.plain.sasl.jaas.config={plain}"
        ));
    }
    lines
}

/// A password within quotes of JAAS, within a file of properties.
fn jaas(password: &str) -> String {
    let quoted = password.replace('\\', "\\\\").replace('"', "\\\"");
    let line = quoted.replace('\\', "\\\\");
    let sign = |sign: char| match sign.is_ascii() {
        true => sign.to_string(),
        false => format!("\\u{:04x}", u32::from(sign)),
    };
    line.chars().map(sign).collect()
}
