//! libpq's connection service file: options under a name, which a connection string or `PGSERVICE`
//! refers to.
//!
//! The file of `servicefile` or `PGSERVICEFILE` comes first, else `~/.pg_service.conf`; a service
//! that it does not have is looked for in libpq's system folder. As in libpq, options of the
//! connection string win, and of two lines of a service the first. An error shows neither a line
//! nor the name of a service, which may hold a password by mistake.
//! <https://www.postgresql.org/docs/current/libpq-pgservice.html>

use std::io;
use std::path::{Path, PathBuf};

use crate::config::connection::conninfo::Options;
use crate::config::connection::options::Env;
use crate::config::error::{InvalidValue, SettingError};

const SERVICE: &str = "PGSERVICE";
const SERVICE_FILE: &str = "PGSERVICEFILE";
const NAME: &str = "pg_service.conf";

/// libpq's system folder, as Debian's and Red Hat's packages are built.
const SYSTEM_FOLDERS: [&str; 2] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql"];

/// The options of a connection string, that of the setting `url`, together with those of its
/// service, if it names one.
///
/// # Errors
/// The service, or its file, cannot be used.
pub(crate) fn with_service(
    url: &'static str,
    own: Options,
    env: Env<'_>,
) -> Result<Options, SettingError> {
    let last = |name: &str| {
        let found = own.iter().rev().find(|(option, _)| option == name);
        found
            .map(|(_, value)| value.clone())
            .filter(|it| !it.is_empty())
    };
    let variable = |name: &str| env(name).filter(|value| !value.is_empty());
    let (setting, service) = match (last("service"), variable(SERVICE)) {
        (Some(service), _) => (url, service),
        (None, Some(service)) => (SERVICE, service),
        (None, None) => return Ok(own),
    };
    let named = last("servicefile").map(|path| (url, path));
    let named = named.or_else(|| variable(SERVICE_FILE).map(|path| (SERVICE_FILE, path)));
    let mut options = match find(&service, named, &variable)? {
        Some(options) => options,
        None => {
            let wrong = InvalidValue::new(
                "names a service that no service file has",
                "write a section [name] with its options into PGSERVICEFILE",
            );
            return Err(wrong.of(setting));
        }
    };
    let is_own = |name: &str| ["service", "servicefile"].contains(&name);
    options.extend(own.into_iter().filter(|(name, _)| !is_own(name)));
    Ok(options)
}

/// The options of the service, the ones that count last.
fn find(
    service: &str,
    named: Option<(&'static str, String)>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Options>, SettingError> {
    let mut files: Vec<(&'static str, PathBuf)> = Vec::new();
    if let Some((setting, path)) = named {
        let path = PathBuf::from(path);
        let text = read(&path).map_err(|wrong| wrong.of(setting))?;
        if let Some(options) = section(&text, service).map_err(|wrong| wrong.of(setting))? {
            return Ok(Some(options));
        }
    } else if let Some(home) = variable("HOME") {
        let path = Path::new(&home).join(format!(".{NAME}"));
        files.push(("~/.pg_service.conf", path));
    }
    match variable("PGSYSCONFDIR") {
        Some(folder) => files.push(("PGSYSCONFDIR", Path::new(&folder).join(NAME))),
        None => files.extend(SYSTEM_FOLDERS.map(|it| (NAME, Path::new(it).join(NAME)))),
    }
    for (setting, path) in files.iter().filter(|(_, path)| path.is_file()) {
        let of = |wrong: InvalidValue| wrong.of(*setting);
        let text = read(path).map_err(of)?;
        if let Some(options) = section(&text, service).map_err(of)? {
            return Ok(Some(options));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> Result<String, InvalidValue> {
    std::fs::read_to_string(path).map_err(|error: io::Error| {
        InvalidValue::new(
            format!("has a service file that cannot be read: {error}"),
            "name a file that this user may read",
        )
    })
}

/// The options of the section of this name; `None` if the file has no such section.
fn section(text: &str, service: &str) -> Result<Option<Options>, InvalidValue> {
    let mut found: Option<Options> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            let is_it = name.strip_suffix(']') == Some(service);
            found = is_it.then(Options::new);
            continue;
        }
        let Some(options) = &mut found else {
            continue;
        };
        if line.starts_with("ldap") {
            return Err(InvalidValue::new(
                format!("has a service of LDAP in line {number}, which outboxd does not support"),
                "write the options themselves",
            ));
        }
        match line.split_once('=') {
            Some((name, value)) if !["service", "servicefile"].contains(&name) => {
                options.push((name.to_owned(), value.to_owned()));
            }
            _ => {
                return Err(InvalidValue::new(
                    format!("has a service file whose line {number} is not valid"),
                    "write name=value without spaces around the sign, and no service in a service",
                ));
            }
        }
    }
    // The last of a name counts in a list of options, the first in a service file.
    Ok(found.map(|options| options.into_iter().rev().collect()))
}
