//! Judges the outbox table: what acts on its marks, how well it is kept, and what a first start
//! finds in it. Pure.

use postgres_protocol::escape::escape_identifier;

use crate::config::{AfterPublish, Backlog, Config, Source};
use crate::doctor::catalogue::Name;
use crate::doctor::report::Check;
use crate::format::bytes;
use crate::outbox::Survey;
use crate::postgres::TableShape;
use crate::postgres::facts::TableFacts;
use crate::postgres::table_shape::Column;
use crate::postgres::table_shape::row_mark::RowMark;

/// Fewer dead rows than this are no burden.
const DEAD_ROWS: i64 = 50_000;

/// An index of unpublished rows that is larger than this, and than the rows of the table need, is
/// bloated.
const INDEX_BYTES: i64 = 64 << 20;

/// What an index needs for a row, ample.
const INDEX_ROW_BYTES: i64 = 64;

/// Triggers and rules that fire when a row is marked or deleted.
pub(super) fn triggers(facts: &TableFacts, config: &Config) -> Vec<Check> {
    const NAME: Name = Name::Triggers;
    let marks = config.after_publish == AfterPublish::Mark;
    let what = if marks { "mark" } else { "deletion" };
    let mut checks = Vec::new();
    for rule in facts.rules.iter().filter(|rule| rule.on_update == marks) {
        let reason = format!("rule {} of {} rewrites each {what}", rule.name, rule.table);
        let fix = format!(
            "DROP RULE {} ON {}",
            escape_identifier(&rule.name),
            rule.table
        );
        checks.push(match rule.is_instead {
            true => Check::fails(NAME, format!("{reason}, which never happens"), fix),
            false => Check::warning(NAME, reason, fix),
        });
    }
    let fires = |on_update, on_delete| if marks { on_update } else { on_delete };
    let triggers = facts.triggers.iter();
    for trigger in triggers.filter(|it| fires(it.on_update, it.on_delete)) {
        let (name, table) = (&trigger.name, &trigger.table);
        let effect = match trigger.is_before {
            true => "may refuse or change it",
            false => "may refuse it",
        };
        checks.push(Check::warning(
            NAME,
            format!("trigger {name} of {table} fires for each {what}, and {effect}"),
            format!(
                "ALTER TABLE {table} DISABLE TRIGGER {}, or give it a WHEN that leaves out the \
                 {what}s",
                escape_identifier(name)
            ),
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, format!("none fires for a {what}")));
    }
    checks
}

/// The index by which unpublished rows are found.
pub(super) fn index(facts: &TableFacts, shape: &TableShape) -> Check {
    const NAME: Name = Name::Index;
    if shape.is_view {
        return Check::ok(
            NAME,
            "a view has no index; its tables need one of the unpublished rows",
        );
    }
    let Some(mark) = RowMark::of(shape) else {
        return Check::ok(NAME, "without a mark every row is unpublished");
    };
    if let Some(index) = facts.indexes.iter().find(|index| index.is_valid) {
        return Check::ok(NAME, format!("{} finds unpublished rows", index.name));
    }
    if let Some(index) = facts.indexes.first() {
        let fix = format!("REINDEX INDEX CONCURRENTLY {}", index.name);
        return Check::warning(NAME, format!("index {} is not valid", index.name), fix);
    }
    let concurrently = if shape.partitioned {
        ""
    } else {
        "CONCURRENTLY "
    };
    let columns = shape.order_columns().into_iter().map(Column::quoted);
    let columns = columns.collect::<Vec<_>>().join(", ");
    let wanted = format!("({columns}) WHERE {}", mark.unpublished(""));
    Check::warning(
        NAME,
        format!(
            "{} has no index {wanted}, so a read passes over every row that was published",
            shape.name
        ),
        format!(
            "run `outboxd init`, or CREATE INDEX {concurrently}ON {} {wanted}",
            shape.name.quoted()
        ),
    )
}

/// Dead rows and bloated indexes.
pub(super) fn bloat(facts: &TableFacts, shape: &TableShape) -> Check {
    const NAME: Name = Name::Bloat;
    let table = shape.name.quoted();
    let (live, dead) = (facts.live_rows, facts.dead_rows);
    if facts.has_no_autovacuum {
        return Check::warning(
            NAME,
            format!(
                "autovacuum leaves {} out, and each mark leaves a dead row",
                shape.name
            ),
            format!("ALTER TABLE {table} RESET (autovacuum_enabled)"),
        );
    }
    if dead > DEAD_ROWS && dead > live {
        return Check::warning(
            NAME,
            format!(
                "{} has {dead} dead rows beside {live} live ones",
                shape.name
            ),
            format!("VACUUM (ANALYZE) {table}; if they stay, see long-transactions"),
        );
    }
    let needed = live.saturating_add(dead).saturating_mul(INDEX_ROW_BYTES);
    let is_bloated = |bytes: i64| bytes > INDEX_BYTES.max(needed);
    if let Some(index) = facts.indexes.iter().find(|index| is_bloated(index.bytes)) {
        let (name, size) = (&index.name, bytes(index.bytes));
        return Check::warning(
            NAME,
            format!("index {name} has {size} for the unpublished of {live} rows"),
            format!("REINDEX INDEX CONCURRENTLY {name}"),
        );
    }
    Check::ok(NAME, format!("{dead} dead rows beside {live} live ones"))
}

/// The size of a table of which old rows are deleted.
pub(super) fn retention(facts: &TableFacts, config: &Config) -> Option<Check> {
    let days = config.retain?.as_secs_f64() / 86_400.0;
    let size = bytes(facts.bytes);
    let reason = format!(
        "rows are deleted {days:.1} days after they were published; {} has {size} with its \
         indexes, and {} rows",
        config.table, facts.live_rows
    );
    Some(Check::ok(Name::Retention, reason))
}

/// What a first start does with the unpublished rows.
pub(super) fn backlog(survey: &Survey, config: &Config, has_slot: bool) -> Check {
    const NAME: Name = Name::Backlog;
    let is_first = config.source == Source::Slot && !has_slot;
    match config.backlog {
        Backlog::Auto if is_first && survey.is_many_and_never_marked() => Check::fails(
            NAME,
            format!(
                "{} has {survey}: they may have been published already",
                config.table
            ),
            "set OUTBOX_BACKLOG=publish to publish them, or OUTBOX_BACKLOG=skip to leave them out",
        ),
        Backlog::Halt if is_first && !survey.is_empty() => Check::fails(
            NAME,
            format!("{} has {survey}, and OUTBOX_BACKLOG is halt", config.table),
            "set OUTBOX_BACKLOG=publish to publish them, or OUTBOX_BACKLOG=skip to leave them out",
        ),
        _ => Check::ok(NAME, format!("{} has {survey}", config.table)),
    }
}

#[cfg(test)]
#[path = "tests/table.rs"]
mod tests;
