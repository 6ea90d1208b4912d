//! Reads the meanings of columns, from `OUTBOX_COLUMNS` and the file's table `[columns]`.
//!
//! Names of columns are taken literally, as the catalog has them. Four of the members are no part
//! of [`ColumnNames`]: `topic`, `key`, `partition` and `timestamp` say in short what the setting of
//! the same name says as `column:NAME`.

use std::collections::BTreeMap;

use crate::config::error::{InvalidValue, SettingError};
use crate::config::mapping::column_names::{
    ColumnName, ColumnNames, HeadersColumn, MarkedColumn, NamedColumn,
};
use crate::config::mapping::list;
use crate::config::mapping::parse::json_pointer;
use crate::config::parse::name_of;
use crate::config::unknown_variables::closest;
use crate::config::variables::COLUMNS;
use crate::error::shown;

/// Says that no column has the meaning.
pub(super) const NONE: &str = "none";

/// The value of `order` that stands for the column with this meaning.
const CREATED: &str = "created";

/// All members.
const MEMBERS: [&str; 14] = [
    "id",
    "type",
    "topic",
    "payload",
    "key",
    "headers",
    "created",
    "published",
    "attempts",
    "partition",
    "timestamp",
    "order",
    "header",
    "envelope",
];

/// The members that a list may have several times.
const REPEATED: [&str; 2] = ["header", "envelope"];

/// What begins the names of outboxd's own headers.
const OUR_HEADERS: &str = "outbox_";

/// The member of the envelope that is the payload.
const PAYLOAD: &str = "payload";

/// The members as they were given, each with its values.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<String, Vec<String>>);

impl Members {
    /// The members of the list, and those of the file that the list does not have.
    pub(super) fn read(
        list: Option<&str>,
        file: BTreeMap<String, Vec<String>>,
        errors: &mut Vec<SettingError>,
    ) -> Members {
        let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let pairs = list.map_or(Ok(Vec::new()), list::pairs);
        let pairs = pairs.unwrap_or_else(|wrong| {
            errors.push(wrong.of(COLUMNS));
            Vec::new()
        });
        for (name, value) in pairs {
            let values = members.entry(name.to_owned()).or_default();
            if !values.is_empty() && !REPEATED.contains(&name) {
                errors.push(repeated(name).of(COLUMNS));
                continue;
            }
            values.push(value.to_owned());
        }
        for (name, values) in file {
            members.entry(name).or_insert(values);
        }
        members.retain(|name, _| {
            let is_known = MEMBERS.contains(&name.as_str());
            if !is_known {
                errors.push(unknown(name).of(COLUMNS));
            }
            is_known
        });
        Members(members)
    }

    pub(super) fn has(&self, member: &str) -> bool {
        self.0.contains_key(member)
    }

    /// These, and those of a preset for the ones that are not there.
    pub(super) fn or(mut self, preset: Members) -> Members {
        for (name, values) in preset.0 {
            self.0.entry(name).or_insert(values);
        }
        self
    }

    /// Takes out a member that stands for a setting: the name of a column, or `none`.
    pub(super) fn take(
        &mut self,
        member: &'static str,
        errors: &mut Vec<SettingError>,
    ) -> Option<String> {
        let members = std::mem::take(&mut self.0);
        let mut reader = Reader { members, errors };
        let name = reader.one(member, None, |name| match name {
            NONE => Ok(Some(NONE.to_owned())),
            _ => name_of("column", name).map(Some),
        });
        self.0 = reader.members;
        name
    }

    /// The names, with the defaults of those that are not given.
    pub(super) fn names(self, errors: &mut Vec<SettingError>) -> ColumnNames {
        let members = self.0;
        let mut reader = Reader { members, errors };
        let names = reader.names();
        reader.check(&names);
        names
    }
}

/// Takes the members out one by one, and gathers the problems.
struct Reader<'e> {
    members: BTreeMap<String, Vec<String>>,
    errors: &'e mut Vec<SettingError>,
}

