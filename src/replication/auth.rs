//! Authentication: clear-text password, MD5, SCRAM-SHA-256 with and without channel binding.
//!
//! What a server may ask for is `require_auth`'s matter (`postgres::transport`). Requires proof
//! from the server too: in a SCRAM exchange the server must show that it knows the password, and
//! with `channel_binding=require` no way around channel binding is accepted. No error contains a
//! password.
//!
//! See <https://www.postgresql.org/docs/current/sasl-authentication.html>.

use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::config::ChannelBinding;
use tokio_postgres::fallible_iterator::FallibleIterator;

use crate::config::{AuthMethod, RequireAuth};
use crate::error::{Code, Error, Result};
use crate::postgres::slot::classify_replication;
use crate::postgres::sqlstate::{self, ServerError};
use crate::postgres::transport::{AuthenticationPolicy, RefusedRequest, check_iterations};
use crate::replication::connection::Connection;

/// The user and the means to authenticate.
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a str,
    pub(crate) password: Option<&'a [u8]>,
    pub(crate) channel_binding: ChannelBinding,
    pub(crate) require_auth: &'a RequireAuth,
}

/// Answers the server's authentication requests.
pub(crate) async fn authenticate(
    connection: &mut Connection,
    credentials: &Credentials<'_>,
) -> Result<()> {
    let mut bound = false;
    match receive(connection).await? {
        Message::AuthenticationOk => {
            check_method(connection, credentials, AuthMethod::None)?;
            return check_binding(connection, credentials, bound);
        }
        Message::AuthenticationCleartextPassword => {
            check_method(connection, credentials, AuthMethod::Password)?;
            check_binding(connection, credentials, bound)?;
            let password = password(connection, credentials)?;
            connection.queue(|out| frontend::password_message(password, out))?;
        }
        Message::AuthenticationMd5Password(body) => {
            check_method(connection, credentials, AuthMethod::Md5)?;
            check_binding(connection, credentials, bound)?;
            let password = password(connection, credentials)?;
            let hash = md5_hash(credentials.user.as_bytes(), password, body.salt());
            connection.queue(|out| frontend::password_message(hash.as_bytes(), out))?;
        }
        Message::AuthenticationSasl(body) => {
            check_method(connection, credentials, AuthMethod::ScramSha256)?;
            bound = scram(connection, credentials, &body).await?;
            check_binding(connection, credentials, bound)?;
        }
        Message::AuthenticationGss
        | Message::AuthenticationKerberosV5
        | Message::AuthenticationScmCredential
        | Message::AuthenticationSspi => {
            return Err(unsupported(connection, "GSSAPI, SSPI or Kerberos"));
        }
        _ => return Err(connection.protocol_error("expected an authentication request")),
    }
    connection.flush().await?;
    match receive(connection).await? {
        Message::AuthenticationOk => Ok(()),
        _ => Err(connection.protocol_error("authentication did not complete")),
    }
}

/// Returns whether the exchange was bound to the TLS channel.
async fn scram(
    connection: &mut Connection,
    credentials: &Credentials<'_>,
    offer: &AuthenticationSaslBody,
) -> Result<bool> {
    let (mut plain, mut plus) = (false, false);
    let mut mechanisms = offer.mechanisms();
    while let Some(name) = mechanisms
        .next()
        .map_err(|e| connection.protocol_error(e))?
    {
        plain |= name == sasl::SCRAM_SHA_256;
        plus |= name == sasl::SCRAM_SHA_256_PLUS;
    }
    let end_point = connection
        .socket()
        .server_end_point()
        .filter(|_| credentials.channel_binding != ChannelBinding::Disable);
    let (binding, mechanism) = mechanism(plain, plus, end_point)
        .ok_or_else(|| unsupported(connection, "a SASL mechanism other than SCRAM-SHA-256"))?;
    let bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
    check_binding(connection, credentials, bound)?;

    let mut exchange = sasl::ScramSha256::new(password(connection, credentials)?, binding);
    connection.queue(|out| frontend::sasl_initial_response(mechanism, exchange.message(), out))?;
    connection.flush().await?;
    let Message::AuthenticationSaslContinue(body) = receive(connection).await? else {
        return Err(connection.protocol_error("expected a SASL continuation"));
    };
    let refused = |request: RefusedRequest| request.error(refused(connection.peer()));
    check_iterations(body.data()).map_err(refused)?;
    exchange
        .update(body.data())
        .map_err(|e| connection.protocol_error(e))?;
    connection.queue(|out| frontend::sasl_response(exchange.message(), out))?;
    connection.flush().await?;
    let Message::AuthenticationSaslFinal(body) = receive(connection).await? else {
        return Err(connection.protocol_error("expected the final SASL message"));
    };
    exchange.finish(body.data()).map_err(|e| {
        let message = format!(
            "Postgres at {} did not prove that it knows the password",
            connection.peer()
        );
        Error::fatal(Code::Connect, message).with_source(e)
    })?;
    Ok(bound)
}

