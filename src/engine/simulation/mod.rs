//! The engine in a simulated world: see [`schedule`].

mod dead_letters;
mod process;
pub(crate) mod row_ids;
mod schedule;
pub(crate) mod seeds;
mod steps;
mod world;

pub(super) use process::limits;
