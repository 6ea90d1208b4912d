//! The converters of a connector, which decide whether consumers see the same bytes. Pure.

use crate::cli::debezium::connector::Connector;
use crate::cli::debezium::imported::Imported;

/// How a converter writes a text.
enum Encoding {
    /// As it is.
    Text,
    /// As JSON, perhaps with its schema.
    Json { schema: bool },
    /// In a form of its own.
    Other,
}

/// What the converters make of keys, values and headers, compared with the bytes that outboxd
/// sends: the text of the column.
pub(super) fn compare(connector: &mut Connector, imported: &mut Imported, expands: bool) {
    if let Some((option, encoding)) = encoding(connector, "key", imported)
        && let Some(text) = key_difference(&encoding)
    {
        let text = format!("{text}, so that it may move to another partition");
        imported.differs(&option, text);
    }
    let mut columns = imported.columns.iter();
    let has_envelope = columns.any(|(member, _)| *member == "envelope");
    if let Some((option, encoding)) = encoding(connector, "value", imported) {
        let null = "outboxd sends a null payload as a tombstone, and not as the JSON null";
        let makes_tombstones = imported.has("null_payload", "tombstone");
        let is_bare_json = matches!(encoding, Encoding::Json { schema: false }) && !has_envelope;
        match value_difference(&encoding, has_envelope, expands) {
            Some(text) => imported.differs(&option, text),
            None if is_bare_json && !makes_tombstones => imported.differs(&option, null),
            None => {}
        }
    }
    if let Some((option, encoding)) = encoding(connector, "header", imported)
        && !matches!(encoding, Encoding::Text)
    {
        let text = "outboxd sends each header as the text of its column";
        imported.differs(&option, text);
    }
    extended_headers(connector, imported);
}

fn key_difference(encoding: &Encoding) -> Option<&'static str> {
    match encoding {
        Encoding::Text => None,
        Encoding::Json { schema: false } => Some("outboxd sends the key without quotes"),
        Encoding::Json { schema: true } => Some("outboxd sends the key without a schema"),
        Encoding::Other => Some("outboxd sends the key as the text of its column"),
    }
}

/// How a value differs from what outboxd sends.
fn value_difference(
    encoding: &Encoding,
    has_envelope: bool,
    expands: bool,
) -> Option<&'static str> {
    match encoding {
        Encoding::Text if has_envelope => Some("outboxd sends the envelope as JSON"),
        Encoding::Text => None,
        Encoding::Json { schema: true } => {
            Some("outboxd sends the value alone, without the members schema and payload")
        }
        Encoding::Json { schema: false } if expands => None,
        Encoding::Json { schema: false } if has_envelope => None,
        Encoding::Json { schema: false } => {
            Some("outboxd sends the payload as JSON, and not as a string with JSON in it")
        }
        Encoding::Other => Some("outboxd sends the payload as the text of its column"),
    }
}

/// The encoding, and the option that chooses it. Without one, the worker of Kafka Connect chooses.
fn encoding(
    connector: &mut Connector,
    part: &str,
    imported: &mut Imported,
) -> Option<(String, Encoding)> {
    let (option, schemas, rest, default) = match connector.is_server {
        true => {
            let format = format!("format.{part}");
            let schemas = format!("{format}.schemas.enable");
            (format.clone(), schemas, format!("{format}."), "json")
        }
        false => {
            let class = format!("{part}.converter");
            let schemas = format!("{class}.schemas.enable");
            (class.clone(), schemas, format!("{class}."), "")
        }
    };
    let given = connector.take(&option);
    let schema = connector.value(&schemas);
    for (_, given) in connector.below(&rest) {
        imported.leave_out(
            &given,
            "it belongs to a converter, which outboxd does not have",
        );
    }
    let in_file = match connector.is_server {
        true => format!("debezium.{option}"),
        false => option,
    };
    let name = given.as_ref().map_or(in_file, |it| it.name.clone());
    let chosen = given.map_or(default.to_owned(), |it| it.value);
    let kind = chosen.rsplit('.').next().unwrap_or_default();
    let encoding = match kind {
        "" if part == "header" => Encoding::Text,
        "" => {
            let text =
                "the worker of Kafka Connect chooses it; outboxd sends the text of the column";
            imported.differs(&name, text);
            return None;
        }
        "StringConverter"
        | "SimpleHeaderConverter"
        | "BinaryDataConverter"
        | "ByteArrayConverter"
        | "ByteBufferConverter"
        | "simplestring"
        | "binary" => Encoding::Text,
        "JsonConverter" | "json" => Encoding::Json {
            schema: schema.is_none_or(|it| !it.eq_ignore_ascii_case("false")),
        },
        _ => Encoding::Other,
    };
    Some((name, encoding))
}

/// The headers that Debezium adds to those of the router.
fn extended_headers(connector: &mut Connector, imported: &mut Imported) {
    let given = connector.value("extended.headers.enabled");
    if given.is_none_or(|it| !it.eq_ignore_ascii_case("false")) {
        let text = "outboxd does not send the headers that begin with __debezium.context.";
        imported.differs("extended.headers.enabled", text);
    }
}