/// The mechanism for a server that offers SCRAM `plain` or with channel binding (`plus`), over a
/// connection whose TLS has this end point.
fn mechanism(
    plain: bool,
    plus: bool,
    end_point: Option<Vec<u8>>,
) -> Option<(sasl::ChannelBinding, &'static str)> {
    match end_point {
        Some(hash) if plus => Some((
            sasl::ChannelBinding::tls_server_end_point(hash),
            sasl::SCRAM_SHA_256_PLUS,
        )),
        // Lets a server that did offer binding detect that its offer was removed on the way.
        Some(_) if plain => Some((sasl::ChannelBinding::unrequested(), sasl::SCRAM_SHA_256)),
        None if plain => Some((sasl::ChannelBinding::unsupported(), sasl::SCRAM_SHA_256)),
        _ => None,
    }
}

async fn receive(connection: &mut Connection) -> Result<Message> {
    let raw = connection.receive_reply().await?;
    match connection.parse(&raw)? {
        Message::ErrorResponse(_) => {
            let error = connection.server_error(&raw);
            Err(refusal(connection.peer(), error))
        }
        message => Ok(message),
    }
}

fn refused(peer: &str) -> String {
    format!("Postgres at {peer} refused the replication connection")
}

/// The error of a refused log-in. feature_not_supported is that of a proxy, such as RDS Proxy.
pub(crate) fn refusal(peer: &str, error: ServerError) -> Error {
    let refused = refused(peer);
    if error.code == "0A000" {
        return Error::fatal(Code::Connect, refused)
            .with_source(error)
            .with_hint(
                "a proxy between passes no replication: connect to Postgres itself, or set \
             OUTBOX_SOURCE=poll",
            );
    }
    classify_replication(refused, error)
}

fn password<'a>(connection: &Connection, credentials: &Credentials<'a>) -> Result<&'a [u8]> {
    credentials.password.ok_or_else(|| {
        // The SQLSTATE with which the server rejects a wrong password.
        let error = ServerError {
            severity: "FATAL".into(),
            code: "28P01".into(),
            message: format!(
                "user {:?} needs a password, and none is configured",
                credentials.user
            ),
            ..ServerError::default()
        };
        sqlstate::classify(refused(connection.peer()), error)
    })
}

/// Checks the method that the server has chosen.
fn check_method(
    connection: &Connection,
    credentials: &Credentials<'_>,
    method: AuthMethod,
) -> Result<()> {
    let policy = AuthenticationPolicy::new(credentials.require_auth, connection.socket());
    let checked = policy.check(method);
    checked.map_err(|request| request.error(refused(connection.peer())))
}

fn check_binding(
    connection: &Connection,
    credentials: &Credentials<'_>,
    bound: bool,
) -> Result<()> {
    if bound || credentials.channel_binding != ChannelBinding::Require {
        return Ok(());
    }
    let message = format!(
        "Postgres at {} does not offer channel binding",
        connection.peer()
    );
    Err(Error::fatal(Code::Connect, message)
        .with_hint("channel_binding=require needs TLS and scram-sha-256 in pg_hba.conf"))
}

