//! The topic of an event: a column or a template, and a map from what they give to topics.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::config::Mapping;
use crate::config::mapping::TopicRule;
use crate::error::{Error, Result};
use crate::outbox::router::rejected::{TOPIC_UNMAPPED, rejected};
use crate::outbox::router::scratch::Scratch;
use crate::outbox::router::template::FilledTemplate;
use crate::outbox::{Event, TopicNameError};
use crate::topic_name;

/// See the module's head.
#[derive(Debug)]
pub(super) struct TopicChoice {
    /// `None` if the column that [`Event::topic`] has gives the topic.
    template: Option<FilledTemplate>,
    /// The text before the template's. The scratch memory keeps it.
    lead: String,
    /// How many bytes of every topic are known to be legal: those of the text.
    legal: usize,
    /// The column, for errors.
    column: String,
    is_column: bool,
    /// Otherwise the topic is what column or template gives.
    has_map: bool,
    entries: BTreeMap<String, String>,
    other: Option<FilledTemplate>,
}

/// The topic of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    /// [`Event::topic`].
    Event,
    /// This piece of the scratch memory's text.
    Text(Range<usize>),
}

impl TopicChoice {
    /// The topics of this mapping. No other text is kept behind this.
    pub(super) fn of(mapping: &Mapping, extras: &[&str], scratch: &mut Scratch) -> Self {
        let (mut template, column) = match &mapping.topic {
            TopicRule::Column(name) => (None, name.clone()),
            TopicRule::Template(template) => {
                (Some(FilledTemplate::of(template, extras)), String::new())
            }
        };
        let (entries, other) = (&mapping.topics.entries, &mapping.topics.other);
        let has_map = !entries.is_empty() || other.is_some();
        let lead = match &mut template {
            Some(template) if !has_map => template.take_lead(),
            _ => String::new(),
        };
        scratch.keep(&lead);
        TopicChoice {
            legal: match topic_name::is_legal(&lead) {
                true => lead.len(),
                false => 0,
            },
            lead,
            is_column: template.is_none() && !has_map,
            template,
            column,
            has_map,
            entries: entries.clone(),
            other: other.as_ref().map(|it| FilledTemplate::of(it, extras)),
        }
    }

    /// Whether a column is the topic as it is.
    pub(super) fn is_column(&self) -> bool {
        self.is_column
    }

    /// Why a topic that was chosen cannot be one.
    #[inline(always)]
    pub(super) fn check(&self, topic: &str) -> Option<TopicNameError> {
        topic_name::check_behind(topic, self.legal).err()
    }

    /// The topic of this event.
    ///
    /// # Errors
    ///
    /// Of the row, if a column is null or the map has no topic for it. Without a map a column that
    /// is null gives the empty name, which is no topic's.
    pub(super) fn choose(&self, event: &Event<'_>, scratch: &mut Scratch) -> Result<Topic> {
        if self.is_column {
            return Ok(Topic::Event);
        }
        let start = scratch.begin_with(&self.lead);
        match &self.template {
            None if event.topic.is_empty() => return Err(null(event, &self.column)),
            None => scratch.text.push_str(event.topic),
            Some(template) => template
                .append(event, &mut scratch.text)
                .map_err(|column| null(event, column))?,
        }
        if !self.has_map {
            return Ok(Topic::Text(start..scratch.text.len()));
        }
        let value = scratch.text.get(start..).unwrap_or_default();
        let found = self.entries.get(value);
        scratch.text.truncate(start);
        match (found, &self.other) {
            (Some(topic), _) => scratch.text.push_str(topic),
            (None, Some(other)) => other
                .append(event, &mut scratch.text)
                .map_err(|column| null(event, column))?,
            (None, None) => {
                let what = "belongs to none of the configured topics";
                let hint = "add its value to [topics], or a topic for every other value";
                let error = rejected(event, what).with_rejection_code(TOPIC_UNMAPPED);
                return Err(error.with_hint(hint));
            }
        }
        Ok(Topic::Text(start..scratch.text.len()))
    }
}

fn null(event: &Event<'_>, column: &str) -> Error {
    let what = format!("has no topic: {column} is null");
    rejected(event, &what).with_rejection_code(TOPIC_UNMAPPED)
}
