//! Database work in the simulation, as the write-back carries it out: its session, and the table
//! that its statements see. What a mark did, and what becomes of a batch, the write-back decides.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use futures_util::FutureExt;

use crate::config::AfterPublish;
use crate::engine::output::{DatabaseWork, PendingRequests};
use crate::engine::row_ids::number;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::outbox::{
    Changed, Mark, MarkedTable, PartTable, RefusedMark, Rejection, RetentionStep, RowId, RowName,
    TableGone, TableLocation, settle, write,
};
use crate::publisher::simulation::process::rejection;
use crate::publisher::simulation::server::{Refusal, Row};
use crate::publisher::simulation::world::{World, event_of};

/// What the work has read, and the WAL position after it, if that was needed.
type Performed = (Option<PendingRequests>, Option<Lsn>);

/// Database work under way.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) work: DatabaseWork,
    pub(super) generation: u64,
    pub(super) place: Option<TableLocation>,
    pub(super) needs_position: bool,
    /// The open session of the write-back, by the table that it was opened for.
    pub(super) session: Option<TableLocation>,
    pub(super) result: Option<Result<Performed>>,
}

/// The error of an outage.
pub(super) fn outage() -> Error {
    Error::transient(Code::Connect, "no connection")
}

impl World {
    /// Runs database work on the session that the write-back chooses. With `fails` it fails, before
    /// or after it took effect.
    pub(super) fn perform(&mut self, work: &mut Work, fails: bool) {
        let opened = self.prepared(work);
        let result = match &opened {
            Ok(Some(opened)) if !fails || self.rng.bool() => self.run(work, opened, fails),
            Ok(_) => Err(outage()),
            Err(TableGone) => Err(outage().with_source(TableGone)),
        };
        work.session = opened.ok().flatten().filter(|_| result.is_ok());
        work.result = Some(result);
    }

    /// The session to use; see `WriteBack::prepared`.
    ///
    /// # Errors
    /// The table was recreated; `None` if there is no session to it now.
    fn prepared(&mut self, work: &mut Work) -> Result<Option<TableLocation>, TableGone> {
        let Some(place) = &work.place else {
            return Ok(None);
        };
        let now = self.server.location();
        if let Some(opened) = work.session.take() {
            // A server that was replaced by its standby may live on.
            let is_closed = !self.is_up || (opened.server != now.server && !self.has_old_primary);
            if place.may_use(&opened, is_closed) {
                return Ok(Some(opened));
            }
        }
        if !self.is_up || !place.is_on(&now.server) {
            return Ok(None);
        }
        match place.is_table(now.table) {
            true => Ok(Some(now)),
            false => Err(TableGone),
        }
    }

    fn run(&mut self, work: &mut Work, opened: &TableLocation, fails: bool) -> Result<Performed> {
        let now = self.server.location();
        if opened.server != now.server && !matches!(work.work, DatabaseWork::Mark(_)) {
            // It takes effect on the old primary.
            return Ok((None, None));
        }
        let is_here = *opened == now;
        let mut pending = None;
        match &mut work.work {
            DatabaseWork::Mark(marks) => {
                let mut tried = marks.clone();
                let statements = Cell::new(if fails { self.rng.u32(1..8) } else { u32::MAX });
                let table = SeenTable {
                    world: RefCell::new(self),
                    is_here,
                    statements,
                };
                let written = write(&table, &mut tried).now_or_never();
                // What the write-back has learnt of the rows stays if it fails.
                *marks = tried;
                written.expect("nothing waits").map_err(|()| outage())?;
            }
            DatabaseWork::File(dead_letters) => {
                for dead_letter in dead_letters {
                    let record = dead_letter.record.as_deref();
                    let event = record.map(event_of).or_else(|| {
                        let row = self
                            .server
                            .files
                            .rows
                            .get(&number(&dead_letter.row.as_ref()?.id))?;
                        Some(row.event)
                    });
                    self.filed.extend(event);
                    let code = &dead_letter.rejection.code;
                    self.note(|| format!("file event {event:?}: {code}"));
                    self.server.files.letters.file(dead_letter, event);
                }
            }
            DatabaseWork::Close(closings) => {
                for closing in closings {
                    self.note(|| format!("close {closing:?}"));
                    let row = self.server.files.letters.close(closing);
                    if let Some(row) = row.filter(|_| self.marks()) {
                        self.settle_row(row);
                    }
                }
            }
            DatabaseWork::CountAttempts(_) => {}
            DatabaseWork::ReadPause { .. } => {
                pending = Some(PendingRequests {
                    paused: Some(self.is_paused),
                    ..PendingRequests::default()
                });
            }
            DatabaseWork::Retain(step) => {
                *step = Some(RetentionStep {
                    ends_pass: true,
                    ..RetentionStep::default()
                });
            }
            DatabaseWork::ReadRequests { with_keys } => {
                let with_keys = with_keys.then_some(10);
                let now = |name: &RowName| {
                    let row = self.server.files.rows.get(&number(&name.id))?;
                    (row.name == *name).then(|| self.record(row.event, None))
                };
                let read = self.server.files.letters.read(with_keys, now);
                let letters = read.requests.iter().map(|it| it.dead_letter);
                self.note(|| format!("read requests {:?}", letters.collect::<Vec<_>>()));
                pending = Some(read);
            }
        }
        if fails {
            return Err(outage());
        }
        let wal = &mut self.server.files.wal;
        *wal += u64::from(work.needs_position) * 3;
        let position = work.needs_position.then_some(Lsn::new(*wal));
        Ok((pending, position))
    }

