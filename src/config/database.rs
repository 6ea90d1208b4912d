//! The database connection: `DATABASE_URL`, libpq's variables, and the other places of a password.
//!
//! One description serves SQL and replication connections. libpq's rules apply where a user of psql
//! would notice: option names, variables, the password file, and that `require` with a root
//! certificate verifies the chain. Nothing that could be a password is shown.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio_postgres::config::{Host, SslNegotiation, TargetSessionAttrs};

use crate::config::connection::options::{Env, Reading};
use crate::config::connection::passfile::{self, Login};
use crate::config::connection::require_auth::RequireAuth;
use crate::config::connection::{conninfo, service_file};
use crate::config::error::{InvalidValue, SettingError};
use crate::config::secret::Secret;
use crate::config::tls::{SslMode, TlsSettings};
use crate::config::variables;

/// The longest row of a session, unless a record may be longer.
const ROW_BYTES_MAX: usize = 48 << 20;

/// The names of the settings of one login.
#[derive(Debug)]
pub(crate) struct LoginNames {
    pub(crate) url: &'static str,
    file: &'static str,
    command: &'static str,
}

/// The login of all statements.
pub(crate) static SQL: LoginNames = LoginNames {
    url: variables::DATABASE_URL,
    file: variables::DATABASE_PASSWORD_FILE,
    command: variables::DATABASE_PASSWORD_COMMAND,
};

/// The login for replication alone.
pub(crate) static REPLICATION: LoginNames = LoginNames {
    url: variables::REPLICATION_URL,
    file: variables::REPLICATION_PASSWORD_FILE,
    command: variables::REPLICATION_PASSWORD_COMMAND,
};

/// The settings of one login, as they were given.
#[derive(Debug)]
pub(crate) struct LoginSettings {
    pub(crate) url: Option<String>,
    /// A file with the password alone.
    pub(crate) file: Option<String>,
    /// A command that prints it.
    pub(crate) command: Option<String>,
    pub(crate) names: &'static LoginNames,
}

/// A command that prints the password for the next connection.
#[derive(Debug, Clone)]
pub struct PasswordCommand {
    /// The setting that has it.
    pub setting: &'static str,
    /// The command, for `/bin/sh`.
    pub command: Secret<String>,
}

/// A database, and how to log in to it. Debug and Display hold no password.
#[derive(Debug, Clone)]
pub struct Database {
    /// Hosts, ports, user, password, database, options. User, database, host and port are always
    /// set. `ssl_mode` is the mode of tokio-postgres that is nearest to [`TlsSettings::mode`].
    pub pg: tokio_postgres::Config,
    /// The TLS settings.
    pub tls: TlsSettings,
    /// The command that prints the password for the next connection.
    pub password_command: Option<PasswordCommand>,
    /// Why libpq's password file does not count, if there is one that does not.
    pub ignored_passfile: Option<String>,
    /// The same database with the login for replication, where that is another one.
    pub replication: Option<Box<Database>>,
    /// How a server may make a client prove who it is.
    pub require_auth: RequireAuth,
    /// The longest row that a session takes, in bytes.
    pub(crate) row_bytes_max: usize,
}

impl Database {
    /// This database, with these TLS settings and the defaults of all others.
    pub fn new(pg: tokio_postgres::Config, tls: TlsSettings) -> Self {
        Database {
            pg,
            tls,
            password_command: None,
            ignored_passfile: None,
            replication: None,
            require_auth: RequireAuth::default(),
            row_bytes_max: ROW_BYTES_MAX,
        }
    }

    /// The database's name.
    pub fn database_name(&self) -> &str {
        self.pg.get_dbname().unwrap_or_default()
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        self.pg.get_user().unwrap_or_default()
    }

    /// The database with the login for replication.
    pub(crate) fn for_replication(&self) -> &Database {
        self.replication.as_deref().unwrap_or(self)
    }

    /// From now on a session takes rows of this many bytes too.
    pub(crate) fn admit_rows(&mut self, bytes: usize) {
        self.row_bytes_max = self.row_bytes_max.max(bytes);
    }

