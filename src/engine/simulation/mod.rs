//! The engine in a simulated world: see [`schedule`].

mod dead_letters;
mod process;
mod schedule;
pub(crate) mod seeds;
mod steps;
mod world;
