//! The publisher's decisions in a simulated world: see [`schedule`].

mod attempt;
mod audit;
mod broker;
mod copies;
mod faults;
mod letters;
mod oracle;
mod polling;
mod process;
mod schedule;
mod server;
mod stream;
mod table;
mod watch;
mod work;
mod world;
