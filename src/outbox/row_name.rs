//! What names a row of the outbox: its id, and the time of its creation where the table has one.
//!
//! An id does not name a row for ever: ids begin again after `TRUNCATE … RESTART IDENTITY`, after a
//! sequence was set back, and by hand. A queued mark that went by the id alone would mark a new row
//! whose event was not sent. The transaction that inserted a row names it no better: a
//! subtransaction leaves its own number in the row, and any update replaces it.
//!
//! A time is compared only where both sides know it. Without one, the id decides alone.

use std::collections::HashMap;
use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::outbox::row_id::RowId;
use crate::outbox::row_key::RowKey;
use crate::postgres::TableShape;
use crate::postgres::table_shape::{TIMESTAMP, TIMESTAMPTZ};

/// The time in `created_at`, as Postgres stores a `timestamp`: microseconds since 2000. A
/// `timestamp with time zone` is in UTC. The infinities are the ends of the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CreatedAt(i64);

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// From 2000 to 1970.
const TO_1970: i64 = 10_957 * DAY;

impl CreatedAt {
    /// The table has no such column, or its value is no time with microseconds. No timestamp has
    /// this value.
    pub const UNKNOWN: CreatedAt = CreatedAt(i64::MIN + 1);

    /// In a list of times that are compared with others: equal to any of them. It is `-infinity`.
    pub const ANY: CreatedAt = CreatedAt(i64::MIN);

    /// Microseconds since 1970; `None` if the time is not known, or infinite.
    pub(crate) fn unix_micros(self) -> Option<i64> {
        let is_moment = ![CreatedAt::UNKNOWN, CreatedAt::ANY].contains(&self);
        let is_moment = is_moment && self.0 != i64::MAX;
        is_moment.then(|| self.0.saturating_add(TO_1970))
    }

    /// The time, or [`ANY`](CreatedAt::ANY) where it is not known.
    pub(super) fn or_any(self) -> CreatedAt {
        match self {
            CreatedAt::UNKNOWN => CreatedAt::ANY,
            known => known,
        }
    }

    /// A time as Postgres prints it with `DateStyle` ISO and `TimeZone` UTC; unknown if the text is
    /// anything else, or a time before the year 1.
    pub fn of_text(text: &str) -> CreatedAt {
        match text {
            "infinity" => CreatedAt(i64::MAX),
            "-infinity" => CreatedAt::ANY,
            _ => micros(text).map_or(CreatedAt::UNKNOWN, CreatedAt),
        }
    }

    /// The time as a number, for a record; `None` if it is not known.
    pub(crate) fn to_raw(self) -> Option<i64> {
        (self != CreatedAt::UNKNOWN).then_some(self.0)
    }

    /// The reverse.
    pub(crate) fn of_raw(raw: Option<i64>) -> CreatedAt {
        raw.map_or(CreatedAt::UNKNOWN, CreatedAt)
    }

    /// Whether both may be the time of one row.
    fn may_be(self, other: CreatedAt) -> bool {
        self == other || self == CreatedAt::UNKNOWN || other == CreatedAt::UNKNOWN
    }
}

/// The microseconds since 2000 of `2026-01-31 23:59:59.123456`, with or without `+00`.
pub(super) fn micros(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix("+00").unwrap_or(text).split_once(' ')?;
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(number);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let places = u32::try_from(fraction.len()).ok()?;
    let fraction =
        number(fraction)?.checked_mul(10_i64.checked_pow(6_u32.checked_sub(places)?)?)?;
    let of_day = ((hour * 60 + minute) * 60 + second) * SECOND + fraction;
    days(year, month, day).checked_mul(DAY)?.checked_add(of_day)
}

