//! Parses the text of a setting, one function per kind of value. Each error says what is wrong and
//! what to write instead.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::duration;
use crate::config::error::InvalidValue;
use crate::error::shown;
use crate::fnv::fnv1a_32;
use crate::lsn::Lsn;
use crate::table_name::{NAME_BYTES_MAX, TableName, name_of as checked_name};

/// Whether this is a JSON pointer (RFC 6901) to a part of a document.
pub(crate) fn is_pointer(text: &str) -> bool {
    let escapes_hold = text
        .split('~')
        .skip(1)
        .all(|rest| rest.starts_with(['0', '1']));
    text.starts_with('/') && escapes_hold
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, InvalidValue> {
    let found = choices.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let (last, first) = words.split_last().unwrap_or((&"", &[]));
        InvalidValue::new(
            format!("{} is not one of its choices", shown(text)),
            format!("write {} or {last}", first.join(", ")),
        )
    })
}

pub(crate) fn count(text: &str, range: RangeInclusive<u32>) -> Result<u32, InvalidValue> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        InvalidValue::new(
            format!("{} is not a whole number in the allowed range", shown(text)),
            format!(
                "write a whole number from {} to {}",
                range.start(),
                range.end()
            ),
        )
    })
}

pub(crate) fn duration(
    text: &str,
    range: RangeInclusive<Duration>,
) -> Result<Duration, InvalidValue> {
    let span = format!("from {:?} to {:?}", range.start(), range.end());
    match duration::parse(text) {
        None => Err(InvalidValue::new(
            format!("{} is not a time", shown(text)),
            format!("write numbers with ms, s, m, h or d, such as 5s or 1m30s, {span}"),
        )),
        Some(value) if !range.contains(&value) => Err(InvalidValue::new(
            format!("{} is out of range", shown(text)),
            format!("write a time {span}"),
        )),
        Some(value) => Ok(value),
    }
}

/// A position in the WAL, as Postgres prints it.
pub(crate) fn lsn(text: &str) -> Result<Lsn, InvalidValue> {
    let found = text.parse().ok().filter(|lsn: &Lsn| !lsn.is_invalid());
    found.ok_or_else(|| {
        InvalidValue::new(
            format!("{} is no position in the WAL", shown(text)),
            "write one as pg_replication_slots shows it, such as 16/B374D848",
        )
    })
}

/// A number of bytes, with a binary or decimal unit or none.
pub(crate) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, InvalidValue> {
    let (number, unit) = number_and_unit(text);
    let unit_bytes: Option<u64> = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1_000),
        "mb" => Some(1_000_000),
        "gb" => Some(1_000_000_000),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        _ => None,
    };
    let bytes = number
        .zip(unit_bytes)
        .and_then(|(number, bytes)| number.checked_mul(bytes))
        .and_then(|bytes| usize::try_from(bytes).ok());
    let span = format!(
        "from {}MiB to {}MiB",
        range.start() >> 20,
        range.end() >> 20
    );
    match bytes {
        None => Err(InvalidValue::new(
            format!("{} is not a size", shown(text)),
            format!("write a whole number and KiB, MiB or GiB, such as 16MiB, {span}"),
        )),
        Some(bytes) if !range.contains(&bytes) => Err(InvalidValue::new(
            format!("{} is out of range", shown(text)),
            format!("write a size {span}"),
        )),
        Some(bytes) => Ok(bytes),
    }
}

fn number_and_unit(text: &str) -> (Option<u64>, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number.parse().ok(), unit.trim())
}

/// An address to listen on, `host:port`; `off` is `None`. A name is looked up when it is used.
pub(crate) fn listen(text: &str) -> Result<Option<String>, InvalidValue> {
    if text == "off" {
        return Ok(None);
    }
    let is_name = |host: &str| {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        !host.is_empty() && !is_number(host) && host.chars().all(is_of_name)
    };
    let name = text.rsplit_once(':').filter(|(host, _)| is_name(host));
    let holds = match name {
        Some((_, port)) => is_number(port) && port.parse::<u16>().is_ok(),
        None => text.parse::<SocketAddr>().is_ok(),
    };
    match holds {
        true => Ok(Some(text.to_owned())),
        false => Err(InvalidValue::new(
            format!("{} is not an address to listen on", shown(text)),
            "write host:port, such as localhost:9464, 0.0.0.0:9464 or [::]:9464, or off",
        )),
    }
}

