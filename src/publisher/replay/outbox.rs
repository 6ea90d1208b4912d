//! What a replay works on: a session, the table that it reads, and how the rows are sent.

use std::sync::Arc;

use crate::config::{AfterPublish, Backlog, Config, OnPoison, Source};
use crate::error::Result;
use crate::lsn::Lsn;
use crate::metrics::Metrics;
use crate::outbox::replay::{ReplayFilter, ReplayRows, resolve};
use crate::outbox::{TableLocation, preflight};
use crate::postgres::{self, Server, Session, TableShape};
use crate::publisher::replay::watch::ReplayWatch;
use crate::publisher::sink::forwarder::Forwarder;
use crate::status::{Status, StatusBoard};

/// See the module's head.
pub(super) struct Outbox {
    pub(super) config: Arc<Config>,
    pub(super) session: Session,
    pub(super) server: Server,
    pub(super) shape: TableShape,
    pub(super) watch: Arc<ReplayWatch>,
    /// What the publisher does with a published row.
    after_publish: AfterPublish,
}

impl Outbox {
    /// Connects, and checks the table and the rights that a replay needs.
    ///
    /// # Errors
    /// Fatal with every problem of table and rights; transient if the server cannot be reached.
    pub(super) async fn open(config: Config) -> Result<Outbox> {
        let after_publish = config.after_publish;
        let config = Arc::new(of_replay(config));
        let timeout = config.operation_timeout;
        let session = postgres::connect(&config.database, "outboxd replay", timeout).await?;
        let server = postgres::server(&session).await?;
        let shape = preflight(&session, &config).await?;
        let status = Status::new(config.database.describe(), None, &config.table.to_string());
        let watch = Arc::new(ReplayWatch::new(StatusBoard::new(status)));
        Ok(Outbox {
            config,
            session,
            server,
            shape,
            watch,
            after_publish,
        })
    }

    /// The rows that this filter chooses now.
    ///
    /// # Errors
    /// Fatal with what is wrong with the filter; those of the session.
    pub(super) async fn choose(&self, filter: ReplayFilter) -> Result<ReplayRows> {
        let Outbox {
            config,
            session,
            shape,
            ..
        } = self;
        resolve(session, config, shape, self.after_publish, filter).await
    }

    /// The topic of progress records; empty at least once.
    pub(super) fn progress_topic(&self) -> &str {
        let settings = self.config.exactly_once.as_ref();
        settings.map_or("", |settings| &settings.progress_topic)
    }

    /// A forwarder that sends nothing yet.
    pub(super) fn forwarder(&self) -> Result<Forwarder> {
        let database = self.config.database.database_name();
        let metrics = Arc::new(Metrics::new(database, &self.config.slot));
        Forwarder::new(&self.config, metrics, Arc::clone(&self.watch.board))
    }

    /// Lets a forwarder send these rows: it knows the dead letters of the last minute, and where to
    /// file others. Drops its memory.
    ///
    /// # Errors
    /// Of the session.
    pub(super) async fn equip(&self, forwarder: &mut Forwarder, rows: &ReplayRows) -> Result<()> {
        forwarder.router.mark_replayed(&rows.started);
        forwarder.engine.limits.resolves = false;
        forwarder.use_place(Some(TableLocation {
            server: self.server.clone(),
            table: self.shape.oid,
        }));
        let system_id = self.server.lineage.system_id;
        let start = Lsn::INVALID;
        forwarder
            .start_over(&self.session, system_id, start)
            .await?;
        Ok(())
    }
}

/// The publisher's configuration for a replay: nothing is written back, no slot is used, and no key
/// is parked.
fn of_replay(mut config: Config) -> Config {
    config.after_publish = AfterPublish::Keep;
    config.source = Source::Poll;
    // The rows of the table are read, with `keep` too.
    config.backlog = Backlog::Publish;
    config.log_summary = None;
    if config.on_poison == OnPoison::ParkKey {
        config.on_poison = OnPoison::DeadLetter;
    }
    config
}
