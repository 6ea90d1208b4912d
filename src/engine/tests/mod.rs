//! Tests that drive the engine step by step: failures that the simulation found, reduced to a few
//! steps, and the cost of an event.

mod cost;
mod doubted_history;
mod floods;
mod letter_requests;
mod marking;
mod missing_topics;
mod new_producers;
mod pause;
mod placing;
mod replays;
mod retention;
mod rewinds;
mod session_ends;
mod stopping;
mod support;
mod topic_queue;
mod tracker;
