//! Every check: its name, its server, when it applies, and the checks that it depends on.
//!
//! The order is that of the report: a check stands behind those that it needs.

use serde::{Serialize, Serializer};

use crate::config::{AfterPublish, Config, Source};

/// The server that a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Side {
    /// The database.
    Postgres,
    /// The brokers.
    Kafka,
}

impl Side {
    /// The server's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Postgres => "Postgres",
            Side::Kafka => "Kafka",
        }
    }
}

/// When a check applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// Events come from a slot.
    Slot,
    /// Rows are marked or deleted.
    Writes,
    /// Old rows are deleted.
    Retains,
    /// Events are sent in transactions.
    ExactlyOnce,
}

/// One line of the catalogue.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Name,
    text: &'static str,
    side: Side,
    when: When,
    needs: &'static [Name],
}

impl Entry {
    /// Whether this configuration needs the check.
    pub(super) fn applies_to(&self, config: &Config) -> bool {
        match self.when {
            When::Always => true,
            When::Slot => config.source == Source::Slot,
            When::Writes => config.after_publish != AfterPublish::Keep,
            When::Retains => config.retain.is_some(),
            When::ExactlyOnce => config.exactly_once.is_some(),
        }
    }
}

macro_rules! catalogue {
    ($(
        $(#[$doc:meta])*
        $name:ident $text:literal $side:ident $when:ident [$($needs:ident)*],
    )*) => {
        /// The name of a check.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Name {
            $($(#[$doc])* $name,)*
        }

        /// See the module's head.
        pub(super) const CATALOGUE: &[Entry] = &[
            $(Entry {
                name: Name::$name,
                text: $text,
                side: Side::$side,
                when: When::$when,
                needs: &[$(Name::$needs),*],
            },)*
        ];
    };
}

catalogue! {
    /// The server's address answers.
    Reachable "server" Postgres Always [],
    /// The connection is encrypted where it crosses a network.
    Tls "tls" Postgres Always [Reachable],
    /// The server accepts role and password.
    Login "login" Postgres Always [Reachable Tls],
    /// The session is one of a primary, and of no connection pooler.
    Session "session" Postgres Always [Reachable Tls Login],
    /// The database's encoding.
    Encoding "encoding" Postgres Always [Reachable Tls Login Session],
    /// What the server's minor release does wrong in logical decoding.
    Release "release" Postgres Slot [Reachable Tls Login Session],
    /// `wal_level`.
    WalLevel "wal-level" Postgres Slot [Reachable Tls Login Session],
    /// The role's right to replicate.
    Role "replication-right" Postgres Slot [Reachable Tls Login Session],
    /// The role's limits: connections and validity.
    RoleLimits "role-limits" Postgres Always [Reachable Tls Login Session],
    /// Connections left.
    Connections "connections" Postgres Always [Reachable Tls Login Session],
    /// Replication slots left.
    Slots "free-slots" Postgres Slot [Reachable Tls Login Session],
    /// Walsenders left.
    Senders "free-walsenders" Postgres Slot [Reachable Tls Login Session],
    /// A replication connection with outboxd's own time-outs.
    Replication "replication-connection" Postgres Slot
        [Reachable Tls Login Session WalLevel Role Senders],
    /// `synchronous_standby_names`.
    Synchronous "synchronous-standby" Postgres Slot [Reachable Tls Login Session],
    /// The table, its columns and their types.
    Table "table" Postgres Always [Reachable Tls Login Session],
    /// The rights on it.
    Rights "rights" Postgres Always [Reachable Tls Login Session Table],
    /// Row-level security.
    RowSecurity "row-level-security" Postgres Always [Reachable Tls Login Session Table],
    /// The table of dead letters.
    DeadLetters "dead-letters" Postgres Always [Reachable Tls Login Session Table],
    /// Every statement that outboxd runs with this configuration.
    Statements "statements" Postgres Always
        [Reachable Tls Login Session Table Rights RowSecurity DeadLetters],
    /// Triggers and rules that act on the marks.
    Triggers "triggers" Postgres Writes [Reachable Tls Login Session Table],
    /// The index that finds unpublished rows.
    Index "index" Postgres Writes [Reachable Tls Login Session Table],
    /// Dead rows of the table and its index.
    Bloat "bloat" Postgres Writes [Reachable Tls Login Session Table],
    /// The size of the table, of which old rows are deleted.
    Retention "retention" Postgres Retains [Reachable Tls Login Session Table],
    /// The publication.
    Publication "publication" Postgres Slot [Reachable Tls Login Session Table],
    /// The replication slot.
    Slot "slot" Postgres Slot [Reachable Tls Login Session],
    /// The rows that a first start finds.
    Backlog "backlog" Postgres Always
        [Reachable Tls Login Session Table Rights RowSecurity DeadLetters Statements Slot],
    /// The session that holds outboxd's lock.
    Lock "lock" Postgres Always [Reachable Tls Login Session],
    /// The WAL that the slot retains, and the time until it is lost.
    Wal "wal-retention" Postgres Slot [Reachable Tls Login Session],
    /// `idle_replication_slot_timeout`.
    IdleSlot "idle-slot-timeout" Postgres Slot [Reachable Tls Login Session],
    /// The slot on standbys.
    Failover "failover" Postgres Slot [Reachable Tls Login Session Slot],
    /// Long transactions.
    Transactions "long-transactions" Postgres Always [Reachable Tls Login Session],
    /// Prepared transactions.
    Prepared "prepared-transactions" Postgres Always [Reachable Tls Login Session],
    /// The difference between the clocks.
    Clock "clock" Postgres Always [Reachable Tls Login Session],
    /// The addresses of `KAFKA_BROKERS`.
    Bootstrap "bootstrap-servers" Kafka Always [],
    /// A broker answers by the configured protocol, TLS and SASL included.
    Answer "kafka-answer" Kafka Always [Bootstrap],
    /// Passwords and events are encrypted where they cross a network.
    Encryption "kafka-encryption" Kafka Always [],
    /// The addresses that the brokers advertise.
    Advertised "advertised-listeners" Kafka Always [Bootstrap Answer],
    /// The right to write idempotently.
    Producer "producer" Kafka Always [Bootstrap Answer],
    /// The topic of the progress records.
    Progress "progress-topic" Kafka ExactlyOnce [Bootstrap Answer],
    /// The topics that the table names exist.
    Topics "topics" Kafka Always
        [Bootstrap Answer Reachable Tls Login Session Table Rights RowSecurity],
    /// The right to write to each of them.
    TopicRights "topic-rights" Kafka Always [Bootstrap Answer Topics],
    /// Their partitions have leaders.
    Leaders "topic-leaders" Kafka Always [Bootstrap Answer Topics],
    /// Their replicas.
    Replicas "topic-replicas" Kafka Always [Bootstrap Answer Topics],
    /// Their largest record.
    Size "topic-size" Kafka Always [Bootstrap Answer Topics],
    /// Their cleanup policy, against the keys.
    Cleanup "topic-cleanup" Kafka Always [Bootstrap Answer Topics],
    /// Their limits on the time of a record, against the brokers' clocks.
    KafkaClock "kafka-clock" Kafka Always [Bootstrap Answer Topics],
}

impl Name {
    fn entry(self) -> &'static Entry {
        let mut entries = CATALOGUE.iter();
        let entry = entries.find(|entry| entry.name == self);
        entry.expect("every name is in the catalogue")
    }

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        self.entry().text
    }

    /// The server that the check is about.
    pub fn side(self) -> Side {
        self.entry().side
    }

    pub(super) fn needs(self) -> &'static [Name] {
        self.entry().needs
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
