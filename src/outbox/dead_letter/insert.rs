//! How a dead letter is filed: its columns, and the statement that writes a batch of them.
//!
//! A batch is one statement and so one transaction, of limited size. It is repeatable: an entry
//! that is already in the state that the dead letter would give it does not change.
//!
//! A dead letter that the table itself refuses must hold up neither the others nor the slot: the
//! batch is halved down to it, and less of its event is stored until the table accepts it.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use crate::config::{AfterPublish, Config, TableName};
use crate::error::Result;
use crate::outbox::dead_letter::json;
use crate::outbox::dead_letter::row_identity::created_at;
use crate::outbox::row_key::RowKey;
use crate::outbox::select_list::text_of;
use crate::outbox::{NewDeadLetter, OwnedRecord, Rejection, RowName, row_name};
use crate::postgres::{Session, TableShape, is_of_the_row, is_unreadable, row_error, sql_error};

/// The most dead letters of a statement.
const DEAD_LETTERS_MAX: usize = 500;

/// The payload bytes of a statement, plus at most one dead letter.
const BYTES_MAX: usize = 8 << 20;

/// The history of an entry that is filed again: the last fifty are kept.
const APPEND: &str = "CASE WHEN pg_catalog.jsonb_array_length(d.history) >= 50 \
          THEN d.history - 0 ELSE d.history END \
     || pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('at', CURRENT_TIMESTAMP, \
     'error_code', {code}, 'error', {error}, 'attempts', {attempts}))";

/// Files dead letters in their order.
pub(crate) async fn file(
    session: &Session,
    table: &TableName,
    sql: &str,
    system_id: &str,
    dead_letters: &[NewDeadLetter],
) -> Result<()> {
    let mut rest = dead_letters;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(part_length(rest));
        let filings: Vec<Filing<'_>> = part.iter().map(Filing::of).collect();
        write(session, table, sql, system_id, once_each(filings)).await?;
        rest = behind;
    }
    Ok(())
}

/// The state of an event that is in Kafka, but whose row cannot be marked.
pub(crate) const NOT_MARKED: &str = "published-not-marked";

/// Files by reference that Kafka has the events of these rows and the table refuses to mark them.
pub(crate) async fn file_not_marked(
    session: &Session,
    table: &TableName,
    sql: &str,
    system_id: &str,
    rows: &[(RowName, Rejection)],
) -> Result<()> {
    for rows in rows.chunks(DEAD_LETTERS_MAX) {
        let dead_letter = |(row, rejection): &(RowName, Rejection)| NewDeadLetter {
            ticket: 0,
            known: None,
            row: Some(row.clone()),
            record: None,
            rejection: rejection.clone(),
            attempts: 0,
            parks_key: false,
            parked: false,
        };
        let dead_letters: Vec<NewDeadLetter> = rows.iter().map(dead_letter).collect();
        let filings = dead_letters.iter().map(|dead_letter| Filing {
            state: NOT_MARKED,
            ..Filing::of(dead_letter)
        });
        write(session, table, sql, system_id, once_each(filings.collect())).await?;
    }
    Ok(())
}

/// A dead letter as it is stored.
#[derive(Debug)]
struct Filing<'a> {
    known: Option<i64>,
    outbox_id: Option<String>,
    /// The commit position and the index in the transaction, of an event from the stream.
    place: Option<(String, i32)>,
    record: Option<&'a OwnedRecord>,
    /// The same record, if payload and headers are stored too.
    content: Option<&'a OwnedRecord>,
    dead_letter: &'a NewDeadLetter,
    state: &'static str,
}

impl<'a> Filing<'a> {
    fn of(dead_letter: &'a NewDeadLetter) -> Self {
        let record = dead_letter.record.as_deref();
        let row = dead_letter.row.as_ref().map(|row| row.id.to_string());
        let place = record.and_then(OwnedRecord::place);
        let place = place.and_then(|(lsn, index)| Some((lsn.to_string(), index.try_into().ok()?)));
        Filing {
            known: dead_letter.known,
            outbox_id: row.or_else(|| record.and_then(OwnedRecord::id).map(text)),
            place,
            record,
            content: record,
            dead_letter,
            state: if dead_letter.parked { "parked" } else { "dead" },
        }
    }

