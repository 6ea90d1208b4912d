//! The steps of `cutover`, each over the sessions of both logins.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use outboxd::config::{AfterPublish, Backlog, Config, Source};
use outboxd::cutover::{
    self, Catalog, Fence, Fenced, FencedRows, Proof, Record, SessionSeen, Use, Watch,
};
use outboxd::outbox::{UnpublishedCount, readiness};
use outboxd::postgres::slot::{self, Slot};
use outboxd::postgres::{self, Session, TableShape, advisory_lock, table_shape};

use crate::cli::exit::{TRANSIENT, USAGE, Verdict};

/// Between two looks at the sessions.
const LOOK: Duration = Duration::from_millis(25);

/// The sessions of the two logins.
pub(super) struct Parties {
    own: Session,
    admin: Session,
    own_role: String,
    database: String,
    system_id: Option<String>,
}

/// What `cutover` would do.
pub(super) struct Plan {
    pub(super) catalog: Catalog,
    pub(super) fence: Fence,
    pub(super) own_role: String,
    pub(super) unpublished: Option<UnpublishedCount>,
    /// The slot of an earlier run.
    pub(super) slot: Option<Slot>,
    shape: TableShape,
    /// What keeps `run` from starting, each with what to do about it.
    unready: Vec<(String, String)>,
}

impl Parties {
    /// Connects both.
    pub(super) async fn connect(config: &Config, admin: Option<&Config>) -> anyhow::Result<Self> {
        let limit = config.operation_timeout;
        let own = postgres::connect_for_slots(&config.database, "outboxd cutover", limit).await?;
        let changes = &admin.unwrap_or(config).database;
        let admin = postgres::connect(changes, "outboxd cutover", limit).await?;
        let (here, there) = (
            postgres::server(&own).await?,
            postgres::server(&admin).await?,
        );
        let sql = "SELECT pg_catalog.current_database()::text, current_user::text";
        let names = own.row("reading the role", sql, &[]).await?;
        let database: String = names.try_get(0)?;
        let of_admin = admin.row("reading the role", sql, &[]).await?;
        if !here.is_same(&there) || of_admin.try_get::<_, String>(0)? != database {
            let line = "ADMIN_DATABASE_URL names another server or database than DATABASE_URL";
            return Err(Verdict::new(USAGE, vec![(line.to_owned(), None)]).into());
        }
        Ok(Parties {
            own_role: names.try_get(1)?,
            system_id: Some(here.lineage.system_id.to_string()),
            own,
            admin,
            database,
        })
    }

    /// Looks for this long which sessions use the table as a poller does.
    pub(super) async fn observe(
        &self,
        config: &Config,
        plan: &Plan,
        time: Duration,
    ) -> anyhow::Result<Vec<SessionSeen>> {
        let began = Instant::now();
        let mut pollers: Vec<SessionSeen> = Vec::new();
        loop {
            for seen in cutover::sessions(&self.admin, &config.table, &self.own_role).await? {
                let reads = plan.catalog.reads(&seen.role);
                if !reads || !matches!(seen.last, Use::Search | Use::Mark) {
                    continue;
                }
                let known = pollers
                    .iter_mut()
                    .find(|it| (it.pid, it.born) == (seen.pid, seen.born));
                match known {
                    Some(known) if known.last == Use::Search => {}
                    Some(known) => *known = seen,
                    None => pollers.push(seen),
                }
            }
            if began.elapsed() >= time {
                return Ok(pollers);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) fn fence<'a>(
        &'a self,
        config: &'a Config,
        plan: &'a Plan,
        pollers: &'a [SessionSeen],
        batch: usize,
    ) -> Fencing<'a> {
        Fencing {
            parties: self,
            config,
            plan,
            pollers,
            batch,
        }
    }

    /// The slot, if the source is one and it exists.
    async fn slot(&self, config: &Config) -> anyhow::Result<Option<Slot>> {
        Ok(match config.source {
            Source::Slot => slot::read(&self.own, &config.slot).await?,
            _ => None,
        })
    }

    /// Drops the slot of an earlier run: it would deliver what the poller publishes meanwhile. The
    /// next start publishes the unpublished rows of the table, and creates a slot. Returns whether
    /// there was one.
    pub(super) async fn drop_slot(&self, config: &Config) -> anyhow::Result<bool> {
        Ok(match config.source {
            Source::Slot => slot::drop(&self.own, &config.slot).await?,
            _ => false,
        })
    }

