//! The counters of each topic, by its number.

use crate::engine::topics::{NO_TOPIC, TopicId};
use crate::metrics::{Metrics, TopicMetrics};

/// Looks the counters of a topic up once, and keeps them.
pub(in crate::publisher) fn register(
    topics: &mut Vec<Option<(Box<str>, TopicMetrics)>>,
    metrics: &Metrics,
    id: TopicId,
    name: &str,
) {
    let at = id as usize;
    if let Some(Some((known, _))) = topics.get(at)
        && **known == *name
    {
        return;
    }
    if id == NO_TOPIC {
        return;
    }
    if topics.len() <= at {
        topics.resize_with(at + 1, || None);
    }
    topics[at] = Some((name.into(), metrics.topic(name)));
}