    fn created_at(&self) -> Option<String> {
        self.record.and_then(OwnedRecord::created_at).map(text)
    }

    fn payload(&self) -> Option<&'a [u8]> {
        self.content.and_then(OwnedRecord::value)
    }

    /// Stores less of the event: first no payload and headers, then only its row or its position in
    /// the WAL. False if nothing less is left.
    fn shrink(&mut self) -> bool {
        self.content.take().is_some() || self.record.take().is_some()
    }
}

/// A statement can change an entry only once: of two filings of the same event, the later one
/// replaces the first.
fn once_each(filings: Vec<Filing<'_>>) -> Vec<Filing<'_>> {
    let mut places = HashMap::new();
    let mut kept: Vec<Filing<'_>> = Vec::with_capacity(filings.len());
    for mut filing in filings {
        // The position in the WAL identifies an event only if no row does.
        let place = filing.place.clone().filter(|_| filing.outbox_id.is_none());
        let name = (
            filing.outbox_id.clone(),
            filing.created_at(),
            filing.dead_letter.row.as_ref().map(|row| row.created),
            place,
            filing.payload().unwrap_or_default(),
        );
        if name.0.is_none() && name.3.is_none() {
            kept.push(filing);
            continue;
        }
        let at = *places.entry(name).or_insert(kept.len());
        match kept.get_mut(at) {
            Some(earlier) => {
                filing.known = filing.known.or(earlier.known);
                *earlier = filing;
            }
            None => kept.push(filing),
        }
    }
    kept
}

/// How many of the dead letters fit into one statement.
fn part_length(dead_letters: &[NewDeadLetter]) -> usize {
    let mut bytes = 0;
    let fit = dead_letters
        .iter()
        .take(DEAD_LETTERS_MAX)
        .take_while(|dead_letter| {
            let fits = bytes < BYTES_MAX;
            let value = dead_letter
                .record
                .as_ref()
                .and_then(|record| record.value());
            bytes += value.map_or(0, <[u8]>::len);
            fits
        });
    fit.count()
}

async fn write(
    session: &Session,
    table: &TableName,
    sql: &str,
    system_id: &str,
    mut filings: Vec<Filing<'_>>,
) -> Result<()> {
    let what = format!("filing dead letters in {table}");
    // The index of the first one that is not filed, and how many are tried at once.
    let (mut first, mut count) = (0, filings.len());
    while first < filings.len() {
        let part = &mut filings[first..first + count];
        // The inner error is the dead letter's, the outer one the server's.
        let statement = async { Ok(insert(session, sql, system_id, part).await) };
        let Err(error) = session.bounded(&what, statement).await? else {
            first += count;
            count = (count * 2).min(filings.len() - first);
            continue;
        };
        if !is_of_the_row(&error) && !is_unreadable(&error) {
            return Err(sql_error(what, error));
        }
        match part {
            [alone] => {
                let why = row_error(&error).logged;
                let row = alone.dead_letter.row.as_ref();
                let row = row.map(|row| tracing::field::display(&row.id));
                tracing::warn!(row, error = %why, "dead letter rejected, storing a reduced copy");
                if !alone.shrink() {
                    return Err(sql_error(what, error));
                }
            }
            _ => count /= 2,
        }
    }
    Ok(())
}

async fn insert(
    session: &Session,
    sql: &str,
    system_id: &str,
    filings: &[Filing<'_>],
) -> Result<u64, tokio_postgres::Error> {
    fn column<'f, T>(filings: &'f [Filing<'f>], of: impl Fn(&'f Filing<'f>) -> T) -> Vec<T> {
        filings.iter().map(of).collect()
    }
    let known = column(filings, |filing| filing.known);
    let outbox_id = column(filings, |filing| filing.outbox_id.as_deref());
    let lsn = column(filings, |f| f.place.as_ref().map(|(lsn, _)| lsn.as_str()));
    let index = column(filings, |f| f.place.as_ref().map(|(_, index)| *index));
    let topic = column(filings, |f| f.record.map(|record| text(record.topic())));
    let event_type = column(filings, |f| f.record?.event_type().map(text));
    let created_at = column(filings, Filing::created_at);
    let key = column(filings, |f| f.record.and_then(OwnedRecord::key));
    let headers = column(filings, |f| f.content.map(json::headers));
    let payload = column(filings, Filing::payload);
    let code = column(filings, |filing| text(&filing.dead_letter.rejection.code));
    let error = column(filings, |f| text(&f.dead_letter.rejection.message));
    let attempts = column(filings, |f| {
        i32::try_from(f.dead_letter.attempts).unwrap_or(i32::MAX)
    });
    let parks_key = column(filings, |filing| filing.dead_letter.parks_key);
    let state = column(filings, |filing| filing.state);
    let row = column(filings, |f| Some(&f.dead_letter.row.as_ref()?.id));
    let created = column(filings, |f| Some(f.dead_letter.row.as_ref()?.created));
    let params: [&(dyn ToSql + Sync); 18] = [
        &system_id,
        &known,
        &outbox_id,
        &lsn,
        &index,
        &topic,
        &event_type,
        &created_at,
        &key,
        &headers,
        &payload,
        &code,
        &error,
        &attempts,
        &parks_key,
        &state,
        &row,
        &created,
    ];
    session.change(sql, &params).await
}

/// Postgres has no text with a zero byte.
pub(crate) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(crate) fn append(code: &str, error: &str, attempts: &str) -> String {
    APPEND
        .replace("{code}", code)
        .replace("{error}", error)
        .replace("{attempts}", attempts)
}

/// Whether this write repeats the last one to the entry.
fn is_repeat(new: &str) -> String {
    format!(
        "d.state = {new}.state AND d.error_code = {new}.error_code AND d.error = {new}.error \
         AND d.attempts = {new}.attempts"
    )
}

/// The entry's history with this write.
fn appended(new: &str) -> String {
    let [code, error, attempts] =
        ["error_code", "error", "attempts"].map(|column| format!("{new}.{column}"));
    append(&code, &error, &attempts)
}

/// The insert of the entries that share a unique index.
fn insert_sql(table: &str, oid: u32, having: &str, conflict: &str, after: &str) -> String {
    format!(
        "INSERT INTO {table} AS d (system_id, outbox_id, commit_lsn, event_index, \
                topic, event_type, event_created_at, key, headers, payload, payload_sha256, \
                error_code, error, attempts, parks_key, state, history, table_oid) \
         SELECT $1, l.outbox_id, l.lsn::pg_lsn, l.event_index, \
                l.topic, l.event_type, l.created_at, l.key, coalesce(l.headers, '[]')::jsonb, \
                l.payload, l.sha256, l.error_code, l.error, l.attempts, l.parks_key, l.state, \
                pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object( \
                'at', CURRENT_TIMESTAMP, 'error_code', l.error_code, 'error', l.error, \
                'attempts', l.attempts)), {oid} \
           FROM fresh AS l WHERE l.outbox_id {having}{after} ORDER BY l.n \
         ON CONFLICT ({conflict}) WHERE outbox_id {having} DO UPDATE SET \
             state = CASE WHEN d.state IN ('retry', 'discard') THEN d.state \
                          ELSE excluded.state END, \
             error_code = excluded.error_code, error = excluded.error, \
             attempts = excluded.attempts, parks_key = excluded.parks_key, \
             updated_at = CURRENT_TIMESTAMP, history = {again} \
         WHERE NOT ({repeat}) \
           AND NOT (excluded.state = 'parked' AND d.state IN ('dead', 'retry', 'discard'))",
        again = appended("excluded"),
        repeat = is_repeat("excluded"),
    )
}

/// The `created_at` of the event of the dead letter `l`. One that is filed by reference has no
/// record to take the time from: if it is not known with the row's name, it is read from the row.
fn event_created_at(config: &Config, shape: &TableShape) -> String {
    let printed = text_of(row_name::created_type(shape), "l.row_created");
    let readable = config.after_publish != AfterPublish::Keep;
    let of_row = created_at(shape, "o").filter(|_| readable);
    let of_row = of_row.map_or_else(String::new, |created_at| {
        format!(
            ", CASE WHEN l.topic IS NULL \
                    THEN (SELECT {created_at} FROM {outbox} AS o \
                           WHERE {is_this} LIMIT 1) END",
            outbox = shape.name.quoted(),
            is_this = RowKey::of(shape).is("o", "l.outbox_row"),
        )
    });
    format!("coalesce(l.event_created_at, {printed}{of_row})")
}

/// One statement for a batch. Entries of rows and entries of WAL positions have a unique index
/// each, and a statement can infer only one of them, so there are two inserts.
pub(crate) fn file_sql(config: &Config, shape: &TableShape) -> String {
    let (table, oid) = (shape.name.dead_letter().quoted(), shape.oid);
    let kind = row_name::created_type(shape);
    let created_at = event_created_at(config, shape);
    let id = RowKey::of(shape).parameter();
    format!(
        "WITH letters AS MATERIALIZED ( \
             SELECT l.*, pg_catalog.sha256(coalesce(l.payload, '')) AS sha256, \
                    {created_at} AS created_at \
               FROM unnest($2::bigint[], $3::text[], $4::text[], $5::integer[], $6::text[], \
                           $7::text[], $8::text[], $9::bytea[], $10::text[], $11::bytea[], \
                           $12::text[], $13::text[], $14::integer[], $15::boolean[], \
                           $16::text[], $17::{id}[], $18::{kind}[]) WITH ORDINALITY \
                    AS l (known, outbox_id, lsn, event_index, topic, event_type, \
                          event_created_at, key, headers, payload, error_code, error, \
                          attempts, parks_key, state, outbox_row, row_created, n)), \
         again AS ( \
             UPDATE {table} AS d SET \
                    topic = CASE WHEN l.topic IS NULL THEN d.topic ELSE l.topic END, \
                    event_type = CASE WHEN l.topic IS NULL THEN d.event_type \
                                      ELSE l.event_type END, \
                    key = CASE WHEN l.topic IS NULL THEN d.key ELSE l.key END, \
                    headers = CASE WHEN l.headers IS NULL THEN d.headers \
                                   ELSE l.headers::jsonb END, \
                    payload = CASE WHEN l.headers IS NULL THEN d.payload ELSE l.payload END, \
                    payload_sha256 = CASE WHEN l.headers IS NULL OR d.outbox_id IS NULL \
                        OR EXISTS (SELECT FROM {table} AS o WHERE o.system_id = d.system_id \
                                      AND o.outbox_id = d.outbox_id \
                                      AND o.payload_sha256 = l.sha256 AND o.id <> d.id) \
                        THEN d.payload_sha256 ELSE l.sha256 END, \
                    state = l.state, error_code = l.error_code, error = l.error, \
                    attempts = l.attempts, parks_key = l.parks_key, \
                    updated_at = CURRENT_TIMESTAMP, history = {again} \
               FROM letters AS l WHERE d.id = l.known AND NOT ({repeat})), \
         fresh AS ( \
             SELECT l.* FROM letters AS l \
              WHERE l.known IS NULL \
                 OR NOT EXISTS (SELECT FROM {table} AS d WHERE d.id = l.known)), \
         of_rows AS ({of_rows}) {of_the_log}",
        again = appended("l"),
        repeat = is_repeat("l"),
        of_rows = insert_sql(
            &table,
            oid,
            "IS NOT NULL",
            "system_id, outbox_id, payload_sha256, \
             (pg_catalog.hashtextextended(coalesce(event_created_at, ''), 0))",
            ""
        ) + " RETURNING 1",
        of_the_log = insert_sql(
            &table,
            oid,
            "IS NULL",
            "system_id, commit_lsn, event_index, payload_sha256",
            // After those of rows, so that ids are always assigned in the same order.
            " AND (SELECT pg_catalog.count(*) FROM of_rows) >= 0",
        ),
    )
}
