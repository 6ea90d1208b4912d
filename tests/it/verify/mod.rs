//! `outboxd verify`: each planted fault is found, nothing else is, and what is not known is never
//! called missing.

mod excuses;
mod faults;
mod speed;
mod stage;
mod windows;
