//! The counters of each topic, by its number.

use std::time::Duration;

use crate::engine::topics::{NO_TOPIC, TopicId};
use crate::engine::tracker::InFlight;
use crate::metrics::{Metrics, TopicMetrics};
use crate::status::summary::{Published, Summary};
use crate::status::{Flow, FlowMeter, Sample};

/// What is published, by topic: for the metrics since the start, for the status in the last minute.
#[derive(Debug)]
pub(in crate::publisher) struct TopicCounters {
    /// By topic id. The name shows whether the id was reused for another topic.
    topics: Vec<Option<(Box<str>, TopicMetrics)>>,
    meter: FlowMeter,
    /// When the status last got what flowed.
    shown: Option<Duration>,
}

/// Between two looks at what flowed: each reads all slots.
const FLOW_INTERVAL: Duration = Duration::from_millis(250);

impl TopicCounters {
    pub(super) fn new() -> Self {
        TopicCounters {
            topics: Vec::new(),
            meter: FlowMeter::new(Duration::ZERO),
            shown: None,
        }
    }

    /// Looks the counters of a topic up once, and keeps them.
    pub(super) fn register(&mut self, metrics: &Metrics, id: TopicId, name: &str) {
        let at = id as usize;
        if let Some(Some((known, _))) = self.topics.get(at)
            && **known == *name
        {
            return;
        }
        if id == NO_TOPIC {
            return;
        }
        if self.topics.len() <= at {
            self.topics.resize_with(at + 1, || None);
        }
        self.topics[at] = Some((name.into(), metrics.topic(name)));
        self.meter.name_topic(at, name);
    }

    /// Kafka has acknowledged this event, so long after its commit, where that is known. Clocks
    /// that differ can make that negative.
    pub(super) fn published(&mut self, now: Duration, event: &InFlight, latency: Option<i64>) {
        let latency = latency.map(|micros| Duration::from_micros(micros.max(0) as u64));
        let at = event.topic as usize;
        if let Some(Some((_, topic))) = self.topics.get(at) {
            topic.published(event.bytes);
            if let Some(latency) = latency {
                topic.observe(latency.as_secs_f64());
            }
        }
        self.meter.published(now, at, latency);
    }

    /// What the summary is to log, if that is due.
    pub(super) fn summary(&mut self, now: Duration, summary: &mut Summary) -> Option<Published> {
        summary.due(now, &mut self.meter)
    }

    /// The last interval, if one has ended.
    pub(super) fn sample(&mut self, now: Duration) -> Option<Sample> {
        self.meter.advance(now)
    }

    /// What flowed in the last minute; `None` if the status has had it a moment ago.
    pub(super) fn flow(&mut self, now: Duration) -> Option<Flow> {
        let is_due = |shown| now.saturating_sub(shown) >= FLOW_INTERVAL;
        if !self.shown.is_none_or(is_due) {
            return None;
        }
        self.shown = Some(now);
        Some(self.meter.flow(now))
    }
}