    /// For logs and errors: `db.example:5432/orders as outboxd`.
    pub fn describe(&self) -> String {
        let ports = self.pg.get_ports();
        let port = |i: usize| ports.get(i).or(ports.first()).copied().unwrap_or(5432);
        let mut servers: Vec<String> = self.pg.get_hosts().iter().map(host_name).collect();
        if servers.is_empty() {
            servers = self
                .pg
                .get_hostaddrs()
                .iter()
                .map(ToString::to_string)
                .collect();
        }
        let servers = servers
            .iter()
            .enumerate()
            .map(|(i, server)| format!("{server}:{}", port(i)));
        let servers = servers.collect::<Vec<_>>().join(",");
        format!("{servers}/{} as {}", self.database_name(), self.user())
    }

    /// Reads the connection string, and missing options from libpq's variables and from files. None
    /// without a connection string, or after an error.
    pub(crate) fn parse(
        given: LoginSettings,
        env: Env<'_>,
        errors: &mut Vec<SettingError>,
    ) -> Option<Database> {
        let (before, names) = (errors.len(), given.names);
        let Some(url) = &given.url else {
            errors.extend(without_url(&given));
            return None;
        };
        let options = match conninfo::split(url.trim()) {
            Ok(options) => options,
            Err(wrong) => {
                errors.push(wrong.of(names.url));
                return None;
            }
        };
        let options = match service_file::with_service(names.url, options, env) {
            Ok(options) => options,
            Err(wrong) => {
                errors.push(wrong);
                return None;
            }
        };
        let mut reading = Reading::new(names.url, options, env, errors);
        let tls = reading.tls();
        let passfile = reading.take("passfile");
        let require_auth = reading.require_auth();
        reading.translate();
        reading.fill_in();
        reading.check();
        let text = reading.finish();
        if errors.len() > before {
            return None;
        }
        let Ok(mut pg) = text.parse::<tokio_postgres::Config>() else {
            let wrong = InvalidValue::new("is not accepted as a whole", "check its options");
            errors.push(wrong.of(names.url));
            return None;
        };
        // Only the primary accepts writes, and any of several hosts may be the primary.
        if pg.get_hosts().len().max(pg.get_hostaddrs().len()) > 1 {
            pg.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        pg.ssl_mode(match tls.mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            _ => tokio_postgres::config::SslMode::Require,
        });
        let mut database = Database::new(pg, tls);
        database.require_auth = require_auth;
        database.check(names, errors);
        match given.command {
            Some(command) => database.take_command(names, command, given.file.is_some(), errors),
            None => database.find_password(names, given.file.as_deref(), passfile, env, errors),
        }
        (errors.len() == before).then_some(database)
    }

    fn check(&self, names: &LoginNames, errors: &mut Vec<SettingError>) {
        let (hosts, addresses) = (self.pg.get_hosts().len(), self.pg.get_hostaddrs().len());
        let servers = hosts.max(addresses);
        if hosts > 0 && addresses > 0 && hosts != addresses {
            let wrong = InvalidValue::new(
                "has different numbers of host and hostaddr",
                "give one hostaddr for each host",
            );
            errors.push(wrong.of(names.url));
        }
        if ![1, servers].contains(&self.pg.get_ports().len()) {
            let wrong = InvalidValue::new(
                "has more ports than hosts, or fewer",
                "give one port, or one for each host",
            );
            errors.push(wrong.of(names.url));
        }
        let direct = self.pg.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct && matches!(self.tls.mode, SslMode::Disable | SslMode::Prefer) {
            let problem = "asks for sslnegotiation=direct with a weak sslmode";
            errors
                .push(InvalidValue::new(problem, "add sslmode=require or stronger").of(names.url));
        }
    }

    /// Takes the command that prints the password. It is the only place of the password then, and
    /// `PGPASSWORD` and libpq's password file do not count.
    fn take_command(
        &mut self,
        names: &'static LoginNames,
        command: String,
        has_file: bool,
        errors: &mut Vec<SettingError>,
    ) {
        let other = match (has_file, self.pg.get_password()) {
            (true, _) => Some(names.file),
            (false, Some(_)) => Some(names.url),
            (false, None) => None,
        };
        match other {
            Some(other) => {
                let problem = format!("names a password and {other} has one");
                let wrong = InvalidValue::new(problem, "remove one of the two");
                errors.push(wrong.of(names.command));
            }
            None => {
                self.password_command = Some(PasswordCommand {
                    setting: names.command,
                    command: Secret::new(command),
                });
            }
        }
    }

