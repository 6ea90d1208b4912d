//! The options of Debezium that outboxd has no setting for, each with the reason. Pure.
//!
//! A name that ends with `*` stands for all that begin so. Options that the import carries over
//! are not listed.

/// Why no setting has the place of these options.
pub(super) struct Group {
    pub(super) reason: &'static str,
    pub(super) names: &'static [&'static str],
}

/// The options of the Outbox Event Router, without the prefix of the transformation.
pub(super) const ROUTER: &[Group] = &[
    Group {
        reason: "outboxd publishes inserts, and ignores other changes",
        names: &["table.op.invalid.behavior", "debezium.op.invalid.behavior"],
    },
    Group {
        reason: "a value has no schema, and so no version of one",
        names: &["table.field.event.schema.version"],
    },
    Group {
        reason: "outboxd does not start without a column that a setting names",
        names: &[
            "table.field.additional.missing",
            "table.fields.additional.error.on.missing",
        ],
    },
    Group {
        reason: "outboxd makes no spans; a column with the context can be sent as a header",
        names: &[
            "tracing.span.context.field",
            "tracing.operation.name",
            "tracing.with.context.field.only",
        ],
    },
    Group {
        reason: "outboxd reads the outbox table alone",
        names: &["predicate", "negate"],
    },
    Group {
        reason: "names of members stay as they are",
        names: &["field.name.adjustment.mode"],
    },
];

