//! How bytes that are nearly always text are written in JSON: as text if they are, and otherwise as
//! `{"hex": "…"}`, which cannot be confused with text. Reading returns the same bytes.

use serde_json::{Value, json};

use crate::outbox::OwnedRecord;

/// These bytes as JSON, readable if they are text.
pub(crate) fn readable(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        // Postgres allows no zero byte in JSON text.
        Ok(text) if !text.contains('\0') => Value::from(text),
        _ => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

/// The bytes that [`readable`] was given.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    if let Some(text) = value.as_str() {
        return Some(text.as_bytes().to_vec());
    }
    let (pairs, odd) = value.get("hex")?.as_str()?.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pair = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    odd.is_empty().then(|| pairs.iter().map(pair).collect())?
}

/// A record's headers as an array of `[name, value]`. A value may be null.
pub(crate) fn headers(record: &OwnedRecord) -> String {
    let headers = record.headers();
    let pairs = headers.map(|(name, value)| {
        let value = value.map_or(Value::Null, readable);
        json!([readable(name.as_bytes()), value])
    });
    Value::from_iter(pairs).to_string()
}

/// The headers of such an array, in order; `None` if it was edited into something else.
pub(crate) fn headers_of(array: &str) -> Option<Vec<(String, Option<Vec<u8>>)>> {
    let array: Value = serde_json::from_str(array).ok()?;
    let header = |pair: &Value| {
        let name = String::from_utf8(bytes(pair.get(0)?)?).ok()?;
        match pair.get(1)? {
            Value::Null => Some((name, None)),
            value => Some((name, Some(bytes(value)?))),
        }
    };
    array.as_array()?.iter().map(header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_byte_for_byte_and_in_order() {
        let given: [(&str, Option<&[u8]>); 7] = [
            ("b", Some(b"2")),
            ("a", Some(b"1")),
            ("a", Some(b"")),
            ("z\0", Some("ö\0".as_bytes())),
            ("raw", Some(&[0xff, 0x00])),
            ("looks like it", Some(br#"{"hex": "00"}"#)),
            ("null", None),
        ];
        let record = OwnedRecord::with_nulls("t", None, None, given.into_iter());
        let array = headers(&record);
        assert!(!array.contains("\\u0000"), "{array}");
        let back = headers_of(&array).unwrap_or_default();
        let back: Vec<_> = back
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_deref()))
            .collect();
        assert_eq!(back, given);
    }

    #[test]
    fn what_a_person_has_left_there_is_no_header() {
        for text in [
            "{}",
            "[1]",
            r#"[["a"]]"#,
            r#"[["a", {"hex": "0"}]]"#,
            r#"[["a", {"hex": "gg"}]]"#,
        ] {
            assert_eq!(headers_of(text), None, "{text}");
        }
    }
}
