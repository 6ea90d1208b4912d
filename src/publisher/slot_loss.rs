//! A slot that cannot bring all events any more: how that came about, and whether the configuration lets it be healed. Pure.
//!
//! With `mark` and `delete` the table tells what no slot has brought, so a new slot leaves no gap. With `keep` it does not, and a person
//! has to decide.

use std::fmt;

use crate::config::{AfterPublish, Config, OnSlotLoss};
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::ServerError;
use crate::postgres::slot::Slot;

/// How it was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SlotLoss {
    /// It was in use, and is not there any more.
    Gone { reported: Lsn },
    /// The server cannot read from it any more.
    Invalid {
        confirmed: Option<Lsn>,
        reason: Option<String>,
    },
    /// It stands before a time without its publication. The server decodes with the catalogs of that time, so it never gets past it.
    Stuck { confirmed: Option<Lsn> },
    /// Somebody else has moved it past events, or made it anew.
    Moved { reported: Lsn, confirmed: Lsn },
}

impl SlotLoss {
    /// Of the slot as it was found by a publisher that has `streamed` from it or not; `stuck`: it has failed for want of its publication,
    /// which is there now. `None`: it can be read.
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

    /// Whether it may be healed.
    ///
    /// # Errors
    /// Fatal: the configuration says to halt.
    pub(crate) fn permit(&self, config: &Config) -> Result<()> {
        let hint = match (config.on_slot_loss, config.after_publish) {
            (OnSlotLoss::Heal, _) => return Ok(()),
            (OnSlotLoss::Halt, AfterPublish::Keep) => {
                "nothing is marked in the table, so it cannot tell what was missed: \
                 send that again by hand, drop the slot if it is still there, and start"
            }
            (OnSlotLoss::Halt, _) => {
                "what was missed is unpublished in the table: start with --on-slot-loss heal to \
                 publish it from there"
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
            SlotLoss::Gone { reported } if reported.is_invalid() => {
                f.write_str("is lost: it is gone")
            }
            SlotLoss::Gone { reported } => {
                write!(f, "is lost: it is gone, confirmed up to {reported}")
            }
            SlotLoss::Invalid { confirmed, reason } => {
                let reason = reason.as_deref().unwrap_or("its log was removed");
                write!(f, "is lost: {reason}{}", up_to(confirmed))
            }
            SlotLoss::Stuck { confirmed } => write!(
                f,
                "is lost: its publication was dropped and made anew behind it{}",
                up_to(confirmed)
            ),
            SlotLoss::Moved {
                reported,
                confirmed,
            } => write!(
                f,
                "was moved by somebody else: confirmed up to {reported} by us, and now to {confirmed}"
            ),
        }
    }
}

/// What the end of a session may say of the slot or its publication: the SQLSTATE, if it is one that a look at both has to explain.
pub(crate) fn suspicion(error: &Error) -> Option<SlotSuspicion> {
    let server = ServerError::of(error)?;
    if server.is_undefined_object() {
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

    fn slot() -> Slot {
        Slot {
            name: "outboxd_orders".to_owned(),
            active_pid: None,
            confirmed_flush: Some(Lsn::new(0x20)),
            restart: None,
            wal_status: Some("reserved".to_owned()),
            safe_wal_size: None,
            temporary: false,
            failover: None,
            invalidation_reason: None,
            lag_bytes: 0,
            retained_bytes: 0,
        }
    }

    fn of(found: Option<&Slot>, streamed: bool, stuck: bool) -> Option<String> {
        let loss = SlotLoss::of(found, Lsn::new(0x10), streamed, stuck);
        loss.map(|loss| loss.to_string())
    }

    #[test]
    fn a_slot_that_is_not_there_is_lost_only_to_who_has_used_it() {
        assert_eq!(of(None, false, false), None);
        let gone = "is lost: it is gone, confirmed up to 0/10";
        assert_eq!(of(None, true, false).as_deref(), Some(gone));
    }

    #[test]
    fn a_slot_that_is_there_is_lost_when_it_cannot_be_read_whoever_asks() {
        assert_eq!(of(Some(&slot()), true, false), None);
        let removed = Slot {
            wal_status: Some("lost".to_owned()),
            ..slot()
        };
        let lost = "is lost: its log was removed, confirmed up to 0/20";
        assert_eq!(of(Some(&removed), false, false).as_deref(), Some(lost));
        let stuck =
            "is lost: its publication was dropped and made anew behind it, confirmed up to 0/20";
        assert_eq!(of(Some(&slot()), true, true).as_deref(), Some(stuck));
    }
}
