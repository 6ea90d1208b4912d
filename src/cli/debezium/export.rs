//! Turns settings of outboxd into the options of a connector with the Outbox Event Router. Pure.

use std::fmt::Write as _;

use outboxd::config::mapping::{
    HeaderStyle, KeyRule, Mapping, NamedColumn, NullPayload, PartitionRule, Piece, TimestampRule,
    TopicRule, ValueRule,
};
use outboxd::config::{AfterPublish, Config};
use tokio_postgres::config::Host;

use crate::cli::debezium::kafka;
use crate::cli::debezium::properties::line;

/// The prefix of the router's options.
const ROUTER: &str = "transforms.outbox.";

/// The options, and what cannot be one.
#[derive(Debug, Default)]
pub(super) struct Export {
    pub(super) options: Vec<(String, String)>,
    /// Each a setting and the reason.
    pub(super) left_out: Vec<(&'static str, &'static str)>,
}

impl Export {
    fn set(&mut self, name: &str, value: impl Into<String>) {
        self.options.push((name.to_owned(), value.into()));
    }

    fn route(&mut self, name: &str, value: impl Into<String>) {
        self.options.push((format!("{ROUTER}{name}"), value.into()));
    }

    fn leave_out(&mut self, setting: &'static str, why: &'static str) {
        self.left_out.push((setting, why));
    }

    /// The file of the connector.
    pub(super) fn file(&self) -> String {
        let mut text = String::from(
            "# A connector of Debezium for this outbox. Its password is not printed: add\n\
             # database.password, or a variable of a config provider.\n",
        );
        for (name, value) in &self.options {
            let _ = writeln!(text, "{}", line(name, value));
        }
        if !self.left_out.is_empty() {
            text.push_str("\n# Settings that no option of Debezium expresses:\n");
        }
        for (setting, why) in &self.left_out {
            let _ = writeln!(text, "# - {setting}: {why}");
        }
        text
    }
}

/// The connector for this configuration.
pub(super) fn export(config: &Config) -> Export {
    let mut export = Export::default();
    export.set("name", config.slot.replace('_', "-"));
    export.set(
        "connector.class",
        "io.debezium.connector.postgresql.PostgresConnector",
    );
    database(config, &mut export);
    export.set("topic.prefix", "outbox");
    export.set("plugin.name", "pgoutput");
    // Names of its own: each product keeps its position in its own slot.
    export.set("slot.name", "debezium");
    export.set("publication.name", "dbz_publication");
    export.set("publication.autocreate.mode", "filtered");
    let table = [&config.table.schema, &config.table.name].map(|name| expression(name));
    export.set("table.include.list", table.join("\\."));
    export.set("snapshot.mode", "no_data");
    export.set("tombstones.on.delete", "false");
    export.set("extended.headers.enabled", "false");
    export.set("transforms", "outbox");
    export.route("type", "io.debezium.transforms.outbox.EventRouter");
    let mapping = &config.mapping;
    columns(mapping, &mut export);
    topic(mapping, &mut export);
    value(mapping, &mut export);
    placements(mapping, &mut export);
    others(config, &mut export);
    producer(config, &mut export);
    export
}

fn database(config: &Config, export: &mut Export) {
    let pg = &config.database.pg;
    let host = pg.get_hosts().iter().find_map(|host| match host {
        Host::Tcp(name) => Some(name.clone()),
        #[cfg(unix)]
        Host::Unix(_) => None,
    });
    match host {
        Some(host) => export.set("database.hostname", host),
        None => export.leave_out("DATABASE_URL", "Debezium connects over TCP alone"),
    }
    if pg.get_hosts().len() > 1 {
        export.leave_out(
            "DATABASE_URL",
            "Debezium takes one host, and this is the first",
        );
    }
    let port = pg.get_ports().first().copied().unwrap_or(5432);
    export.set("database.port", port.to_string());
    export.set("database.user", config.database.user());
    export.set("database.dbname", config.database.database_name());
    let tls = &config.database.tls;
    export.set("database.sslmode", tls.mode.to_string());
    for (option, file) in [
        ("database.sslrootcert", &tls.root_cert),
        ("database.sslcert", &tls.cert),
        ("database.sslkey", &tls.key),
    ] {
        if let Some(file) = file {
            export.set(option, file.display().to_string());
        }
    }
}

/// A name as a regular expression.
fn expression(name: &str) -> String {
    let mut expression = String::new();
    for c in name.chars() {
        if c.is_ascii_punctuation() && c != '_' {
            expression.push('\\');
        }
        expression.push(c);
    }
    expression
}

