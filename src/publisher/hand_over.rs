//! Takes over from another client of the same server, such as Debezium, without a gap.
//!
//! A new slot cannot begin in the past, and a copy can: the other client's slot keeps the WAL from
//! the position that it has confirmed. So a first start copies that slot. The position that a
//! person gives says which slot it is, and that the client has stopped: a slot that still moves is
//! at that position no more. Refused: a slot that a session reads from, that is lost, or whose
//! position may lie before the publication, which the server then does not decode with.
//!
//! A slot of outboxd that exists is never moved: what lies behind its position is sent.

use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::Session;
use crate::postgres::slot::{self, OtherSlot, Slot};

/// How many slots an error names at most.
const NAMED_MAX: usize = 5;

/// Whether the slot that exists has passed the position to start at, so that this has no effect.
///
/// # Errors
/// Fatal: it is before that position, and would send again what the other client has published.
pub(crate) fn continues(start: Lsn, slot: &Slot) -> Result<bool> {
    match slot.confirmed_flush {
        Some(confirmed) if confirmed < start => {
            let message = format!(
                "slot {} is at {confirmed}, before OUTBOX_START_LSN, which is {start}",
                slot.name
            );
            Err(Error::fatal(Code::Config, message).with_hint(
                "drop the slot if it was never used, and start again; or remove OUTBOX_START_LSN \
                 to send the events behind the slot's position, some of them a second time",
            ))
        }
        confirmed => Ok(confirmed.is_some_and(|confirmed| confirmed > start)),
    }
}

/// The slot to copy.
///
/// # Errors
/// Fatal: no slot is at that position, or it cannot be copied now.
fn source<'a>(start: Lsn, slots: &'a [OtherSlot], publication: &str) -> Result<&'a str> {
    let mut at_start = slots.iter().filter(|slot| slot.confirmed == start);
    let refused = |message: String, hint: &str| {
        Err(Error::fatal(Code::Config, message).with_hint(hint.to_owned()))
    };
    let Some(slot) = at_start.next() else {
        let named = slots.iter().take(NAMED_MAX);
        let named = named.map(|slot| format!("{} is at {}", slot.name, slot.confirmed));
        let named = named.collect::<Vec<_>>().join(", ");
        let found = if named.is_empty() {
            "it has no other slot of pgoutput".to_owned()
        } else {
            named
        };
        return refused(
            format!("no slot of this database is at OUTBOX_START_LSN, which is {start}: {found}"),
            "stop the other client first, and give the confirmed_flush_lsn that \
             pg_replication_slots then shows for its slot",
        );
    };
    let name = &slot.name;
    if let Some(pid) = slot.active_pid {
        return refused(
            format!("slot {name} is at {start}, and the server process {pid} reads from it"),
            "stop the other client, and read its position again",
        );
    }
    if slot.lost {
        return refused(
            format!("slot {name} is at {start}, and the server no longer has its WAL"),
            "events are lost to both clients: start without OUTBOX_START_LSN, and send them by \
             hand",
        );
    }
    if !slot.follows_publication {
        return refused(
            format!("slot {name} is at {start}, perhaps before publication {publication}"),
            "start the other client again, let it publish events for a minute, stop it, and read \
             its position again",
        );
    }
    Ok(name)
}

/// Copies the slot at this position, and returns the copy.
///
/// # Errors
/// As [`source`]; those of the server. Transient: the slot has moved meanwhile.
pub(crate) async fn take_over(session: &Session, config: &Config, start: Lsn) -> Result<Slot> {
    let (own, publication) = (&config.slot, &config.publication);
    let slots = slot::others(session, own, publication).await?;
    let from = source(start, &slots, publication)?;
    let at = slot::copy(session, from, own).await?;
    let copied = slot::read(session, own).await?;
    let is_there = |slot: &Slot| slot.confirmed_flush == Some(start);
    match copied.filter(is_there) {
        Some(slot) => {
            tracing::info!(slot = %own, copy_of = from, lsn = %start, "slot created");
            Ok(slot)
        }
        None => {
            slot::drop(session, own).await?;
            let message = format!("slot {from} moved from {start} to {at} while it was copied");
            Err(Error::transient(Code::Slot, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(name: &str, confirmed: u64) -> OtherSlot {
        OtherSlot {
            name: name.to_owned(),
            confirmed: Lsn::new(confirmed),
            active_pid: None,
            lost: false,
            follows_publication: true,
        }
    }

    fn refusal(slots: &[OtherSlot]) -> String {
        let refused = source(Lsn::new(0x20), slots, "outboxd").expect_err("it is refused");
        assert!(!refused.is_transient());
        refused.to_string()
    }

    #[test]
    fn the_slot_at_the_position_is_copied() -> Result<()> {
        let slots = [other("a", 0x10), other("b", 0x20), other("c", 0x30)];
        assert_eq!(source(Lsn::new(0x20), &slots, "outboxd")?, "b");
        Ok(())
    }

    #[test]
    fn a_slot_that_moves_is_lost_or_is_older_than_the_publication_is_not_copied() {
        let (mut moving, mut lost, mut old) =
            (other("a", 0x20), other("a", 0x20), other("a", 0x20));
        moving.active_pid = Some(7);
        lost.lost = true;
        old.follows_publication = false;
        for (slot, words) in [
            (moving, "the server process 7 reads from it"),
            (lost, "no longer has its WAL"),
            (old, "perhaps before publication outboxd"),
        ] {
            let said = refusal(&[slot]);
            assert!(said.contains(words), "{said}");
        }
        let said = refusal(&[other("a", 0x1f), other("b", 0x21)]);
        assert!(said.contains("a is at 0/1F, b is at 0/21"), "{said}");
        assert!(refusal(&[]).contains("has no other slot"));
    }

    #[test]
    fn a_slot_that_exists_has_to_be_at_the_position_or_past_it() -> Result<()> {
        let at = |confirmed| continues(Lsn::new(0x20), &Slot::at(Lsn::new(confirmed)));
        assert!(!at(0x20)?);
        assert!(at(0x21)?);
        let said = at(0x1f).expect_err("it is before").to_string();
        assert!(
            said.contains("is at 0/1F, before OUTBOX_START_LSN, which is 0/20"),
            "{said}"
        );
        Ok(())
    }
}
