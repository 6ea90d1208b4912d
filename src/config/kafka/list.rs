//! The list of `KAFKA_PROPERTIES`, `name=value,name=value`, whose values may have commas and equals
//! signs themselves. Pure.
//!
//! A piece after a comma begins a property if it has the form `name=` with a name that a property
//! has. Any other piece belongs to the value before it where that may be a password or has several
//! parts. So `sasl.password=a,b=c,linger.ms=5` is two properties, and no piece of a password is
//! taken for a name, which an error would show.

use crate::config::kafka::names;

/// One property of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Property {
    pub(super) name: String,
    pub(super) value: String,
}

/// A piece that is no property, and follows none to which it could belong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoProperty;

/// The properties of a list, in its order.
pub(super) fn split(text: &str) -> Vec<Result<Property, NoProperty>> {
    let text = text.trim_end_matches([',', ' ', '\t', '\r', '\n']);
    let mut properties: Vec<Result<Property, NoProperty>> = Vec::new();
    for piece in text.split(',') {
        let named = piece.split_once('=').map(|(name, _)| name.trim());
        let begins = named.is_some_and(names::is_known);
        match properties.last_mut() {
            Some(Ok(before)) if !begins && names::may_have_commas(&before.name) => {
                before.value.push(',');
                before.value.push_str(piece);
            }
            Some(Ok(before)) if named.is_none() && !piece.trim().is_empty() => {
                before.value.push(',');
                before.value.push_str(piece.trim());
            }
            _ if piece.trim().is_empty() => {}
            _ => properties.push(one(piece)),
        }
    }
    properties
}

/// One property, as `name=value`. The value of a secret is kept as it is, spaces included, unless
/// the name is followed by one: `name = value`.
pub(super) fn one(text: &str) -> Result<Property, NoProperty> {
    let (name, value) = text.split_once('=').ok_or(NoProperty)?;
    let is_spaced = name.ends_with(char::is_whitespace);
    let name = name.trim();
    let value = match names::is_secret(name) {
        true if is_spaced => value.trim_start(),
        true => value,
        false => value.trim(),
    };
    Ok(Property {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn gives(text: &str, expected: &[(&str, &str)]) {
        let properties = split(text);
        let found = properties.iter().map(|property| match property {
            Ok(property) => (property.name.as_str(), property.value.as_str()),
            Err(NoProperty) => ("", ""),
        });
        assert_eq!(found.collect::<Vec<_>>(), expected, "{text}");
    }

    #[test]
    fn a_comma_begins_a_property_only_before_the_name_of_one() {
        gives(
            "linger.ms=2,debug=broker,topic,client.id=listed",
            &[
                ("linger.ms", "2"),
                ("debug", "broker,topic"),
                ("client.id", "listed"),
            ],
        );
        gives(
            " client.id = c ,\n linger.ms = 5 ,,",
            &[("client.id", "c"), ("linger.ms", "5")],
        );
        gives("nothing,linger.ms=5", &[("", ""), ("linger.ms", "5")]);
        gives(
            "client.id=x,hunter2=y",
            &[("client.id", "x"), ("hunter2", "y")],
        );
    }

    #[test]
    fn a_password_keeps_its_commas_its_equals_signs_and_its_spaces() {
        let password = "a,b=c,,d e=, #%\"'\\é ";
        gives(
            &format!("sasl.password={password},linger.ms=5"),
            &[("sasl.password", password), ("linger.ms", "5")],
        );
        gives(
            "sasl.password = a,hunter2=x",
            &[("sasl.password", "a,hunter2=x")],
        );
        gives(
            "sasl.pasword=a,hunter2=x,linger.ms=5",
            &[("sasl.pasword", "a,hunter2=x"), ("linger.ms", "5")],
        );
        gives(
            "sasl.oauthbearer.extensions=logicalCluster=lkc-1,identityPoolId=pool-2,linger.ms=5",
            &[
                (
                    "sasl.oauthbearer.extensions",
                    "logicalCluster=lkc-1,identityPoolId=pool-2",
                ),
                ("linger.ms", "5"),
            ],
        );
    }
}
