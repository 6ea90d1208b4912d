//! Examines the database: reads facts in the order in which each depends on those before, and
//! leaves each verdict to the rooms that judge. Every statement has a limit, and none changes
//! anything.

use std::time::{Duration, Instant};

use crate::config::{AfterPublish, Config, Source};
use crate::doctor::catalogue::Name;
use crate::doctor::report::Check;
use crate::doctor::{connection, server, slot as slot_checks, table};
use crate::engine::output::WAL_SENDER_TIMEOUT;
use crate::error::{Error, Result};
use crate::outbox::{self, Sample, UnpublishedRows};
use crate::postgres::server_settings::ServerSettings;
use crate::postgres::slot::{self, Slot};
use crate::postgres::walsender::synchronous_standby;
use crate::postgres::{
    self, ServerError, Session, TableShape, advisory_lock, facts, preflight, table_shape,
};
use crate::replication::{ReplicationClient, SessionOptions};

/// The limit for the log-in at each host, and for each statement.
const STATEMENT: Duration = Duration::from_secs(4);

/// How long the WAL rate is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// Runs every check of the database. The sample of the table is left in `sample`, for the checks of
/// topics.
pub(super) async fn examine(config: &Config, checks: &mut Vec<Check>, sample: &mut Option<Sample>) {
    let connected = postgres::connect(&config.database, "outboxd doctor", STATEMENT).await;
    let session = match connected {
        Ok(session) => session,
        Err(error) => {
            checks.extend(connection::judge_refusal(&error, config));
            return;
        }
    };
    match facts::transport(&session).await {
        Ok(transport) => checks.extend(connection::judge_session(&transport, config)),
        Err(error) => checks.push(unread(Name::Session, &error)),
    }
    let mut examination = Examination {
        config,
        session: &session,
        checks,
    };
    examination.run(sample).await;
}

/// A check whose facts could not be read.
fn unread(name: Name, error: &Error) -> Check {
    let hint = error.hint().unwrap_or("see the server's log").to_owned();
    Check::cannot_say(name, error.reason(), hint)
}

struct Examination<'a> {
    config: &'a Config,
    session: &'a Session,
    checks: &'a mut Vec<Check>,
}

