//! The transformations of a connector: the Outbox Event Router's options become settings of
//! records. Pure.

use std::collections::BTreeMap;

use crate::cli::debezium::connector::{Connector, Given};
use crate::cli::debezium::imported::Imported;
use crate::cli::debezium::options::ROUTER;
use crate::cli::debezium::properties::Unreadable;

/// The class of the transformation.
const CLASS: &str = "io.debezium.transforms.outbox.EventRouter";

/// The column that chooses the topic.
const ROUTE_BY: &str = "aggregatetype";
/// The expression whose only group is the whole value.
const ROUTE_REGEX: &str = "(?<routedByValue>.*)";
const ROUTE_TO: &str = "outbox.event.${routedByValue}";

/// What the expansion of JSON leaves out by default.
const DROPS: &str = "outboxd sends the JSON as it is written, with the nulls and empty arrays that \
                     Debezium drops";

type Router = BTreeMap<String, Given>;

/// Carries over what the transformations do. Returns whether a text with JSON is expanded.
pub(super) fn carry_over(
    connector: &mut Connector,
    imported: &mut Imported,
) -> Result<bool, Unreadable> {
    let mut router = router(connector, imported)?;
    let is_server = connector.is_server;
    topic(&mut router, imported);
    let columns = [
        ("table.field.event.id", "id"),
        ("table.field.event.type", "type"),
        ("table.field.event.payload", "payload"),
    ];
    for (option, member) in columns {
        if let Some(given) = take(&mut router, option) {
            imported.columns.push((member, given.value));
        }
    }
    if let Some(given) = take(&mut router, "table.field.event.key") {
        imported.set("key", format!("column:{}", given.value));
    }
    let expands = value(&mut router, imported);
    if let Some(given) = take(&mut router, "table.field.event.timestamp") {
        imported.set("timestamp", format!("column:{}", given.value));
        if is_server {
            imported.differs(&given.name, "outboxd sets it; Debezium Server does not");
        }
    }
    placements(&mut router, imported, is_server);
    null_payload(&mut router, imported);
    imported.rest(ROUTER, router.into_iter());
    Ok(expands)
}

/// The options of the router, of whatever name; the other transformations are noted.
fn router(connector: &mut Connector, imported: &mut Imported) -> Result<Router, Unreadable> {
    let aliases = connector.value("transforms").unwrap_or_default();
    let mut router = None;
    for alias in aliases.split(',').map(str::trim) {
        let mut found = connector.below(&format!("transforms.{alias}."));
        let class = take(&mut found, "type");
        match class {
            Some(class) if class.value == CLASS && router.is_none() => router = Some(found),
            Some(class) => {
                imported.differs(&class.name, "outboxd has no transformations of this kind");
                let reason = "it belongs to a transformation that outboxd does not have";
                found
                    .values()
                    .for_each(|given| imported.leave_out(given, reason));
            }
            None => imported
                .unknown
                .extend(found.into_values().map(|it| it.name)),
        }
    }
    let unused = connector.below("transforms.");
    for given in unused.values() {
        imported.leave_out(given, "`transforms` does not name it");
    }
    router.ok_or_else(|| Unreadable {
        problem: format!("it has no transformation of the type {CLASS}"),
        hint: "name the file of a connector that publishes an outbox table",
    })
}

fn take(router: &mut Router, option: &str) -> Option<Given> {
    let given = router.remove(option)?;
    (!given.value.is_empty()).then_some(given)
}

/// The topic, as far as a text with a column in it says the same as the expression.
fn topic(router: &mut Router, imported: &mut Imported) {
    let options = [
        "route.by.field",
        "route.topic.regex",
        "route.topic.replacement",
    ];
    let [field, regex, replacement] = options.map(|option| take(router, option));
    if field.is_none() && regex.is_none() && replacement.is_none() {
        return;
    }
    let text = |given: &Option<Given>, default: &str| match given {
        Some(given) => given.value.clone(),
        None => default.to_owned(),
    };
    let field = text(&field, ROUTE_BY);
    let template = unescaped(&text(&replacement, ROUTE_TO));
    let expression = text(&regex, ROUTE_REGEX);
    match group(&expression).and_then(|name| with_column(&template, name, &field)) {
        Some(topic) => imported.set("topic", topic),
        None => {
            imported.set("topic", format!("column:{field}"));
            imported.lacks_topics = true;
            if let Some(given) = regex.or(replacement) {
                let why = "outboxd has no expressions; write the topic of each value in [topics]";
                imported.differs(&given.name, why);
            }
        }
    }
}

