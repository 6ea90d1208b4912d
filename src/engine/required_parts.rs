//! The parts that a record must have, by the mapping. Pure.

use crate::config::Mapping;
use crate::config::mapping::{KeyRule, NullPayload, ValueRule};

/// What a record must have, each with why its event is rejected where it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequiredParts {
    /// `None` if a record may have no key.
    pub(crate) key: Option<String>,
    /// `None` if a record may have no value.
    pub(crate) value: Option<String>,
}

impl RequiredParts {
    /// The parts that this mapping requires. An event without a type has no key by the default
    /// rule, and that is a mistake of its writer; by any other rule, no key may be meant.
    pub(crate) fn of(mapping: &Mapping) -> Self {
        let columns = &mapping.columns;
        let key = match &mapping.key {
            KeyRule::Column(name) if columns.event_type.as_deref() == Some(name) => Some(name),
            _ => None,
        };
        let payload = &columns.payload;
        let value = match &mapping.value {
            ValueRule::Pointer(pointer) => format!("{payload} has nothing at {pointer}"),
            _ => format!("{payload} is null"),
        };
        RequiredParts {
            key: key.map(|name| format!("{name} is null")),
            value: (mapping.null_payload == NullPayload::DeadLetter).then_some(value),
        }
    }
}
