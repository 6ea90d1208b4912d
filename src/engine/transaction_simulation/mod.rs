//! Exactly once in a simulated world: see [`schedule`].

mod broker;
mod healing;
mod oracle;
mod postgres;
mod process;
mod schedule;
