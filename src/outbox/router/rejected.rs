//! Errors of one row, which affect no other.

use crate::error::{Code, Error};
use crate::outbox::Event;

/// The rejection of an event whose topic is not known.
pub(super) const TOPIC_UNMAPPED: &str = "TOPIC_UNMAPPED";

/// The rejection of an event whose partition is no number of one.
pub(super) const PARTITION_INVALID: &str = "PARTITION_INVALID";

/// The rejection of an event whose time is none that a record may have.
pub(super) const TIMESTAMP_INVALID: &str = "TIMESTAMP_INVALID";

/// The error of this event, `what` says why.
pub(super) fn rejected(event: &Event<'_>, what: &str) -> Error {
    let message = format!("the event with id {} {what}", event.id);
    Error::fatal(Code::Publish, message)
}