/// Digits and dots, as an IPv4 address or a part of one.
fn is_number(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `name,name`, without ports.
pub(crate) fn host_names(text: &str) -> Result<Vec<String>, InvalidValue> {
    let is_name = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !name.is_empty() && name.chars().all(allowed)
    };
    let names: Vec<&str> = text
        .trim_end_matches(',')
        .split(',')
        .map(str::trim)
        .collect();
    if names.iter().all(|name| is_name(name)) {
        return Ok(names.into_iter().map(str::to_owned).collect());
    }
    Err(InvalidValue::new(
        format!("{} is not a list of host names", shown(text)),
        "write name,name, without ports",
    ))
}

/// `host:port,host:port`, as in librdkafka's `bootstrap.servers`.
pub(crate) fn brokers(text: &str) -> Result<String, InvalidValue> {
    let brokers: Vec<&str> = list(text).collect();
    if brokers.iter().all(|broker| is_broker(broker)) {
        return Ok(brokers.join(","));
    }
    Err(InvalidValue::new(
        format!("{} is not a list of brokers", shown(text)),
        "write host:port,host:port, without a scheme or user",
    ))
}

/// The values of a list. A comma at its end is no further value.
pub(crate) fn list(text: &str) -> impl Iterator<Item = &str> {
    let text = text.trim();
    text.strip_suffix(',')
        .unwrap_or(text)
        .split(',')
        .map(str::trim)
}

fn is_broker(broker: &str) -> bool {
    let (host, port) = match broker
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, port.strip_prefix(':').or(Some(""))),
        None => broker
            .split_once(':')
            .map_or((broker, None), |(host, port)| (host, Some(port))),
    };
    let port_holds = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || "/@,[]".contains(c);
    !host.is_empty() && port_holds && !host.contains(forbidden)
}

/// `schema.name` by the rules of SQL.
pub(crate) fn table_name(text: &str) -> Result<TableName, InvalidValue> {
    Ok(text.parse()?)
}

/// A name, taken literally.
pub(crate) fn name_of(what: &str, text: &str) -> Result<String, InvalidValue> {
    Ok(checked_name(what, text)?)
}

/// <https://www.postgresql.org/docs/current/logicaldecoding-explanation.html#LOGICALDECODING-REPLICATION-SLOTS>
pub(crate) fn slot_name(text: &str) -> Result<String, InvalidValue> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(inside) {
        return Ok(text.to_owned());
    }
    let problem = format!("{} is not a valid slot name", shown(text));
    Err(InvalidValue::new(
        problem,
        format!("write 1 to {NAME_BYTES_MAX} lower-case letters, digits and _"),
    ))
}

/// The slot's default name. Slot names are shared by all databases of a server, so the database's
/// name is part of it. So is the table's, unless it is `outbox.outbox`: each table needs a slot of
/// its own. Two names that would become the same, or too long, end in a digest.
pub(crate) fn default_slot(database: &str, table: &TableName) -> String {
    let beginning = format!("outboxd_{}", folded(database));
    with_table(beginning, &[database.as_bytes()], table)
}

/// The publication's default name, by the same rules. Publications belong to one database.
pub(crate) fn default_publication(table: &TableName) -> String {
    with_table("outboxd".to_owned(), &[b"outboxd"], table)
}

/// A name with the table's at its end, unless that is `outbox.outbox`. `whole` is what the
/// beginning was made of.
fn with_table(beginning: String, whole: &[&[u8]], table: &TableName) -> String {
    let mut name = beginning;
    let mut is_ambiguous = false;
    let is_default = *table == TableName::default();
    if !is_default {
        let [schema, own] = [folded(&table.schema), folded(&table.name)];
        is_ambiguous = schema.contains('_') || schema != table.schema || own != table.name;
        name = format!("{name}_{schema}_{own}");
    }
    if is_ambiguous || name.len() > NAME_BYTES_MAX {
        let of_table: [&[u8]; 4] = [b".", table.schema.as_bytes(), b".", table.name.as_bytes()];
        let parts = whole.iter().chain(of_table.iter().filter(|_| !is_default));
        let digest = fnv1a_32(&parts.copied().collect::<Vec<_>>());
        let digest = format!("_{digest:08x}");
        name.truncate(NAME_BYTES_MAX - digest.len());
        name.push_str(&digest);
    }
    name
}

/// The characters that a slot's name may have; each other one becomes an underscore.
fn folded(name: &str) -> String {
    let fold = |c: char| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '_',
    };
    name.chars().map(fold).collect()
}