    /// Finds a password that is not in the string: the setting's file, `PGPASSWORD`, then libpq's
    /// password file. As with libpq, a password file that does not count is no error, since the
    /// server may ask for no password.
    fn find_password(
        &mut self,
        names: &LoginNames,
        own_file: Option<&str>,
        passfile: Option<String>,
        env: Env<'_>,
        errors: &mut Vec<SettingError>,
    ) {
        let in_url = self.pg.get_password().is_some();
        if let Some(file) = own_file {
            match passfile::whole_file(Path::new(file)) {
                Ok(_) if in_url => {
                    let problem = format!("names a password and {} contains one", names.url);
                    let wrong = InvalidValue::new(problem, "remove one of the two");
                    errors.push(wrong.of(names.file));
                }
                Ok(password) => {
                    self.pg.password(password.expose());
                }
                Err(wrong) => errors.push(wrong.of(names.file)),
            }
            return;
        }
        if in_url {
            return;
        }
        if let Some(password) = env("PGPASSWORD") {
            self.pg.password(password);
            return;
        }
        let named = passfile
            .or_else(|| env("PGPASSFILE"))
            .map(PathBuf::from)
            .or_else(|| env("HOME").map(|home| Path::new(&home).join(".pgpass")));
        let Some(path) = named.filter(|path| path.exists()) else {
            return;
        };
        match self.look_up(&path) {
            Ok(Some(password)) => {
                self.pg.password(password.expose());
            }
            Ok(None) => {}
            Err(InvalidValue { problem, hint }) => {
                self.ignored_passfile = Some(format!("{} {problem}; {hint}", path.display()));
            }
        }
    }

    /// The password of the first host that the file lists: a connection has one password, whichever
    /// host answers.
    fn look_up(&self, path: &Path) -> Result<Option<Secret<String>>, InvalidValue> {
        let ports = self.pg.get_ports();
        let mut hosts: Vec<Vec<String>> = self.pg.get_hosts().iter().map(pgpass_names).collect();
        if hosts.is_empty() {
            hosts = self
                .pg
                .get_hostaddrs()
                .iter()
                .map(|address| vec![address.to_string()])
                .collect();
        }
        for (i, hosts) in hosts.iter().enumerate() {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            let login = Login {
                hosts,
                port,
                database: self.database_name(),
                user: self.user(),
            };
            if let Some(password) = passfile::look_up(path, &login)? {
                return Ok(Some(password));
            }
        }
        Ok(None)
    }
}

/// A place of a password without the connection string that it belongs to.
fn without_url(given: &LoginSettings) -> Vec<SettingError> {
    let names = given.names;
    let places = [(&given.file, names.file), (&given.command, names.command)];
    let places = places.into_iter().filter(|(place, _)| place.is_some());
    let wrong = |(_, name)| {
        let problem = format!("is set without {}", names.url);
        InvalidValue::new(problem, format!("set {}, or remove it", names.url)).of(name)
    };
    places.map(wrong).collect()
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// The folder of a Unix socket; `None` for a host that TCP reaches. As in libpq, an `@` begins the
/// name of an abstract socket, which for the kernel begins with a NUL.
pub(crate) fn socket_folder(host: &Host) -> Option<PathBuf> {
    match host {
        Host::Tcp(name) => {
            let name = name.strip_prefix('@')?;
            Some(PathBuf::from(format!("\0{name}")))
        }
        #[cfg(unix)]
        Host::Unix(folder) => Some(folder.clone()),
    }
}

fn host_name(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(folder) => folder.display().to_string(),
    }
}

fn pgpass_names(host: &Host) -> Vec<String> {
    match host {
        Host::Tcp(name) => vec![name.clone()],
        #[cfg(unix)]
        Host::Unix(folder) => vec![folder.display().to_string(), "localhost".to_owned()],
    }
}
