//! Which of two sources gives a setting: flags and environment come before the file.

use crate::config::settings::Settings;

impl Settings {
    /// These settings, and those of `other` for the ones that are not set. An empty text counts as
    /// not set: that is what an empty variable of a deployment means.
    #[must_use]
    pub fn or(mut self, mut other: Settings) -> Settings {
        let some = |text: &String| !text.trim().is_empty();
        for (mine, others) in self.texts().into_iter().zip(other.texts()) {
            *mine = mine.take().filter(some).or(others.take().filter(some));
        }
        let mine = self.kafka_properties.take().filter(some);
        self.kafka_properties = match (mine, other.kafka_properties) {
            (Some(mine), Some(other)) => Some(format!("{other},{mine}")),
            (mine, other) => mine.or(other),
        };
        other.kafka.append(&mut self.kafka);
        other.kafka_table.append(&mut self.kafka_table);
        other.columns_table.append(&mut self.columns_table);
        other.topics_table.append(&mut self.topics_table);
        other.errors.append(&mut self.errors);
        Settings {
            kafka: other.kafka,
            kafka_table: other.kafka_table,
            columns_table: other.columns_table,
            topics_table: other.topics_table,
            errors: other.errors,
            ..self
        }
    }

    /// Every setting that is one text; the properties of Kafka are a list.
    pub(crate) fn texts(&mut self) -> [&mut Option<String>; 52] {
        [
            &mut self.database_url,
            &mut self.database_password_file,
            &mut self.database_password_command,
            &mut self.replication_url,
            &mut self.replication_password_file,
            &mut self.replication_password_command,
            &mut self.kafka_brokers,
            &mut self.kafka_password_file,
            &mut self.kafka_token_command,
            &mut self.table,
            &mut self.slot,
            &mut self.publication,
            &mut self.preset,
            &mut self.columns,
            &mut self.row_filter,
            &mut self.topic,
            &mut self.topics,
            &mut self.key,
            &mut self.value,
            &mut self.null_payload,
            &mut self.headers,
            &mut self.partition,
            &mut self.timestamp,
            &mut self.source_id,
            &mut self.source,
            &mut self.delivery,
            &mut self.commit_interval,
            &mut self.progress_topic,
            &mut self.accept,
            &mut self.batch_size,
            &mut self.process_interval,
            &mut self.operation_timeout,
            &mut self.max_retries,
            &mut self.after_publish,
            &mut self.retain,
            &mut self.retain_share,
            &mut self.retain_partitions,
            &mut self.backlog,
            &mut self.start_lsn,
            &mut self.on_slot_loss,
            &mut self.audit_interval,
            &mut self.on_poison,
            &mut self.dead_letters_per_minute,
            &mut self.auto_create_topics,
            &mut self.read_back,
            &mut self.memory_limit,
            &mut self.http_listen,
            &mut self.http_hosts,
            &mut self.log,
            &mut self.log_format,
            &mut self.log_summary,
            &mut self.verify_every,
        ]
    }
}