fn columns(mapping: &Mapping, export: &mut Export) {
    match mapping.columns.id.as_slice() {
        [id] => export.route("table.field.event.id", id),
        _ => export.leave_out("OUTBOX_COLUMNS id", "the router takes one column"),
    }
    export.route("table.field.event.payload", &mapping.columns.payload);
    match &mapping.key {
        KeyRule::Column(name) => export.route("table.field.event.key", name),
        _ => export.leave_out("OUTBOX_KEY", "the router takes the key from one column"),
    }
    if mapping.columns.headers.column.name.is_some() {
        let why = "the router sends columns as headers, and not the members of one";
        export.leave_out("OUTBOX_COLUMNS headers", why);
    }
}

fn topic(mapping: &Mapping, export: &mut Export) {
    const GROUP: &str = "${routedByValue}";
    if !mapping.topics.entries.is_empty() {
        export.leave_out(
            "OUTBOX_TOPICS",
            "the router has one expression for all topics",
        );
    }
    let (field, replacement) = match &mapping.topic {
        TopicRule::Column(name) => (name.as_str(), GROUP.to_owned()),
        TopicRule::Template(template) => {
            let mut columns: Vec<&str> = template.columns().collect();
            columns.dedup();
            if columns.len() > 1 {
                return export.leave_out("OUTBOX_TOPIC", "the router takes one column into it");
            }
            // A constant needs a column that is never null.
            let id = mapping.columns.id.first().map(String::as_str);
            let field = columns.pop().or(id).unwrap_or_default();
            let texts = template.pieces.iter().map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                _ => GROUP,
            });
            (field, texts.collect())
        }
        _ => return export.leave_out("OUTBOX_TOPIC", "the router has no such rule"),
    };
    export.route("route.by.field", field);
    export.route("route.topic.replacement", replacement);
}

fn value(mapping: &Mapping, export: &mut Export) {
    let text = "org.apache.kafka.connect.storage.StringConverter";
    export.set("key.converter", text);
    match &mapping.value {
        ValueRule::Expanded => {
            export.route("table.expand.json.payload", "true");
            export.set(
                "value.converter",
                "org.apache.kafka.connect.json.JsonConverter",
            );
            export.set("value.converter.schemas.enable", "false");
        }
        ValueRule::Payload => export.set("value.converter", text),
        _ => {
            export.set("value.converter", text);
            export.leave_out("OUTBOX_VALUE", "the router sends the whole payload");
        }
    }
    match mapping.null_payload {
        NullPayload::Tombstone => export.route("route.tombstone.on.empty.payload", "true"),
        // The router sends an envelope with a null in it.
        NullPayload::Empty if !mapping.columns.envelope.is_empty() => {}
        _ => export.leave_out("OUTBOX_NULL_PAYLOAD", "the router sends a null value"),
    }
}

fn placements(mapping: &Mapping, export: &mut Export) {
    let columns = &mapping.columns;
    let placed = |columns: &[NamedColumn], place: &str| {
        let texts = columns.iter().map(|it| match it.name == it.column {
            true => format!("{}:{place}", it.column),
            false => format!("{}:{place}:{}", it.column, it.name),
        });
        texts.collect::<Vec<_>>()
    };
    let mut all = placed(&columns.header_columns, "header");
    all.extend(placed(&columns.envelope, "envelope"));
    match &mapping.partition {
        PartitionRule::Key => {}
        PartitionRule::Column(name) => all.push(format!("{name}:partition")),
        _ => export.leave_out("OUTBOX_PARTITION", "the producer chooses by the key"),
    }
    if !all.is_empty() {
        export.route("table.fields.additional.placement", all.join(","));
    }
    match &mapping.timestamp {
        TimestampRule::Now => {}
        TimestampRule::Column(name) => export.route("table.field.event.timestamp", name),
        _ => export.leave_out("OUTBOX_TIMESTAMP", "the router does not know the commit"),
    }
}

fn others(config: &Config, export: &mut Export) {
    let mapping = &config.mapping;
    if mapping.headers != HeaderStyle::Debezium {
        export.leave_out(
            "OUTBOX_HEADERS",
            "the router adds the header id, and no other",
        );
    }
    if !mapping.filter.conditions.is_empty() {
        export.leave_out("OUTBOX_WHERE", "the router publishes every row");
    }
    if config.after_publish != AfterPublish::Keep {
        export.leave_out(
            "OUTBOX_AFTER_PUBLISH",
            "Debezium does not write to the table",
        );
    }
}

/// The properties of the producer. The brokers are those of the worker.
fn producer(config: &Config, export: &mut Export) {
    let mut is_whole = true;
    for (name, value) in &config.kafka_properties {
        match kafka::SAME.iter().find(|(_, ours)| ours == name) {
            Some((java, _)) => {
                export.set(&format!("producer.override.{java}"), value.expose());
            }
            None => is_whole = false,
        }
    }
    if !is_whole {
        let why = "some properties are librdkafka's own or secret; Java's have other names";
        export.leave_out("KAFKA_PROPERTIES", why);
    }
    export.leave_out("KAFKA_BROKERS", "the worker of Kafka Connect has them");
}
