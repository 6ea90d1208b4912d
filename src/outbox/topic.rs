//! Which names Kafka takes for a topic, checked before anything is sent.
//!
//! A broker refuses such a name for good (`INVALID_TOPIC_EXCEPTION`), so a record that carries one
//! can never be delivered. The rule is that of Kafka's own
//! `org.apache.kafka.common.internals.Topic`.

/// The longest name: it becomes a file's name on the broker, with room for the partition's number.
const NAME_BYTES_MAX: usize = 249;

/// Why a name cannot be a topic's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicFault {
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
}

/// Whether Kafka takes `name` for a topic.
///
/// # Errors
///
/// When it does not, why.
pub fn check_topic(name: &str) -> Result<(), TopicFault> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" => Err(TopicFault::Empty),
        "." | ".." => Err(TopicFault::Dots),
        _ if !name.bytes().all(legal) => Err(TopicFault::Character),
        _ if name.len() > NAME_BYTES_MAX => Err(TopicFault::TooLong),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kafka_takes_are_legal() {
        for name in ["orders", "a", "Orders.v1_eu-west", "...", &"x".repeat(249)] {
            assert_eq!(check_topic(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn names_that_kafka_refuses_say_why() {
        for (name, fault) in [
            ("", TopicFault::Empty),
            (".", TopicFault::Dots),
            ("..", TopicFault::Dots),
            ("a b", TopicFault::Character),
            ("a/b", TopicFault::Character),
            ("größe", TopicFault::Character),
            ("a\n", TopicFault::Character),
            (&"x".repeat(250), TopicFault::TooLong),
        ] {
            assert_eq!(check_topic(name), Err(fault), "{name}");
        }
    }
}
