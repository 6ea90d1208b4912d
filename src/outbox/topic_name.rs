//! Which names Kafka takes for a topic, checked before anything is sent.
//!
//! A broker refuses such a name for good (`INVALID_TOPIC_EXCEPTION`), so a record that carries one
//! can never be delivered. The rule is that of Kafka's own
//! `org.apache.kafka.common.internals.Topic`. What lies in Kafka's own topics is for brokers and
//! coordinators, and what lies in outboxd's for outboxd: an event there would be refused, or worse,
//! be taken for one of their records.

/// The longest name: it becomes a file's name on the broker, with room for the partition's number.
const NAME_BYTES_MAX: usize = 249;

/// Kafka's own topics.
const KAFKAS_OWN: [&str; 4] = [
    "__consumer_offsets",
    "__transaction_state",
    "__share_group_state",
    "__cluster_metadata",
];

/// How the names of outboxd's own topics begin.
const OUR_OWN: &str = "__outboxd";

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
    #[error("`.` and `..` are no topics")]
    Dots,
    /// It has a character other than ASCII letters, digits, `.`, `_` and `-`.
    #[error("the topic's name has a character other than ASCII letters, digits, `.`, `_` and `-`")]
    Character,
    /// Kafka or outboxd itself keeps its records there.
    #[error("the topic is Kafka's or outboxd's own and takes no events")]
    Reserved,
}

/// Whether Kafka takes `name` for a topic.
///
/// # Errors
///
/// When it does not, why.
pub fn check_topic(name: &str) -> Result<(), TopicNameError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Err(TopicNameError::Empty),
        "." | ".." => Err(TopicNameError::Dots),
        _ if !name.bytes().all(legal) => Err(TopicNameError::Character),
        _ if name.len() > NAME_BYTES_MAX => Err(TopicNameError::TooLong),
        _ if KAFKAS_OWN.contains(&name) || name.starts_with(OUR_OWN) => {
            Err(TopicNameError::Reserved)
        }
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
            assert_eq!(check_topic(name), Ok(()), "{name}");
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
            assert_eq!(check_topic(name), Err(rejection), "{name}");
        }
    }
}
