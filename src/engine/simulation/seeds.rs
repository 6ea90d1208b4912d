//! Which schedules a simulation runs: a schedule is a seed.
//!
//! `OUTBOXD_SIM_SEEDS` sets their number, or a range such as `5000..6000`; `OUTBOXD_SIM_SEED` runs
//! one, and `OUTBOXD_SIM_TRACE=1` prints each step of it. `OUTBOXD_SIM_THREADS` threads share the
//! work. A schedule that fails prints the command that repeats it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use fastrand::Rng;

/// How often each kind of event was seen.
pub(crate) type Seen = BTreeMap<&'static str, u64>;

/// Schedules without a setting, in each simulation.
const SEEDS: u64 = 2_000;
/// So many schedules see every kind of event.
const ENOUGH: u64 = 1_000;

/// Runs the schedules of the test `name` and checks that every kind of event in `expected` was
/// seen.
pub(crate) fn run(name: &str, expected: &[&str], schedule: impl Fn(u64, bool) -> Seen + Sync) {
    let seeds = seeds();
    let trace = setting("OUTBOXD_SIM_TRACE").is_some();
    let threads = setting("OUTBOXD_SIM_THREADS").map_or(1, |text| number(&text));
    let next = AtomicU64::new(seeds.start);
    let seen = Mutex::new(Seen::new());
    let began = Instant::now();
    let work = || {
        let mut own = Seen::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let repro = Repro {
                name,
                seed,
                next: &next,
                end: seeds.end,
            };
            for (what, times) in schedule(seed, trace) {
                *own.entry(what).or_default() += times;
            }
            drop(repro);
        }
        let mut seen = seen.lock().expect("no other schedule has failed");
        for (what, times) in own {
            *seen.entry(what).or_default() += times;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let count = seeds.end - seeds.start;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    eprintln!("{name}: {count} schedules, {rate:.0} a second");
    if count >= ENOUGH {
        let seen = seen.into_inner().expect("no schedule has failed");
        for what in expected {
            assert!(seen.contains_key(what), "no schedule has seen: {what}");
        }
    }
}

fn seeds() -> Range<u64> {
    if let Some(one) = setting("OUTBOXD_SIM_SEED") {
        let seed = number(&one);
        return seed..seed + 1;
    }
    let Some(text) = setting("OUTBOXD_SIM_SEEDS") else {
        return 0..SEEDS;
    };
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// One of the steps at random, by weight.
pub(crate) fn choose<T: Copy>(steps: &[(T, u32)], rng: &mut Rng) -> T {
    let total: u32 = steps.iter().map(|(_, weight)| weight).sum();
    let mut at = rng.u32(0..total);
    let chosen = steps.iter().find(|(_, weight)| {
        let found = at < *weight;
        at = at.saturating_sub(*weight);
        found
    });
    chosen
        .expect("the number is below the sum of all weights")
        .0
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

/// Prints the command that repeats the failed schedule, and keeps the other threads from starting
/// another one.
struct Repro<'a> {
    name: &'a str,
    seed: u64,
    next: &'a AtomicU64,
    end: u64,
}

impl Drop for Repro<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.next.store(self.end, Ordering::Relaxed);
            let Repro { name, seed, .. } = self;
            eprintln!("to repeat it: OUTBOXD_SIM_SEED={seed} cargo test --lib {name}");
        }
    }
}