    /// Restores the rights, and removes the record.
    pub(super) async fn restore(&self, fence: &Fence, record: &Path) -> anyhow::Result<()> {
        let lifted = cutover::lift(&self.admin, fence).await;
        lifted.with_context(|| {
            let statements = fence.undo().join("; ");
            format!("the rights are not restored, a DBA can do it: {statements}")
        })?;
        Ok(Record::remove(record)?)
    }

    /// The record is of this table.
    pub(super) async fn check_record(
        &self,
        record: &Record,
        config: &Config,
    ) -> anyhow::Result<()> {
        let fence = &record.fence;
        let (schema, table) = (&config.table.schema, &config.table.name);
        let is_of_table = (&fence.schema, &fence.table) == (schema, table);
        let is_here = record.database == self.database && record.system_id == self.system_id;
        if is_of_table && is_here {
            return Ok(());
        }
        let line = format!(
            "the record is of table {}.{} in database {} of another server, database or table",
            fence.schema, fence.table, record.database
        );
        Err(Verdict::new(USAGE, vec![(line, None)]).into())
    }

    /// No instance publishes.
    pub(super) async fn check_no_outboxd(&self, config: &Config) -> anyhow::Result<()> {
        match advisory_lock::holder(&self.own, &config.slot).await? {
            None => Ok(()),
            Some(pid) => Err(Verdict::new(USAGE, vec![runs(pid)]).into()),
        }
    }
}

fn runs(pid: i32) -> (String, Option<String>) {
    let line = format!("an outboxd publishes this table (server process {pid})");
    let hint = "stop every outboxd of this table first, those that stand by too";
    (line, Some(hint.to_owned()))
}

impl Plan {
    /// Reads what is there.
    pub(super) async fn make(
        parties: &Parties,
        config: &Config,
        roles: &[String],
    ) -> anyhow::Result<Plan> {
        let (own, table) = (&parties.own, &config.table);
        let shape = table_shape::read(own, table, &config.mapping).await?;
        let shape = shape.with_context(|| format!("there is no table {table}"))?;
        let holder = advisory_lock::holder(own, &config.slot).await?;
        let catalog = Catalog::read(&parties.admin, &shape, holder).await?;
        let unready = readiness(own, config, None).await?.into_iter();
        Ok(Plan {
            fence: catalog.fence(&shape, roles, &parties.own_role),
            own_role: parties.own_role.clone(),
            unpublished: UnpublishedCount::read(own, config, &shape).await?,
            slot: parties.slot(config).await?,
            unready: unready.map(|(_, what, hint)| (what, hint)).collect(),
            catalog,
            shape,
        })
    }

    /// What makes it impossible, each with what to do about it.
    pub(super) fn obstacles(
        &self,
        config: &Config,
        pollers: &[SessionSeen],
    ) -> Vec<(String, Option<String>)> {
        let mut obstacles = Vec::new();
        let mut add = |line: String, hint: String| obstacles.push((line, Some(hint)));
        let (catalog, table) = (&self.catalog, &config.table);
        for (what, hint) in &self.unready {
            add(format!("outboxd cannot publish yet: {what}"), hint.clone());
        }
        if config.after_publish == AfterPublish::Keep || config.backlog == Backlog::Skip {
            add(
                "the table has to show what is published, and unpublished rows have to be sent"
                    .to_owned(),
                "set OUTBOX_AFTER_PUBLISH to mark or delete, and OUTBOX_BACKLOG to auto or publish"
                    .to_owned(),
            );
        }
        if !catalog.may_change {
            add(
                format!(
                    "role {} may not change the rights on {table}, which {} owns",
                    catalog.login, catalog.owner
                ),
                "give the owner's or a superuser's connection in ADMIN_DATABASE_URL, or let a DBA \
                 run what `outboxd cutover --print-sql` prints"
                    .to_owned(),
            );
        }
        if !catalog.sees_all && !self.fence.roles.iter().all(|role| *role == catalog.login) {
            add(
                format!("role {} does not see what other roles do", catalog.login),
                format!("GRANT pg_read_all_stats TO \"{}\"", catalog.login),
            );
        }
        for role in &self.fence.roles {
            if catalog.is_superuser(role) {
                add(superuser(role), SUPERUSER.to_owned());
            } else if *role == self.own_role {
                add(
                    format!("role {role} is the one that outboxd uses: both would be fenced"),
                    "give outboxd a role of its own: `outboxd init --role outboxd`".to_owned(),
                );
            }
        }
        let unfenced = pollers.iter().filter(|it| it.last == Use::Search);
        for seen in unfenced.filter(|it| catalog.is_superuser(&it.role)) {
            let what = superuser(&seen.role);
            add(
                format!("server process {} searches: {what}", seen.pid),
                SUPERUSER.to_owned(),
            );
        }
        if self.fence.roles.is_empty() && obstacles.is_empty() {
            let hint = "name the poller's role with --role; a superuser cannot be fenced";
            let line = format!("no role but outboxd's and superusers reads {table}");
            obstacles.push((line, Some(hint.to_owned())));
        }
        obstacles.extend(catalog.holder.map(runs));
        obstacles
    }
}

