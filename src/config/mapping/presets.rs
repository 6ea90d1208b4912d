//! Well-known outbox tables and wire formats, each as the settings that serve it.
//!
//! A preset is nothing but defaults: what a person gives, wins, for each member of `[columns]` by
//! itself. The columns are those of the tables that each project's own scripts create.

use crate::config::error::InvalidValue;
use crate::config::parse::choice;
use crate::config::settings::Settings;

/// A preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Preset {
    pub(super) name: &'static str,
    /// The settings, as a settings file has them.
    pub(super) text: &'static str,
    /// The table has the kind of each event and no topic, so that a person has to name the topics.
    pub(super) needs_topics: bool,
}

impl Preset {
    /// The one of this name.
    pub(super) fn named(name: &str) -> Result<Preset, InvalidValue> {
        choice(name, &ALL.map(|preset| (preset.name, preset)))
    }

    pub(super) fn settings(&self) -> Settings {
        Settings::parse(self.text, self.name)
    }
}

pub(super) const ALL: [Preset; 7] = [
    Preset {
        name: "debezium",
        text: DEBEZIUM,
        needs_topics: false,
    },
    Preset {
        name: "tomorrow-one",
        text: TOMORROW_ONE,
        needs_topics: false,
    },
    Preset {
        name: "eventuate",
        text: EVENTUATE,
        needs_topics: false,
    },
    Preset {
        name: "spring-modulith",
        text: SPRING_MODULITH,
        needs_topics: true,
    },
    Preset {
        name: "cap",
        text: CAP,
        needs_topics: false,
    },
    Preset {
        name: "pgx-outbox",
        text: PGX_OUTBOX,
        needs_topics: false,
    },
    Preset {
        name: "pg-transactional-outbox",
        text: PG_TRANSACTIONAL_OUTBOX,
        needs_topics: false,
    },
];

/// The table and the records of the Outbox Event Router, with its default options. The table has
/// no mark, and its rows are often deleted by the transaction that wrote them.
const DEBEZIUM: &str = r#"
table = "public.outboxevent"
after_publish = "keep"
topic = "outbox.event.${aggregatetype}"
key = "column:aggregateid"
null_payload = "tombstone"
headers = "debezium"

[columns]
id = "id"
type = "type"
payload = "payload"
headers = "none"
created = "none"
published = "none"
attempts = "none"
"#;

/// A row without a value is a tombstone there.
const TOMORROW_ONE: &str = r#"
table = "public.outbox_kafka"
topic = "column:topic"
key = "column:key"
null_payload = "tombstone"

[columns]
id = "id"
type = "none"
payload = "value"
headers = "headers"
created = "create_time"
published = "processed"
attempts = "none"
"#;

/// The id is a text and has no order, and the time of creation is a number.
const EVENTUATE: &str = r#"
table = "eventuate.message"
topic = "column:destination"
key = "header:PARTITION_ID"

[columns]
id = "id"
type = "none"
payload = "payload"
headers = "headers"
created = "none"
published = "published"
attempts = "none"
order = "creation_time"
"#;

/// The class of the event chooses the topic.
const SPRING_MODULITH: &str = r#"
table = "public.event_publication"
topic = "column:event_type"
key = "none"

[columns]
id = "id"
type = "event_type"
payload = "serialized_event"
headers = "none"
created = "publication_date"
published = "completion_date"
attempts = "none"
order = "created"
"#;

/// The content is an object with the headers and the value.
const CAP: &str = r#"
table = 'cap.published'
topic = "column:Name"
key = "payload:/Headers/cap-kafka-key"
value = "payload:/Value"

[columns]
id = "Id"
type = "none"
payload = "Content"
headers = "Content:/Headers"
created = "Added"
published = "StatusName='Succeeded'"
attempts = "Retries"
"#;

const PGX_OUTBOX: &str = r#"
table = "public.outbox_messages"
topic = "column:topic"
key = "none"

[columns]
id = "id"
type = "none"
payload = "payload"
headers = "metadata"
created = "created_at"
published = "published_at"
attempts = "none"
"#;

const PG_TRANSACTIONAL_OUTBOX: &str = r#"
table = "public.outbox"
topic = "${aggregate_type}"
key = "column:aggregate_id"

[columns]
id = "id"
type = "message_type"
payload = "payload"
headers = "metadata"
created = "created_at"
published = "processed_at"
attempts = "finished_attempts"
order = "created"
"#;
