//! The rows of one replay, and the SQL that chooses them.

use postgres_protocol::escape::escape_literal;

use crate::config::{AfterPublish, Config};
use crate::error::{Code, Error, Result};
use crate::outbox::marking::Marking;
use crate::outbox::replay::filter::{ReplayFilter, ReplayTime};
use crate::outbox::row_key::RowKey;
use crate::outbox::{ReadPosition, RowId, UnpublishedRows, row_filter, sample};
use crate::postgres::TableShape;
use crate::postgres::table_shape::{Column, TIMESTAMP, TIMESTAMPTZ};

/// The rows of one replay.
#[derive(Debug, Clone)]
pub struct ReplayRows {
    /// The filter, with times and an end that no longer depend on when it is used.
    pub filter: ReplayFilter,
    /// When the replay began by the server's clock, in RFC 3339.
    pub started: String,
    pub(crate) after: Option<ReadPosition>,
    candidates: String,
}

impl ReplayRows {
    /// The rows that a filter chooses, whose times are moments.
    pub(super) fn new(
        filter: ReplayFilter,
        started: String,
        after: Option<ReadPosition>,
        after_publish: AfterPublish,
        shape: &TableShape,
    ) -> Result<Self> {
        Ok(ReplayRows {
            candidates: candidates(&filter, after_publish, shape)?,
            filter,
            started,
            after,
        })
    }

    /// The statements that read them.
    ///
    /// # Errors
    /// `CONFIG_ERROR` when a required column is missing.
    pub(crate) fn reader(&self, config: &Config, shape: &TableShape) -> Result<UnpublishedRows> {
        let reading = format!("reading published rows of {}", config.table);
        UnpublishedRows::of(config, shape, reading, &self.candidates)
    }
}

/// The condition for the rows `o`, beside what holds for every row that is read.
fn candidates(
    filter: &ReplayFilter,
    after_publish: AfterPublish,
    shape: &TableShape,
) -> Result<String> {
    let marking = Marking::new(after_publish, shape);
    let published = match after_publish {
        AfterPublish::Keep => "true".to_owned(),
        _ => marking
            .is_published("o")
            .ok_or_else(|| nothing_kept(shape))?,
    };
    let mut all = vec![published, marking.is_ours().to_owned()];
    let key = RowKey::of(shape);
    for (operator, id) in [(">=", &filter.from_id), ("<=", &filter.to_id)] {
        let id = id.as_deref().and_then(|id| key.kind().id_of(id));
        all.extend(id.map(|id: RowId| key.compares("o", operator, &key.literal(&id))));
    }
    for (operator, time) in [(">=", &filter.since), ("<", &filter.until)] {
        if let Some(ReplayTime::At(time)) = time {
            all.push(created_compares(created(shape)?, operator, time));
        }
    }
    if !filter.topics.is_empty() {
        all.push(is_one_of(&sample::topic(shape), &filter.topics));
    }
    if !filter.types.is_empty() {
        let name = shape.mapping.columns.event_type.as_deref();
        let column = name.and_then(|name| shape.column(name));
        let column = column.ok_or_else(|| {
            missing(shape, "--only-type", "the type of an event")
                .with_hint("name it: OUTBOX_COLUMNS=event_type=COLUMN, or use --only-where")
        })?;
        let type_of = format!("o.{}::text", column.quoted());
        all.push(is_one_of(&type_of, &filter.types));
    }
    for condition in &filter.conditions.conditions {
        if shape.column(&condition.column).is_none() {
            let message = format!("table {} has no column {}", shape.name, condition.column);
            return Err(Error::fatal(Code::Config, message)
                .with_hint("name a column of the table in --only-where"));
        }
    }
    all.extend(row_filter::of(&filter.conditions, shape, "o"));
    Ok(all.join(" AND "))
}

/// The column of the time of creation.
pub(super) fn created(shape: &TableShape) -> Result<&Column> {
    let column = shape.created().filter(|column| column.is_time());
    column.ok_or_else(|| {
        missing(shape, "--since and --until", "the time of creation")
            .with_hint("name it: OUTBOX_COLUMNS=created=COLUMN, or choose rows by their ids")
    })
}

