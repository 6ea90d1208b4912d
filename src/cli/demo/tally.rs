//! The committed, rolled-back and arrived events: `demo`'s check of itself.
//!
//! The shop announces each order before its transaction ends, so every arriving event is known
//! here.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The number of latest latencies, and of rolled-back ids, that are kept: a demo may run for days.
const KEPT: usize = 100_000;

/// An order of the shop.
#[derive(Debug)]
pub(crate) enum Order {
    /// Its events are about to be committed.
    Placed {
        number: u64,
        events: Vec<(i64, &'static str)>,
        at: Instant,
    },
    /// The order and its events are about to be rolled back.
    RolledBack {
        number: u64,
        events: Vec<(i64, &'static str)>,
    },
}

/// The meaning of an arriving record.
#[derive(Debug, PartialEq)]
pub(crate) enum Arrival {
    /// The first arrival of an event.
    New {
        number: u64,
        event_type: &'static str,
        latency: Duration,
    },
    /// A repeated arrival.
    Again,
    /// An event that was never committed.
    NeverCommitted,
}

/// The demo's counts.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    waiting: HashMap<i64, (u64, &'static str, Instant)>,
    rolled_back: VecDeque<i64>,
    latencies: VecDeque<Duration>,
    pub(crate) arrived: u64,
    pub(crate) again: u64,
    pub(crate) orders_rolled_back: u64,
}

impl Tally {
    pub(crate) fn note(&mut self, order: &Order) {
        match order {
            Order::Placed { number, events, at } => {
                let entries = events
                    .iter()
                    .map(|&(id, event_type)| (id, (*number, event_type, *at)));
                self.waiting.extend(entries);
            }
            Order::RolledBack { events, .. } => {
                self.orders_rolled_back += 1;
                events
                    .iter()
                    .for_each(|&(id, _)| keep(&mut self.rolled_back, id));
            }
        }
    }

    pub(crate) fn arrive(&mut self, id: i64, now: Instant) -> Arrival {
        if let Some((number, event_type, at)) = self.waiting.remove(&id) {
            let latency = now - at;
            self.arrived += 1;
            keep(&mut self.latencies, latency);
            return Arrival::New {
                number,
                event_type,
                latency,
            };
        }
        if self.rolled_back.contains(&id) {
            return Arrival::NeverCommitted;
        }
        self.again += 1;
        Arrival::Again
    }

    /// Committed events that have not arrived yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Median, ninety-ninth percentile and maximum of the last `count` latencies.
    pub(crate) fn latencies(&self, count: usize) -> Option<[Duration; 3]> {
        let mut sorted: Vec<Duration> = self.latencies.iter().rev().take(count).copied().collect();
        sorted.sort_unstable();
        let at = |percent: usize| {
            sorted
                .get((sorted.len() * percent / 100).min(sorted.len() - 1))
                .copied()
        };
        if sorted.is_empty() {
            None
        } else {
            Some([at(50)?, at(99)?, at(100)?])
        }
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_distinguished_from_repeats_and_from_what_was_never_committed() {
        let mut tally = Tally::default();
        let at = Instant::now();
        tally.note(&Order::Placed {
            number: 1,
            events: vec![(10, "OrderPlaced")],
            at,
        });
        tally.note(&Order::RolledBack {
            number: 2,
            events: vec![(11, "OrderPlaced")],
        });
        let latency = Duration::from_millis(3);
        let new = Arrival::New {
            number: 1,
            event_type: "OrderPlaced",
            latency,
        };
        assert_eq!(tally.waiting(), 1);
        assert_eq!(tally.arrive(10, at + latency), new);
        assert_eq!(tally.arrive(10, at + latency), Arrival::Again);
        assert_eq!(tally.arrive(11, at + latency), Arrival::NeverCommitted);
        assert_eq!((tally.waiting(), tally.arrived, tally.again), (0, 1, 1));
    }

    #[test]
    fn percentiles_are_those_of_the_last_so_many() {
        let mut tally = Tally::default();
        assert_eq!(tally.latencies(10), None);
        let at = Instant::now();
        for id in 0..200 {
            tally.note(&Order::Placed {
                number: 1,
                events: vec![(id, "OrderPlaced")],
                at,
            });
            tally.arrive(id, at + Duration::from_millis(id as u64));
        }
        let [median, high, max] = tally
            .latencies(100)
            .expect("there are some")
            .map(|d| d.as_millis());
        assert_eq!((median, high, max), (150, 199, 199));
    }
}
