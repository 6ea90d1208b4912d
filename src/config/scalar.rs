//! Values of the settings file, read as texts: people write both `batch_size = 10` and
//! `batch_size = "10"`.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// A text, an integer or a boolean.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Integer(i64),
    Boolean(bool),
}

impl Scalar {
    fn into_text(self) -> String {
        match self {
            Scalar::Text(text) => text,
            Scalar::Integer(number) => number.to_string(),
            Scalar::Boolean(truth) => truth.to_string(),
        }
    }
}

pub(super) fn scalar<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Scalar::deserialize(from).map(|value| Some(value.into_text()))
}

pub(super) fn scalars<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let table = BTreeMap::<String, Scalar>::deserialize(from)?;
    let texts = table
        .into_iter()
        .map(|(name, value)| (name, value.into_text()));
    Ok(texts.collect())
}

/// One value, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(Scalar),
    More(Vec<Scalar>),
}

/// A table whose values may be lists.
pub(super) fn lists<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let table = BTreeMap::<String, OneOrMore>::deserialize(from)?;
    let lists = table.into_iter().map(|(name, value)| {
        let values = match value {
            OneOrMore::One(value) => vec![value],
            OneOrMore::More(values) => values,
        };
        (name, values.into_iter().map(Scalar::into_text).collect())
    });
    Ok(lists.collect())
}
