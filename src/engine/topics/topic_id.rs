//! The numbers of topics.

/// The number of a topic.
pub(crate) type TopicId = u32;

/// The number of an event whose name cannot be a topic's.
pub(crate) const NO_TOPIC: TopicId = TopicId::MAX;
