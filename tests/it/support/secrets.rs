//! The secrets in the environment of a program, and whether what it prints has a piece of one.
//!
//! A secret of the tests has a digit, so that it is no word that a sentence may hold. Shorter ones
//! than six characters are left out for the same reason.

use std::fs;

use anyhow::{Result, bail};

const SHORTEST: usize = 6;

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets of these variables, of files that they name, and the pieces of all.
    pub(crate) fn of(variables: impl Iterator<Item = (String, String)>) -> Secrets {
        let mut secrets = Secrets::default();
        for (name, value) in variables {
            secrets.read(&name, &value);
        }
        secrets
    }

    /// Adds one, with its pieces.
    pub(crate) fn add(&mut self, secret: &str) {
        let secret = secret.trim_end_matches(['\r', '\n']);
        let pieces = secret.split(|sign: char| !sign.is_alphanumeric());
        let tells = |piece: &&str| {
            piece.len() >= SHORTEST && piece.contains(|sign: char| sign.is_ascii_digit())
        };
        for piece in pieces.chain([secret]).filter(tells) {
            if !self.0.iter().any(|known| known == piece) {
                self.0.push(piece.to_owned());
            }
        }
    }

    /// Adds all of another list.
    pub(crate) fn extend(&mut self, other: Secrets) {
        for secret in other.0 {
            self.add(&secret);
        }
    }

    /// Fails if the text has one of them, as it is or as debug output escapes it.
    pub(crate) fn check(&self, what: &str, text: &str) -> Result<()> {
        let found = self.0.iter().find(|secret| {
            let escaped = secret.escape_debug().to_string();
            text.contains(secret.as_str()) || text.contains(&escaped)
        });
        match found {
            None => Ok(()),
            Some(secret) => {
                let line = text.lines().find(|line| line.contains(secret.as_str()));
                bail!("{what} has {secret:?}: {}", line.unwrap_or(text))
            }
        }
    }

    fn read(&mut self, name: &str, value: &str) {
        let is_secret = ["PASSWORD", "SECRET", "TOKEN"]
            .iter()
            .any(|it| name.contains(it));
        match name {
            "KAFKA_PROPERTIES" => self.read_properties(value),
            "OUTBOX_CONFIG" => self.read_settings(value),
            "PGPASSFILE" => {
                for line in fs::read_to_string(value).unwrap_or_default().lines() {
                    self.add(line.rsplit(':').next().unwrap_or_default());
                }
            }
            _ if name.ends_with("_COMMAND") => {}
            _ if is_secret && name.ends_with("_FILE") => {
                self.add(&fs::read_to_string(value).unwrap_or_default());
            }
            _ if is_secret => self.add(value),
            _ => self.read_url(value),
        }
    }

    /// The password of a URL, or of a `key=value` string.
    fn read_url(&mut self, value: &str) {
        let authority = value.split_once("://").map(|(_, rest)| rest);
        let user = authority
            .and_then(|rest| rest.rsplit_once('@'))
            .map(|(user, _)| user);
        if let Some((_, password)) = user.and_then(|user| user.split_once(':')) {
            self.add(password);
            self.add(&decoded(password));
        }
        if let Some((_, password)) = value.split_once("password=") {
            self.add(password.split(['&', ' ']).next().unwrap_or_default());
        }
    }

    /// The values of the properties that are secrets, up to the next name with a dot.
    fn read_properties(&mut self, text: &str) {
        let mut is_secret = false;
        let mut secret = String::new();
        for piece in text.split(',') {
            match piece.split_once('=') {
                Some((name, value)) if name.contains('.') => {
                    self.add(&std::mem::take(&mut secret));
                    is_secret = hides(name);
                    secret = if is_secret { value } else { "" }.to_owned();
                }
                _ if is_secret => secret = format!("{secret},{piece}"),
                _ => {}
            }
        }
        self.add(&secret);
    }

    fn read_settings(&mut self, path: &str) {
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            if let Some((name, value)) = line.split_once('=') {
                let value = value.trim().trim_matches(['"', '\'']);
                if hides(name) {
                    self.add(value);
                }
                self.read_url(value);
            }
        }
    }
}

fn hides(name: &str) -> bool {
    let words = ["password", "passphrase", "secret", ".pem", "jaas"];
    words.iter().any(|word| name.contains(word)) && !name.contains("_file")
}

/// A text without its percent-encoding.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail
            .get(..2)
            .and_then(|code| std::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        (rest, bytes) = match code.filter(|_| *first == b'%') {
            Some(byte) => (&tail[2..], [bytes, vec![byte]].concat()),
            None => (tail, [bytes, vec![*first]].concat()),
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_secrets_of_an_environment_are_found_with_their_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "fr0m-file\n").unwrap();
    let settings = folder.path().join("outboxd.toml");
    fs::write(
        &settings,
        "[kafka]\nsasl.password = 'fr0mtoml'\nlinger.ms = 5\n",
    )
    .unwrap();
    let variables = [
        (
            "DATABASE_URL",
            "postgres://user:p%40ss-w0rd1@host/db".to_owned(),
        ),
        ("PGPASSWORD", "pg-s3cret,pi3ce77=x".to_owned()),
        ("KAFKA_PASSWORD_FILE", file.display().to_string()),
        ("OUTBOX_CONFIG", settings.display().to_string()),
        (
            "KAFKA_PROPERTIES",
            "sasl.username=us3rname,sasl.password=a1b2c3,d4e5f6=x,client.id=cli3nts".to_owned(),
        ),
        ("DATABASE_PASSWORD_COMMAND", "cat /run/secr3ts".to_owned()),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let secrets = Secrets::of(variables.into_iter());
    for shown in [
        "p@ss-w0rd1",
        "pg-s3cret",
        "x pi3ce77 y",
        "fr0m-file",
        "fr0mtoml",
        "d4e5f6",
    ] {
        assert!(secrets.check("it", shown).is_err(), "{shown}: {secrets:?}");
    }
    let harmless = "us3rname at host, cli3nts, /run/secr3ts, pass";
    secrets.check("it", harmless).unwrap();
}