fn superuser(role: &str) -> String {
    format!("role {role} is a superuser, which no right keeps from reading the table")
}

const SUPERUSER: &str = "stop that poller, then start `outboxd run` (the cut-over with a stop), or \
                         let it log in as a role that is no superuser first";

/// From the fence to the proof.
pub(super) struct Fencing<'a> {
    parties: &'a Parties,
    config: &'a Config,
    plan: &'a Plan,
    pollers: &'a [SessionSeen],
    batch: usize,
}

impl Fencing<'_> {
    /// Writes the record and sets the fence. Returns the rows that are unpublished behind it.
    pub(super) async fn with_record(&self, path: &Path) -> anyhow::Result<(Fenced, FencedRows)> {
        let (parties, plan) = (self.parties, self.plan);
        let record = Record {
            database: parties.database.clone(),
            system_id: parties.system_id.clone(),
            fence: plan.fence.clone(),
        };
        record.write(path)?;
        let set = cutover::set(&parties.admin, &plan.shape, &plan.fence, &plan.own_role).await;
        let fenced = match set {
            Ok(fenced) => fenced,
            Err(error) if error.is_transient() => {
                // The commit may have taken effect.
                let message = format!(
                    "if a role was fenced, `outboxd cutover --undo` and the file \
                                       {} restore its rights",
                    path.display()
                );
                return Err(anyhow::Error::new(error).context(message));
            }
            Err(error) => {
                Record::remove(path)?;
                return Err(error.into());
            }
        };
        let rows = FencedRows::read(&parties.own, self.config, &plan.shape, self.batch).await;
        match rows {
            Ok(rows) => Ok((fenced, rows)),
            Err(error) => {
                parties.restore(&plan.fence, path).await?;
                Err(error.into())
            }
        }
    }

    /// Waits until the poller has no batch in hand.
    pub(super) async fn proof(
        &self,
        fenced: Fenced,
        rows: &FencedRows,
        wait: Duration,
    ) -> anyhow::Result<Proof> {
        let Parties {
            own,
            admin,
            own_role,
            ..
        } = self.parties;
        let table = &self.config.table;
        let roles = &self.plan.fence.roles;
        let pollers = self.pollers.iter().filter(|it| roles.contains(&it.role));
        let mut watch = Watch::new(fenced.at, roles, pollers, rows.count());
        let began = Instant::now();
        loop {
            let left = rows.left(own).await?;
            let sessions = cutover::sessions(admin, table, own_role).await?;
            if let Some(proof) = watch.look(began.elapsed(), &sessions, left) {
                return Ok(proof);
            }
            if began.elapsed() >= wait {
                let pids = watch.unproven();
                let pids = pids
                    .iter()
                    .map(i32::to_string)
                    .collect::<Vec<_>>()
                    .join(", ");
                let line = format!(
                    "the poller has not ended its batch within {wait:?}: {} of its first rows are \
                     not marked, server processes that have not searched again: {}",
                    left.first,
                    if pids.is_empty() {
                        "none is known"
                    } else {
                        &pids
                    },
                );
                let hint = "--wait longer than the poller takes for a batch and its interval; \
                            --observe longer than its interval shows its sessions";
                let lines = vec![(line, Some(hint.to_owned()))];
                return Err(Verdict::new(TRANSIENT, lines).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