/// The replacement as Kafka Connect has it. Debezium Server has variables of its own, so that a
/// dollar is `$$` or `\$` there.
fn unescaped(template: &str) -> String {
    template
        .replace("\\$", "$")
        .replace("$$", "$")
        .replace("$\\{", "${")
}

/// The name of the group that is the whole value; empty if it has none.
fn group(expression: &str) -> Option<&str> {
    let inside = match expression
        .strip_prefix('(')
        .and_then(|it| it.strip_suffix(')'))
    {
        Some(inside) => inside,
        None => return matches!(expression, ".*" | ".+").then_some(""),
    };
    let Some(named) = inside.strip_prefix("?<") else {
        return matches!(inside, ".*" | ".+").then_some("");
    };
    let (name, rest) = named.split_once('>')?;
    matches!(rest, ".*" | ".+").then_some(name)
}

/// The replacement with the column in the place of the group; `None` if it has other references.
fn with_column(replacement: &str, group: &str, column: &str) -> Option<String> {
    let mut topic = String::new();
    let mut rest = replacement;
    while let Some((before, after)) = rest.split_once('$') {
        topic.push_str(before);
        let (name, behind) = match after.strip_prefix('{') {
            Some(inside) => inside.split_once('}')?,
            None => after.split_at(
                after
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(after.len()),
            ),
        };
        if !matches!(name, "0" | "1") && (name.is_empty() || name != group) {
            return None;
        }
        topic.push_str(&format!("${{{column}}}"));
        rest = behind;
    }
    topic.push_str(rest);
    Some(topic)
}

/// The value; whether a JSON text is expanded.
fn value(router: &mut Router, imported: &mut Imported) -> bool {
    let expands = take(router, "table.expand.json.payload").is_some_and(|it| is_true(&it));
    if expands {
        imported.set("value", "expanded");
    }
    // Without the option, Debezium infers a schema in which these have no place.
    for (option, keeps) in [
        ("table.json.payload.null.behavior", "optional_bytes"),
        ("table.json.payload.empty.array.behavior", "optional_string"),
    ] {
        let given = take(router, option);
        match given {
            Some(given) if !expands => {
                imported.leave_out(&given, "it means nothing while no JSON is expanded");
            }
            Some(given) if given.value != keeps => imported.differs(&given.name, DROPS),
            None if expands => imported.differs(option, DROPS),
            _ => {}
        }
    }
    expands
}

fn is_true(given: &Given) -> bool {
    given.value.eq_ignore_ascii_case("true")
}

/// A null payload. In an envelope Debezium sends it as a member, unless it makes tombstones.
fn null_payload(router: &mut Router, imported: &mut Imported) {
    let mut columns = imported.columns.iter();
    let has_envelope = columns.any(|(member, _)| *member == "envelope");
    match take(router, "route.tombstone.on.empty.payload") {
        Some(given) if is_true(&given) => {
            imported.set("null_payload", "tombstone");
            let text = "a null payload is a tombstone, and an empty text is sent as it is";
            imported.differs(&given.name, text);
        }
        _ if has_envelope => imported.set("null_payload", "empty"),
        _ => {}
    }
}

/// `column:placement[:alias]`, several separated by commas.
fn placements(router: &mut Router, imported: &mut Imported, is_server: bool) {
    let Some(given) = take(router, "table.fields.additional.placement") else {
        return;
    };
    let mut partition = None;
    for placement in given.value.split(',').map(str::trim) {
        let mut parts = placement.split(':').map(str::trim);
        let (column, place) = (parts.next().unwrap_or_default(), parts.next());
        let named = match parts.next() {
            Some(alias) => format!("{column}:{alias}"),
            None => column.to_owned(),
        };
        match place {
            Some("header") => imported.columns.push(("header", named)),
            Some("envelope") => imported.columns.push(("envelope", named)),
            Some("partition") if partition.is_none() => partition = Some(column),
            _ => imported.leave_out(&given, "one of its placements is none that the router has"),
        }
    }
    if let Some(column) = partition {
        imported.set("partition", format!("column:{column}"));
        if is_server {
            let text = "outboxd sets the partition; Debezium Server does not";
            imported.differs(&given.name, text);
        }
    }
}
