//! Reads the options of a connection string: takes out those of TLS, translates libpq's options for
//! tokio-postgres, fills gaps from libpq's variables, and checks the rest one by one.
//!
//! An error names an option only if libpq knows its name, and never shows a value: with one
//! character unescaped, a piece of the password can end up in either place.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>

use std::path::PathBuf;

use crate::config::connection::conninfo::{self, Options};
use crate::config::connection::require_auth::RequireAuth;
use crate::config::error::{InvalidValue, SettingError};
use crate::config::tls::{SslMode, TlsSettings};

/// Reads an environment variable; tests pass their own.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The options that tokio-postgres reads.
const KNOWN: &[&str] = &[
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// libpq's options that outboxd does not support. An error quotes no other name, since that may be
/// a piece of a password.
const UNSUPPORTED: &[&str] = &[
    "replication",
    "requiressl",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcertmode",
    "sslsni",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "min_protocol_version",
    "max_protocol_version",
    "requirepeer",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "sslkeylogfile",
    "scram_client_key",
    "scram_server_key",
    "gssencmode",
];

/// The options while they are being read: each name once, no value empty.
pub(crate) struct Reading<'a> {
    setting: &'static str,
    options: Options,
    env: Env<'a>,
    errors: &'a mut Vec<SettingError>,
}

impl<'a> Reading<'a> {
    /// As in libpq, the last option of a name counts, and an empty value counts as absent.
    pub(crate) fn new(
        setting: &'static str,
        options: Options,
        env: Env<'a>,
        errors: &'a mut Vec<SettingError>,
    ) -> Self {
        let mut reading = Reading {
            setting,
            options: Options::new(),
            env,
            errors,
        };
        for (name, value) in options {
            reading.take(&name);
            if !value.is_empty() {
                reading.set(&name, value);
            }
        }
        reading
    }

    /// The options as one string that tokio-postgres reads.
    pub(crate) fn finish(self) -> String {
        conninfo::join(&self.options)
    }

    fn wrong(&mut self, problem: impl Into<String>, hint: impl Into<String>) {
        self.errors
            .push(InvalidValue::new(problem, hint).of(self.setting));
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().position(|(option, _)| option == name)?;
        Some(self.options.remove(at).1)
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.options.iter().find(|(option, _)| option == name);
        found.map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.options.push((name.to_owned(), value.into()));
    }

    fn set_unless_given(&mut self, name: &str, value: impl FnOnce(&Self) -> Option<String>) {
        if self.get(name).is_none()
            && let Some(value) = value(self)
        {
            self.set(name, value);
        }
    }

    fn env(&self, variable: &str) -> Option<String> {
        (self.env)(variable).filter(|value| !value.is_empty())
    }

    fn take_or_env(&mut self, name: &str, variable: &str) -> Option<String> {
        self.take(name).or_else(|| self.env(variable))
    }

    /// Takes out the TLS options; libpq's rules apply where one is missing.
    pub(crate) fn tls(&mut self) -> TlsSettings {
        // `ssl=true` is how JDBC writes it; libpq accepts it in URLs.
        if self.take("ssl").is_some_and(|value| value == "true") && self.get("sslmode").is_none() {
            self.set("sslmode", "require");
        }
        let root = self.take_or_env("sslrootcert", "PGSSLROOTCERT");
        let system = root.as_deref() == Some("system");
        let mode = self.take_or_env("sslmode", "PGSSLMODE");
        let mode = match mode.as_deref() {
            None if system => SslMode::VerifyFull,
            None | Some("prefer") => SslMode::Prefer,
            Some("disable") => SslMode::Disable,
            // libpq verifies the chain as soon as there is a root certificate.
            Some("require") if root.is_some() && !system => SslMode::VerifyCa,
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            Some(_) => {
                let choices = "disable, prefer, require, verify-ca or verify-full";
                self.wrong(
                    "has an sslmode that outboxd does not support",
                    format!("write {choices}"),
                );
                SslMode::Prefer
            }
        };
        if system && mode != SslMode::VerifyFull {
            let problem = "has sslrootcert=system with a weaker sslmode than verify-full";
            self.wrong(problem, "write sslmode=verify-full");
        }
        let root_cert = root.filter(|_| !system).map(PathBuf::from);
        let cert = self.take_or_env("sslcert", "PGSSLCERT").map(PathBuf::from);
        let key = self.take_or_env("sslkey", "PGSSLKEY").map(PathBuf::from);
        if cert.is_some() != key.is_some() {
            let problem = "has one of sslcert and sslkey without the other";
            self.wrong(problem, "give both, or neither");
        }
        let files = [
            ("sslrootcert", &root_cert),
            ("sslcert", &cert),
            ("sslkey", &key),
        ];
        for (name, path) in files {
            if path
                .as_ref()
                .is_some_and(|path| std::fs::File::open(path).is_err())
            {
                let hint = format!("let {name} name a PEM file that this user may read");
                self.wrong(format!("has a {name} that cannot be read"), hint);
            }
        }
        TlsSettings {
            mode,
            root_cert,
            cert,
            key,
        }
    }

