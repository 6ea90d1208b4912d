//! Which names Kafka accepts for a topic. A [`TopicName`] is checked when it is made, and is not
//! checked again.
//!
//! A broker never accepts any other name (`INVALID_TOPIC_EXCEPTION`), so a record with one can
//! never be delivered. The rule is that of Kafka's own `org.apache.kafka.common.internals.Topic`.
//! Kafka's and outboxd's own topics are excluded too: an event there would be refused, or taken for
//! one of their records.

/// The longest name: the broker names directories after it, and adds the partition's number.
const NAME_BYTES_MAX: usize = 249;

/// Kafka's own topics.
const KAFKAS_OWN: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// The prefix of outboxd's own topics.
const OUR_OWN: &str = "__outboxd";

/// Whether a name may have this byte: each name is checked with it, once an event.
static IS_LEGAL: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        legal[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        byte += 1;
    }
    legal
};

/// Why a name cannot be a topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// It has no characters.
    #[error("the topic is empty")]
    Empty,
    /// It is longer than 249 characters.
    #[error("the topic's name is longer than {NAME_BYTES_MAX} characters")]
    TooLong,
    /// It is `.` or `..`.
    #[error("`.` and `..` are not topic names")]
    Dots,
    /// It has a character other than ASCII letters, digits, `.`, `_` and `-`.
    #[error("the topic's name has a character other than ASCII letters, digits, `.`, `_` and `-`")]
    Character,
    /// Kafka or outboxd uses the topic for its own records.
    #[error("the topic is reserved for Kafka or outboxd")]
    Reserved,
}

/// A name that Kafka accepts for a topic, and that is neither Kafka's own nor outboxd's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicName<'a>(&'a str);

impl<'a> TopicName<'a> {
    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// Why Kafka does not accept it.
    pub fn new(name: &'a str) -> Result<Self, TopicNameError> {
        check(name).map(|()| TopicName(name))
    }

    /// The topic name of a record, which was checked when the record was made.
    pub(crate) fn checked(
        name: &'a str,
        error: Option<TopicNameError>,
    ) -> Result<Self, TopicNameError> {
        error.map_or(Ok(TopicName(name)), Err)
    }

    /// The name.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

pub(crate) fn check(name: &str) -> Result<(), TopicNameError> {
    check_behind(name, 0)
}

/// Whether a name may have every byte of this text.
pub(crate) fn is_legal(text: &str) -> bool {
    text.bytes().all(|byte| IS_LEGAL[usize::from(byte)])
}

/// As [`check`], for a name whose first bytes are known to be legal.
pub(crate) fn check_behind(name: &str, legal: usize) -> Result<(), TopicNameError> {
    let bytes = name.as_bytes();
    match bytes {
        [] => return Err(TopicNameError::Empty),
        b"." | b".." => return Err(TopicNameError::Dots),
        _ => {}
    }
    for byte in bytes.get(legal..).unwrap_or(bytes) {
        if !IS_LEGAL[usize::from(*byte)] {
            return Err(TopicNameError::Character);
        }
    }
    if bytes.len() > NAME_BYTES_MAX {
        return Err(TopicNameError::TooLong);
    }
    // Every reserved name begins so.
    let is_reserved = || KAFKAS_OWN.contains(&name) || name.starts_with(OUR_OWN);
    match bytes {
        [b'_', b'_', ..] if is_reserved() => Err(TopicNameError::Reserved),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_takes_are_legal() {
        for name in [
            "orders",
            "a",
            "Orders.v1_eu-west",
            "...",
            "__mine",
            "outboxd",
            &"x".repeat(249),
        ] {
            assert_eq!(TopicName::new(name).map(TopicName::as_str), Ok(name));
            assert!(is_legal(name));
            assert!((0..name.len() + 2).all(|legal| check_behind(name, legal).is_ok()));
        }
    }

    #[test]
    fn names_that_kafka_refuses_say_why() {
        for (name, rejection) in [
            ("", TopicNameError::Empty),
            (".", TopicNameError::Dots),
            ("..", TopicNameError::Dots),
            ("a b", TopicNameError::Character),
            ("a/b", TopicNameError::Character),
            ("größe", TopicNameError::Character),
            ("a\n", TopicNameError::Character),
            (&"x".repeat(250), TopicNameError::TooLong),
            ("__consumer_offsets", TopicNameError::Reserved),
            ("__transaction_state", TopicNameError::Reserved),
            ("__share_group_state", TopicNameError::Reserved),
            ("__cluster_metadata", TopicNameError::Reserved),
            ("__outboxd", TopicNameError::Reserved),
            ("__outboxd_progress", TopicNameError::Reserved),
        ] {
            assert_eq!(TopicName::new(name), Err(rejection), "{name}");
            assert_eq!(is_legal(name), rejection != TopicNameError::Character);
            let legal = name
                .bytes()
                .take_while(|byte| is_legal(char::from(*byte).encode_utf8(&mut [0; 4])));
            assert_eq!(check_behind(name, legal.count()), Err(rejection), "{name}");
        }
    }
}
