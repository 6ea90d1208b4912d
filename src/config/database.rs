//! The database connection: `DATABASE_URL`, libpq's variables, and the other places of a password.
//!
//! One description serves SQL and replication connections. libpq's rules apply where a user of psql
//! would notice: option names, variables, the password file, and that `require` with a root
//! certificate verifies the chain. Nothing that could be a password is shown.

use std::fmt;
use std::path::{Path, PathBuf};

use tokio_postgres::config::{Host, SslNegotiation, TargetSessionAttrs};

use crate::config::connection_options::{Env, Reading};
use crate::config::conninfo;
use crate::config::error::{InvalidValue, SettingError};
use crate::config::passfile::{self, Login};
use crate::config::secret::Secret;
use crate::config::tls::{SslMode, TlsSettings};
use crate::config::variables::{DATABASE_PASSWORD_COMMAND, DATABASE_PASSWORD_FILE, DATABASE_URL};

/// Settings that say where the password is.
#[derive(Debug, Default)]
pub(crate) struct PasswordSource {
    /// A file with the password alone.
    pub(crate) file: Option<String>,
    /// A command that prints it.
    pub(crate) command: Option<String>,
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
    pub password_command: Option<Secret<String>>,
}

impl Database {
    /// The database's name.
    pub fn database_name(&self) -> &str {
        self.pg.get_dbname().unwrap_or_default()
    }

    /// The user's name.
    pub fn user(&self) -> &str {
        self.pg.get_user().unwrap_or_default()
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

    /// Reads the connection string, and missing options from libpq's variables and from files.
    pub(crate) fn parse(
        text: &str,
        password: PasswordSource,
        env: Env<'_>,
        errors: &mut Vec<SettingError>,
    ) -> Option<Database> {
        let before = errors.len();
        let options = match conninfo::split(text) {
            Ok(options) => options,
            Err(wrong) => {
                errors.push(wrong.of(DATABASE_URL));
                return None;
            }
        };
        let options = match conninfo::with_service(options, env) {
            Ok(options) => options,
            Err(wrong) => {
                errors.push(wrong);
                return None;
            }
        };
        let mut reading = Reading::new(options, env, errors);
        let tls = reading.tls();
        let passfile = reading.take("passfile");
        reading.translate();
        reading.fill_in();
        reading.check();
        let text = reading.finish();
        if errors.len() > before {
            return None;
        }
        let Ok(mut pg) = text.parse::<tokio_postgres::Config>() else {
            let wrong = InvalidValue::new("is not accepted as a whole", "check its options");
            errors.push(wrong.of(DATABASE_URL));
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
        let mut database = Database {
            pg,
            tls,
            password_command: None,
        };
        database.check(errors);
        match password.command {
            Some(command) => database.take_command(command, password.file.is_some(), errors),
            None => database.find_password(password.file.as_deref(), passfile, env, errors),
        }
        (errors.len() == before).then_some(database)
    }

    fn check(&self, errors: &mut Vec<SettingError>) {
        let (hosts, addresses) = (self.pg.get_hosts().len(), self.pg.get_hostaddrs().len());
        let servers = hosts.max(addresses);
        if hosts > 0 && addresses > 0 && hosts != addresses {
            let wrong = InvalidValue::new(
                "has different numbers of host and hostaddr",
                "give one hostaddr for each host",
            );
            errors.push(wrong.of(DATABASE_URL));
        }
        if ![1, servers].contains(&self.pg.get_ports().len()) {
            let wrong = InvalidValue::new(
                "has more ports than hosts, or fewer",
                "give one port, or one for each host",
            );
            errors.push(wrong.of(DATABASE_URL));
        }
        let direct = self.pg.get_ssl_negotiation() == SslNegotiation::Direct;
        if direct && matches!(self.tls.mode, SslMode::Disable | SslMode::Prefer) {
            let problem = "asks for sslnegotiation=direct with a weak sslmode";
            errors.push(
                InvalidValue::new(problem, "add sslmode=require or stronger").of(DATABASE_URL),
            );
        }
    }

    /// Takes the command that prints the password. It is the only place of the password then, and
    /// `PGPASSWORD` and libpq's password file do not count.
    fn take_command(&mut self, command: String, has_file: bool, errors: &mut Vec<SettingError>) {
        let other = match (has_file, self.pg.get_password()) {
            (true, _) => Some(DATABASE_PASSWORD_FILE),
            (false, Some(_)) => Some(DATABASE_URL),
            (false, None) => None,
        };
        match other {
            Some(other) => {
                let problem = format!("names a password and {other} has one");
                let wrong = InvalidValue::new(problem, "remove one of the two");
                errors.push(wrong.of(DATABASE_PASSWORD_COMMAND));
            }
            None => self.password_command = Some(Secret::new(command)),
        }
    }

    /// Finds a password that is not in the string: the setting's file, `PGPASSWORD`, then libpq's
    /// password file.
    fn find_password(
        &mut self,
        own_file: Option<&str>,
        passfile: Option<String>,
        env: Env<'_>,
        errors: &mut Vec<SettingError>,
    ) {
        let in_url = self.pg.get_password().is_some();
        if let Some(file) = own_file {
            match passfile::whole_file(Path::new(file)) {
                Ok(_) if in_url => errors.push(
                    InvalidValue::new(
                        "names a password and DATABASE_URL contains one",
                        "remove one of the two",
                    )
                    .of(DATABASE_PASSWORD_FILE),
                ),
                Ok(password) => {
                    self.pg.password(password.expose());
                }
                Err(wrong) => errors.push(wrong.of(DATABASE_PASSWORD_FILE)),
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
            .map(|path| (DATABASE_URL, PathBuf::from(path)))
            .or_else(|| env("PGPASSFILE").map(|path| ("PGPASSFILE", PathBuf::from(path))));
        let home = || env("HOME").map(|home| ("~/.pgpass", Path::new(&home).join(".pgpass")));
        let Some((setting, path)) = named.or_else(|| home().filter(|(_, path)| path.is_file()))
        else {
            return;
        };
        match self.look_up(&path) {
            Ok(Some(password)) => {
                self.pg.password(password.expose());
            }
            Ok(None) => {}
            Err(wrong) => errors.push(wrong.of(setting)),
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
