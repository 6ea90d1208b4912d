//! The transactions of retried dead letters. Pure.
//!
//! Letters share transactions, and share none with the stream: Kafka has refused their events
//! before, and one that it refuses again takes all that is in its transaction with it. Their
//! transactions take turns with the stream's, so neither keeps the other out.

use std::time::Duration;

use crate::engine::exactly_once::transaction::{Content, Sent, Transactions};

/// The most letters in one transaction: its progress record names them.
const LETTERS_MAX: usize = 500;

impl Transactions {
    /// Whether the current transaction takes in another letter.
    pub(super) fn takes_letters(&self) -> bool {
        let is_empty = self.events().is_empty();
        self.is_open()
            && match self.content {
                Content::Events => is_empty,
                Content::Letters => self.letters.len() < LETTERS_MAX,
                Content::Single => false,
            }
    }

    /// Whether it is the letters' turn.
    pub(super) fn is_turn_of_letters(&self) -> bool {
        let is_free = self.takes_events() && self.events().is_empty();
        is_free && self.content_before == Content::Events
    }

    /// The event of this dead letter is sent.
    pub(super) fn letter_sent(
        &mut self,
        now: Duration,
        event: Sent,
        dead_letter: i64,
        content: Content,
    ) {
        self.letters.push(dead_letter);
        self.sent(now, event, content);
    }

    /// These dead letters are closed, so no record has to name them any more.
    pub(super) fn letters_closed(&mut self, is_closed: impl Fn(i64) -> bool) {
        for progress in [&mut self.committed, &mut self.next].into_iter().flatten() {
            progress.dead_letters.retain(|id| !is_closed(*id));
        }
    }
}
