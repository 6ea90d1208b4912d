//! Database work in the simulation, as the write-back carries it out.

use crate::config::AfterPublish;
use crate::engine::dead_letters::PendingRequests;
use crate::engine::output::DatabaseWork;
use crate::outbox::{Outcome, RowName, TableLocation};
use crate::publisher::simulation::world::{World, event_of};

/// Database work under way.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) work: DatabaseWork,
    pub(super) generation: u64,
    pub(super) place: Option<TableLocation>,
    pub(super) result: Option<Result<Option<PendingRequests>, ()>>,
}

impl World {
    /// Runs database work on the server, if that is the one that the work is about. With `fails`
    /// it fails, before or after it took effect.
    pub(super) fn perform(&mut self, work: &mut Work, fails: bool) {
        let is_there = self.is_up && work.place == Some(self.server.location());
        if !is_there || (fails && self.rng.bool()) {
            work.result = Some(Err(()));
            return;
        }
        let mut pending = None;
        match &mut work.work {
            DatabaseWork::Mark(marks) => {
                for mark in marks {
                    let outcome = self.mark(mark.row, mark.xid);
                    if !fails {
                        mark.outcome = outcome;
                    }
                }
            }
            DatabaseWork::File(dead_letters) => {
                for dead_letter in dead_letters {
                    let record = dead_letter.record.as_deref();
                    let event = record.map(event_of).or_else(|| {
                        let row = self.server.files.rows.get(&dead_letter.row?.id)?;
                        Some(row.event)
                    });
                    self.filed.extend(event);
                    self.server.files.letters.file(dead_letter, event);
                }
            }
            DatabaseWork::Close(closings) => {
                for closing in closings {
                    let row = self.server.files.letters.close(closing);
                    if let Some(row) = row.filter(|_| self.marks()) {
                        self.settle_row(row);
                    }
                }
            }
            DatabaseWork::CountAttempts(_) => {}
            DatabaseWork::ReadRequests { with_keys } => {
                let with_keys = with_keys.then_some(10);
                let now = |name: RowName| {
                    let row = self.server.files.rows.get(&name.id)?;
                    (row.name == name).then(|| self.record(row.event, None))
                };
                pending = Some(self.server.files.letters.read(with_keys, now));
            }
        }
        work.result = Some(if fails { Err(()) } else { Ok(pending) });
    }

    fn settle_row(&mut self, name: RowName) {
        let files = &mut self.server.files;
        if let Some(row) = files.rows.get_mut(&name.id)
            && row.name == name
        {
            row.is_marked = true;
            if self.config.after_publish == AfterPublish::Delete {
                files.rows.remove(&name.id);
            }
        }
    }

    /// What marking a row does; see `write_back::marks`.
    fn mark(&mut self, name: RowName, xid: u32) -> Outcome {
        let running = self.server.running();
        let Some(row) = self.server.files.rows.get(&name.id).copied() else {
            return match running.contains(&xid) {
                true => Outcome::Hidden,
                false => Outcome::Settled,
            };
        };
        if row.name != name || row.is_marked {
            return Outcome::Settled;
        }
        if !row.is_visible {
            return Outcome::Hidden;
        }
        if row.is_locked {
            return Outcome::Open;
        }
        let event = row.event;
        self.note(|| format!("mark event {event}"));
        assert!(
            self.broker.has(event),
            "row {name:?} of event {event} is marked and was never published"
        );
        if row.refuses_marks {
            self.server.files.letters.file_not_marked(name, event);
            self.saw("a mark that the table refused");
            return Outcome::Filed;
        }
        self.settle_row(name);
        Outcome::Settled
    }
}
