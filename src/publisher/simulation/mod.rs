//! The publisher's decisions in a simulated world: see [`schedule`].

mod attempt;
mod audit;
mod broker;
mod faults;
mod letters;
mod oracle;
mod polling;
mod process;
mod schedule;
mod server;
mod stream;
mod table;
mod work;
mod world;
