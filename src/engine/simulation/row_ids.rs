//! The ids of the rows in a schedule: numbers, short texts or long ones. A text ends with the row's
//! number, so that both have the same order.

use crate::outbox::RowId;

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowIds {
    Numbers,
    Texts,
    /// Longer than a uuid.
    LongTexts,
}

/// The digits at the end of a text.
const DIGITS: usize = 12;

impl RowIds {
    /// Those of a schedule. Its other choices do not depend on them.
    pub(crate) fn of(seed: u64) -> Self {
        match seed % 4 {
            1 => RowIds::Texts,
            3 => RowIds::LongTexts,
            _ => RowIds::Numbers,
        }
    }

    /// The id of the row of this number.
    pub(crate) fn id(self, number: i64) -> RowId {
        match self {
            RowIds::Numbers => RowId::Number(number),
            RowIds::Texts => RowId::from(format!("row {number:0DIGITS$}").as_str()),
            RowIds::LongTexts => {
                let text = format!("a row of the table of orders, by name: {number:0DIGITS$}");
                RowId::from(text.as_str())
            }
        }
    }

    /// What a schedule with these ids has seen.
    pub(crate) fn seen(self) -> &'static str {
        match self {
            RowIds::Numbers => "ids that are numbers",
            RowIds::Texts => "ids that are texts",
            RowIds::LongTexts => "ids that are long texts",
        }
    }
}

/// The number of the row with this id.
pub(crate) fn number(id: &RowId) -> i64 {
    id.number().unwrap_or_else(|| {
        let text = id.to_string();
        let digits = text.get(text.len().saturating_sub(DIGITS)..);
        let number = digits.and_then(|digits| digits.parse().ok());
        number.expect("an id of the model")
    })
}
