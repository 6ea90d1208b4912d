//! A slot that can no longer deliver all events: how that happened, and whether the configuration
//! permits healing. Pure.
//!
//! With `mark` and `delete` the table shows which events no slot has delivered, so a new slot
//! leaves no gap. With `keep` it does not, and a person has to decide.

use std::fmt;

use crate::config::{AfterPublish, Config, OnSlotLoss};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::ServerError;
use crate::postgres::slot::Slot;

/// How the slot was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SlotLoss {
    /// It was in use and no longer exists.
    Gone { reported: Lsn },
    /// The server cannot read from it any more.
    Invalid {
        confirmed: Option<Lsn>,
        reason: Option<String>,
    },
    /// Its position lies before a time without its publication. The server decodes with the
    /// catalogs of that time, so it can never get past it.
    Stuck { confirmed: Option<Lsn> },
}

impl SlotLoss {
    /// The loss of a slot as it was read by a publisher that has `streamed` from it or not;
    /// `stuck`: it has failed because of its publication, which exists now. `None`: it can be
    /// streamed from.
    pub(crate) fn of(
        found: Option<&Slot>,
        reported: Lsn,
        streamed: bool,
        stuck: bool,
    ) -> Option<SlotLoss> {
        match found {
            None => streamed.then_some(SlotLoss::Gone { reported }),
            Some(slot) if slot.is_lost() => Some(SlotLoss::Invalid {
                confirmed: slot.confirmed_flush,
                reason: slot.invalidation_reason.clone(),
            }),
            Some(slot) => stuck.then_some(SlotLoss::Stuck {
                confirmed: slot.confirmed_flush,
            }),
        }
    }

    /// Whether the configuration says to halt.
    pub(crate) fn halts(&self, config: &Config) -> bool {
        self.permit(config).is_err()
    }

    /// Checks that the configuration permits healing.
    ///
    /// # Errors
    /// Fatal: the configuration says to halt.
    pub(crate) fn permit(&self, config: &Config) -> Result<()> {
        let hint = match (config.on_slot_loss, config.after_publish) {
            (OnSlotLoss::Heal, _) => return Ok(()),
            (OnSlotLoss::Halt, AfterPublish::Keep) => {
                "with --after-publish keep the table does not show which events were missed: \
                 send them again by hand, drop the slot if it still exists, and start"
            }
            (OnSlotLoss::Halt, _) => {
                "the missed events are unpublished in the table: start with --on-slot-loss heal to \
                 publish them from there"
            }
        };
        Err(Error::fatal(Code::Slot, format!("slot {} {self}", config.slot)).with_hint(hint))
    }
}

impl fmt::Display for SlotLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let up_to = |confirmed: &Option<Lsn>| {
            confirmed.map_or_else(String::new, |lsn| format!(", confirmed up to {lsn}"))
        };
        match self {
            SlotLoss::Gone { reported } if reported.is_invalid() => f.write_str("no longer exists"),
            SlotLoss::Gone { reported } => {
                write!(f, "no longer exists, confirmed up to {reported}")
            }
            SlotLoss::Invalid { confirmed, reason } => {
                let reason = reason.as_deref().unwrap_or("its WAL was removed");
                write!(f, "is lost: {reason}{}", up_to(confirmed))
            }
            SlotLoss::Stuck { confirmed } => write!(
                f,
                "is lost: its publication was dropped and recreated after its position{}",
                up_to(confirmed)
            ),
        }
    }
}

/// What the error of a session suggests about the slot or its publication, judged by its SQLSTATE.
pub(crate) fn suspicion(error: &Error) -> Option<SlotSuspicion> {
    let server = ServerError::of(error)?;
    if server.is_undefined_object() || server.is_skipped_publication() {
        return Some(SlotSuspicion::NotThere);
    }
    let is_unusable = server.is_not_in_prerequisite_state();
    is_unusable.then_some(SlotSuspicion::NotUsable)
}

/// See [`suspicion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotSuspicion {
    NotThere,
    NotUsable,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn slot() -> Slot {
        Slot::at(Lsn::new(0x20))
    }

    fn of(found: Option<&Slot>, streamed: bool, stuck: bool) -> Option<String> {
        let loss = SlotLoss::of(found, Lsn::new(0x10), streamed, stuck);
        loss.map(|loss| loss.to_string())
    }

    #[test]
    fn a_slot_that_is_not_there_is_lost_only_to_who_has_used_it() {
        assert_eq!(of(None, false, false), None);
        let gone = "no longer exists, confirmed up to 0/10";
        assert_eq!(of(None, true, false).as_deref(), Some(gone));
    }

    #[test]
    fn a_slot_that_exists_and_cannot_be_read_is_lost() {
        assert_eq!(of(Some(&slot()), true, false), None);
        let removed = Slot {
            wal_status: Some("lost".to_owned()),
            ..slot()
        };
        let lost = "is lost: its WAL was removed, confirmed up to 0/20";
        assert_eq!(of(Some(&removed), false, false).as_deref(), Some(lost));
        let stuck = "is lost: its publication was dropped and recreated after its position, \
             confirmed up to 0/20";
        assert_eq!(of(Some(&slot()), true, true).as_deref(), Some(stuck));
    }

    #[test]
    fn a_loss_is_healed_or_ends_the_publisher_as_the_policy_says() {
        let config = |policy: &str, mode: &str| {
            let config = Config::from_settings(Settings {
                database_url: Some("postgres://outboxd@db/orders".to_owned()),
                kafka_brokers: Some("kafka:9092".to_owned()),
                after_publish: Some(mode.to_owned()),
                on_slot_loss: Some(policy.to_owned()),
                ..Settings::default()
            });
            config.expect("the settings are valid")
        };
        let loss = SlotLoss::Gone {
            reported: Lsn::new(0x10),
        };
        assert!(loss.permit(&config("heal", "mark")).is_ok());
        for (mode, hint) in [("mark", "--on-slot-loss heal"), ("keep", "by hand")] {
            let halted = loss.permit(&config("halt", mode)).map_err(|it| it.report());
            assert!(halted.is_err_and(|report| report.contains(hint)), "{mode}");
        }
    }
}
