//! The set-up of the database before the first event: what is there, what is missing, and the steps
//! that make it.
//!
//! [`Setup::steps`] is the whole as SQL for a person. [`create`] and [`look`] look first: a thing
//! is there if it is what outboxd needs, whatever its name is. An unrelated thing that has the name
//! of one of outboxd's stays as it is. `found` reads, the plan (`objects`, `indexes`, `functions`,
//! `roles`) decides without the server, and `carry_out` runs the steps, each by itself and after a
//! look at the rights that it needs.
//!
//! Refused: a database whose encoding cannot work. The slot is not part of the set-up. A slot
//! decodes each change with the catalog of that time, so the publisher creates it after the
//! publication, together with the first read of the table.

mod carry_out;
mod catalog;
mod found;
mod functions;
mod indexes;
mod objects;
mod part;
mod plan;
mod relations;
mod roles;
mod script;
mod sql;
mod wanted;

pub use self::carry_out::{create, look};
pub use self::part::{Line, Outcome, Undone};
pub use self::script::Step;
pub use self::wanted::{PartitionPeriod, Setup};

#[cfg(test)]
mod tests;