fn missing(shape: &TableShape, flag: &str, what: &str) -> Error {
    let message = format!("table {} has no column for {flag}: {what}", shape.name);
    Error::fatal(Code::Config, message)
}

/// With `delete` and without a mark, each row that is there is unpublished.
fn nothing_kept(shape: &TableShape) -> Error {
    let message = format!(
        "published rows of {} are deleted, so none is left to replay",
        shape.name
    );
    Error::fatal(Code::Config, message)
        .with_hint("with OUTBOX_AFTER_PUBLISH=mark or keep, published rows stay in the table")
}

/// A condition: the row `o` was created before or since this time. A time without a zone has the
/// zone that the column's default names, or else the session's.
fn created_compares(created: &Column, operator: &str, at: &str) -> String {
    let name = format!("o.{}", created.quoted());
    let at = format!("{}::timestamptz", escape_literal(at));
    match (created.base_type.as_str(), created.zone.as_deref()) {
        (TIMESTAMPTZ, _) => format!("{name} {operator} {at}"),
        (TIMESTAMP, Some(zone)) => {
            let zone = escape_literal(zone);
            format!("{name} {operator} pg_catalog.timezone({zone}, {at})")
        }
        (TIMESTAMP, None) => format!("{name} {operator} {at}::timestamp"),
        _ => format!("{name}::timestamptz {operator} {at}"),
    }
}

fn is_one_of(expression: &str, texts: &[String]) -> String {
    let texts = texts.iter().map(|text| escape_literal(text));
    let texts = texts.collect::<Vec<_>>().join(", ");
    format!("coalesce({expression} IN ({texts}), false)")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [(&str, &str); 5] = [
        ("id", "bigint"),
        ("topic", "text"),
        ("event_type", "text"),
        ("created_at", TIMESTAMP),
        ("published_at", TIMESTAMP),
    ];

    fn sql(filter: &ReplayFilter, columns: &[(&str, &str)]) -> Result<String> {
        candidates(
            filter,
            AfterPublish::Mark,
            &TableShape::of_columns(7, columns),
        )
    }

    #[test]
    fn each_condition_is_the_servers_and_texts_are_quoted() {
        let text = |text: &str| Some(text.to_owned());
        let filter = ReplayFilter {
            from_id: text("5"),
            to_id: text("-9"),
            until: Some(ReplayTime::At("2026-01-31T12:00:00Z".to_owned())),
            topics: vec!["it's".to_owned()],
            types: vec!["a".to_owned(), "b".to_owned()],
            ..ReplayFilter::default()
        };
        let sql = sql(&filter, &COLUMNS).expect("the columns are there");
        for part in [
            "o.published_at IS NOT NULL AND ",
            "o.id >= (5)::bigint",
            "o.id <= (-9)::bigint",
            "o.created_at < '2026-01-31T12:00:00Z'::timestamptz::timestamp",
            "coalesce(o.topic::text IN ('it''s'), false)",
            "coalesce(o.event_type::text IN ('a', 'b'), false)",
        ] {
            assert!(sql.contains(part), "{part}: {sql}");
        }
    }

    #[test]
    fn a_filter_without_its_column_and_rows_that_are_deleted_are_refused() {
        let bare = [("id", "bigint"), ("published_at", TIMESTAMP)];
        let since = ReplayFilter {
            since: Some(ReplayTime::At("2026-01-31T12:00:00Z".to_owned())),
            ..ReplayFilter::default()
        };
        let types = ReplayFilter {
            types: vec!["a".to_owned()],
            ..ReplayFilter::default()
        };
        for filter in [since, types] {
            let error = sql(&filter, &bare).expect_err("the column is missing");
            assert_eq!(error.code(), Code::Config);
        }
        let shape = TableShape::of_columns(7, &[("id", "bigint")]);
        let all = ReplayFilter::default();
        let kept = candidates(&all, AfterPublish::Keep, &shape).expect("rows are kept");
        assert!(kept.starts_with("true AND "), "{kept}");
        let error = candidates(&all, AfterPublish::Delete, &shape).expect_err("none is left");
        assert!(error.to_string().contains("are deleted"), "{error}");
    }
}
