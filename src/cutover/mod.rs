//! Takes the table from a poller while the services go on writing, and gives it back.
//!
//! Owns the fence: the roles that read the table lose `SELECT` but for the columns that a mark
//! needs. The poller's next search is denied, and its marks of the batch in hand and the services'
//! inserts succeed. Refuses what cannot be fenced so: a superuser, a role that reads the table by
//! another way, and outboxd's own role. A trigger is no fence: it cannot keep a poller from reading
//! and sending, and to reject its marks makes every event that it has sent a duplicate.
//!
//! Why no event is lost: a fence changes no row, so what no program has marked is unpublished. Why
//! none is sent twice: outboxd starts after [`Watch`] has a proof that the poller has no batch in
//! hand. Why the way back is exact: [`Record`] is written before the fence and has every right that
//! the fence takes.

mod catalog;
mod fence;
mod grants;
mod proof;
mod record;
mod rows;
mod sessions;

pub use catalog::{Catalog, Reader};
pub use fence::{Fenced, lift, set};
pub use grants::{Fence, Grant};
pub use proof::{Proof, RowsLeft, Watch};
pub use record::Record;
pub use rows::FencedRows;
pub use sessions::{SessionSeen, Use, sessions};
