//! Tests that drive the engine step by step: failures that the simulation found, reduced to a few
//! steps, and the cost of an event.

mod cost;
mod engine;
mod placing;
mod topic_queue;
mod tracker;
