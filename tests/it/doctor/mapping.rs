//! Faults of what the settings say about a table of any other shape: its columns, its mark, its
//! rows that are events, and the rules for topic, key, partition and time.

use anyhow::{Result, ensure};

use super::examine;
use super::table::{PLAIN, Planted, plant_each};
use crate::support::kafka;
use crate::support::outboxd::{Settings, init};
use crate::support::postgres::{self, Database, turn};

const ROW: &str = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                   VALUES ('kind', 'topic', '{}')";

const OF_THE_SETTINGS: [Planted; 11] = [
    Planted {
        set: &[("OUTBOX_COLUMNS", "payload=body")],
        check: "table",
        words: &["no column body", "event_payload", "OUTBOX_COLUMNS"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_COLUMNS", "published=sent")],
        check: "table",
        words: &["no column sent"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_COLUMNS", "published=topic")],
        check: "table",
        words: &["topic", "OUTBOX_COLUMNS"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_KEY", "column:order_id")],
        check: "table",
        words: &["no column order_id", "the rule that names it"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_TOPIC", "shop.${place}")],
        check: "table",
        words: &["no column place"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_PARTITION", "column:shard")],
        check: "table",
        words: &["no column shard"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_TIMESTAMP", "column:happened")],
        check: "table",
        words: &["no column happened"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_WHERE", "deleted IS NULL")],
        check: "table",
        words: &["no column deleted"],
        ..PLAIN
    },
    Planted {
        set: &[("OUTBOX_PRESET", "debezium")],
        check: "table",
        words: &["no table", "outboxevent"],
        ..PLAIN
    },
    Planted {
        sql: ROW,
        set: &[
            ("OUTBOX_TOPIC", "column:event_type"),
            ("OUTBOX_TOPICS", "another=orders"),
        ],
        check: "topics",
        words: &["no topic for 1 row", "OUTBOX_TOPICS"],
        ..PLAIN
    },
    Planted {
        sql: ROW,
        set: &[("OUTBOX_TOPIC", "doctor.${event_type}")],
        check: "topics",
        words: &["topic doctor.kind (1 row) does not exist", "--create"],
        ..PLAIN
    },
];

#[tokio::test]
async fn faults_of_the_settings_for_a_table_are_named_with_what_fixes_them() -> Result<()> {
    plant_each(&OF_THE_SETTINGS, turn(15)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_another_shape_is_clean_until_one_of_its_rows_has_no_topic() -> Result<()> {
    let database = Database::create_empty(postgres::shared(turn(17))).await?;
    let session = database.connect().await?;
    session
        .batch_execute(
            "CREATE TABLE public.messages (
                 number uuid PRIMARY KEY DEFAULT gen_random_uuid(), kind text, shop text,
                 body text NOT NULL, sent boolean NOT NULL DEFAULT false);
             INSERT INTO public.messages (kind, shop, body) VALUES ('Created', 'berlin', 'x')",
        )
        .await?;
    let kafka = kafka::shared();
    let topic = kafka.topic("doctor", 1).await?;
    let settings = Settings::new(&database, kafka)?
        .set("OUTBOX_TABLE", "public.messages")
        .set(
            "OUTBOX_COLUMNS",
            "id=number,type=kind,payload=body,published=sent",
        )
        .set("OUTBOX_TOPIC", "column:kind")
        .set("OUTBOX_TOPICS", format!("Created={topic}"))
        .set("OUTBOX_KEY", "${shop}-${kind}");
    init(&settings).await?;
    let well = examine(&settings).await?;
    ensure!(well.with("fails").is_empty(), "{well:#?}");
    well.expect("statements", "ok", &[])?;
    well.expect("index", "ok", &[])?;
    well.expect("topics", "ok", &["the topic of the table exists"])?;
    session
        .batch_execute("INSERT INTO public.messages (kind, body) VALUES ('Gone', 'x'), (NULL, 'x')")
        .await?;
    let examined = examine(&settings).await?;
    examined.expect("topics", "fails", &["no topic for 2 rows"])
}