    fn settle_row(&mut self, name: RowName) {
        let files = &mut self.server.files;
        if let Some(row) = files.rows.get_mut(&number(&name.id))
            && row.name == name
        {
            row.is_marked = true;
            files.wal += 2;
            if self.config.after_publish == AfterPublish::Delete {
                files.rows.remove(&number(&name.id));
            }
        }
    }

    /// Marks a row, unless a trigger keeps it unpublished.
    fn mark(&mut self, row: Row) {
        let event = row.event;
        self.note(|| format!("mark event {event}"));
        assert!(
            self.broker.has(event),
            "{row:?} is marked and was never published"
        );
        if row.refuses.is_none() {
            self.settle_row(row.name);
        }
    }
}

/// Why a statement failed.
#[derive(Debug)]
enum Failure {
    /// A row has caused it.
    Row,
    Server,
}

/// The table as the statements of a session see it.
struct SeenTable<'a> {
    world: RefCell<&'a mut World>,
    /// It is the table that the server has; otherwise no row of it is there.
    is_here: bool,
    /// So many statements succeed.
    statements: Cell<u32>,
}

impl SeenTable<'_> {
    /// Begins a statement. Returns the rows of these names that it sees.
    fn seen(&self, names: &[RowName]) -> Result<Vec<Row>, Failure> {
        let left = self.statements.get().checked_sub(1);
        self.statements.set(left.ok_or(Failure::Server)?);
        let mut world = self.world.borrow_mut();
        if world.hides_rows && world.rng.u8(0..6) == 0 {
            world.show_rows();
        }
        let rows = &world.server.files.rows;
        let row = |name: &RowName| rows.get(&number(&name.id)).filter(|row| row.name == *name);
        let found = names.iter().filter_map(row).cloned();
        let seen = found.filter(|row| row.is_visible && self.is_here);
        Ok(seen.collect())
    }

    fn change(&self, rows: impl Iterator<Item = Row>) -> Result<HashSet<RowId>, Failure> {
        let rows: Vec<Row> = rows.filter(|row| !row.is_marked).collect();
        if rows.iter().any(|row| row.refuses == Some(Refusal::Fails)) {
            return Err(Failure::Row);
        }
        let mut world = self.world.borrow_mut();
        rows.iter().for_each(|row| world.mark(row.clone()));
        Ok(rows.into_iter().map(|row| row.name.id).collect())
    }
}

impl MarkedTable for SeenTable<'_> {
    type Error = Failure;

    async fn mark(&self, names: &[RowName]) -> Result<Option<Changed>, Failure> {
        let rows = self.seen(names)?;
        if rows.iter().any(|row| row.is_locked) {
            return Ok(None);
        }
        // One trigger of the table decides about each row.
        let has_trigger = |row: &Row| row.refuses.is_some();
        let may_be_undone = self
            .world
            .borrow()
            .server
            .files
            .rows
            .values()
            .any(has_trigger);
        let ids = self.change(rows.into_iter())?;
        Ok(Some(Changed { ids, may_be_undone }))
    }

    async fn mark_free(&self, names: &[RowName]) -> Result<HashSet<RowId>, Failure> {
        let rows = self.seen(names)?;
        self.change(rows.into_iter().filter(|row| !row.is_locked))
    }

    async fn look(&self, names: &[RowName]) -> Result<HashMap<RowId, bool>, Failure> {
        let rows = self.seen(names)?;
        Ok(rows
            .iter()
            .map(|row| (row.name.id.clone(), !row.is_marked))
            .collect())
    }

    async fn try_mark(
        &self,
        names: &[RowName],
    ) -> Result<(HashSet<RowId>, HashMap<RowId, bool>), Failure> {
        let rows = self.seen(names)?;
        let is_free = |row: &&Row| !row.is_locked && !row.is_marked;
        let free: HashSet<RowId> = rows
            .iter()
            .filter(is_free)
            .map(|row| row.name.id.clone())
            .collect();
        if rows
            .iter()
            .filter(is_free)
            .any(|row| row.refuses == Some(Refusal::Fails))
        {
            return Err(Failure::Row);
        }
        let stays = |row: &Row| !row.is_marked && (row.is_locked || row.refuses.is_some());
        let seen = rows.iter().map(|row| (row.name.id.clone(), stays(row)));
        Ok((free, seen.collect()))
    }

    async fn running(&self, xids: &[u32]) -> Result<HashSet<u32>, Failure> {
        self.seen(&[])?;
        let running = self.world.borrow().server.running();
        Ok(xids
            .iter()
            .copied()
            .filter(|xid| running.contains(xid))
            .collect())
    }
}

impl PartTable for SeenTable<'_> {
    type Error = ();

    async fn write_part(&self, part: &mut [Mark]) -> Result<Option<RefusedMark>, ()> {
        match settle(self, part).await {
            Ok(()) => Ok(None),
            Err(Failure::Row) => Ok(Some(RefusedMark::shown(rejection("23514")))),
            Err(Failure::Server) => Err(()),
        }
    }

    fn silent_refusal(&self) -> RefusedMark {
        RefusedMark::shown(rejection("ROW_NOT_MARKED"))
    }

    async fn file(&self, refused: &[(RowName, Rejection)], _: &str) -> Result<(), ()> {
        self.seen(&[]).map_err(drop)?;
        let mut world = self.world.borrow_mut();
        for (row, _) in refused {
            let event = world
                .server
                .files
                .rows
                .get(&number(&row.id))
                .map(|row| row.event);
            world
                .server
                .files
                .letters
                .file_not_marked(row.clone(), event);
            world.saw("a mark that the table refused");
        }
        Ok(())
    }
}