/// The options of the Postgres connector, of Kafka Connect and of Debezium Server.
pub(super) const CONNECTOR: &[Group] = &[
    Group {
        reason: "outboxd keeps its slot at a stop; `outboxd drop` drops it",
        names: &["slot.drop.on.stop", "drop.slot.on.stop"],
    },
    Group {
        reason: "outboxd makes its slot a failover slot by itself from Postgres 17 on",
        names: &["slot.failover"],
    },
    Group {
        reason: "outboxd reads pgoutput, with parameters of its own",
        names: &["plugin.name", "slot.stream.params"],
    },
    Group {
        reason: "`outboxd init` makes a publication for the outbox table, which \
                 OUTBOX_PUBLICATION names",
        names: &[
            "publication.name",
            "publication.autocreate.mode",
            "publish.via.partition.root",
        ],
    },
    Group {
        reason: "outboxd reads inserts, which need no replica identity",
        names: &["replica.identity.autoset.values"],
    },
    Group {
        reason: "outboxd connects again by itself, for as long as it takes",
        names: &[
            "slot.max.retries",
            "slot.retry.delay.ms",
            "errors.max.retries",
            "errors.retry.timeout",
            "errors.retry.delay.max.ms",
            "retriable.restart.connector.wait.ms",
            "offset.mismatch.strategy",
        ],
    },
    Group {
        reason: "outboxd reads one table, and the columns that the settings name",
        names: &[
            "schema.include.list",
            "schema.exclude.list",
            "schema.whitelist",
            "schema.blacklist",
            "table.exclude.list",
            "table.blacklist",
            "table.ignore.builtin",
            "column.include.list",
            "column.exclude.list",
            "column.whitelist",
            "column.blacklist",
            "message.key.columns",
            "guardrail.collections.max",
            "guardrail.collections.limit.action",
        ],
    },
    Group {
        reason: "outboxd publishes inserts, and ignores other changes",
        names: &[
            "skip.messages.without.change",
            "skipped.operations",
            "tombstones.on.delete",
        ],
    },
    Group {
        reason: "a value is sent as Postgres prints it, without a schema",
        names: &[
            "time.precision.mode",
            "decimal.handling.mode",
            "hstore.handling.mode",
            "interval.handling.mode",
            "binary.handling.mode",
            "money.fraction.digits",
            "include.unknown.datatypes",
            "include.schema.changes",
            "include.schema.comments",
            "column.propagate.source.type",
            "datatype.propagate.source.type",
            "schema.name.adjustment.mode",
            "field.name.adjustment.mode",
            "schema.refresh.mode",
            "schema.history.*",
            "converters",
            "unavailable.value.placeholder",
            "toasted.value.placeholder",
            "sourceinfo.struct.maker",
            "source.struct.version",
            "post.processors*",
        ],
    },
    Group {
        reason: "outboxd changes no value",
        names: &["column.truncate.to.*", "column.mask.*"],
    },
    Group {
        reason: "outboxd takes no snapshot; OUTBOX_BACKLOG says what becomes of the rows that are \
                 there at its first start",
        names: &[
            "snapshot.custom.class",
            "snapshot.delay.ms",
            "snapshot.fetch.size",
            "snapshot.include.collection.list",
            "snapshot.isolation.mode",
            "snapshot.lock.timeout.ms",
            "snapshot.locking.mode",
            "snapshot.locking.mode.custom.name",
            "snapshot.max.threads",
            "snapshot.max.threads.multiplier",
            "snapshot.mode",
            "snapshot.mode.configuration.based.*",
            "snapshot.mode.custom.name",
            "snapshot.query.mode",
            "snapshot.query.mode.custom.name",
            "snapshot.select.statement.overrides*",
            "snapshot.tables.order.by.row.count",
            "incremental.snapshot.allow.schema.changes",
            "incremental.snapshot.chunk.size",
            "incremental.snapshot.watermarking.strategy",
            "read.only",
        ],
    },
    Group {
        reason: "there is no snapshot to ask for",
        names: &[
            "signal.data.collection",
            "signal.enabled.channels",
            "signal.file",
            "signal.kafka.*",
            "signal.poll.interval.ms",
        ],
    },
    Group {
        reason: "outboxd reports by its log, its metrics and its health",
        names: &[
            "notification.enabled.channels",
            "notification.sink.topic.name",
            "custom.metric.tags",
            "advanced.metrics.enable",
            "statistics.metrics.enabled",
            "custom.sanitize.pattern",
            "openlineage.*",
            "metrics.*",
        ],
    },
    Group {
        reason: "outboxd confirms its position by itself, also while other tables are written",
        names: &[
            "heartbeat.action.query",
            "heartbeat.interval.ms",
            "heartbeat.topics.prefix",
            "topic.heartbeat.prefix",
            "lsn.flush.mode",
            "lsn.flush.timeout.action",
            "lsn.flush.timeout.ms",
            "flush.lsn.source",
            "status.update.interval.ms",
            "xmin.fetch.interval.ms",
        ],
    },
    Group {
        reason: "outboxd writes to the topics of the events alone",
        names: &[
            "topic.prefix",
            "topic.naming.strategy",
            "topic.delimiter",
            "topic.cache.size",
            "topic.transaction",
            "transaction.topic",
            "transaction.metadata.factory",
            "provide.transaction.metadata",
            "database.server.name",
            "database.server.id",
        ],
    },
    Group {
        reason: "OUTBOX_MEMORY_LIMIT bounds what is in flight, and outboxd waits for events",
        names: &[
            "max.batch.size",
            "max.queue.size",
            "max.queue.size.in.bytes",
            "poll.interval.ms",
            "streaming.delay.ms",
            "query.fetch.size",
            "queue.provider.type",
        ],
    },
    Group {
        reason: "OUTBOX_MAX_RETRIES and OUTBOX_ON_POISON say what becomes of an event that \
                 cannot be published",
        names: &[
            "event.processing.failure.handling.mode",
            "event.converting.failure.handling.mode",
            "errors.tolerance",
            "errors.log.enable",
            "errors.log.include.messages",
            "errors.deadletterqueue.*",
        ],
    },
    Group {
        reason: "OUTBOX_OPERATION_TIMEOUT limits each statement and the stop",
        names: &[
            "database.query.timeout.ms",
            "connection.validation.timeout.ms",
            "create.slot.command.timeout",
            "executor.shutdown.timeout.ms",
        ],
    },
    Group {
        reason: "outboxd sends no logical messages",
        names: &["message.prefix.include.list", "message.prefix.exclude.list"],
    },
    Group {
        reason: "outboxd keeps each connection alive, and sets its sessions itself",
        names: &["database.tcpKeepAlive", "database.initial.statements"],
    },
    Group {
        reason: "it belongs to the JDBC driver; options of libpq go into DATABASE_URL",
        names: &["database.sslfactory", "driver.*", "database.*"],
    },
    Group {
        reason: "the slot keeps the position",
        names: &["offset.storage*", "offset.flush.*", "offsets.storage.topic"],
    },
    Group {
        reason: "OUTBOX_AUTO_CREATE_TOPICS=true lets the brokers create topics, with their \
                 defaults",
        names: &["topic.creation.*"],
    },
    Group {
        reason: "outboxd publishes at least once; the header id names a duplicate",
        names: &[
            "exactly.once.support",
            "transaction.boundary",
            "transaction.boundary.interval.ms",
        ],
    },
    Group {
        reason: "it belongs to Kafka Connect",
        names: &[
            "tasks.max",
            "tasks.max.enforce",
            "connector.plugin.version",
            "config.action.reload",
            "config.providers*",
            "predicates*",
            "plugin.path",
            "consumer.override.*",
            "admin.override.*",
        ],
    },
    Group {
        reason: "it belongs to Debezium Server; OUTBOX_HTTP_LISTEN and OUTBOX_LOG have its place",
        names: &["quarkus.*", "debezium.*", "sink.*", "format.*"],
    },
    Group {
        reason: "it is internal to Debezium",
        names: &["internal.*", "memory.management.*"],
    },
];

/// Why no setting has the place of this option; `None` if it is not known.
pub(super) fn reason(groups: &[Group], name: &str) -> Option<&'static str> {
    let is_named = |known: &&str| match known.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => *known == name,
    };
    let mut found = groups.iter().filter(|it| it.names.iter().any(is_named));
    found.next().map(|group| group.reason)
}
