//! Checks the settings of a [`Mapping`], and puts it together. Rules that contradict each other are
//! refused.

use std::collections::BTreeMap;

use crate::config::check::Check;
use crate::config::error::{InvalidValue, NOT_SET};
use crate::config::mapping::merge::Columns;
use crate::config::mapping::row_filter::RowFilter;
use crate::config::mapping::rules::{HeaderStyle, KeyRule, TopicMap, TopicRule, ValueRule};
use crate::config::mapping::{Mapping, list, parse, where_clause};
use crate::config::policy::AfterPublish;
use crate::config::settings::Settings;
use crate::config::variables;
use crate::error::shown;

/// What stands for the values that are not listed.
const OTHER: &str = "*";

impl Check {
    /// Takes the settings of the mapping. `source_id` is the default of the setting.
    pub(in crate::config) fn mapping(
        &mut self,
        given: &mut Settings,
        mut columns: Columns,
        source_id: String,
    ) -> Mapping {
        self.errors.append(&mut columns.errors);
        let default = Mapping::default();
        let filter = given.row_filter.take();
        let filter = self.or(variables::WHERE, filter, RowFilter::default(), |text| {
            where_clause::row_filter(text)
        });
        let (topic, topics) = self.topic(given, columns.lack_topics);
        let columns = columns.names;
        let by_type = columns.event_type.name.clone();
        let by_type = by_type.map_or(KeyRule::None, KeyRule::Column);
        let key = self.or(variables::KEY, given.key.take(), by_type, parse::key);
        let value = given.value.take();
        let value = self.or(variables::VALUE, value, default.value, parse::value);
        let null_payload = self.or(
            variables::NULL_PAYLOAD,
            given.null_payload.take(),
            default.null_payload,
            parse::null_payload,
        );
        let headers = given.headers.take();
        let headers = self.or(variables::HEADERS, headers, default.headers, parse::headers);
        let partition = given.partition.take();
        let partition = self.or(
            variables::PARTITION,
            partition,
            default.partition,
            parse::partition,
        );
        let timestamp = given.timestamp.take();
        let timestamp = self.or(
            variables::TIMESTAMP,
            timestamp,
            default.timestamp,
            parse::timestamp,
        );
        let source_id = self.or(
            variables::SOURCE_ID,
            given.source_id.take(),
            source_id,
            parse::source_id,
        );
        let mapping = Mapping {
            columns,
            topic,
            topics,
            key,
            value,
            null_payload,
            partition,
            timestamp,
            headers,
            filter,
            source_id,
        };
        self.agreement(&mapping);
        mapping
    }

    /// The rule for topics, and the topics that it looks up. They have to be named where `needed`.
    fn topic(&mut self, given: &mut Settings, needed: bool) -> (TopicRule, TopicMap) {
        let has_topics = given.topics.is_some() || !given.topics_table.is_empty();
        let default = Mapping::default().topic;
        let topic = self.or(variables::TOPIC, given.topic.take(), default, |text| {
            parse::topic(text, has_topics)
        });
        if needed {
            let hint = "write the topic of each kind of event, as value=topic,value=topic";
            let wrong = InvalidValue::new(NOT_SET, hint);
            self.errors.push(wrong.of(variables::TOPICS));
        }
        let topics = self.topics(given, &topic);
        (topic, topics)
    }

    /// The topics of the file and of the list, which overrides the file.
    fn topics(&mut self, given: &mut Settings, topic: &TopicRule) -> TopicMap {
        let mut listed: BTreeMap<String, String> = std::mem::take(&mut given.topics_table);
        let list = given.topics.take();
        let pairs = list.as_deref().map_or(Ok(Vec::new()), list::pairs);
        match pairs {
            Ok(pairs) => {
                let texts = pairs.iter().map(|(value, topic)| (*value, *topic));
                listed.extend(texts.map(|(value, topic)| (value.to_owned(), topic.to_owned())));
            }
            Err(wrong) => self.errors.push(wrong.of(variables::TOPICS)),
        }
        let mut map = TopicMap::default();
        for (value, topic) in listed {
            let read = match value.as_str() {
                OTHER => parse::topic_template(&topic).map(|other| map.other = Some(other)),
                _ => parse::topic_name(&topic).map(|topic| {
                    map.entries.insert(value, topic);
                }),
            };
            if let Err(wrong) = read {
                self.errors.push(wrong.of(variables::TOPICS));
            }
        }
        self.purpose(&map, topic);
        map
    }

    /// A map that can choose nothing is a mistake.
    fn purpose(&mut self, map: &TopicMap, topic: &TopicRule) {
        let constant = match topic {
            TopicRule::Template(template) => template.constant(),
            TopicRule::Column(_) => None,
        };
        let wrong = match (map.entries.is_empty(), &map.other, constant) {
            (true, Some(other), _) => InvalidValue::new(
                "has * alone, so that it is the topic of each event",
                format!(
                    "set {} to {} instead",
                    variables::TOPIC,
                    shown(&other.to_string())
                ),
            ),
            (false, _, Some(constant)) => InvalidValue::new(
                format!(
                    "looks up {}, which is always {}",
                    variables::TOPIC,
                    shown(&constant)
                ),
                format!("set {} to column:NAME", variables::TOPIC),
            ),
            _ => return,
        };
        self.errors.push(wrong.of(variables::TOPICS));
    }

    /// Refuses rules that contradict each other.
    fn agreement(&mut self, mapping: &Mapping) {
        let columns = &mapping.columns;
        let mut refuse = |setting, problem: &str, hint: &str| {
            self.errors
                .push(InvalidValue::new(problem, hint).of(setting));
        };
        if matches!(mapping.key, KeyRule::Header(_)) && columns.headers.column.name.is_none() {
            refuse(
                variables::KEY,
                "is a header, and no column has the headers",
                "name the column as headers in OUTBOX_COLUMNS",
            );
        }
        let has_envelope = !columns.envelope.is_empty();
        if has_envelope && matches!(mapping.value, ValueRule::Pointer(_)) {
            refuse(
                variables::VALUE,
                "takes a part of the payload, and OUTBOX_COLUMNS has an envelope around it",
                "write payload or expanded, or remove the envelope",
            );
        }
        if has_envelope && mapping.headers == HeaderStyle::CloudEventsStructured {
            refuse(
                variables::HEADERS,
                "cannot be cloudevents-structured with an envelope in OUTBOX_COLUMNS: both are \
                 the value",
                "write cloudevents, or remove the envelope",
            );
        }
    }

    /// Marking needs a column for the mark.
    pub(in crate::config) fn mark(&mut self, after_publish: AfterPublish, mapping: &Mapping) {
        if after_publish == AfterPublish::Mark && mapping.columns.published.column.name.is_none() {
            let problem = "cannot be mark, since OUTBOX_COLUMNS has published=none";
            let hint = "write delete or keep, or name the column that shows what is published";
            self.errors
                .push(InvalidValue::new(problem, hint).of(variables::AFTER_PUBLISH));
        }
    }
}
