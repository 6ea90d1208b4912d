//! What flowed in the last minute: events a second, latencies, the busiest topics.
//!
//! Counts in slots of five seconds, of which it keeps twelve; the log's summary reads the same
//! counts at intervals of its own. Memory: two counters and twelve slots for each topic that the
//! engine knows.

use std::time::Duration;

use serde::Serialize;

use crate::status::history::{INTERVAL, Sample};
use crate::status::latency::LatencyCounts;

const SLOTS: usize = 12;

/// The most topics that the status lists.
const TOPICS_SHOWN: usize = 20;

/// What flowed in the last minute.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Flow {
    /// Events acknowledged by Kafka a second.
    pub events_per_second: f64,
    /// From commit to acknowledgement: half of the events took no longer.
    pub p50_seconds: Option<f64>,
    /// From commit to acknowledgement: 99 of 100 events took no longer.
    pub p99_seconds: Option<f64>,
    /// How long ago Kafka acknowledged the last event; absent before the first.
    pub last_event_seconds: Option<f64>,
    /// The topics that got the most events in the last minute, then since the start; at most 20.
    pub topics: Vec<TopicFlow>,
}

/// One topic's share.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopicFlow {
    /// The topic's name.
    pub topic: String,
    /// Events acknowledged a second, over the last minute.
    pub events_per_second: f64,
    /// Events acknowledged since the start.
    pub published_total: u64,
}

/// Events and their latencies, of a slot or of another time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) latencies: LatencyCounts,
}

impl Counts {
    fn add(&mut self, more: &Counts) {
        self.events += more.events;
        self.latencies.add(&more.latencies);
    }