impl Reader<'_> {
    fn all<T>(
        &mut self,
        member: &str,
        default: T,
        parse: impl FnOnce(&[String]) -> Result<T, InvalidValue>,
    ) -> T {
        match self.members.remove(member).map(|values| parse(&values)) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(wrong)) => {
                self.refuse(member, wrong);
                default
            }
        }
    }

    fn one<T>(
        &mut self,
        member: &str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, InvalidValue>,
    ) -> T {
        self.all(member, default, |values| match values {
            [value] => parse(value),
            _ => Err(InvalidValue::new(
                "is not a single value",
                "give the name of one column",
            )),
        })
    }

    fn refuse(&mut self, member: &str, wrong: InvalidValue) {
        let problem = format!("{member}: {}", wrong.problem);
        self.errors
            .push(InvalidValue::new(problem, wrong.hint).of(COLUMNS));
    }

    fn names(&mut self) -> ColumnNames {
        let default = ColumnNames::default();
        let created = self.one("created", default.created, optional);
        let order = self.one("order", default.order, |text| match text {
            NONE => Ok(None),
            CREATED => created.name.clone().map(Some).ok_or_else(|| {
                InvalidValue::new(
                    "is created, and no column has that meaning",
                    "give the name of a column, or none",
                )
            }),
            _ => name_of("column", text).map(Some),
        });
        ColumnNames {
            id: self.all("id", default.id, id),
            event_type: self.one("type", default.event_type, optional),
            payload: self.one("payload", default.payload, required),
            headers: self.one("headers", default.headers, headers),
            created,
            published: self.one("published", default.published, published),
            attempts: self.one("attempts", default.attempts, optional),
            order,
            header_columns: self.all("header", default.header_columns, |values| {
                named(values, |name| match name.starts_with(OUR_HEADERS) {
                    true => Some("is a name of outboxd's own headers"),
                    false => None,
                })
            }),
            envelope: self.all("envelope", default.envelope, |values| {
                named(values, |name| match name {
                    PAYLOAD => Some("is the member that holds the payload"),
                    _ => None,
                })
            }),
        }
    }

    /// A mark must not change what a row is.
    fn check(&mut self, names: &ColumnNames) {
        let published = names.published.column.as_deref();
        let attempts = names.attempts.as_deref();
        for (member, column) in [("published", published), ("attempts", attempts)] {
            let Some(column) = column else {
                continue;
            };
            let other = match () {
                () if names.id.iter().any(|id| id == column) => "id",
                () if names.payload == column => "payload",
                () if member == "attempts" && published == Some(column) => "published",
                () => continue,
            };
            let problem = format!("{} is also the column of {other}", shown(column));
            let hint = "name another column, since outboxd writes into it";
            self.refuse(member, InvalidValue::new(problem, hint));
        }
    }
}

fn repeated(name: &str) -> InvalidValue {
    let hint = match name {
        "id" => "join the columns of a composite key: id=tenant+seq",
        _ => "write each meaning once; only header and envelope may be repeated",
    };
    InvalidValue::new(format!("has {} twice", shown(name)), hint)
}

fn unknown(name: &str) -> InvalidValue {
    let hint = match closest(name, MEMBERS.into_iter()) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("write {}", MEMBERS.join(", ")),
    };
    InvalidValue::new(format!("has {}, which is no meaning", shown(name)), hint)
}

fn optional(text: &str) -> Result<ColumnName, InvalidValue> {
    match text {
        NONE => Ok(ColumnName::none()),
        _ => Ok(ColumnName::given(&name_of("column", text)?)),
    }
}

fn required(text: &str) -> Result<String, InvalidValue> {
    match text {
        NONE => Err(InvalidValue::new(
            "cannot be none",
            "give the name of its column",
        )),
        _ => name_of("column", text),
    }
}

/// One column, several joined by `+`, or a list.
fn id(values: &[String]) -> Result<Vec<String>, InvalidValue> {
    let mut names: Vec<String> = Vec::new();
    let pieces: Vec<&str> = match values {
        [text] if text.contains('+') => text.split('+').map(str::trim).collect(),
        _ => values.iter().map(String::as_str).collect(),
    };
    for piece in pieces {
        let name = required(piece)?;
        if names.contains(&name) {
            return Err(InvalidValue::new(
                format!("has {} twice", shown(&name)),
                "name each column once",
            ));
        }
        names.push(name);
    }
    match names.is_empty() {
        true => required(NONE).map(|name| vec![name]),
        false => Ok(names),
    }
}

/// `column`, or `column:/json/pointer`.
fn headers(text: &str) -> Result<HeadersColumn, InvalidValue> {
    let (column, pointer) = match text.split_once(':') {
        Some((column, pointer)) => (column, Some(json_pointer(text, pointer)?)),
        None => (text, None),
    };
    let column = optional(column)?;
    Ok(HeadersColumn { column, pointer })
}

/// `column`, or `column='constant'`.
fn published(text: &str) -> Result<MarkedColumn, InvalidValue> {
    let Some((column, constant)) = text.split_once('=') else {
        let column = optional(text)?;
        let constant = None;
        return Ok(MarkedColumn { column, constant });
    };
    let constant = constant.trim();
    let quoted = constant.strip_prefix('\'');
    let constant = match quoted.map(|rest| rest.strip_suffix('\'')) {
        None if !constant.is_empty() => constant.to_owned(),
        Some(Some(inside)) => inside.replace("''", "'"),
        _ => {
            let problem = format!("{} has no constant", shown(text));
            return Err(InvalidValue::new(problem, "write column='constant'"));
        }
    };
    Ok(MarkedColumn {
        column: ColumnName::given(&required(column.trim_end())?),
        constant: Some(constant),
    })
}

/// Each `column` or `column:name`; `refusal` says why a name cannot be used.
fn named(
    values: &[String],
    refusal: impl Fn(&str) -> Option<&'static str>,
) -> Result<Vec<NamedColumn>, InvalidValue> {
    let mut columns: Vec<NamedColumn> = Vec::new();
    if values.len() == 1 && values.iter().any(|value| value == NONE) {
        return Ok(columns);
    }
    for value in values {
        let (column, name) = value.split_once(':').unwrap_or((value, value));
        let why = match name {
            "" => Some("is empty"),
            _ if columns.iter().any(|other| other.name == name) => Some("is there twice"),
            _ => refusal(name),
        };
        if let Some(why) = why {
            let problem = format!("the name in {} {why}", shown(value));
            return Err(InvalidValue::new(problem, "write column:name"));
        }
        columns.push(NamedColumn {
            column: required(column)?,
            name: name.to_owned(),
        });
    }
    Ok(columns)
}
