//! What a person asks of a comparison.

use std::path::PathBuf;
use std::time::Duration;

use crate::outbox::RowWindow;
use crate::verify::moment::Moment;

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The first id; `None` for no limit.
    pub from_id: Option<String>,
    /// The last id.
    pub to_id: Option<String>,
    /// The first time of creation.
    pub since: Option<Moment>,
    /// The time of creation behind the last.
    pub until: Option<Moment>,
    /// Topics beside those that rows name.
    pub also_topics: Vec<String>,
    /// The topics have the records of this outbox alone.
    pub exclusive: bool,
    /// How long the slot, and open transactions of other producers, are waited for.
    pub wait: Duration,
    /// The most events of a kind that are named.
    pub events_max: usize,
    /// Where entries are put while they wait to be compared.
    pub folder: PathBuf,
}

impl Request {
    /// The window of rows, where the present is `now`: microseconds since 1970.
    pub(super) fn window(&self, now: i64) -> RowWindow {
        RowWindow {
            from_id: self.from_id.clone(),
            to_id: self.to_id.clone(),
            since: self.since.map(|since| since.at(now)),
            until: self.until.map(|until| until.at(now)),
        }
    }
}
