//! A template whose columns are known by their places among an event's extra columns.

use crate::config::mapping::{Piece, Template};
use crate::outbox::{Event, TextValue};

/// The place of an extra column.
#[derive(Debug, Clone)]
pub(super) struct Extra {
    pub(super) name: String,
    at: usize,
}

impl Extra {
    /// The column of this name among all extra columns.
    pub(super) fn of(name: &str, all: &[&str]) -> Self {
        let at = all.iter().position(|extra| *extra == name);
        Extra {
            name: name.to_owned(),
            at: at.unwrap_or(usize::MAX),
        }
    }

    /// The column's value.
    #[inline(always)]
    pub(super) fn value<'a>(&self, event: &Event<'a>) -> Option<TextValue<'a>> {
        event.extras.get(self.at).copied().flatten()
    }

    /// The column's text; text that is not UTF-8 counts as null, and its event is rejected.
    #[inline(always)]
    pub(super) fn text<'a>(&self, event: &Event<'a>) -> Option<&'a str> {
        self.value(event)?.as_str()
    }
}

/// See the module's head.
#[derive(Debug, Clone)]
pub(super) struct FilledTemplate(Vec<FilledPiece>);

#[derive(Debug, Clone)]
enum FilledPiece {
    Text(String),
    Column(Extra),
}

impl FilledTemplate {
    /// The template over these extra columns.
    pub(super) fn of(template: &Template, extras: &[&str]) -> Self {
        let pieces = template.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => FilledPiece::Text(text.clone()),
            Piece::Column(name) => FilledPiece::Column(Extra::of(name, extras)),
        });
        FilledTemplate(pieces.collect())
    }

    /// Takes away the text that it begins with, which is empty if it begins with a column.
    pub(super) fn take_lead(&mut self) -> String {
        match self.0.first() {
            Some(FilledPiece::Text(text)) => {
                let text = text.clone();
                self.0.remove(0);
                text
            }
            _ => String::new(),
        }
    }

    /// Appends the text of this event.
    ///
    /// # Errors
    ///
    /// The name of the first column that is null; nothing is appended then.
    pub(super) fn append(&self, event: &Event<'_>, text: &mut String) -> Result<(), &str> {
        let start = text.len();
        for piece in &self.0 {
            match piece {
                FilledPiece::Text(piece) => text.push_str(piece),
                FilledPiece::Column(column) => match column.text(event) {
                    Some(value) => text.push_str(value),
                    None => {
                        text.truncate(start);
                        return Err(&column.name);
                    }
                },
            }
        }
        Ok(())
    }
}
