//! Splits a connection string into its options, by libpq's rules for both of its forms.
//!
//! tokio-postgres parses such strings as well, but knows neither the verifying `sslmode`s nor
//! certificates, and its errors may quote the string. The errors of this module quote nothing.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>

mod service_file;

use crate::config::error::InvalidValue;

pub(crate) use service_file::with_service;

/// Names and values in the order of the string; the last one of a name counts.
pub(crate) type Options = Vec<(String, String)>;

pub(crate) fn split(text: &str) -> Result<Options, InvalidValue> {
    let url = ["postgres://", "postgresql://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let (options, hint) = match url {
        Some(rest) => (
            split_url(rest),
            "write postgresql://user@host:5432/database, and percent-encode special characters in \
             the password",
        ),
        None => (
            split_words(text),
            "write key=value key='other value', or a URL postgresql://…",
        ),
    };
    options.ok_or_else(|| InvalidValue::new("is not a libpq connection string", hint))
}

fn split_url(rest: &str) -> Option<Options> {
    let mut options = Options::new();
    let mut add = |name: &str, value: String| options.push((name.to_owned(), value));
    // As in libpq, an @ before the first slash ends user and password, which may hold a question
    // mark.
    let path = rest.find('/').unwrap_or(rest.len());
    let rest = match rest.find('@').filter(|at| *at < path) {
        Some(at) => {
            let (user, password) = split_in_two(&rest[..at], ':');
            add("user", decode(user)?);
            if let Some(password) = password {
                add("password", decode(password)?);
            }
            &rest[at + 1..]
        }
        None => rest,
    };
    let (rest, query) = split_in_two(rest, '?');
    let (servers, database) = split_in_two(rest, '/');
    let (hosts, ports) = split_servers(servers)?;
    if hosts.iter().any(|host| !host.is_empty()) {
        add("host", hosts.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", ports.join(","));
    }
    if let Some(database) = database.filter(|database| !database.is_empty()) {
        add("dbname", decode(database)?);
    }
    for pair in query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once('=')?;
        add(&decode(name)?, decode(value)?);
    }
    Some(options)
}

fn split_servers(servers: &str) -> Option<(Vec<String>, Vec<String>)> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for server in servers.split(',') {
        let (host, port) = match server.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']')?;
                let port = if rest.is_empty() {
                    ""
                } else {
                    rest.strip_prefix(':')?
                };
                (host, port)
            }
            None => server.split_once(':').unwrap_or((server, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    Some((hosts, ports))
}

fn split_in_two(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at)
        .map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Decodes %XX; `None` for a malformed escape, a NUL, or bytes that are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(
            u8::try_from(high << 4 | low)
                .ok()
                .filter(|byte| *byte != 0)?,
        );
    }
    String::from_utf8(bytes).ok()
}

fn split_words(text: &str) -> Option<Options> {
    let mut options = Options::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace())?;
        let (name, after) = rest.split_at(end);
        let after = after.trim_start().strip_prefix('=')?.trim_start();
        let (value, after) = take_value(after)?;
        if name.is_empty() {
            return None;
        }
        options.push((name.to_owned(), value));
        rest = after.trim_start();
    }
    (!options.is_empty()).then_some(options)
}

/// Takes a value off the front: quoted, or up to a space; a backslash keeps the next character as
/// it is.
fn take_value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = text
        .strip_prefix('\'')
        .map_or((false, text), |rest| (true, rest));
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            c if !quoted && c.is_whitespace() => return Some((value, &text[at..])),
            c => value.push(c),
        }
    }
    (!quoted).then_some((value, ""))
}

/// Writes options as one key=value string.
pub(crate) fn join(options: &[(String, String)]) -> String {
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let words = options
        .iter()
        .map(|(name, value)| format!("{name}='{}'", quote(value)));
    words.collect::<Vec<_>>().join(" ")
}
