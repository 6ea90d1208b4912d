//! Makes of each event what is shown of it, by the publisher's router and checks.

use crate::config::Config;
use crate::engine::record_checks;
use crate::engine::required_parts::RequiredParts;
use crate::error::Result;
use crate::outbox::{Event, EventSource, Record, Rejection, Router, RowId};
use crate::publisher::peek::event::{PeekedEvent, Refusal, Shown};
use crate::publisher::peek::options::PeekOptions;

/// See the module's head.
pub(super) struct Records {
    router: Router,
    required: RequiredParts,
    only_topic: Option<String>,
    length_max: Option<usize>,
}

impl Records {
    pub(super) fn new(config: &Config, options: &PeekOptions) -> Self {
        Records {
            router: Router::new(&config.mapping),
            required: RequiredParts::of(&config.mapping),
            only_topic: options.only_topic.clone(),
            length_max: options.length_max,
        }
    }

    /// What is shown of the event; `None` if its topic is not wanted.
    ///
    /// # Errors
    /// When the columns do not fit the mapping. A row that cannot become a record is shown as
    /// refused.
    pub(super) fn of(
        &mut self,
        event: &Event<'_>,
        origin: EventSource,
    ) -> Result<Option<PeekedEvent>> {
        let (parts, rejection) = record_checks::prepare(&mut self.router, event, origin)?;
        let record = self.router.assemble(&parts, event, origin);
        if !self.is_wanted(record.topic) {
            return Ok(None);
        }
        let rejection = rejection.or_else(|| record_checks::own_rejection(&record, &self.required));
        let mut shown = shown(&record, self.length_max);
        shown.id = event.id.to_string();
        shown.refused = rejection.map(refusal);
        if let EventSource::Stream {
            commit_lsn,
            index,
            committed_at,
        } = origin
        {
            shown.lsn = Some(commit_lsn);
            shown.index = Some(index);
            shown.committed_at = Some(committed_at.to_string());
        }
        Ok(Some(shown))
    }

    /// The same for a row that the server cannot print; it has no topic.
    pub(super) fn unreadable(&self, id: &RowId, rejection: &Rejection) -> Option<PeekedEvent> {
        let shown = PeekedEvent {
            id: id.to_string(),
            refused: Some(refusal(rejection.clone())),
            ..PeekedEvent::default()
        };
        self.is_wanted("").then_some(shown)
    }

    fn is_wanted(&self, topic: &str) -> bool {
        self.only_topic.as_deref().is_none_or(|only| only == topic)
    }
}

fn refusal(rejection: Rejection) -> Refusal {
    Refusal {
        code: rejection.code,
        reason: rejection.message,
    }
}

fn shown(record: &Record<'_>, length_max: Option<usize>) -> PeekedEvent {
    let mut is_cut = false;
    let mut part = |bytes: &[u8]| {
        let (shown, cut) = Shown::of(bytes, length_max);
        is_cut |= cut;
        shown
    };
    let (key, value) = (record.key.map(&mut part), record.value.map(&mut part));
    let headers = record.headers();
    let headers = headers
        .map(|(name, value)| (name.to_owned(), value.map(&mut part)))
        .collect();
    PeekedEvent {
        topic: record.topic.to_owned(),
        partition: record.partition,
        key,
        value,
        value_bytes: record.value.map(<[u8]>::len),
        is_cut,
        headers,
        ..PeekedEvent::default()
    }
}