    /// Takes out the list of the authentication methods that a server may use.
    pub(crate) fn require_auth(&mut self) -> RequireAuth {
        let Some(list) = self.take_or_env("require_auth", "PGREQUIREAUTH") else {
            return RequireAuth::default();
        };
        RequireAuth::parse(&list).unwrap_or_else(|wrong| {
            self.wrong(wrong.problem, wrong.hint);
            RequireAuth::default()
        })
    }

    /// Translates options that tokio-postgres names differently, and drops those without effect.
    pub(crate) fn translate(&mut self) {
        for name in [
            "client_encoding",
            "fallback_application_name",
            "sslcompression",
        ] {
            self.take(name);
        }
        if matches!(self.get("gssencmode"), None | Some("disable" | "prefer")) {
            self.take("gssencmode");
        }
        if let Some(count) = self.take("keepalives_count") {
            self.set("keepalives_retries", count);
        }
        // Milliseconds in libpq, seconds in tokio-postgres.
        if let Some(ms) = self.take("tcp_user_timeout") {
            match ms.parse::<u64>() {
                Ok(ms) => self.set("tcp_user_timeout", ms.div_ceil(1_000).to_string()),
                Err(_) => self.wrong(
                    "has a tcp_user_timeout that is not a number",
                    "write milliseconds",
                ),
            }
        }
        match self.get("target_session_attrs") {
            Some("primary") => {
                self.take("target_session_attrs");
                self.set("target_session_attrs", "read-write");
            }
            Some("read-only" | "standby" | "prefer-standby") => {
                let problem = "has a target_session_attrs that chooses a standby";
                self.wrong(problem, "write target_session_attrs=read-write");
                self.take("target_session_attrs");
            }
            _ => {}
        }
    }

    /// Fills in missing options, as libpq does.
    pub(crate) fn fill_in(&mut self) {
        self.set_unless_given("hostaddr", |own| own.env("PGHOSTADDR"));
        if self.get("hostaddr").is_none() {
            self.set_unless_given("host", |own| {
                Some(own.env("PGHOST").unwrap_or_else(default_host))
            });
        }
        self.set_unless_given("port", |own| {
            Some(own.env("PGPORT").unwrap_or("5432".to_owned()))
        });
        self.set_unless_given("connect_timeout", |own| own.env("PGCONNECT_TIMEOUT"));
        self.set_unless_given("user", |own| {
            own.env("PGUSER")
                .or_else(|| own.env("USER"))
                .or_else(|| own.env("LOGNAME"))
        });
        self.set_unless_given("dbname", |own| {
            own.env("PGDATABASE")
                .or_else(|| own.get("user").map(str::to_owned))
        });
        if self.get("user").is_none() {
            self.wrong("names no user", "write postgresql://user@host/database");
        }
        if self
            .get("host")
            .is_some_and(|hosts| hosts.split(',').any(str::is_empty))
        {
            self.wrong("has an empty host in its list", "name each host");
        }
    }

    /// Checks each option on its own, so that an error can name it.
    pub(crate) fn check(&mut self) {
        let options = std::mem::take(&mut self.options);
        for (name, value) in &options {
            if UNSUPPORTED.contains(&name.as_str()) {
                self.wrong(
                    format!("has the option {name}, which outboxd does not support"),
                    "remove it",
                );
            } else if !KNOWN.contains(&name.as_str()) {
                let hint = "look for a misspelt name, or an unescaped character in the password";
                self.wrong("has an option that libpq does not know", hint);
            } else {
                let alone = conninfo::join(&[(name.clone(), value.clone())]);
                if alone.parse::<tokio_postgres::Config>().is_err() {
                    self.wrong(
                        format!("has a {name} that is not valid"),
                        "see libpq's manual for it",
                    );
                }
            }
        }
        self.options = options;
    }
}

/// The folder of the Unix socket on Debian and Red Hat, if it exists; otherwise localhost.
fn default_host() -> String {
    let folder = "/var/run/postgresql";
    let found = cfg!(unix) && std::path::Path::new(folder).is_dir();
    if found { folder } else { "localhost" }.to_owned()
}
