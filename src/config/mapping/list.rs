//! A list of the form `name=value,name=value`, as flags and variables have it.

use crate::config::error::InvalidValue;
use crate::config::parse;
use crate::error::shown;

/// The pairs of a list, in its order. A value may have further equals signs, and no commas.
pub(super) fn pairs(text: &str) -> Result<Vec<(&str, &str)>, InvalidValue> {
    let pair = |piece| {
        let (name, value) = str::split_once(piece, '=')?;
        Some((name.trim(), value.trim()))
    };
    let pairs = parse::list(text).map(|piece| {
        pair(piece).ok_or_else(|| {
            InvalidValue::new(
                format!("has {}, which is no pair", shown(piece)),
                "write name=value,name=value; a value with a comma can only stand in the \
                 settings file",
            )
        })
    });
    pairs.collect()
}
