//! Reads single values out of a JSON text without building a tree of it.
//!
//! A payload may have ten megabytes, and a tree of it ten times as many. Nothing is copied here:
//! members and elements are skipped in place, and the result is the text as it was written, so that
//! a number keeps all its digits.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

type Result<T> = std::result::Result<T, serde_json::Error>;

/// What a JSON pointer (RFC 6901), taken apart into `steps`, finds in `json`.
pub(crate) fn find<'j>(json: &'j [u8], steps: &[String]) -> Result<Option<&'j RawValue>> {
    let mut value: &RawValue = serde_json::from_slice(json)?;
    for step in steps {
        let child = match value.get().as_bytes().first() {
            Some(b'{') => {
                let mut found = None;
                members(value.get(), |name, member| {
                    if name == step {
                        found = Some(member);
                    }
                })?;
                found
            }
            Some(b'[') => element(value.get(), step)?,
            _ => None,
        };
        match child {
            Some(child) => value = child,
            None => return Ok(None),
        }
    }
    Ok(Some(value))
}

/// The steps of a JSON pointer, which begins with `/`.
pub(crate) fn steps(pointer: &str) -> Vec<String> {
    let unescaped = |step: &str| step.replace("~1", "/").replace("~0", "~");
    pointer.split('/').skip(1).map(unescaped).collect()
}

/// Calls `visit` with each member of the object `json`, in order.
pub(crate) fn members<'j>(json: &'j str, visit: impl FnMut(&str, &'j RawValue)) -> Result<()> {
    serde_json::Deserializer::from_str(json).deserialize_map(Members(visit))
}

/// Appends a scalar to `text`: a string's own text, anything else as JSON.
pub(crate) fn append(value: &RawValue, text: &mut String) -> Result<()> {
    if value.get().starts_with('"') {
        text.push_str(&serde_json::from_str::<Text<'_>>(value.get())?.0);
    } else {
        text.push_str(value.get());
    }
    Ok(())
}

/// A string that is copied only where it has escapes.
#[derive(Deserialize)]
struct Text<'j>(#[serde(borrow)] Cow<'j, str>);

struct Members<F>(F);

impl<'j, F: FnMut(&str, &'j RawValue)> Visitor<'j> for Members<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'j>>(mut self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some((name, value)) = map.next_entry::<Text<'j>, &'j RawValue>()? {
            (self.0)(&name.0, value);
        }
        Ok(())
    }
}

fn element<'j>(array: &'j str, step: &str) -> Result<Option<&'j RawValue>> {
    // RFC 6901 allows neither signs nor leading zeros.
    let plain = step.bytes().all(|byte| byte.is_ascii_digit());
    match step.parse() {
        Ok(index) if plain && (step == "0" || !step.starts_with('0')) => {
            serde_json::Deserializer::from_str(array).deserialize_seq(Element(index))
        }
        _ => Ok(None),
    }
}

struct Element(usize);

impl<'j> Visitor<'j> for Element {
    type Value = Option<&'j RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'j>>(self, mut seq: A) -> std::result::Result<Self::Value, A::Error> {
        for _ in 0..self.0 {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = seq.next_element()?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn found(json: &str, pointer: &str) -> Option<String> {
        let value = find(json.as_bytes(), &steps(pointer)).unwrap();
        value.map(|value| value.get().to_owned())
    }

    #[test]
    fn pointers_find_what_rfc_6901_says() {
        let json =
            r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, "~1": 9, " ": 7, "k\"l": 6}"#;
        for (pointer, value) in [
            ("/foo", Some(r#"["bar", "baz"]"#)),
            ("/foo/0", Some(r#""bar""#)),
            ("/foo/1", Some(r#""baz""#)),
            ("/foo/2", None),
            ("/foo/00", None),
            ("/foo/+1", None),
            ("/foo/-", None),
            ("/foo/0/x", None),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/m~0n", Some("8")),
            ("/~01", Some("9")),
            ("/ ", Some("7")),
            ("/k\"l", Some("6")),
            ("/nothing", None),
        ] {
            assert_eq!(found(json, pointer).as_deref(), value, "{pointer}");
        }
    }

    #[test]
    fn a_number_keeps_all_its_digits() {
        let json = r#"{"id": 12345678901234567890123.4500}"#;
        assert_eq!(
            found(json, "/id").as_deref(),
            Some("12345678901234567890123.4500")
        );
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let json = format!(r#"{{"a": {deep}, "b": 2}}"#);
        assert_eq!(found(&json, "/b").as_deref(), Some("2"));
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for json in ["", "{", "{\"a\": 1} x", "\u{1}", "nul"] {
            assert!(find(json.as_bytes(), &steps("/a")).is_err(), "{json}");
        }
        assert!(find(b"{\"a\": \"\xff\"}", &steps("/a")).is_err());
    }

    proptest! {
        #[test]
        fn a_pointer_finds_what_serde_json_finds(
            json in "[\\[\\]{}\",:0-9a-c ]{0,40}",
            pointer in "(/[0-9a-c]{0,2}){1,3}",
        ) {
            let ours = find(json.as_bytes(), &steps(&pointer));
            match serde_json::from_str::<serde_json::Value>(&json) {
                Ok(tree) => {
                    let ours = ours.unwrap().map(|v| serde_json::from_str(v.get()).unwrap());
                    prop_assert_eq!(ours.as_ref(), tree.pointer(&pointer));
                }
                Err(_) => prop_assert!(ours.is_err()),
            }
        }
    }
}