/// Digits alone, and few enough for a year of Postgres.
fn number(text: &str) -> Option<i64> {
    let is_number = (1..=6).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// The days since 2000 of a date in the Gregorian calendar.
/// <https://howardhinnant.github.io/date_algorithms.html#days_from_civil>
fn days(year: i64, month: i64, day: i64) -> i64 {
    // A year begins in March, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let to_2000 = 730_425;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - to_2000
}

impl ToSql for CreatedAt {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        if *self == CreatedAt::UNKNOWN {
            return Ok(IsNull::Yes);
        }
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(kind: &Type) -> bool {
        is_timestamp(kind)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for CreatedAt {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(CreatedAt(i64::from_be_bytes(raw.try_into()?)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(CreatedAt::UNKNOWN)
    }

    fn accepts(kind: &Type) -> bool {
        is_timestamp(kind)
    }
}

fn is_timestamp(kind: &Type) -> bool {
    [Type::TIMESTAMP, Type::TIMESTAMPTZ].contains(kind)
}

/// See the module's head.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowName {
    /// The row's id.
    pub id: RowId,
    /// See [`CreatedAt`].
    pub created: CreatedAt,
}

impl RowName {
    /// A row of which only the id is known.
    pub fn of_id(id: impl Into<RowId>) -> RowName {
        let created = CreatedAt::UNKNOWN;
        RowName {
            id: id.into(),
            created,
        }
    }
}

/// Whether the time of creation tells the rows of this table apart: it has microseconds, and
/// outboxd's role may read it.
pub(super) fn has_created(shape: &TableShape) -> bool {
    let column = shape.created();
    column.is_some_and(|it| it.can_select && it.is_timestamp())
}

/// The type of [`CreatedAt`] in statements about this table.
pub(super) fn created_type(shape: &TableShape) -> &'static str {
    match shape.created() {
        Some(column) if column.base_type == TIMESTAMPTZ => TIMESTAMPTZ,
        _ => TIMESTAMP,
    }
}

/// An expression of that type for the row `alias`; null if the table does not tell.
pub(super) fn created(shape: &TableShape, alias: &str) -> String {
    let kind = created_type(shape);
    match shape.created().filter(|_| has_created(shape)) {
        Some(column) => format!("{alias}.{}::{kind}", column.quoted()),
        None => format!("NULL::{kind}"),
    }
}

/// The columns that name the row `alias`, for a select.
pub(super) fn columns(shape: &TableShape, alias: &str) -> String {
    let id = RowKey::of(shape).value(alias);
    format!("{id}, {}", created(shape, alias))
}

/// The name of a row whose [`columns`] begin at this place.
pub(super) fn of_row(row: &Row, at: usize) -> Result<RowName, tokio_postgres::Error> {
    Ok(RowName {
        id: row.try_get(at)?,
        created: row.try_get(at + 1)?,
    })
}

/// A set of rows. Of two rows with one id it holds the later one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RowSet {
    rows: HashMap<RowId, CreatedAt>,
}

impl RowSet {
    pub(crate) fn insert(&mut self, row: RowName) {
        self.rows.insert(row.id, row.created);
    }

    /// Whether the row is in the set, as far as its name tells.
    pub(crate) fn contains(&self, row: &RowName) -> bool {
        let created = self.rows.get(&row.id);
        created.is_some_and(|created| created.may_be(row.created))
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
    }

    /// Drops the rows whose ids are not in another set.
    pub(crate) fn keep(&mut self, left: &RowSet) {
        self.rows.retain(|id, _| left.rows.contains_key(id));
    }

    /// Moves all rows of another set into this one.
    pub(crate) fn take(&mut self, other: &mut RowSet) {
        self.rows.extend(other.rows.drain());
    }
}

impl FromIterator<RowName> for RowSet {
    fn from_iter<T: IntoIterator<Item = RowName>>(rows: T) -> Self {
        let rows = rows.into_iter().map(|row| (row.id, row.created));
        RowSet {
            rows: rows.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair as `SELECT extract(epoch FROM t) * 1000000 - 946684800000000` gives it.
    #[test]
    fn a_printed_time_is_the_stored_one() {
        for (text, stored) in [
            ("2000-01-01 00:00:00", 0),
            ("2000-01-01 00:00:00.000001+00", 1),
            ("1999-12-31 23:59:59.9", -100_000),
            ("2024-02-29 12:34:56.789", 762_525_296_789_000),
            ("2026-11-29 19:53:33.5+00", 849_297_213_500_000),
            ("0001-01-01 00:00:00", -63_082_281_600_000_000),
            ("12345-03-01 00:00:00", 326_461_795_200_000_000),
            ("infinity", i64::MAX),
            ("-infinity", i64::MIN),
        ] {
            assert_eq!(CreatedAt::of_text(text), CreatedAt(stored), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_in_utc_is_unknown() {
        for text in [
            "",
            "2026-11-29",
            "19:53:33",
            "2026-11-29 19:53:33+01",
            "2026-11-29 19:53:33 BC",
            "0044-03-15 00:00:00 BC",
            "2026-11-29T19:53:33",
            "2026-11-29 19:53:33.1234567",
            "2026-11-29 19:53",
            "-2026-11-29 19:53:33",
            "1732910013",
            "1234567-11-29 19:53:33",
            "a-b-c d:e:f",
        ] {
            assert_eq!(CreatedAt::of_text(text), CreatedAt::UNKNOWN, "{text}");
        }
    }

    #[test]
    fn rows_with_one_id_are_distinguished_by_their_times_where_both_are_known() {
        let row = |id: i64, created| RowName {
            id: id.into(),
            created: CreatedAt(created),
        };
        let mut rows: RowSet = [row(1, 10), RowName::of_id(2)].into_iter().collect();
        assert!(rows.contains(&row(1, 10)) && rows.contains(&RowName::of_id(1)));
        assert!(!rows.contains(&row(1, 11)), "another row with the id");
        assert!(rows.contains(&row(2, 11)) && !rows.contains(&row(3, 10)));
        rows.insert(row(1, 11));
        assert!(rows.contains(&row(1, 11)) && !rows.contains(&row(1, 10)));
        rows.keep(&[RowName::of_id(2)].into_iter().collect());
        assert_eq!(rows.len(), 1);
        assert!(rows.contains(&RowName::of_id(2)));
    }
}
