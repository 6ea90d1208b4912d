//! The engine in a simulated world: see [`schedule`].

mod dead_letters;
mod process;
mod schedule;
mod steps;
mod world;
