//! Dead letters: how they are filed and read back, what an operator can do with them, and that they
//! hold up no other event.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};
use outboxd::config::{Config, Settings as Configured};
use outboxd::outbox::{
    CloseDeadLetter, DeadLetters, KeyHash, NewDeadLetter, OwnedRecord, ParkedKey, Rejection,
    Resolution, ResolveRequest, Router, RowId, RowName, SlowRows, UnpublishedRows,
};
use outboxd::postgres::{self as sql, Session, preflight, table_shape};
use serde_json::Value;

use crate::support::fixture::Fixture;
use crate::support::kafka;
use crate::support::outboxd::{Outboxd, Settings, command};
use crate::support::postgres::{self, Database, MAJORS, shared};
use crate::support::wait::{wait_for, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// A database that `init` has prepared, with a session of the role that `init` created.
struct Setup {
    database: Database,
    admin: postgres::Session,
    session: Session,
    config: Config,
    dead_letters: DeadLetters,
    rows: UnpublishedRows,
    router: Router,
    settings: Settings,
}

impl Setup {
    async fn create(major: u32, after_publish: &str) -> Result<Setup> {
        let database = Database::create_empty(shared(major)).await?;
        let role = format!("{}_relay", database.name);
        let settings = Settings::nowhere()?
            .set("DATABASE_URL", database.url())
            .set("OUTBOX_AFTER_PUBLISH", after_publish);
        let init = command(&settings, &["init", "--role", &role], LIMIT).await?;
        assert!(init.status.success(), "{}", err(&init));
        let config = Config::without_kafka(Configured {
            database_url: Some(database.url_as(&role)),
            after_publish: Some(after_publish.to_owned()),
            ..Configured::default()
        })?;
        let session = sql::connect(&config.database, "test", LIMIT).await?;
        session.run("a limit", "SET lock_timeout = '1s'").await?;
        let shape = preflight::check(&session, &config).await?;
        Ok(Setup {
            admin: database.connect().await?,
            dead_letters: DeadLetters::new(&config, &shape),
            rows: UnpublishedRows::new(&config, &shape)?,
            router: Router::new(&config.mapping),
            settings: settings.set("DATABASE_URL", database.url_as(&role)),
            database,
            session,
            config,
        })
    }

    async fn file(&self, dead_letters: &[NewDeadLetter]) -> Result<()> {
        Ok(self
            .dead_letters
            .file(&self.session, "1", dead_letters)
            .await?)
    }

    async fn requests(&mut self, limit: usize) -> Result<Vec<ResolveRequest>> {
        let (session, rows, router) = (&self.session, &self.rows, &mut self.router);
        let mut slow = SlowRows::default();
        let requests = self
            .dead_letters
            .requests(session, rows, router, &mut slow, limit);
        Ok(requests.await?)
    }

    /// All dead letters as JSON, in id order.
    async fn all(&self) -> Result<Vec<Value>> {
        let sql = "SELECT coalesce(json_agg(to_jsonb(d) ORDER BY id), '[]')::text \
                   FROM outbox.dead_letter AS d";
        Ok(serde_json::from_str(
            &self.admin.value::<String>(sql).await?,
        )?)
    }

    async fn states(&self) -> Result<Vec<String>> {
        let states = self.all().await?;
        Ok(states
            .iter()
            .map(|dead_letter| text(&dead_letter["state"]))
            .collect())
    }

    async fn outboxd(&self, arguments: &[&str]) -> Result<Output> {
        let arguments: Vec<&str> = ["dead-letter"]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        command(&self.settings, &arguments, LIMIT).await
    }

    async fn clean_up(self) -> Result<()> {
        let role = format!("{}_relay", self.database.name);
        drop(self.session);
        let sql = format!("DROP OWNED BY {role}; DROP ROLE {role}");
        Ok(self.admin.batch_execute(&sql).await?)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn record(
    topic: &str,
    key: &[u8],
    payload: &[u8],
    headers: &[(&str, &[u8])],
) -> Option<Box<OwnedRecord>> {
    let headers = headers.iter().copied();
    let record = OwnedRecord::new(topic, Some(key), Some(payload), headers);
    Some(Box::new(record))
}

/// A dead letter of a row as the stream delivers it.
fn dead_letter(row: i64, payload: &str) -> NewDeadLetter {
    let id = row.to_string();
    let headers: [(&str, &[u8]); 5] = [
        ("outbox_id", id.as_bytes()),
        ("outbox_event_type", b"created"),
        ("outbox_lsn", b"0/16B3748"),
        ("outbox_index", b"3"),
        ("raw", &[0xff, 0]),
    ];
    NewDeadLetter {
        ticket: 1,
        known: None,
        row: Some(RowName::of_id(row)),
        record: record("orders", b"created", payload.as_bytes(), &headers),
        rejection: Rejection {
            code: "RECORD_TOO_LARGE".to_owned(),
            message: "too large for topic orders".to_owned(),
        },
        attempts: 3,
        parks_key: true,
        parked: false,
    }
}

fn parked(row: i64, payload: &str) -> NewDeadLetter {
    NewDeadLetter {
        parked: true,
        parks_key: false,
        attempts: 0,
        ..dead_letter(row, payload)
    }
}

#[tokio::test]
async fn the_same_event_is_filed_once_and_another_payload_is_another_letter() -> Result<()> {
    for major in MAJORS {
        let setup = Setup::create(major, "mark").await?;
        let from_the_wal = || NewDeadLetter {
            row: None,
            record: record(
                "logs",
                b"k",
                b"m",
                &[("outbox_lsn", b"0/10"), ("outbox_index", b"0")],
            ),
            ..dead_letter(0, "")
        };
        let by_reference = NewDeadLetter {
            record: None,
            ..dead_letter(9, "")
        };
        let batch = [
            dead_letter(7, "{}"),
            from_the_wal(),
            dead_letter(7, "{}"),
            by_reference.clone(),
        ];
        for _ in 0..2 {
            setup.file(&batch).await?;
        }
        setup.file(&[dead_letter(7, "{\"other\": 1}")]).await?;
        let all = setup.all().await?;
        assert_eq!(all.len(), 4, "{all:#?}");
        for dead_letter in &all {
            assert_eq!(
                dead_letter["history"].as_array().map(Vec::len),
                Some(1),
                "{dead_letter}"
            );
            assert_eq!(dead_letter["state"], "dead");
        }
        let first = &all[0];
        assert_eq!(first["outbox_id"], "7");
        assert_eq!(first["commit_lsn"], "0/16B3748");
        assert_eq!(first["event_index"], 3);
        assert_eq!(first["event_type"], "created");
        assert_eq!(first["payload"], "\\x7b7d");
        assert_eq!(
            first["headers"][4],
            serde_json::json!(["raw", {"hex": "ff00"}])
        );
        assert_eq!(first["attempts"], 3);
        let by_reference = &all[1];
        assert_eq!(
            (text(&by_reference["outbox_id"]), &by_reference["topic"]),
            ("9".to_owned(), &Value::Null)
        );
        assert_eq!(by_reference["payload"], Value::Null);
        assert_eq!(all[2]["outbox_id"], Value::Null);
        // Another error extends the history of the same dead letter.
        let mut again = dead_letter(7, "{}");
        again.rejection.code = "TOPIC_UNKNOWN".to_owned();
        setup.file(&[again]).await?;
        let all = setup.all().await?;
        assert_eq!(all.len(), 4);
        assert_eq!(all[0]["history"][1]["error_code"], "TOPIC_UNKNOWN");
        assert_eq!(all[0]["error_code"], "TOPIC_UNKNOWN");
        // Filed again behind itself it stays dead, and a requested retry stays requested.
        setup.file(&[parked(7, "{}")]).await?;
        assert_eq!(setup.states().await?[0], "dead");
        setup
            .admin
            .batch_execute("UPDATE outbox.dead_letter SET state = 'retry' WHERE id = 1")
            .await?;
        setup.file(&[dead_letter(7, "{}")]).await?;
        assert_eq!(setup.states().await?[0], "retry");
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_letter_that_fails_again_keeps_its_place_its_history_and_what_was_kept_of_it()
-> Result<()> {
    for major in MAJORS {
        let setup = Setup::create(major, "mark").await?;
        setup
            .file(&[dead_letter(1, "{}"), dead_letter(2, "{}")])
            .await?;
        let resolution = "UPDATE outbox.dead_letter SET state = 'retry'";
        setup.admin.batch_execute(resolution).await?;
        let known = |id: i64, dead_letter: NewDeadLetter| NewDeadLetter {
            known: Some(id),
            ..dead_letter
        };
        let unreadable = NewDeadLetter {
            record: None,
            parked: true,
            ..dead_letter(2, "")
        };
        let batch = [
            known(1, dead_letter(1, "[]")),
            known(2, unreadable),
            known(77, dead_letter(3, "{}")),
        ];
        for _ in 0..2 {
            setup.file(&batch).await?;
        }
        let all = setup.all().await?;
        assert_eq!(
            all.len(),
            3,
            "a deleted dead letter is filed again: {all:#?}"
        );
        assert_eq!(setup.states().await?, ["dead", "parked", "dead"]);
        assert_eq!(
            all[0]["payload"], "\\x5b5d",
            "the row as it is now, rejected again"
        );
        assert_eq!(all[1]["payload"], "\\x7b7d");
        assert_eq!(all[0]["history"].as_array().map(Vec::len), Some(2));
        assert_eq!(all[1]["topic"], "orders");
        // The history is bounded.
        for round in 0..60 {
            let mut dead_letter = known(1, dead_letter(1, "[]"));
            dead_letter.rejection.message = format!("round {round}");
            setup.file(&[dead_letter]).await?;
        }
        let all = setup.all().await?;
        assert_eq!(all[0]["history"].as_array().map(Vec::len), Some(50));
        assert_eq!(all[0]["history"][49]["error"], "round 59");
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_letter_that_the_table_refuses_is_filed_with_less_of_its_event() -> Result<()> {
    for major in MAJORS {
        let setup = Setup::create(major, "mark").await?;
        // The operator has added constraints to the table.
        setup
            .admin
            .batch_execute(
                "ALTER TABLE outbox.dead_letter ADD CHECK (octet_length(payload) < 20), \
                     ADD CHECK (topic <> 'unwanted')",
            )
            .await?;
        let unwanted = NewDeadLetter {
            record: record("unwanted", b"k", b"{}", &[]),
            ..dead_letter(3, "{}")
        };
        let long = "{\"n\": \"0123456789012345\"}";
        let dead_letters = [
            dead_letter(1, "{}"),
            dead_letter(2, long),
            unwanted,
            dead_letter(4, "{}"),
        ];
        // Filing them again changes nothing.
        for _ in 0..2 {
            setup.file(&dead_letters).await?;
            let kept: Vec<Value> = setup.all().await?;
            let kept = kept.iter().map(|dead_letter| {
                let [id, topic, payload] =
                    ["outbox_id", "topic", "payload"].map(|name| text(&dead_letter[name]));
                format!("{id} {topic} {payload}")
            });
            assert_eq!(
                kept.collect::<Vec<_>>(),
                ["1 orders \\x7b7d", "2 orders ", "3  ", "4 orders \\x7b7d"]
            );
        }
        setup.clean_up().await?;
    }
    Ok(())
}

/// An LSN with fewer digits is the lower one, whatever its text.
#[tokio::test]
async fn parked_events_follow_in_the_order_of_the_log_and_not_of_its_text() -> Result<()> {
    let mut setup = Setup::create(17, "mark").await?;
    let (mut batch, mut expected) = (Vec::new(), Vec::new());
    for lsn in ["0/FFFFFF8", "0/10000000", "1/0"] {
        let row = setup.database.insert("created", "orders", "{}").await?;
        let id = row.to_string();
        let headers: [(&str, &[u8]); 3] = [
            ("outbox_id", id.as_bytes()),
            ("outbox_lsn", lsn.as_bytes()),
            ("outbox_index", b"0"),
        ];
        let record = record("orders", b"created", b"{}", &headers);
        batch.push(NewDeadLetter {
            record,
            ..parked(row, "{}")
        });
        expected.push(Some(row));
    }
    setup.file(&batch).await?;
    let requests = setup.requests(500).await?;
    let rows: Vec<_> = requests
        .iter()
        .map(|request| number(&request.row))
        .collect();
    assert_eq!(rows, expected);
    setup.clean_up().await
}

#[tokio::test]
async fn wishes_are_read_in_order_and_a_mended_row_goes_out_mended() -> Result<()> {
    for major in MAJORS {
        let mut setup = Setup::create(major, "mark").await?;
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(setup.database.insert("created", "orders", "{}").await?);
        }
        let [first, second, third, fourth, fifth] = ids[..] else {
            anyhow::bail!("five rows");
        };
        let another_key = NewDeadLetter {
            record: record("orders", b"another", b"{}", &[]),
            ..dead_letter(fifth, "{}")
        };
        let batch = [
            dead_letter(first, "{}"),
            parked(second, "{}"),
            parked(third, "{}"),
            parked(fourth, "{}"),
            another_key,
        ];
        setup.file(&batch).await?;
        let of_rows = "UPDATE outbox.dead_letter AS d SET event_created_at = o.created_at::text
                         FROM outbox.outbox AS o WHERE o.id::text = d.outbox_id";
        setup.admin.batch_execute(of_rows).await?;
        assert!(setup.requests(500).await?.is_empty(), "the head is dead");
        let keys = setup.dead_letters.parked_keys(&setup.session).await?;
        let key = |key: &[u8], rows| ParkedKey {
            hash: KeyHash::of("orders", key),
            rows,
            blocked: true,
        };
        assert!(keys.topics.is_empty() && !keys.everything);
        let mut keys = keys.keys;
        keys.sort_by_key(|key| key.rows);
        assert_eq!(keys, [key(b"another", 1), key(b"created", 4)]);
        // Row 1 is fixed, row 3 is deleted, row 4 prints as more than the server can hold.
        let numbers = format!("[{}]", vec!["1e131071"; 9_000].join(","));
        let change = format!(
            "UPDATE outbox.outbox SET topic = 'fixed', event_payload = '{{\"new\": 1}}'
              WHERE id = {first};
             DELETE FROM outbox.outbox WHERE id = {third};
             UPDATE outbox.outbox SET event_payload = '{numbers}' WHERE id = {fourth};
             UPDATE outbox.dead_letter SET state = 'retry' WHERE id = 1;
             UPDATE outbox.dead_letter SET state = 'discard' WHERE id = 5"
        );
        setup.admin.batch_execute(&change).await?;
        let requests = setup.requests(500).await?;
        let order: Vec<_> = requests
            .iter()
            .map(|request| {
                (
                    request.dead_letter,
                    number(&request.row),
                    request.resolution,
                )
            })
            .collect();
        assert_eq!(
            order,
            [
                // It has no LSN, so it sorts before all that have one.
                (5, Some(fifth), Resolution::Discard),
                (1, Some(first), Resolution::Retry),
                (2, Some(second), Resolution::Retry),
                (3, Some(third), Resolution::Retry),
                (4, Some(fourth), Resolution::Retry),
            ]
        );
        assert!(requests[1].parked_key.is_some() && requests[2].parked_key.is_none());
        // The first request is the one without an LSN.
        let record = |at: usize| requests[at + 1].record.as_deref().context("a record");
        assert_eq!(
            (record(0)?.topic(), record(0)?.value()),
            ("fixed", Some(&b"{\"new\": 1}"[..]))
        );
        assert_eq!(record(0)?.header("outbox_source"), Some("table"));
        assert_eq!(record(0)?.header("outbox_lsn"), None);
        let copy = record(2)?;
        assert_eq!(
            (copy.topic(), copy.key(), copy.value()),
            ("orders", Some(&b"created"[..]), Some(&b"{}"[..]))
        );
        assert_eq!(copy.header("outbox_lsn"), Some("0/16B3748"));
        let raw = copy.headers().find(|(name, _)| *name == "raw");
        assert_eq!(raw, Some(("raw", Some(&[0xff, 0][..]))));
        assert!(
            requests[4].record.is_none(),
            "an unreadable row has no record"
        );
        assert_eq!(setup.requests(2).await?.len(), 2);
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn closing_a_letter_settles_its_row_in_the_same_step() -> Result<()> {
    for major in MAJORS {
        for (mode, published, discarded) in [
            ("mark", Some((true, 1)), Some((true, 0))),
            ("delete", None, None),
            ("keep", Some((false, 0)), Some((false, 0))),
        ] {
            let setup = Setup::create(major, mode).await?;
            let first = setup.database.insert("created", "orders", "{}").await?;
            let second = setup.database.insert("created", "orders", "{}").await?;
            setup
                .file(&[dead_letter(first, "{}"), dead_letter(second, "{}")])
                .await?;
            let closings = [closing(1, first, true), closing(2, second, false)];
            for _ in 0..2 {
                setup.dead_letters.close(&setup.session, &closings).await?;
            }
            assert_eq!(setup.states().await?, ["retried", "discarded"], "{mode}");
            for (row, expected) in [(first, published), (second, discarded)] {
                let sql = "SELECT published_at IS NOT NULL, times_attempted \
                           FROM outbox.outbox WHERE id = $1";
                let found = setup.admin.query_opt(sql, &[&row]).await?;
                let found = found.map(|row| (row.get::<_, bool>(0), row.get::<_, i32>(1)));
                assert_eq!(found, expected, "{mode}");
            }
            assert!(
                setup
                    .dead_letters
                    .parked_keys(&setup.session)
                    .await?
                    .keys
                    .is_empty()
            );
            let open: i64 = setup.dead_letters.open(&setup.session).await?.open;
            assert_eq!(open, 0);
            setup.clean_up().await?;
        }
    }
    Ok(())
}

fn ids(numbers: &[i64]) -> Vec<RowId> {
    numbers.iter().copied().map(RowId::from).collect()
}

fn number(row: &Option<RowId>) -> Option<i64> {
    row.as_ref()?.number()
}

fn closing(dead_letter: i64, row: i64, published: bool) -> CloseDeadLetter {
    CloseDeadLetter {
        ticket: 1,
        dead_letter,
        row: Some(row.into()),
        published,
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_changed_neither_holds_the_others_up_nor_comes_back() -> Result<()> {
    for major in MAJORS {
        let setup = Setup::create(major, "mark").await?;
        let mut rows = Vec::new();
        for topic in ["", "orders", ""] {
            rows.push(setup.database.insert("created", topic, "{}").await?);
        }
        let check = "ALTER TABLE outbox.outbox ADD CHECK (topic <> '') NOT VALID";
        setup.admin.batch_execute(check).await?;
        let dead_letters: Vec<NewDeadLetter> =
            rows.iter().map(|row| dead_letter(*row, "{}")).collect();
        setup.file(&dead_letters).await?;
        let closings = [
            closing(1, rows[0], true),
            closing(2, rows[1], true),
            closing(3, rows[2], false),
        ];
        let mut lock = setup.database.connect().await?;
        let transaction = lock.transaction().await?;
        transaction
            .execute(
                "SELECT FROM outbox.outbox WHERE id = $1 FOR UPDATE",
                &[&rows[1]],
            )
            .await?;
        let held = setup
            .dead_letters
            .close(&setup.session, &closings[1..2])
            .await;
        let held = held.expect_err("another session holds the row");
        assert!(held.is_transient(), "{held:?}");
        assert_eq!(
            setup.states().await?,
            ["dead", "dead", "dead"],
            "{:?}",
            held.report()
        );
        transaction.rollback().await?;
        setup.dead_letters.close(&setup.session, &closings).await?;
        assert_eq!(
            setup.states().await?,
            ["published-not-marked", "retried", "skipped"]
        );
        let all = setup.all().await?;
        assert_eq!(all[0]["error_code"], "23514");
        assert!(
            text(&all[0]["error"]).contains("violates check constraint"),
            "{}",
            all[0]
        );
        assert_eq!(all[0]["history"].as_array().map(Vec::len), Some(2));
        let counts = setup.dead_letters.open(&setup.session).await?.states;
        let count = |state: &str| counts.get(state).copied();
        assert_eq!(
            (
                count("published-not-marked"),
                count("skipped"),
                count("dead")
            ),
            (Some(1), Some(1), Some(0))
        );
        setup
            .dead_letters
            .count_attempts(&setup.session, &ids(&rows))
            .await?;
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn attempts_are_counted_for_unpublished_rows_only() -> Result<()> {
    for (mode, expected) in [
        ("mark", [Some(2), Some(1), Some(0)]),
        ("keep", [Some(0), Some(0), Some(0)]),
    ] {
        let setup = Setup::create(postgres::turn(15), mode).await?;
        let mut rows = Vec::new();
        for _ in 0..3 {
            rows.push(setup.database.insert("created", "orders", "{}").await?);
        }
        let publish = format!(
            "UPDATE outbox.outbox SET published_at = now() WHERE id = {}",
            rows[2]
        );
        setup.admin.batch_execute(&publish).await?;
        let attempts = [rows[0], rows[1], rows[2], rows[0]];
        setup
            .dead_letters
            .count_attempts(&setup.session, &ids(&attempts))
            .await?;
        for (row, expected) in rows.iter().zip(expected) {
            let sql = format!("SELECT times_attempted FROM outbox.outbox WHERE id = {row}");
            assert_eq!(
                setup.admin.value::<Option<i32>>(&sql).await?,
                expected,
                "{mode}"
            );
        }
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_commands_show_what_is_there_and_only_ask() -> Result<()> {
    for major in MAJORS {
        let setup = Setup::create(major, "mark").await?;
        let empty = setup.outboxd(&["list"]).await?;
        assert!(
            empty.status.success() && out(&empty).starts_with("ID"),
            "{}",
            err(&empty)
        );
        let mut hostile = dead_letter(3, "{}");
        hostile.rejection.code = "TOPIC_UNKNOWN".to_owned();
        hostile.rejection.message = "no topic \u{1b}[2J".to_owned();
        hostile.parks_key = false;
        setup
            .file(&[dead_letter(1, "{\"secret\": 1}"), parked(2, "{}"), hostile])
            .await?;

        let summary = out(&setup.outboxd(&["summary"]).await?);
        assert!(
            summary.starts_with("3 open, the oldest for ")
                && summary.contains("1 × orders TOPIC_UNKNOWN (dead), the oldest for")
                && summary.contains("1 × orders RECORD_TOO_LARGE (parked)"),
            "{summary}"
        );
        let list = out(&setup.outboxd(&["list"]).await?);
        assert_eq!(list.lines().count(), 4, "{list}");
        assert!(
            !list.contains('\u{1b}') && list.contains("too large for topic orders"),
            "{list}"
        );
        let some = out(&setup.outboxd(&["list", "--limit", "1"]).await?);
        assert!(some.contains("more dead letters match"), "{some}");
        let json = out(&setup
            .outboxd(&["list", "--json", "--code", "TOPIC_UNKNOWN"])
            .await?);
        let json: Value = serde_json::from_str(&json)?;
        assert_eq!(
            (&json["id"], &json["key"]),
            (&Value::from(3), &Value::from("created"))
        );

        let show = out(&setup.outboxd(&["show", "1"]).await?);
        assert!(
            show.contains("history") && show.contains("raw: {\"hex\":\"ff00\"}"),
            "{show}"
        );
        assert!(!show.contains("secret"), "{show}");
        let show = out(&setup.outboxd(&["show", "--id", "1", "--payload"]).await?);
        assert!(show.contains("{\"secret\": 1}"), "{show}");
        let none = setup.outboxd(&["show", "--id", "99"]).await?;
        assert_eq!(none.status.code(), Some(1), "{}", err(&none));

        for command in ["retry", "discard"] {
            let everything = setup.outboxd(&[command]).await?;
            assert_eq!(everything.status.code(), Some(2), "{}", err(&everything));
            assert!(err(&everything).contains("--all"), "{}", err(&everything));
        }
        let unconfirmed = setup.outboxd(&["discard", "--id", "1,2"]).await?;
        assert_eq!(unconfirmed.status.code(), Some(1));
        assert!(
            err(&unconfirmed).contains("--yes: 1 dead letter would never be published"),
            "{}",
            err(&unconfirmed)
        );
        assert_eq!(setup.states().await?, ["dead", "parked", "dead"]);

        let retry = setup
            .outboxd(&["retry", "--topic", "orders", "--code", "RECORD_TOO_LARGE"])
            .await?;
        assert!(retry.status.success(), "{}", err(&retry));
        let printed = out(&retry);
        assert!(
            printed.contains("1 dead letter will be retried")
                && printed.contains("1 parked event will follow")
                && printed.contains("1 left unchanged"),
            "{printed}"
        );
        let discard = setup.outboxd(&["discard", "--all", "--yes"]).await?;
        assert!(
            out(&discard).contains("1 dead letter will be discarded"),
            "{}",
            out(&discard)
        );
        assert_eq!(setup.states().await?, ["retry", "parked", "discard"]);
        let close = "UPDATE outbox.dead_letter SET state = 'discarded' WHERE state = 'discard'";
        setup.admin.batch_execute(close).await?;
        let ids = |json: String| -> Result<Vec<i64>> {
            let entries = json.lines().map(serde_json::from_str::<Value>);
            let ids = entries.map(|entry| anyhow::Ok(entry?["id"].as_i64().unwrap_or_default()));
            ids.collect()
        };
        let open = out(&setup.outboxd(&["list", "--json"]).await?);
        assert_eq!(ids(open)?, [2, 1], "the newest first");
        let all = out(&setup.outboxd(&["list", "--closed", "--json"]).await?);
        assert_eq!(ids(all)?, [3, 2, 1]);
        let none = setup.outboxd(&["retry", "--id", "99"]).await?;
        assert_eq!(none.status.code(), Some(1));
        setup
            .admin
            .batch_execute("DROP TABLE outbox.dead_letter")
            .await?;
        let missing = setup.outboxd(&["list"]).await?;
        assert_eq!(missing.status.code(), Some(2));
        assert!(err(&missing).contains("outboxd init"), "{}", err(&missing));
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_start_needs_the_table_the_rights_on_it_and_all_rows_in_sight() -> Result<()> {
    for major in MAJORS {
        let setup = Setup::create(major, "mark").await?;
        let role = format!("{}_relay", setup.database.name);
        for (broken, words, fix) in [
            (
                format!("REVOKE INSERT ON outbox.dead_letter FROM {role}"),
                "lacks SELECT, INSERT or UPDATE on outbox.dead_letter",
                format!("GRANT INSERT ON outbox.dead_letter TO {role}"),
            ),
            (
                "ALTER TABLE outbox.outbox ENABLE ROW LEVEL SECURITY".to_owned(),
                "row-level security hides rows",
                "ALTER TABLE outbox.outbox DISABLE ROW LEVEL SECURITY".to_owned(),
            ),
            (
                "ALTER TABLE outbox.dead_letter RENAME TO elsewhere".to_owned(),
                "there is no table outbox.dead_letter",
                "ALTER TABLE outbox.elsewhere RENAME TO dead_letter".to_owned(),
            ),
        ] {
            setup.admin.batch_execute(&broken).await?;
            let rejection = preflight::check(&setup.session, &setup.config).await;
            let rejection = rejection.expect_err("it is not ready");
            assert!(
                rejection.message().contains(words),
                "{}",
                rejection.report()
            );
            assert!(
                !rejection.is_transient() && rejection.hint().is_some(),
                "{rejection:?}"
            );
            setup.admin.batch_execute(&fix).await?;
        }
        preflight::check(&setup.session, &setup.config).await?;
        // If row-level security is enabled later, hidden rows are an error and not silently absent.
        setup
            .admin
            .batch_execute("ALTER TABLE outbox.outbox ENABLE ROW LEVEL SECURITY")
            .await?;
        let hidden = setup
            .session
            .run("reading", "SELECT id FROM outbox.outbox")
            .await;
        let hidden = hidden.expect_err("rows are hidden").report();
        assert!(hidden.contains("42501"), "{hidden}");
        setup.clean_up().await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_outbox_has_dead_letters_of_its_own() -> Result<()> {
    let database = Database::create_empty(shared(postgres::turn(15))).await?;
    for (outbox, dead_letters) in [
        ("outbox.outbox", "dead_letter"),
        ("outbox.\"Events\"", "Events_dead_letter"),
    ] {
        let settings = Settings::nowhere()?
            .set("DATABASE_URL", database.url())
            .set("OUTBOX_PUBLICATION", format!("p_{dead_letters}"))
            .set("OUTBOX_TABLE", outbox);
        for _ in 0..2 {
            let init = command(&settings, &["init"], LIMIT).await?;
            assert!(init.status.success(), "{}", err(&init));
        }
        let there = format!(
            "SELECT count(*) FROM pg_indexes \
             WHERE schemaname = 'outbox' AND tablename = '{dead_letters}'"
        );
        assert_eq!(
            database.connect().await?.value::<i64>(&there).await?,
            6,
            "{dead_letters}"
        );
        let config = Config::without_kafka(Configured {
            database_url: Some(database.url().to_owned()),
            table: Some(outbox.to_owned()),
            ..Configured::default()
        })?;
        let session = sql::connect(&config.database, "test", LIMIT).await?;
        let shape = table_shape::read(&session, &config.table, &config.mapping)
            .await?
            .context("the outbox")?;
        DeadLetters::new(&config, &shape)
            .file(&session, "1", &[dead_letter(1, "{}")])
            .await?;
    }
    Ok(())
}

/// Lets rows reject their write-back: one by a constraint added later, one by a trigger with a
/// SQLSTATE of its own.
const REFUSE_MARKS: &str = "
    ALTER TABLE outbox.outbox ADD CHECK (event_type <> 'unchecked') NOT VALID;
    CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = 'OB001'; END$$;
    CREATE TRIGGER refuse BEFORE UPDATE ON outbox.outbox
        FOR EACH ROW WHEN (old.event_type = 'triggered') EXECUTE FUNCTION outbox.refuse()";

/// The same for rows that are deleted: one by a foreign key, one by a trigger.
const REFUSE_DELETES: &str = "
    CREATE TABLE outbox.note (event bigint REFERENCES outbox.outbox (id));
    INSERT INTO outbox.note SELECT id FROM outbox.outbox WHERE event_type = 'unchecked';
    CREATE FUNCTION outbox.refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN RAISE EXCEPTION 'not this one'; END$$;
    CREATE TRIGGER refuse BEFORE DELETE ON outbox.outbox
        FOR EACH ROW WHEN (old.event_type = 'triggered') EXECUTE FUNCTION outbox.refuse()";

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_refuse_their_mark_are_filed_and_hold_neither_the_others_nor_the_slot()
-> Result<()> {
    for major in MAJORS {
        for (mode, refuse, states) in [
            ("mark", REFUSE_MARKS, ["23514", "OB001"]),
            ("delete", REFUSE_DELETES, ["23503", "P0001"]),
        ] {
            let fixture = Fixture::create(shared(major), kafka::shared()).await?;
            let admin = fixture.database.connect().await?;
            let settings = fixture.settings.clone().set("OUTBOX_AFTER_PUBLISH", mode);
            let mut outboxd = Outboxd::spawn(
                &settings
                    .clone()
                    .set("OUTBOX_BATCH_SIZE", "1000")
                    .set("OUTBOX_PROCESS_INTERVAL", "1s"),
            )?;
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                          SELECT CASE i WHEN 20 THEN 'unchecked' \
                                        WHEN 70 THEN 'triggered' ELSE 'k' END, \
                                 $1, '{}' \
                            FROM generate_series(1, 100) AS i";
            // Suspended until the rows can reject their write-back.
            outboxd.freeze()?;
            admin.execute(insert, &[&fixture.topic]).await?;
            admin.batch_execute(refuse).await?;
            outboxd.thaw()?;
            let left = "SELECT count(*) FROM outbox.outbox WHERE published_at IS NULL";
            wait_until(
                "the others to be marked or deleted",
                LIMIT,
                async || match admin.value::<i64>(left).await? {
                    2 => Ok(Ok(())),
                    left => Ok(Err(format!("{left} are unpublished"))),
                },
            )
            .await?;
            let filed = "SELECT array_agg(d.error_code ORDER BY d.error_code)
                           FROM outbox.dead_letter AS d
                           JOIN outbox.outbox AS o ON d.outbox_id = o.id::text
                          WHERE d.state = 'published-not-marked' AND d.payload IS NULL
                            AND d.system_id =
                                (SELECT system_identifier::text FROM pg_control_system())";
            wait_for("both to be filed", LIMIT, async || {
                let codes = admin.value::<Option<Vec<String>>>(filed).await?;
                Ok((codes.as_deref() == Some(&states.map(str::to_owned)[..])).then_some(()))
            })
            .await?;
            let end: String = admin.value("SELECT pg_current_wal_lsn()::text").await?;
            let passed = format!(
                "SELECT confirmed_flush_lsn >= '{end}'::pg_lsn \
                 FROM pg_replication_slots WHERE slot_name = '{}'",
                fixture.slot()
            );
            wait_for("the slot to pass them", LIMIT, async || {
                Ok(admin.value::<bool>(&passed).await?.then_some(()))
            })
            .await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0);
            // A new slot starts from the table, and leaves these rows out.
            admin
                .execute("SELECT pg_drop_replication_slot($1)", &[&fixture.slot()])
                .await?;
            outboxd.respawn()?;
            outboxd.wait_for_phase("streaming", LIMIT).await?;
            assert_eq!(outboxd.stop(LIMIT).await?, 0);
            let consumed = fixture.kafka.consume_all(&[&fixture.topic]).await?;
            assert_eq!(consumed.len(), 100, "{mode} on {major}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_row_waits_while_the_others_are_marked() -> Result<()> {
    let fixture = Fixture::create(shared(postgres::turn(15)), kafka::shared()).await?;
    let mut outboxd = Outboxd::spawn(&fixture.settings)?;
    outboxd.wait_for_phase("streaming", LIMIT).await?;
    let admin = fixture.database.connect().await?;
    let mut locker = fixture.database.connect().await?;
    let insert = "INSERT INTO outbox.outbox (event_type, topic, event_payload) \
                  SELECT 'k', $1, '{}' FROM generate_series(1, 100) AS i";
    // Suspended until another session has locked a row.
    outboxd.freeze()?;
    admin.execute(insert, &[&fixture.topic]).await?;
    let lock = locker.transaction().await?;
    let locked: i64 = lock
        .query_one(
            // With the LIMIT outside, FOR UPDATE would lock the skipped rows as well.
            "SELECT id FROM outbox.outbox \
              WHERE id = (SELECT id FROM outbox.outbox ORDER BY id OFFSET 40 LIMIT 1) \
                FOR UPDATE",
            &[],
        )
        .await?
        .try_get(0)?;
    outboxd.thaw()?;
    let left = "SELECT array_agg(id) FROM outbox.outbox WHERE published_at IS NULL";
    wait_until("all others to be marked", LIMIT, async || {
        let left = admin.value::<Option<Vec<i64>>>(left).await?;
        let others_are = left == Some(vec![locked]);
        Ok(others_are
            .then_some(())
            .ok_or_else(|| format!("{left:?} are left, {locked} is locked: {}", outboxd.log())))
    })
    .await?;
    lock.rollback().await?;
    fixture.all_marked(LIMIT).await?;
    assert_eq!(
        admin
            .value::<i64>("SELECT count(*) FROM outbox.dead_letter")
            .await?,
        0
    );
    assert_eq!(outboxd.stop(LIMIT).await?, 0);
    Ok(())
}
