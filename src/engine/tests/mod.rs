//! The engine, driven by hand: what the simulation found, in as few steps as it takes.

mod cost;
mod engine;
mod tracker;