impl Examination<'_> {
    async fn run(&mut self, sample: &mut Option<Sample>) {
        let (config, session) = (self.config, self.session);
        let streams = config.source == Source::Slot;
        let began = Instant::now();
        let mark = match streams {
            true => Some(facts::wal_mark(session).await),
            false => None,
        };
        let role = self.server().await;
        let slot = if streams { self.slot().await } else { None };
        self.limits(slot.as_ref()).await;
        if streams {
            self.replication().await;
        }
        self.activity(&role).await;
        let lock = advisory_lock::holders(session, &config.slot, &config.table).await;
        if let Some(holders) = self.readable(Name::Lock, lock) {
            self.checks.push(slot_checks::lock(&holders, config));
        }
        if let Some(mark) = mark {
            tokio::time::sleep(MEASURE.saturating_sub(began.elapsed())).await;
            self.wal(mark, slot.as_ref()).await;
        }
        // The table comes last: a lock on it, or its size, may end the session.
        let shape = table_shape::read(session, &config.table, &config.mapping).await;
        let shape = self.readable(Name::Table, shape);
        if let Some(None) = shape {
            let problem = preflight::missing_table_problem(config);
            self.add(server::of_problems(Name::Table, "", [problem]));
        }
        let shape = shape.flatten();
        let may_read = match &shape {
            Some(shape) => self.table(shape, &role).await,
            None => false,
        };
        if let Some(shape) = &shape {
            self.upkeep(shape).await;
            if may_read {
                self.rows(shape, slot.is_some(), sample).await;
            }
        }
    }

    /// The facts, or a check that says why they could not be read.
    fn readable<T>(&mut self, name: Name, facts: Result<T>) -> Option<T> {
        match facts {
            Ok(facts) => Some(facts),
            Err(error) => {
                self.checks.push(unread(name, &error));
                None
            }
        }
    }

    /// Settings of the server and of the role, and its clock. Returns the role's name.
    async fn server(&mut self) -> String {
        let session = self.session;
        let streams = self.config.source == Source::Slot;
        let settings = ServerSettings::read(session, &self.config.database).await;
        let settings = self.readable(Name::Encoding, settings);
        if let Some(settings) = &settings {
            let encoding = format!("the database is encoded in {}", settings.encoding);
            let problem = settings.encoding_problem();
            self.add(server::of_problems(Name::Encoding, encoding, problem));
            if streams {
                self.checks.push(server::release(settings));
                let mut wal_level = format!("wal_level is {}", settings.wal_level);
                if settings.decodes_on_demand() {
                    wal_level += ", and the first slot turns logical decoding on";
                }
                let problem = settings.wal_level_problem();
                self.add(server::of_problems(Name::WalLevel, wal_level, problem));
                let role = format!("role {} may replicate", settings.role);
                let problem = settings.role_problem();
                self.add(server::of_problems(Name::Role, role, problem));
            }
        }
        let clock = facts::now(session).await;
        if let Some(now) = self.readable(Name::Clock, clock) {
            self.checks.push(server::clock(now));
        }
        settings.map_or_else(String::new, |settings| settings.role)
    }

    fn add(&mut self, checks: Vec<Check>) {
        self.checks.extend(checks);
    }

    async fn slot(&mut self) -> Option<Slot> {
        let (session, config) = (self.session, self.config);
        match slot::read(session, &config.slot).await {
            Ok(found) => {
                self.checks.push(slot_checks::slot(found.as_ref(), config));
                found
            }
            Err(error) if error.is_transient() || ServerError::of(&error).is_some() => {
                self.checks.push(unread(Name::Slot, &error));
                None
            }
            Err(error) => {
                let fix = error
                    .hint()
                    .unwrap_or("see pg_replication_slots")
                    .to_owned();
                self.checks
                    .push(Check::fails(Name::Slot, error.reason(), fix));
                None
            }
        }
    }

    /// What the server and the role have room for.
    async fn limits(&mut self, slot: Option<&Slot>) {
        let session = self.session;
        let role = facts::role_limits(session).await;
        if let Some(role) = self.readable(Name::RoleLimits, role) {
            self.checks.push(server::role_limits(&role));
        }
        let limits = facts::limits(session).await;
        let Some(limits) = self.readable(Name::Connections, limits) else {
            return;
        };
        self.checks.push(server::connections(&limits));
        if self.config.source != Source::Slot {
            return;
        }
        self.checks.push(server::senders(&limits, slot));
        let slots = slot::used_and_max(session).await;
        if let Some((used, max)) = self.readable(Name::Slots, slots) {
            self.add(server::slots(used, max, slot));
        }
        let problem = synchronous_standby::problem(session, None).await;
        if let Some(problem) = self.readable(Name::Synchronous, problem) {
            let ok = "outboxd is no synchronous standby";
            self.add(server::of_problems(Name::Synchronous, ok, problem));
        }
    }

    /// Opens a replication connection as the publisher does, unless a check before says that it
    /// cannot work.
    async fn replication(&mut self) {
        const NAME: Name = Name::Replication;
        let needs = NAME.needs();
        let is_hopeless = self.checks.iter().any(|check| check.prevents(needs));
        if is_hopeless {
            return;
        }
        let options = SessionOptions {
            application_name: "outboxd doctor".to_owned(),
            command_timeout: STATEMENT,
            wal_sender_timeout: WAL_SENDER_TIMEOUT,
            idle_session_timeout: WAL_SENDER_TIMEOUT,
        };
        let open = async {
            let mut client = ReplicationClient::connect(&self.config.database, &options).await?;
            client.identify_system().await?;
            client.query("SHOW wal_sender_timeout").await
        };
        let check = match tokio::time::timeout(STATEMENT, open).await {
            Ok(Ok(rows)) => {
                let limit = rows.into_iter().flatten().next().flatten();
                let limit = limit.unwrap_or_default();
                Check::ok(
                    NAME,
                    format!("it opens, with a wal_sender_timeout of {limit}"),
                )
            }
            Ok(Err(error)) => {
                let fix = error.hint().unwrap_or("see the server's log").to_owned();
                Check::fails(NAME, error.reason(), fix)
            }
            Err(_elapsed) => Check::fails(
                NAME,
                format!("no answer within {} s", STATEMENT.as_secs()),
                "see the server's log, and pg_stat_replication",
            ),
        };
        self.checks.push(check);
    }

    async fn activity(&mut self, role: &str) {
        let activity = facts::activity(self.session, server::LONG_SECONDS).await;
        if let Some(activity) = self.readable(Name::Transactions, activity) {
            self.checks.push(server::transactions(&activity, role));
            self.checks.push(server::prepared(&activity));
        }
    }

    /// The table as the catalogs show it. Returns whether its rows can be read.
    async fn table(&mut self, shape: &TableShape, role: &str) -> bool {
        let (config, session) = (self.config, self.session);
        let problems = preflight::shape_problems(shape, config);
        let mut may_read = problems.is_empty();
        let ok = format!("{} has every column that is needed", shape.name);
        self.add(server::of_problems(Name::Table, ok, problems));
        let problems = preflight::right_problems(shape, config, role);
        may_read &= problems.is_empty();
        let ok = format!("role {role} has what it needs");
        self.add(server::of_problems(Name::Rights, ok, problems));
        let problem = preflight::row_security_problem(shape, role);
        may_read &= problem.is_none();
        let ok = "no row is hidden";
        self.add(server::of_problems(Name::RowSecurity, ok, problem));
        let problem = facts::dead_letter_table::problem(session, config).await;
        if let Some(problem) = self.readable(Name::DeadLetters, problem) {
            let ok = format!("{} can be used", config.table.dead_letter());
            self.add(server::of_problems(Name::DeadLetters, ok, problem));
        }
        if config.source == Source::Slot {
            let problems = preflight::publication_problems(session, config, shape).await;
            if let Some(problems) = self.readable(Name::Publication, problems) {
                let (publication, table) = (&config.publication, &shape.name);
                let ok = format!("{publication} has every insert into {table}");
                self.add(server::of_problems(Name::Publication, ok, problems));
            }
        }
        may_read
    }

    /// What acts on the table's rows, and how well it is kept.
    async fn upkeep(&mut self, shape: &TableShape) {
        if self.config.after_publish == AfterPublish::Keep {
            return;
        }
        let facts = facts::table(self.session, shape).await;
        if let Some(facts) = self.readable(Name::Triggers, facts) {
            self.add(table::triggers(&facts, self.config));
            self.checks.push(table::index(&facts, shape));
            self.checks.push(table::bloat(&facts, shape));
            self.checks.extend(table::retention(&facts, self.config));
        }
    }

    /// What reads the table: every statement that the publisher will run, the rows that a first
    /// start finds, and a sample of them.
    async fn rows(&mut self, shape: &TableShape, has_slot: bool, sample: &mut Option<Sample>) {
        let (config, session) = (self.config, self.session);
        let found = outbox::sample(session, config, shape).await;
        *sample = self.readable(Name::Topics, found);
        if self
            .checks
            .iter()
            .any(|it| it.prevents(Name::Statements.needs()))
        {
            return;
        }
        let accepted = outbox::check_statements(session, config, shape).await;
        let check = match &accepted {
            Ok(()) => Check::ok(Name::Statements, "the server accepts every statement"),
            // Such as a lock of another session, which says nothing about the statement.
            Err(error) if error.is_transient() => unread(Name::Statements, error),
            Err(error) => {
                let fix = error.hint().unwrap_or("see the server's log").to_owned();
                Check::fails(Name::Statements, error.reason(), fix)
            }
        };
        self.checks.push(check);
        if accepted.is_err() {
            return;
        }
        let survey = async {
            let rows = UnpublishedRows::new(config, shape)?;
            rows.survey(session).await
        };
        let survey = survey.await;
        if let Some(survey) = self.readable(Name::Backlog, survey) {
            self.checks.push(table::backlog(&survey, config, has_slot));
        }
    }

    /// The WAL that is written and retained, and what standbys keep.
    async fn wal(&mut self, mark: Result<facts::WalMark>, slot: Option<&Slot>) {
        let session = self.session;
        let settings = facts::settings(session, &slot_checks::SETTINGS).await;
        let Some(settings) = self.readable(Name::IdleSlot, settings) else {
            return;
        };
        self.checks.push(slot_checks::idle_timeout(&settings));
        let standbys = facts::standbys(session).await;
        if let Some(standbys) = self.readable(Name::Failover, standbys) {
            self.add(slot_checks::failover(slot, &settings, &standbys));
        }
        let rate = match mark {
            Ok(mark) => facts::wal_rate(session, mark).await,
            Err(error) => Err(error),
        };
        if let Some(rate) = self.readable(Name::Wal, rate) {
            self.checks.push(slot_checks::wal(slot, &settings, rate));
        }
    }
}
