//! Passwords from files: libpq's password file, and a file that contains only the password.
//!
//! <https://www.postgresql.org/docs/current/libpq-pgpass.html>

use std::path::Path;

use crate::config::error::InvalidValue;
use crate::config::secret::Secret;

/// The login that a line of a password file must match.
pub(crate) struct Login<'a> {
    /// Names of the host in the file; for a Unix socket its folder and `localhost`.
    pub(crate) hosts: &'a [String],
    pub(crate) port: u16,
    pub(crate) database: &'a str,
    pub(crate) user: &'a str,
}

/// Reads a file that contains only the password; a final newline is not part of it.
pub(crate) fn whole_file(path: &Path) -> Result<Secret<String>, InvalidValue> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        InvalidValue::new(
            format!("cannot be read: {e}"),
            "name a file that this user may read",
        )
    })?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(InvalidValue::new(
            "names an empty file",
            "put the password into it",
        ));
    }
    if password.contains('\0') {
        return Err(InvalidValue::new(
            "names a file with a zero byte",
            "write the password as text",
        ));
    }
    Ok(Secret::new(password.to_owned()))
}

/// Looks up a login in a password file. As in libpq, only the owner may have access to the file.
pub(crate) fn look_up(
    path: &Path,
    login: &Login<'_>,
) -> Result<Option<Secret<String>>, InvalidValue> {
    let unreadable =
        |e: std::io::Error| InvalidValue::new(format!("cannot be read: {e}"), "fix or remove it");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path)
            .map_err(unreadable)?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(InvalidValue::new(
                "is a password file that others may read",
                "chmod 600 it, or use DATABASE_PASSWORD_FILE for a mounted secret",
            ));
        }
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    Ok(text.lines().find_map(|line| password_in(line, login)))
}

fn password_in(line: &str, login: &Login<'_>) -> Option<Secret<String>> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.starts_with('#') {
        return None;
    }
    let [host, port, database, user, password] = fields(line)?;
    let matches = |field: &str, value: &str| field == "*" || field == value;
    let found = (host == "*" || login.hosts.contains(&host))
        && matches(&port, &login.port.to_string())
        && matches(&database, login.database)
        && matches(&user, login.user);
    (found && !password.is_empty()).then(|| Secret::new(password))
}

/// `host:port:database:user:password`; a backslash keeps the next character as it is, and the
/// password ends with the line.
fn fields(line: &str) -> Option<[String; 5]> {
    let mut fields: [String; 5] = Default::default();
    let mut field = 0;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => fields[field].extend(characters.next()),
            ':' if field < 4 => field += 1,
            c => fields[field].push(c),
        }
    }
    (field == 4).then_some(fields)
}
