//! Makes a filter independent of when it is used: its times become moments, it gets an end, and the
//! server has seen that its ids are ids of the table.

use crate::config::{AfterPublish, Config};
use crate::error::{Code, Error, Result};
use crate::outbox::replay::chosen::{ReplayRows, created};
use crate::outbox::replay::filter::{ReplayFilter, ReplayTime};
use crate::outbox::row_id::IdKind;
use crate::outbox::row_key::{ReadOrder, RowKey};
use crate::outbox::{ReadPosition, RowId};
use crate::postgres::table_shape::TIMESTAMPTZ;
use crate::postgres::{Columns, ServerError, Session, TableShape};

/// The server's time, this many seconds ago, in RFC 3339.
const TIME_AGO: &str = "SELECT pg_catalog.to_char( \
    (CURRENT_TIMESTAMP - pg_catalog.make_interval(secs => $1::float8)) AT TIME ZONE 'UTC', \
    'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// The rows that this filter chooses now. `after_publish` says what happens to published rows.
///
/// # Errors
/// `CONFIG_ERROR` when a text is no id or no time, or the table lacks a column that the filter
/// needs; those of the session.
pub async fn resolve(
    session: &Session,
    config: &Config,
    shape: &TableShape,
    after_publish: AfterPublish,
    mut filter: ReplayFilter,
) -> Result<ReplayRows> {
    let key = RowKey::of(shape);
    let ids = [
        ("--from-id", &filter.from_id),
        ("--to-id", &filter.to_id),
        ("--after", &filter.after),
    ];
    for (flag, id) in ids {
        if let Some(id) = id {
            check_id(session, shape, &key, flag, id).await?;
        }
    }
    let started = time_ago(session, 0.0).await?;
    for (flag, time) in [
        ("--since", &mut filter.since),
        ("--until", &mut filter.until),
    ] {
        match time {
            Some(ReplayTime::Ago(ago)) => {
                let at = time_ago(session, ago.as_secs_f64()).await?;
                *time = Some(ReplayTime::At(at));
            }
            Some(ReplayTime::At(at)) => check_time(session, flag, at).await?,
            None => {}
        }
    }
    end(session, config, shape, &key, &started, &mut filter).await?;
    let after = position(session, shape, &key, filter.after.as_deref()).await?;
    ReplayRows::new(filter, started, after, after_publish, shape)
}

async fn time_ago(session: &Session, seconds: f64) -> Result<String> {
    let what = "reading the server's time";
    let row = session.row(what, TIME_AGO, &[&seconds]).await?;
    row.column(0)
}

/// Whether the server takes an RFC 3339 text for a time.
async fn check_time(session: &Session, flag: &str, at: &str) -> Result<()> {
    let sql = "SELECT $1::text::timestamptz IS NULL";
    match session.row("reading a time", sql, &[&at]).await {
        Ok(_) => Ok(()),
        Err(error) if ServerError::of(&error).is_some() => {
            let message = format!("{flag} {at} is no time");
            let error = Error::fatal(Code::Config, message).with_source(error);
            Err(error.with_hint("write a time such as 2026-01-31T12:00:00Z"))
        }
        Err(error) => Err(error),
    }
}

/// Whether a text is an id of the table.
async fn check_id(
    session: &Session,
    shape: &TableShape,
    key: &RowKey,
    flag: &str,
    id: &str,
) -> Result<()> {
    let no_id = || {
        let message = format!("{flag} {id} is no id of {}", shape.name);
        let hint = match key.names() {
            names if names.contains(',') => {
                format!("write the texts of {names} as a JSON array, such as [\"a\", \"1\"]")
            }
            name => format!("write a value of {name}"),
        };
        Error::fatal(Code::Config, message).with_hint(hint)
    };
    let parsed: RowId = key.kind().id_of(id).ok_or_else(no_id)?;
    let lacks = key.lacks(&key.literal(&parsed));
    let sql = format!("SELECT ({lacks})::bigint");
    match session.row("reading an id", &sql, &[]).await {
        Ok(row) if row.column::<i64>(0)? == 0 => Ok(()),
        Ok(_) => Err(no_id()),
        Err(error) if ServerError::of(&error).is_some() => Err(no_id().with_source(error)),
        Err(error) => Err(error),
    }
}

/// Gives the filter an end; see the module's head.
async fn end(
    session: &Session,
    config: &Config,
    shape: &TableShape,
    key: &RowKey,
    started: &str,
    filter: &mut ReplayFilter,
) -> Result<()> {
    if key.kind() == IdKind::Number {
        if filter.to_id.is_none() {
            let sql = format!(
                "SELECT {id} FROM {table} AS o ORDER BY {backwards} LIMIT 1",
                id = key.value("o"),
                table = config.table.quoted(),
                backwards = key.list_descending("o"),
            );
            let what = format!("reading the highest id of {}", config.table);
            let row = session.row_if_any(&what, &sql, &[]).await?;
            let highest: Option<i64> = row.map(|row| row.column(0)).transpose()?;
            filter.to_id = highest.map(|id| id.to_string());
        }
        return Ok(());
    }
    // A time without a zone may be ahead of the server's by the writers' zone.
    let is_safe = |created: &&crate::postgres::table_shape::Column| {
        created.not_null && created.base_type == TIMESTAMPTZ
    };
    if filter.until.is_none() && created(shape).ok().filter(is_safe).is_some() {
        filter.until = Some(ReplayTime::At(started.to_owned()));
    }
    Ok(())
}

/// The place behind the row with this id, a text that [`RowId`] has printed.
///
/// # Errors
/// The row itself has to tell its place, and is gone; those of the session.
pub(crate) async fn position_of(
    session: &Session,
    shape: &TableShape,
    id: &str,
) -> Result<Option<ReadPosition>> {
    position(session, shape, &RowKey::of(shape), Some(id)).await
}

/// The place of the row `after` in the order of reading.
async fn position(
    session: &Session,
    shape: &TableShape,
    key: &RowKey,
    after: Option<&str>,
) -> Result<Option<ReadPosition>> {
    let Some(id) = after.and_then(|id| key.kind().id_of(id)) else {
        return Ok(None);
    };
    let order = ReadOrder::of(shape);
    let Some(column) = order.column_name() else {
        return Ok(Some(ReadPosition { id, order: None }));
    };
    let sql = format!(
        "SELECT {text} FROM {table} AS o WHERE {is_this} LIMIT 1",
        text = order.text("o"),
        table = shape.name.quoted(),
        is_this = key.is("o", &key.literal(&id)),
    );
    let what = format!("reading row {id} of {}", shape.name);
    let row = session.row_if_any(&what, &sql, &[]).await?;
    let row = row.ok_or_else(|| {
        let message = format!("row {id}, to begin behind, is not in {}", shape.name);
        let hint = format!(
            "rows are read in the order of {column}, which only the row itself tells: \
             name a row that is there, or use --since"
        );
        Error::fatal(Code::Config, message).with_hint(hint)
    })?;
    let text: Option<String> = row.column(0)?;
    let order = text.map(String::into_boxed_str);
    Ok(Some(ReadPosition { id, order }))
}
