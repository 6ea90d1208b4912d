//! Which dead letters an action is about.

use std::str::FromStr;

use outboxd::outbox::dead_letter::admin::{Filter, STATES};

/// Selects dead letters.
#[derive(clap::Args)]
pub(super) struct Which {
    /// Only these IDs
    #[arg(value_name = "ID")]
    given: Vec<Ids>,

    /// Only these IDs
    #[arg(long = "id", value_name = "ID,ID")]
    ids: Vec<Ids>,

    /// Only this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,

    /// Only this error code
    #[arg(long, value_name = "CODE")]
    code: Option<String>,

    /// Only this state
    #[arg(long, value_name = "STATE", value_parser = STATES)]
    pub(super) state: Option<String>,
}

impl Which {
    /// Whether some are named by their IDs.
    pub(super) fn is_by_id(&self) -> bool {
        !self.given.is_empty() || !self.ids.is_empty()
    }

    pub(super) fn filter(self) -> Filter {
        let ids = self.given.into_iter().chain(self.ids);
        Filter {
            ids: ids.flat_map(|Ids(ids)| ids).collect(),
            topic: self.topic,
            code: self.code,
            state: self.state,
            open: false,
        }
    }
}

/// IDs, separated by commas; one at the end is no further ID.
#[derive(Debug, Clone)]
struct Ids(Vec<i64>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Ids, String> {
        let ids = text.strip_suffix(',').unwrap_or(text).split(',');
        let ids: Result<_, _> = ids.map(|id| id.trim().parse()).collect();
        ids.map(Ids)
            .map_err(|_| "write whole numbers, separated by commas".to_owned())
    }
}
