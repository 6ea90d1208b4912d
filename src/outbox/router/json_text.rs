//! Writes values as JSON, each as its column's type says. Numbers keep all their digits, and JSON
//! stays as it was written.

use serde_json::value::RawValue;

use crate::outbox::TextValue;

/// Appends a JSON string.
pub(super) fn string(text: &str, into: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(into, text);
}

/// Appends bytes as a JSON string in base64.
pub(super) fn base64(bytes: &[u8], into: &mut Vec<u8>) {
    into.push(b'"');
    into.extend(openssl::base64::encode_block(bytes).bytes());
    into.push(b'"');
}

/// Appends the text of a column as what it stands for; `None` if it is not UTF-8. A `bytea` is none
/// of them.
pub(super) fn scalar(value: TextValue<'_>, into: &mut Vec<u8>) -> Option<()> {
    let text = value.as_str()?;
    match value {
        TextValue::Json(json) => into.extend_from_slice(json),
        TextValue::Number(number) if is_json_number(number) => into.extend_from_slice(number),
        TextValue::Boolean(b"t") => into.extend_from_slice(b"true"),
        TextValue::Boolean(_) => into.extend_from_slice(b"false"),
        _ => string(text, into),
    }
    Some(())
}

/// JSON has neither `NaN` nor infinities.
fn is_json_number(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    digits.first().is_some_and(u8::is_ascii_digit)
}

/// The bytes as JSON, if they are an object or an array.
pub(super) fn container(bytes: &[u8]) -> Option<&RawValue> {
    let start = bytes.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if !matches!(start, b'{' | b'[') {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}
