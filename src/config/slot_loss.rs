//! What becomes of a slot that cannot bring all events any more.

use std::time::Duration;

use crate::config::faults::Wrong;
use crate::config::names;
use crate::config::{AfterPublish, Check, parse};

/// What the publisher does when the slot is lost, or was moved by somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSlotLoss {
    /// It makes a new slot and publishes from the table what is unpublished there.
    Heal,
    /// It ends, and a person decides.
    Halt,
}

impl Check {
    /// With `keep` no row says that it was published, so there is nothing to heal from.
    pub(super) fn on_slot_loss(
        &mut self,
        given: Option<String>,
        after_publish: AfterPublish,
    ) -> OnSlotLoss {
        let keeps = after_publish == AfterPublish::Keep;
        let default = if keeps {
            OnSlotLoss::Halt
        } else {
            OnSlotLoss::Heal
        };
        let choices = [("heal", OnSlotLoss::Heal), ("halt", OnSlotLoss::Halt)];
        let choice = self.or(names::ON_SLOT_LOSS, given, default, |text| {
            parse::choice(text, &choices)
        });
        if keeps && choice == OnSlotLoss::Heal {
            let problem = "cannot be heal with OUTBOX_AFTER_PUBLISH=keep: no row is marked, so the \
                           table cannot tell what a lost slot has missed";
            let wrong = Wrong::new(problem, "write halt, or mark or delete the rows");
            self.faults.push(wrong.of(names::ON_SLOT_LOSS));
        }
        choice
    }

    pub(super) fn audit_interval(&mut self, given: Option<String>) -> Duration {
        let default = Duration::from_secs(60);
        self.or(names::AUDIT_INTERVAL, given, default, |text| {
            parse::duration(text, Duration::from_secs(1)..=Duration::from_secs(3_600))
        })
    }
}
