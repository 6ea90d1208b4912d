//! The order of the steps that create a slot. Pure.
//!
//! `bootstrap` carries the steps out, and says why their order loses nothing.

/// A pass over the table that finds fewer rows than this is the last before the slot is created.
pub(crate) const FEW: usize = 1_000;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait until every event in memory is settled.
    Settle,
    /// The same for a limited time: whatever is not settled by then is repeated by a later start.
    SettleInTime,
    /// Drop memory.
    StartOver,
    /// Check that the configuration permits a new slot here.
    Permit,
    /// Drop the lost slot.
    DropLost,
    /// Publish the unpublished rows of the table once.
    Pass,
    /// Create the temporary slot, and import its snapshot.
    Create,
    /// Publish the unpublished rows of the snapshot.
    PublishSnapshot,
    /// Drop the temporary slot, which has held back WAL and vacuum for too long.
    Release,
    /// Copy the temporary slot to the real one.
    Copy,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Settled,
    StartedOver,
    Permitted,
    LostDropped,
    /// The pass has found this many rows.
    Passed(usize),
    Created,
    /// Every row of the snapshot was published and is settled.
    SnapshotPublished,
    /// The limit of time was reached before.
    OutOfTime,
    Released,
}

/// See the module's head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootstrapSteps {
    /// The events in memory can be settled.
    pub(crate) settles: bool,
    /// The configuration says to halt, so nothing waits without end for Kafka or a locked row.
    pub(crate) halts: bool,
    /// The lost slot still exists.
    pub(crate) has_lost: bool,
    /// Unpublished rows are sent before there is a slot.
    pub(crate) publishes_backlog: bool,
}

impl BootstrapSteps {
    /// The first step.
    pub(crate) fn first(self) -> Step {
        match self.settles {
            true if self.halts => Step::SettleInTime,
            true => Step::Settle,
            false if self.halts => Step::Permit,
            false => Step::StartOver,
        }
    }

    /// The step that follows.
    pub(crate) fn next(self, done: Done) -> Step {
        match done {
            Done::Settled if self.halts => Step::Permit,
            Done::Settled => Step::StartOver,
            Done::StartedOver => Step::Permit,
            Done::Permitted if self.has_lost => Step::DropLost,
            Done::Passed(rows) if rows < FEW => Step::Create,
            Done::Permitted | Done::LostDropped | Done::Released if !self.publishes_backlog => {
                Step::Create
            }
            Done::Permitted | Done::LostDropped | Done::Released | Done::Passed(_) => Step::Pass,
            Done::Created => Step::PublishSnapshot,
            Done::OutOfTime => Step::Release,
            Done::SnapshotPublished => Step::Copy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: BootstrapSteps = BootstrapSteps {
        settles: true,
        halts: false,
        has_lost: true,
        publishes_backlog: true,
    };

    #[test]
    fn the_lost_slot_is_dropped_behind_the_permission_and_the_new_one_copied_behind_its_snapshot() {
        let done = [
            (Done::Settled, Step::StartOver),
            (Done::StartedOver, Step::Permit),
            (Done::Permitted, Step::DropLost),
            (Done::LostDropped, Step::Pass),
            (Done::Passed(FEW), Step::Pass),
            (Done::Passed(FEW - 1), Step::Create),
            (Done::Created, Step::PublishSnapshot),
            (Done::OutOfTime, Step::Release),
            (Done::Released, Step::Pass),
            (Done::SnapshotPublished, Step::Copy),
        ];
        assert_eq!(STEPS.first(), Step::Settle);
        for (done, next) in done {
            assert_eq!(STEPS.next(done), next, "{done:?}");
        }
    }

    #[test]
    fn what_cannot_be_settled_is_not_waited_for() {
        let steps = BootstrapSteps {
            settles: false,
            ..STEPS
        };
        assert_eq!(steps.first(), Step::StartOver);
    }

    #[test]
    fn a_halt_waits_for_a_limited_time_and_reads_nothing() {
        let steps = BootstrapSteps {
            halts: true,
            ..STEPS
        };
        assert_eq!(steps.first(), Step::SettleInTime);
        assert_eq!(steps.next(Done::Settled), Step::Permit);
        let steps = BootstrapSteps {
            settles: false,
            ..steps
        };
        assert_eq!(steps.first(), Step::Permit);
    }

    #[test]
    fn a_backlog_that_is_not_sent_is_left_out() {
        let steps = BootstrapSteps {
            has_lost: false,
            publishes_backlog: false,
            ..STEPS
        };
        assert_eq!(steps.next(Done::Permitted), Step::Create);
        assert_eq!(steps.next(Done::Released), Step::Create);
    }
}