    fn since(&self, earlier: &Counts) -> Counts {
        Counts {
            events: self.events.saturating_sub(earlier.events),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct TopicSlots {
    name: Box<str>,
    total: u64,
    events: [u64; SLOTS],
}

/// The counters behind [`Flow`], by the clock of their owner.
#[derive(Debug)]
pub(crate) struct FlowMeter {
    slots: [Counts; SLOTS],
    present: usize,
    /// When the present slot began.
    began: Duration,
    /// How many of the slots before it have been counted.
    past: u32,
    last_event: Option<Duration>,
    /// What the summary has not taken of the slots that have ended.
    ended: Counts,
    /// What it has taken of the present slot.
    taken: Counts,
    /// By the topic's number.
    topics: Vec<TopicSlots>,
}

impl FlowMeter {
    pub(crate) fn new(now: Duration) -> Self {
        FlowMeter {
            slots: Default::default(),
            present: 0,
            began: now,
            past: 0,
            last_event: None,
            ended: Counts::default(),
            taken: Counts::default(),
            topics: Vec::new(),
        }
    }

    /// The topic of this number; its counters start over if the number was another's before.
    pub(crate) fn name_topic(&mut self, at: usize, name: &str) {
        if self.topics.len() <= at {
            self.topics.resize_with(at + 1, TopicSlots::default);
        }
        if *self.topics[at].name != *name {
            self.topics[at] = TopicSlots {
                name: name.into(),
                ..TopicSlots::default()
            };
        }
    }

    /// Kafka has acknowledged an event of this topic, if it has one, so long after its commit.
    pub(crate) fn published(&mut self, now: Duration, topic: usize, latency: Option<Duration>) {
        let slot = &mut self.slots[self.present];
        slot.events += 1;
        if let Some(latency) = latency {
            slot.latencies.observe(latency);
        }
        self.last_event = Some(now);
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.total += 1;
            topic.events[self.present] += 1;
        }
    }

    /// Ends the slots whose time is over. The sample of the last of them, without its position.
    pub(crate) fn advance(&mut self, now: Duration) -> Option<Sample> {
        let mut sample = None;
        // After a long pause the slots in between are empty, and the oldest are dropped anyway.
        for _ in 0..=SLOTS {
            if now.saturating_sub(self.began) < INTERVAL {
                return sample;
            }
            sample = Some(self.end_slot());
        }
        self.began = now;
        sample
    }

    fn end_slot(&mut self) -> Sample {
        let slot = &self.slots[self.present];
        let sample = Sample {
            events_per_second: slot.events as f64 / INTERVAL.as_secs_f64(),
            p50_seconds: slot.latencies.quantile(0.5),
            p99_seconds: slot.latencies.quantile(0.99),
            ..Sample::default()
        };
        let taken = std::mem::take(&mut self.taken);
        self.ended.add(&slot.since(&taken));
        self.began += INTERVAL;
        self.past = (self.past + 1).min(SLOTS as u32 - 1);
        self.present = (self.present + 1) % SLOTS;
        self.slots[self.present] = Counts::default();
        for topic in &mut self.topics {
            topic.events[self.present] = 0;
        }
        sample
    }

    /// What was published since the last call.
    pub(crate) fn take_new(&mut self) -> Counts {
        let mut new = std::mem::take(&mut self.ended);
        let present = &self.slots[self.present];
        new.add(&present.since(&self.taken));
        self.taken = present.clone();
        new
    }

    /// What flowed in the slots that are kept, the present one included.
    pub(crate) fn flow(&self, now: Duration) -> Flow {
        let counted = INTERVAL * self.past + now.saturating_sub(self.began);
        // The first events of a process are no rate yet.
        let seconds = counted.as_secs_f64().max(1.0);
        let mut latencies = LatencyCounts::default();
        for slot in &self.slots {
            latencies.add(&slot.latencies);
        }
        let events: u64 = self.slots.iter().map(|slot| slot.events).sum();
        Flow {
            events_per_second: events as f64 / seconds,
            p50_seconds: latencies.quantile(0.5),
            p99_seconds: latencies.quantile(0.99),
            last_event_seconds: self
                .last_event
                .map(|at| (now.saturating_sub(at)).as_secs_f64()),
            topics: self.busiest(seconds),
        }
    }

    fn busiest(&self, seconds: f64) -> Vec<TopicFlow> {
        let recent = |topic: &TopicSlots| topic.events.iter().sum::<u64>();
        let mut topics: Vec<&TopicSlots> = self.topics.iter().filter(|it| it.total > 0).collect();
        topics.sort_by_key(|topic| std::cmp::Reverse((recent(topic), topic.total)));
        topics.truncate(TOPICS_SHOWN);
        let shown = topics.into_iter().map(|topic| TopicFlow {
            topic: topic.name.to_string(),
            events_per_second: recent(topic) as f64 / seconds,
            published_total: topic.total,
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn publish(meter: &mut FlowMeter, now: Duration, topic: usize, count: usize) {
        for _ in 0..count {
            meter.published(now, topic, Some(MILLI * 3));
        }
    }

    #[test]
    fn a_rate_is_that_of_the_last_minute() {
        let mut meter = FlowMeter::new(seconds(0));
        meter.name_topic(0, "orders");
        for now in 0..120 {
            meter.advance(seconds(now));
            publish(&mut meter, seconds(now), 0, 50);
        }
        let flow = meter.flow(seconds(120));
        assert!((49.0..51.0).contains(&flow.events_per_second), "{flow:?}");
        assert!(
            flow.p50_seconds
                .is_some_and(|p50| (p50 - 0.003).abs() < 0.0005)
        );
        for now in 120..181 {
            meter.advance(seconds(now));
        }
        let flow = meter.flow(seconds(181));
        assert_eq!((flow.events_per_second, flow.p99_seconds), (0.0, None));
        assert_eq!(flow.last_event_seconds, Some(62.0));
        assert_eq!(flow.topics[0].published_total, 6_000);
    }

    #[test]
    fn the_busiest_topic_comes_first_and_twenty_are_listed() {
        let mut meter = FlowMeter::new(seconds(0));
        for topic in 0..30 {
            meter.name_topic(topic, &format!("t{topic}"));
            publish(&mut meter, seconds(1), topic, topic + 1);
        }
        let topics = meter.flow(seconds(2)).topics;
        assert_eq!((topics.len(), &*topics[0].topic), (20, "t29"));
        assert!(
            (topics[0].events_per_second - 15.0).abs() < 0.1,
            "{topics:?}"
        );
    }

    #[test]
    fn a_number_that_another_topic_gets_starts_over() {
        let mut meter = FlowMeter::new(seconds(0));
        meter.name_topic(3, "old");
        publish(&mut meter, seconds(1), 3, 9);
        meter.name_topic(3, "new");
        publish(&mut meter, seconds(1), 3, 1);
        publish(&mut meter, seconds(1), 7, 1);
        let topics = meter.flow(seconds(1)).topics;
        assert_eq!(topics.len(), 1);
        assert_eq!((&*topics[0].topic, topics[0].published_total), ("new", 1));
    }

    #[test]
    fn each_event_is_taken_once_whenever_that_is() {
        let mut meter = FlowMeter::new(seconds(0));
        let mut taken = Vec::new();
        for now in 0..40 {
            meter.advance(seconds(now));
            publish(&mut meter, seconds(now), 0, 10);
            if now % 7 == 6 {
                taken.push(meter.take_new());
            }
        }
        let events: Vec<u64> = taken.iter().map(|counts| counts.events).collect();
        assert_eq!(events, [70; 5]);
        let p99 = taken.iter().map(|counts| counts.latencies.quantile(0.99));
        assert!(p99.flatten().all(|p99| (p99 - 0.003).abs() < 0.0005));
        meter.advance(seconds(86_400));
        assert_eq!(meter.take_new().events, 50);
        assert_eq!(meter.take_new().events, 0);
    }

    #[test]
    fn each_slot_gives_a_sample_and_a_long_pause_one() {
        let mut meter = FlowMeter::new(seconds(0));
        publish(&mut meter, seconds(1), 0, 10);
        assert_eq!(meter.advance(seconds(4)), None);
        let sample = meter.advance(seconds(5)).unwrap_or_default();
        assert_eq!(sample.events_per_second, 2.0);
        publish(&mut meter, seconds(6), 0, 10);
        let sample = meter.advance(seconds(86_400)).unwrap_or_default();
        assert_eq!(sample.events_per_second, 0.0);
        assert_eq!(meter.advance(seconds(86_404)), None);
        assert_eq!(meter.flow(seconds(86_400)).events_per_second, 0.0);
    }
}
