//! What identifies a record's event to outboxd, kept beside the headers where they do not say it:
//! dead letters and the order of retries need it whatever headers a record has.

use crate::lsn::Lsn;

/// What identifies an event, borrowed like its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    /// The row's id; empty if it has none.
    pub(crate) id: &'a str,
    /// When the writer says the event happened, as Postgres prints it.
    pub(crate) created_at: Option<&'a str>,
    /// The kind of event.
    pub(crate) event_type: Option<&'a str>,
    /// The commit position of its transaction and its index there, if the event came from the
    /// stream.
    pub(crate) place: Option<(Lsn, u32)>,
}

impl Identity<'_> {
    /// The bytes of its texts.
    pub(super) fn len(&self) -> usize {
        let length = |text: Option<&str>| text.map_or(0, str::len);
        self.id.len() + length(self.created_at) + length(self.event_type)
    }
}

/// The same in memory of its own: one allocation for all texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedIdentity {
    /// The id, the time of creation and the kind of event, one after the other.
    text: Box<str>,
    id: usize,
    created_at: Option<usize>,
    has_event_type: bool,
    place: Option<(Lsn, u32)>,
}

impl OwnedIdentity {
    /// The identity, borrowed.
    pub(crate) fn borrowed(&self) -> Identity<'_> {
        let (id, rest) = self.text.split_at(self.id);
        let (created_at, event_type) = rest.split_at(self.created_at.unwrap_or_default());
        Identity {
            id,
            created_at: self.created_at.map(|_| created_at),
            event_type: self.has_event_type.then_some(event_type),
            place: self.place,
        }
    }

    /// The bytes of its texts.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }
}

impl From<Identity<'_>> for OwnedIdentity {
    fn from(identity: Identity<'_>) -> Self {
        let created_at = identity.created_at.unwrap_or_default();
        let event_type = identity.event_type.unwrap_or_default();
        OwnedIdentity {
            text: [identity.id, created_at, event_type].concat().into(),
            id: identity.id.len(),
            created_at: identity.created_at.map(str::len),
            has_event_type: identity.event_type.is_some(),
            place: identity.place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_comes_back_whole() {
        let identity = |created_at, event_type, place| Identity {
            id: "7ä",
            created_at,
            event_type,
            place,
        };
        for identity in [
            identity(None, None, None),
            identity(Some("2024"), None, Some((Lsn::new(7), 3))),
            identity(None, Some("created"), None),
            identity(Some(""), Some(""), None),
            identity(Some("2024"), Some("größer"), None),
        ] {
            assert_eq!(OwnedIdentity::from(identity).borrowed(), identity);
        }
    }
}
