//! Seeded mutations of real input, for the tests that feed decoders with anything.

use std::ops::Range;

/// Values that lengths and counts are tried with.
const EXTREMES: [u32; 8] = [0, 1, 3, 0x7f, 0xffff, 1 << 30, i32::MAX as u32, u32::MAX];

/// The seeds of a test: `OUTBOXD_FUZZ_SEEDS=A..B`, or the first ones.
pub(crate) fn seeds(by_default: u64) -> Range<u64> {
    let given = std::env::var("OUTBOXD_FUZZ_SEEDS").ok();
    let range = given.as_deref().and_then(|text| text.split_once(".."));
    let number = |text: &str| text.parse::<u64>().expect("OUTBOXD_FUZZ_SEEDS is A..B");
    range.map_or(0..by_default, |(from, to)| number(from)..number(to))
}

/// The input with a few changes; the same for the same seed.
pub(crate) fn mutated(input: &[u8], seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..6) {
        if bytes.is_empty() {
            bytes.push(random.u8(..));
        }
        let at = random.usize(..bytes.len());
        let end = (at + random.usize(1..40)).min(bytes.len());
        match random.u8(..8) {
            0 => bytes[at] = random.u8(..),
            1 => bytes[at] ^= 1 << random.u8(..8),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.insert(at, random.u8(..)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = random.usize(..=bytes.len());
                bytes.splice(to..to, piece);
            }
            5 => bytes.truncate(at),
            6 => {
                let extreme = EXTREMES[random.usize(..EXTREMES.len())].to_be_bytes();
                let places = bytes[at..].iter_mut().zip(extreme);
                places.for_each(|(place, byte)| *place = byte);
            }
            _ => {
                let noise = random.u8(..);
                bytes[at..end].fill(noise);
            }
        }
    }
    bytes
}