fn unsupported(connection: &Connection, what: &str) -> Error {
    let message = format!("Postgres at {} requires {what}", connection.peer());
    Error::fatal(Code::Connect, message)
        .with_hint("allow scram-sha-256, md5, password, cert or trust for this user in pg_hba.conf")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use openssl::base64::encode_block;
    use openssl::hash::MessageDigest;
    use openssl::pkcs5::pbkdf2_hmac;
    use openssl::pkey::PKey;
    use openssl::sign::Signer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::postgres::transport::Socket;

    const PASSWORD: &[u8] = b"open sesame";
    const SALT: &[u8] = b"a salt of the server";
    const ITERATIONS: usize = 4_096;

    async fn request(server: &mut DuplexStream, kind: u32, rest: &[u8]) {
        let body = [&kind.to_be_bytes(), rest].concat();
        let length = (body.len() as u32 + 4).to_be_bytes();
        let message = [b"R".as_slice(), &length, &body].concat();
        server.write_all(&message).await.unwrap();
    }

    /// The text of the client's next message.
    async fn answer(server: &mut DuplexStream) -> String {
        assert_eq!(server.read_u8().await.unwrap(), b'p');
        let length = server.read_u32().await.unwrap() as usize;
        let mut body = vec![0; length - 4];
        server.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    }

    fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
        let key = PKey::hmac(key).unwrap();
        let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
        signer.update(text).unwrap();
        signer.sign_to_vec().unwrap()
    }

    /// Authenticates with a server that knows this password.
    async fn authenticated_by_a_server_that_knows(password: &[u8]) -> Result<()> {
        authenticated(password, 0, "server").await
    }

    /// The server ends with a message of the kind `last`, and appends `suffix` to the client's
    /// nonce; a `suffix` that begins with `=` replaces it.
    async fn authenticated(password: &[u8], last_kind: u32, suffix: &str) -> Result<()> {
        let (ours, mut server) = tokio::io::duplex(1 << 16);
        let mut connection = Connection::new(Socket::Scripted(ours), "db.example:5432".into());
        let credentials = Credentials {
            user: "publisher",
            password: Some(PASSWORD),
            channel_binding: ChannelBinding::Prefer,
            require_auth: &RequireAuth::default(),
        };
        let play = async {
            request(&mut server, 10, b"SCRAM-SHA-256\0\0").await;
            let first = answer(&mut server).await;
            let bare = first.split_once("n,,").unwrap().1;
            let nonce = bare.split_once("r=").unwrap().1;
            let salt = encode_block(SALT);
            let nonce = suffix
                .strip_prefix('=')
                .map_or_else(|| format!("{nonce}{suffix}"), str::to_owned);
            let challenge = format!("r={nonce},s={salt},i={ITERATIONS}");
            request(&mut server, 11, challenge.as_bytes()).await;
            if suffix.starts_with('=') {
                return;
            }
            let last = answer(&mut server).await;
            let without_proof = last.split_once(",p=").unwrap().0;
            let mut salted = [0; 32];
            let digest = MessageDigest::sha256();
            pbkdf2_hmac(password, SALT, ITERATIONS, digest, &mut salted).unwrap();
            let server_key = hmac(&salted, b"Server Key");
            let exchanged = format!("{bare},{challenge},{without_proof}");
            let signature = encode_block(&hmac(&server_key, exchanged.as_bytes()));
            request(&mut server, 12, format!("v={signature}").as_bytes()).await;
            request(&mut server, last_kind, b"").await;
        };
        let (outcome, ()) = tokio::join!(authenticate(&mut connection, &credentials), play);
        outcome
    }

    #[tokio::test]
    async fn a_server_that_answers_another_nonce_or_never_says_ok_is_refused() {
        let error = authenticated(PASSWORD, 0, "=another").await.unwrap_err();
        assert!(error.report().contains("invalid nonce"), "{error:?}");
        let error = authenticated(PASSWORD, 3, "server").await.unwrap_err();
        assert!(error.report().contains("did not complete"), "{error:?}");
    }

    #[test]
    fn a_client_with_tls_binds_or_says_that_it_could_have() {
        let begins = |plain, plus, end_point: Option<&[u8]>| {
            let (binding, name) = mechanism(plain, plus, end_point.map(<[u8]>::to_vec))?;
            let exchange = sasl::ScramSha256::new(PASSWORD, binding);
            let message = String::from_utf8_lossy(exchange.message()).into_owned();
            let (head, _) = message.split_once(",,")?;
            Some((head.to_owned(), name))
        };
        let is = |head: &str, name| Some((head.to_owned(), name));
        let (plain, plus) = (sasl::SCRAM_SHA_256, sasl::SCRAM_SHA_256_PLUS);
        let bound = is("p=tls-server-end-point", plus);
        assert_eq!(begins(true, true, Some(b"hash")), bound);
        assert_eq!(begins(true, false, Some(b"hash")), is("y", plain));
        assert_eq!(begins(true, true, None), is("n", plain));
        assert_eq!(begins(false, true, None), None);
        assert_eq!(begins(false, false, Some(b"hash")), None);
    }

    #[tokio::test]
    async fn a_server_that_signs_without_the_password_is_refused() {
        let authenticated = authenticated_by_a_server_that_knows(PASSWORD).await;
        assert!(authenticated.is_ok(), "{authenticated:?}");
        let error = authenticated_by_a_server_that_knows(b"another").await;
        let report = error.unwrap_err().report();
        assert!(report.contains("did not prove"), "{report}");
    }
}
